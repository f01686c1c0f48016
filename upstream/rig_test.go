package upstream

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
	"iothub-gateway/internal/testkit"
)

// rig is a pool between a real queue and a simulated hub.
type rig struct {
	t      *testing.T
	hub    *hubsim.Hub
	queue  *buffer.Queue
	pool   *Pool
	cfg    Config
	life   time.Duration
	lane   func(gateway.IdentityID) Lane
	member func(*Member) // changes each one, if it is set
	handle func(context.Context, gateway.Command) gateway.Reply
	next   atomic.Int64

	hubConfig hubsim.Config
	stopHub   func()
}

// newRig starts hub and queue; the pool is started by run.
func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigAt(t, hubsim.Config{})
}

func newRigAt(t *testing.T, cfg hubsim.Config) *rig {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	hub, err := hubsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(t.TempDir(), "queue")})
	if err != nil {
		t.Fatal(err)
	}
	stopHub := testkit.Background(t, hub.Run)
	t.Cleanup(func() { queue.Close() })
	testkit.Background(t, queue.Run)
	r := &rig{t: t, hub: hub, hubConfig: cfg, stopHub: stopHub, queue: queue, life: time.Hour, lane: func(id gateway.IdentityID) Lane { return queue.Lane(id) }}
	r.handle = func(context.Context, gateway.Command) gateway.Reply {
		return gateway.Reply{Status: 404, Body: []byte("{}")}
	}
	r.cfg = Config{
		ConnectRate: 1000, RetryMost: 50 * time.Millisecond, Log: zerolog.Nop(),
		Dial: func(ctx context.Context, _ identity.Login) (*dial.Conn, error) {
			return dial.Hub(ctx, dial.Config{Address: hub.MQTTAddr(), ServerName: "localhost", Roots: hub.CAPool(), WriteTimeout: 2 * time.Second, MaxPacket: 1 << 20})
		},
	}
	return r
}

// killHub ends the hub, and with it every connection, without a word.
func (r *rig) killHub() { r.stopHub() }

// reviveHub starts the hub again where it was. It needs a Dir.
func (r *rig) reviveHub() {
	r.t.Helper()
	cfg := r.hubConfig
	cfg.MQTT = r.hub.MQTTAddr()
	var err error
	if r.hub, err = hubsim.New(cfg); err != nil {
		r.t.Fatal(err)
	}
	r.stopHub = testkit.Background(r.t, r.hub.Run)
}

// join makes an identity known to the hub.
func (r *rig) join(id gateway.IdentityID) Member {
	r.t.Helper()
	key, err := r.hub.Register(id.Device(), id.Module())
	if err != nil {
		r.t.Fatal(err)
	}
	sas, err := identity.NewSAS("localhost", id, identity.NewSecret(key), r.life)
	if err != nil {
		r.t.Fatal(err)
	}
	m := Member{ID: id, Credential: sas, Lane: r.lane(id)}
	if r.member != nil {
		r.member(&m)
	}
	return m
}

// run starts a pool of ids and returns what stops it.
func (r *rig) run(ids ...gateway.IdentityID) (stop func()) {
	r.t.Helper()
	var members []Member
	for _, id := range ids {
		members = append(members, r.join(id))
	}
	r.pool = NewPool(r.cfg, members, r.handle)
	return testkit.Background(r.t, r.pool.Run)
}

// put makes n messages of id durable.
func (r *rig) put(id gateway.IdentityID, n int) {
	r.t.Helper()
	for range n {
		m := gateway.Telemetry{Identity: id, Body: fmt.Appendf(nil, `{"n":%d}`, r.next.Add(1)), Created: time.Now()}
		if err := r.queue.Put(r.t.Context(), m); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) eventually(what string, check func() bool) {
	r.t.Helper()
	defer func() {
		if r.t.Failed() {
			r.t.Logf("%+v", r.pool.Stats())
		}
	}()
	testkit.Eventually(r.t, what, check)
}

func (r *rig) empty() bool { return r.queue.Stats().Entries == 0 }

// oracle checks that in each lane the first of each sequence gives 1..n without a hole; it returns
// how many messages came more than once.
func (r *rig) oracle(want map[gateway.IdentityID]uint64) (repeated int) {
	r.t.Helper()
	newest := map[string]uint64{}
	bodies := map[string]string{}
	for _, m := range r.hub.Messages(0, 0) {
		id := strings.TrimSuffix(m.Device+"/"+m.Module, "/")
		mid := m.System["message-id"]
		if m.Properties["gateway-kind"] == canaryKind {
			continue
		}
		var seq uint64
		if _, err := fmt.Sscanf(strings.TrimPrefix(mid, r.queue.ID()+"-"), "%d", &seq); err != nil {
			r.t.Fatalf("message id %q: %v", mid, err)
		}
		switch {
		case seq == newest[id]+1:
			newest[id], bodies[id+mid] = seq, string(m.Body)
		case seq > newest[id]:
			r.t.Fatalf("%s: %d follows %d", id, seq, newest[id])
		default:
			repeated++
			if bodies[id+mid] != string(m.Body) {
				r.t.Errorf("%s: the repeat of %s differs", id, mid)
			}
		}
	}
	for id, n := range want {
		if newest[string(id)] != n {
			r.t.Errorf("%s: %d of %d arrived", id, newest[string(id)], n)
		}
	}
	return repeated
}
