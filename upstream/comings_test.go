package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
	"iothub-gateway/internal/faultnet"
	"iothub-gateway/internal/testkit"
)

func TestIdentitiesComeAndGoWithoutTouchingTheOthers(t *testing.T) {
	r := newRig(t)
	stop := r.run("stays")
	for i := range 10 {
		id := gateway.IdentityID(fmt.Sprintf("guest%d", i))
		m := r.join(id)
		if err := r.pool.Add(m); err != nil {
			t.Fatal(err)
		}
		if err := r.pool.Add(m); err == nil {
			t.Errorf("%s was added twice", id)
		}
		r.put("stays", 20)
		r.put(id, 20)
		r.eventually("the guest has delivered something", func() bool { return r.queue.Stats().Lanes[id].Acked > 0 })
		if err := r.pool.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
		r.eventually("the hub knows that it left", func() bool { return !r.hub.Connected(string(id)) })
		if err := r.pool.Remove(t.Context(), id); err == nil {
			t.Errorf("%s was removed twice", id)
		}
		if err := r.pool.Add(r.join(id)); err != nil { // back again, with the rest of its lane
			t.Fatal(err)
		}
	}
	r.eventually("the queue is empty", r.empty)
	stop()
	want := map[gateway.IdentityID]uint64{"stays": 200}
	for i := range 10 {
		want[gateway.IdentityID(fmt.Sprintf("guest%d", i))] = 20
	}
	if repeated := r.oracle(want); repeated > 0 {
		t.Errorf("%d repeats although everybody left in peace", repeated)
	}
	if l := r.pool.Stats()[0]; l.Connects != 1 {
		t.Errorf("the one that stayed: %+v", l)
	}
	if err := r.pool.Add(r.join("late")); err == nil {
		t.Error("a pool that has ended took another member")
	}
}

func TestAMemberOfAPoolThatHasNotRunLeavesAtOnce(t *testing.T) {
	p := NewPool(Config{}, []Member{{ID: "a"}, {ID: "b"}}, nil)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Remove(over, "a"); err != nil {
		t.Error(err)
	}
	if all := p.Stats(); len(all) != 1 || all[0].Identity != "b" || all[0].State != StateConnecting {
		t.Errorf("left: %+v", all)
	}
}

func TestATakeOverIsToldByBothSidesWithinAMinute(t *testing.T) {
	r := newRig(t)
	r.cfg.RetryMost = 500 * time.Millisecond
	start := time.Now()
	r.run("shared", "own")
	one := r.pool
	r.run("shared")
	other := r.pool
	told := func(p *Pool) bool {
		l := p.Stats()[0]
		return l.State == StateConflict && strings.Contains(l.LastError, "another gateway")
	}
	r.eventually("both say so", func() bool { return told(one) && told(other) })
	if took := time.Since(start); took > time.Minute {
		t.Errorf("told after %v", took)
	} else {
		t.Logf("told after %v", took.Round(time.Millisecond))
	}
	if l := one.Stats()[1]; l.State != StateConnected || l.Connects != 1 {
		t.Errorf("an identity that is not shared: %+v", l)
	}
}

func TestATakeOverIsToldAlsoIfTheOtherOneIsFasterThanOurSubscriptions(t *testing.T) {
	r := newRig(t)
	network, err := faultnet.New(r.hub.MQTTAddr())
	if err != nil {
		t.Fatal(err)
	}
	testkit.Background(t, network.Run)
	network.Set(faultnet.Condition{Delay: 10 * time.Millisecond})
	r.cfg.Dial = func(ctx context.Context, _ identity.Login) (*dial.Conn, error) {
		return dial.Hub(ctx, dial.Config{Address: network.Addr(), ServerName: "localhost", Roots: r.hub.CAPool(), WriteTimeout: 2 * time.Second, MaxPacket: 1 << 20})
	}
	testkit.Background(t, func(ctx context.Context) error {
		for wait(ctx, 2*time.Millisecond) {
			r.hub.Kick("d1") // as when somebody else connects
		}
		return nil
	})
	r.run("d1")
	r.eventually("it is told", func() bool {
		l := r.pool.Stats()[0]
		return l.State == StateConflict && strings.Contains(l.LastError, "another gateway") && strings.Contains(l.LastError, "subscribing")
	})
}

// heard calls a function when something has come. It says of a close what a real connection says.
type heard struct {
	net.Conn
	then func()
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if h.then(); errors.Is(err, io.ErrClosedPipe) {
		err = net.ErrClosed
	}
	return n, err
}

func TestAStopAtTheMomentOfTheConnectionLeavesNothingBehind(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			hub := &pipeHub{}
			ctx, cancel := context.WithCancel(t.Context())
			cfg := Config{Log: zerolog.Nop(), Dial: func(context.Context, identity.Login) (*dial.Conn, error) {
				near, far := net.Pipe()
				go hub.serve(far)
				return dial.Guard(heard{near, cancel}, time.Second, 1<<20), nil
			}}
			if err := NewPool(cfg, []Member{member("d", holdsFor("d", time.Hour))}, nil).Run(ctx); err != nil {
				t.Error(err)
			}
			later(time.Second) // whatever is left now is left for good
		})
	}
}
