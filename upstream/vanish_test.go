package upstream

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
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

// vanish puts the network into a condition while messages are sent, and returns how long it took until
// the connection was given up. Afterwards everything is delivered.
func vanish(t *testing.T, writeTimeout time.Duration, condition faultnet.Condition) time.Duration {
	t.Helper()
	r := newRig(t)
	network, err := faultnet.New(r.hub.MQTTAddr())
	if err != nil {
		t.Fatal(err)
	}
	testkit.Background(t, network.Run)
	r.cfg.WriteTimeout = writeTimeout
	r.cfg.Dial = func(ctx context.Context, _ identity.Login) (*dial.Conn, error) {
		return dial.Hub(ctx, dial.Config{Address: network.Addr(), ServerName: "localhost", Roots: r.hub.CAPool(), WriteTimeout: writeTimeout, MaxPacket: 1 << 20})
	}
	r.run("d1")
	r.put("d1", 100)
	r.eventually("the queue is empty", r.empty)
	network.Set(condition)
	gone := time.Now()
	r.put("d1", 40)
	for r.pool.Stats()[0].Connected && time.Since(gone) < 2*time.Minute {
		wait(t.Context(), 10*time.Millisecond)
	}
	took := time.Since(gone)
	network.Set(faultnet.Condition{})
	network.Cut()
	r.eventually("the queue is empty again", r.empty)
	if again := r.oracle(map[gateway.IdentityID]uint64{"d1": 140}); again > DefaultWindow {
		t.Errorf("%d messages came twice over one lost connection", again)
	}
	return took
}

func TestAPeerThatIsGoneIsFoundByTheKernelUnderLoad(t *testing.T) {
	if took := vanish(t, 2*time.Second, faultnet.Condition{HalfOpen: true}); took > 15*time.Second {
		t.Errorf("found after %v", took)
	}
}

func TestTheHubsOwnClockTellsWhenThisMachinesIsWrong(t *testing.T) {
	r := newRig(t)
	var wrong atomic.Int64
	wrong.Store(int64(3 * time.Hour)) // tokens ended two hours ago
	r.cfg.Now = func() time.Time { return time.Now().Add(-time.Duration(wrong.Load())) }
	r.cfg.ServerTime = func(ctx context.Context, _ identity.Login) (time.Time, error) {
		return dial.ServerTime(ctx, dial.Config{Address: r.hub.HTTPSAddr(), ServerName: "localhost", Roots: r.hub.CAPool(), WriteTimeout: time.Second})
	}
	r.cfg.RetryMost = time.Minute
	r.put("d1", 1)
	r.run("d1")
	r.eventually("the clock is said to be wrong", func() bool { return strings.Contains(r.pool.Stats()[0].LastError, " behind the hub's") })
	wrong.Store(0)
	r.eventually("it is connected once the clock is right", func() bool { return r.pool.Stats()[0].Connected && r.empty() })
}

func TestALargeMessageOnASlowLineIsNotTakenForAHubThatIsSilent(t *testing.T) {
	m := member("d", holdsFor("d", 10*time.Hour))
	lane := m.Lane.(*shelf)
	lane.size = 240 << 10
	bubble(t, Config{}, []Member{m}, nil, func(hub *pipeHub, pool *Pool) {
		hub.set(func() { hub.rate = 3000; hub.present.Close() }) // 24 kbit/s
		later(10 * time.Second)
		lane.put(3)
		later(10 * time.Minute)
		if s := pool.Stats()[0]; lane.delivered() != 3 || s.Repeated != 0 || s.Connects != 2 {
			t.Errorf("%d of 3 delivered: %+v", lane.delivered(), s)
		}
	})
}

func TestAHubThatNobodyAnswersForIsNamedAlsoWhenTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Log: zerolog.Nop(), Dial: func(ctx context.Context, _ identity.Login) (*dial.Conn, error) {
			<-ctx.Done()
			return nil, errors.New("hub h:8883: dial tcp 10.0.0.1:8883: i/o timeout")
		}}
		pool := NewPool(cfg, []Member{member("d", holdsFor("d", time.Hour))}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 2*connectTimeout)
		defer cancel()
		if err := pool.Run(ctx); err != nil {
			t.Error(err)
		}
		if s := pool.Stats()[0]; !strings.Contains(s.LastError, "hub h:8883") {
			t.Errorf("%+v", s)
		}
	})
}
