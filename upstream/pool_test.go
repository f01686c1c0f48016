package upstream

import (
	"context"
	"encoding/json"
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
	handle func(context.Context, gateway.Command) gateway.Reply
	next   atomic.Int64
}

// newRig starts hub and queue; the pool is started by run.
func newRig(t *testing.T) *rig {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	hub, err := hubsim.New(hubsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(t.TempDir(), "queue")})
	if err != nil {
		t.Fatal(err)
	}
	background(t, hub.Run)
	t.Cleanup(func() { queue.Close() })
	background(t, queue.Run)
	r := &rig{t: t, hub: hub, queue: queue, life: time.Hour, lane: func(id gateway.IdentityID) Lane { return queue.Lane(id) }}
	r.handle = func(context.Context, gateway.Command) gateway.Reply {
		return gateway.Reply{Status: 404, Body: []byte("{}")}
	}
	r.cfg = Config{
		ConnectRate: 1000, RetryMost: 50 * time.Millisecond, Log: zerolog.Nop(),
		Dial: func(ctx context.Context) (*dial.Conn, error) {
			return dial.Hub(ctx, dial.Config{Address: hub.MQTTAddr(), ServerName: "localhost", Roots: hub.CAPool(), WriteTimeout: 2 * time.Second, MaxPacket: 1 << 20})
		},
	}
	return r
}

// background runs f until the test ends; cleanups run in reverse, so what was started later ends first.
func background(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// run starts a pool of ids and returns what stops it.
func (r *rig) run(ids ...gateway.IdentityID) (stop func()) {
	r.t.Helper()
	var members []Member
	for _, id := range ids {
		key, err := r.hub.Register(id.Device(), id.Module())
		if err != nil {
			r.t.Fatal(err)
		}
		sas, err := identity.NewSAS("localhost", id, identity.NewSecret(key), r.life)
		if err != nil {
			r.t.Fatal(err)
		}
		members = append(members, Member{ID: id, Credential: sas, Lane: r.lane(id)})
	}
	r.pool = NewPool(r.cfg, members, r.handle)
	return background(r.t, r.pool.Run)
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
	for deadline := time.Now().Add(20 * time.Second); !check(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("it never came true that %s; %+v", what, r.pool.Stats())
		}
		time.Sleep(2 * time.Millisecond)
	}
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

func TestMessagesArriveInOrderOverOneConnectionAnIdentity(t *testing.T) {
	r := newRig(t)
	r.put("d1", 50) // waiting before anything connects
	stop := r.run("d1", "d2", "d2/m")
	r.put("d2", 100)
	r.put("d2/m", 100)
	r.put("d1", 50)
	r.eventually("the queue is empty", r.empty)
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": 100, "d2": 100, "d2/m": 100}); repeated != 0 {
		t.Errorf("%d repeats on connections that were never lost", repeated)
	}
	for _, l := range r.pool.Stats() {
		if l.Connects != 1 || l.Acked != 100 || l.Sent != 100 || l.Repeated != 0 {
			t.Errorf("%+v", l)
		}
	}
	m := r.hub.Messages(0, 1)[0]
	if m.System["content-type"] != "application/json" || m.System["content-encoding"] != "utf-8" || len(m.Properties) > 1 {
		t.Errorf("system %v, application %v", m.System, m.Properties)
	}
}

func TestAnEntryIsNotReleasedWithoutThePUBACKOfItsOwnConnection(t *testing.T) {
	r := newRig(t)
	r.cfg.AckTimeout = 300 * time.Millisecond
	r.hub.DropAcks("d1", 1_000_000)
	stop := r.run("d1")
	r.put("d1", 3)
	r.eventually("the connection has been given up and made again twice", func() bool { return r.pool.Stats()[0].Connects >= 3 })
	if entries := r.queue.Stats().Entries; entries != 3 {
		t.Fatalf("%d entries left in the queue although nothing was acknowledged", entries)
	}
	r.hub.DropAcks("d1", 0)
	r.eventually("the queue is empty", r.empty)
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": 3}); repeated < 6 {
		t.Errorf("%d repeats; three messages on at least two lost connections make six", repeated)
	}
}

func TestALostConnectionRewindsByAtMostTheWindow(t *testing.T) {
	r := newRig(t)
	stop := r.run("d1")
	r.eventually("connected", func() bool { return r.hub.Connected("d1") })
	const losses = 10
	for range losses {
		before := r.pool.Stats()[0].Connects
		r.hub.DropAcks("d1", 8)
		r.put("d1", 40)
		r.hub.Kick("d1")
		r.hub.DropAcks("d1", 0)
		r.eventually("connected again", func() bool { return r.pool.Stats()[0].Connects > before })
		r.eventually("the queue is empty", r.empty)
	}
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": 40 * losses}); repeated > losses*DefaultWindow {
		t.Errorf("%d repeats over %d losses", repeated, losses)
	}
}

func TestStoppingWaitsForWhatIsInFlightAndRepeatsNothing(t *testing.T) {
	r := newRig(t)
	r.hub.DelayAcks("", 50*time.Millisecond)
	for range 3 {
		stop := r.run("d1")
		before := r.hub.Received()
		r.put("d1", 60)
		r.eventually("a window is in flight", func() bool { return r.hub.Received() >= before+20 })
		stop()
	}
	r.hub.DelayAcks("", 0)
	stop := r.run("d1")
	r.eventually("the queue is empty", r.empty)
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": 180}); repeated != 0 {
		t.Errorf("%d repeats over clean stops", repeated)
	}
}

func TestOneRefusedIdentityDoesNotDelayTheOthers(t *testing.T) {
	r := newRig(t)
	r.hub.RefuseConnects("bad", 5, 1_000_000)
	r.run("bad", "good")
	r.put("bad", 5)
	r.put("good", 200)
	r.eventually("the good one has delivered", func() bool { return r.queue.Stats().Lanes["good"].Entries == 0 })
	stats := r.pool.Stats()
	if stats[0].Connected || !strings.Contains(stats[0].LastError, "refused") || stats[0].Sent != 0 {
		t.Errorf("the refused identity: %+v", stats[0])
	}
}

func TestARenewalLosesAndRepeatsNothing(t *testing.T) {
	r := newRig(t)
	r.life = 2 * time.Second // renewed after about 1.6 s
	stop := r.run("d1")
	for i := 0; r.pool.Stats()[0].Connects < 3 && i < 2000; i++ {
		r.put("d1", 1)
	}
	r.eventually("the token was renewed twice", func() bool { return r.pool.Stats()[0].Connects >= 3 })
	total := r.queue.Stats().Lanes["d1"].Put
	r.eventually("the queue is empty", r.empty)
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": total}); repeated != 0 {
		t.Errorf("%d repeats over renewals", repeated)
	}
}

func TestADirectMethodIsAnsweredOnTheConnectionItCameOn(t *testing.T) {
	r := newRig(t)
	r.handle = func(_ context.Context, c gateway.Command) gateway.Reply {
		body, _ := json.Marshal(map[string]string{"identity": string(c.Identity), "name": c.Name, "payload": string(c.Payload)})
		return gateway.Reply{Status: 201, Body: body}
	}
	r.run("d1", "d1/m")
	for _, module := range []string{"", "m"} {
		got, err := r.hub.CallMethod(t.Context(), hubsim.MethodCall{Device: "d1", Module: module, Name: "set", Payload: json.RawMessage(`{"v":1}`), ConnectTimeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		var body map[string]string
		if err := json.Unmarshal(got.Payload, &body); err != nil {
			t.Fatal(err)
		}
		want := strings.TrimSuffix("d1/"+module, "/")
		if got.Status != 201 || body["identity"] != want || body["name"] != "set" || body["payload"] != `{"v":1}` {
			t.Errorf("module %q: %d %v", module, got.Status, body)
		}
	}
}

func TestASlowCommandHoldsUpNeitherTelemetryNorOtherCommands(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	r.handle = func(ctx context.Context, c gateway.Command) gateway.Reply {
		if c.Name == "slow" {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return gateway.Reply{Status: 200, Body: []byte(`{}`)}
	}
	r.run("d1")
	slow := make(chan error, 1)
	go func() {
		_, err := r.hub.CallMethod(context.Background(), hubsim.MethodCall{Device: "d1", Name: "slow", ConnectTimeout: 10 * time.Second})
		slow <- err
	}()
	if _, err := r.hub.CallMethod(t.Context(), hubsim.MethodCall{Device: "d1", Name: "fast", ConnectTimeout: 10 * time.Second}); err != nil {
		t.Error(err)
	}
	r.put("d1", 100)
	r.eventually("the queue is empty", r.empty)
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
}

func TestConnectionsAreOpenedAtTheGivenPace(t *testing.T) {
	r := newRig(t)
	r.cfg.ConnectRate = 20
	var ids []gateway.IdentityID
	for i := range 10 {
		ids = append(ids, gateway.IdentityID(fmt.Sprintf("d%d", i)))
	}
	start := time.Now()
	r.run(ids...)
	r.eventually("all are connected", func() bool {
		for _, l := range r.pool.Stats() {
			if !l.Connected {
				return false
			}
		}
		return true
	})
	if took := time.Since(start); took < 440*time.Millisecond {
		t.Errorf("10 connections at 20 a second were open after %v", took)
	}
}

func TestAHubThatStopsAcknowledgingIsNoticedAfterAQuietTimeToo(t *testing.T) {
	r := newRig(t)
	r.cfg.AckTimeout = 300 * time.Millisecond
	r.run("d1")
	r.put("d1", 1)
	r.eventually("the queue is empty", r.empty)
	quiet := time.Now().Add(3 * r.cfg.AckTimeout)
	r.eventually("it has been quiet for longer than the timeout", func() bool { return time.Now().After(quiet) })
	r.hub.DropAcks("d1", 1_000_000)
	r.put("d1", 1)
	r.eventually("the connection has been given up", func() bool { return r.pool.Stats()[0].Connects > 1 })
}

func TestACommandInWorkIsAnsweredAcrossARenewal(t *testing.T) {
	r := newRig(t)
	r.life = 3 * time.Second // due for renewal after about 2.4 s
	r.handle = func(ctx context.Context, _ gateway.Command) gateway.Reply {
		select {
		case <-time.After(2700 * time.Millisecond):
		case <-ctx.Done():
		}
		return gateway.Reply{Status: 200, Body: []byte(`{"done":true}`)}
	}
	r.run("d1")
	r.eventually("connected", func() bool { return r.hub.Connected("d1") })
	got, err := r.hub.CallMethod(t.Context(), hubsim.MethodCall{Device: "d1", Name: "long", ConnectTimeout: 5 * time.Second})
	if err != nil || got.Status != 200 {
		t.Errorf("the answer: %+v, %v", got, err)
	}
	r.eventually("the token was renewed afterwards", func() bool { return r.pool.Stats()[0].Connects > 1 })
}

func TestACommandInWorkIsAnsweredBeforeTheConnectionStops(t *testing.T) {
	r := newRig(t)
	started := make(chan struct{})
	r.handle = func(ctx context.Context, _ gateway.Command) gateway.Reply {
		close(started)
		<-ctx.Done()
		return gateway.Reply{Status: 503, Body: []byte(`{}`)}
	}
	stop := r.run("d1")
	answer := make(chan hubsim.MethodResult, 1)
	go func() {
		got, err := r.hub.CallMethod(context.Background(), hubsim.MethodCall{Device: "d1", Name: "long", ConnectTimeout: 5 * time.Second})
		if err != nil {
			t.Error(err)
		}
		answer <- got
	}()
	<-started
	stop()
	if got := <-answer; got.Status != 503 {
		t.Errorf("answered %+v", got)
	}
}

// brokenLane is one whose next entry cannot be read.
type brokenLane struct{}

func (brokenLane) Next(context.Context, uint64, int) ([]buffer.Entry, error) {
	return nil, fmt.Errorf("entry 7: %w", buffer.ErrDamaged)
}
func (brokenLane) Ack(uint64) {}

func TestALaneThatCannotGoOnLeavesTheCommandsAlone(t *testing.T) {
	r := newRig(t)
	r.lane = func(gateway.IdentityID) Lane { return brokenLane{} }
	r.run("d1")
	r.eventually("the trouble is told", func() bool { return strings.Contains(r.pool.Stats()[0].LastError, "entry 7") })
	if got, err := r.hub.CallMethod(t.Context(), hubsim.MethodCall{Device: "d1", Name: "any", ConnectTimeout: 5 * time.Second}); err != nil || got.Status != 404 {
		t.Errorf("a command: %+v, %v", got, err)
	}
	if l := r.pool.Stats()[0]; l.Connects != 1 || !l.Connected {
		t.Errorf("the connection: %+v", l)
	}
}
