package modbus

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	gateway "iothub-gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheBackoffGrowsToItsLimitWithFullJitter(t *testing.T) {
	for _, c := range []struct {
		tries int
		r     float64
		want  time.Duration
	}{
		{0, 0, pauseMin}, {0, 0.5, 500 * time.Millisecond}, {0, 1, time.Second}, {1, 1, 2 * time.Second},
		{3, 0.25, 2 * time.Second}, {6, 1, 64 * time.Second}, {7, 1, 2 * time.Minute}, {1000000, 0.5, time.Minute}, {-1, 1, time.Second},
	} {
		if got := backoff(c.tries, backoffLast, c.r); got != c.want {
			t.Errorf("backoff(%d, %v) = %v, want %v", c.tries, c.r, got, c.want)
		}
	}
}

// dialer refuses connections while it is told to, and keeps when it was asked.
type dialer struct {
	f      *field
	refuse atomic.Bool

	mu    sync.Mutex // guards asked
	asked []time.Time
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.asked = append(d.asked, time.Now())
	d.mu.Unlock()
	if d.refuse.Load() {
		return nil, errors.New("connection refused")
	}
	return d.f.dial(ctx, network, address)
}

func TestALinkThatIsDownIsTriedEverMoreRarelyAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialer{f: newField()}
		d.refuse.Store(true)
		r := runDial(t, d, Config{Devices: []Device{{
			Name: "d", Unit: 1, Offline: offline(3, 5*time.Second, time.Minute), Points: points("d", Holding, time.Second, 10, 11),
		}}})
		pass(time.Hour)
		d.mu.Lock()
		if n := len(d.asked); n < 30 || n > 300 {
			t.Errorf("%d dials in an hour", n)
		}
		for i := 1; i < len(d.asked); i++ {
			if gap := d.asked[i].Sub(d.asked[i-1]); gap < pauseMin || gap > backoffLast+time.Second {
				t.Errorf("%v between two dials", gap)
			}
		}
		d.mu.Unlock()
		if got := r.got.of("d/10"); len(got) != 1 || !errors.Is(got[0].Err, gateway.ErrNoAnswer) {
			t.Errorf("%v", got)
		}
		if s := r.Stats(); s.Link.Up || s.Link.LastError != "connection refused" || s.Devices[0].State != Down {
			t.Errorf("%+v", s)
		}
		d.refuse.Store(false)
		pass(2*time.Minute + 2*time.Second)
		if got := r.got.of("d/10"); goods(got) == 0 {
			t.Errorf("%v", got)
		}
		if s := r.Stats(); !s.Link.Up || s.Link.Connects != 1 || s.Devices[0].State != Up {
			t.Errorf("%+v", s)
		}
	})
}

func TestACommandDoesNotWaitForTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialer{f: newField()}
		d.refuse.Store(true)
		r := runDial(t, d, Config{Devices: []Device{{
			Name: "d", Unit: 1, Offline: offline(3, 5*time.Second, time.Minute), Points: points("d", Holding, time.Second, 10),
		}}})
		pass(time.Hour)
		if err := r.Write(t.Context(), "d/10", gateway.UintValue(1), gateway.Confirm{}); !errors.Is(err, gateway.ErrNoAnswer) {
			t.Errorf("%v", err)
		}
		d.refuse.Store(false)
		began := time.Now()
		if err := r.Write(t.Context(), "d/10", gateway.UintValue(7), gateway.Confirm{}); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		pass(time.Second)
		if got := r.got.of("d/10"); goods(got) == 0 {
			t.Errorf("the device is not polled again: %v", got)
		}
	})
}

func TestAPeerThatClosesAfterEachAnswerIsStillPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.trick = func(c *peer, r call) bool {
			_, _ = c.Write(f.answer(r))
			_ = c.Close()
			return true
		}
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Second, 10, 100)}}}, f)
		pass(time.Minute)
		for _, id := range []gateway.PointID{"d/10", "d/100"} {
			if got := r.got.of(id); goods(got) < 58 || goods(got) != len(got) {
				t.Errorf("%s: %d of %d good", id, goods(got), len(got))
			}
		}
	})
}

func TestAPeerThatAcceptsAndClosesIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.trick = func(c *peer, _ call) bool { _ = c.Close(); return true }
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Offline: offline(3, 5*time.Second, time.Minute), Points: points("d", Holding, 100*time.Millisecond, 10)}}}, f)
		pass(time.Hour)
		if n := f.conns(); n > 300 {
			t.Errorf("%d connections in an hour", n)
		}
		if s := r.Stats().Devices[0]; s.State != Down {
			t.Errorf("%+v", s)
		}
	})
}

// garbled is a device that sends garbage instead of every nth answer.
func garbled(nth int) *field {
	f := newField()
	n := 0
	f.trick = func(c *peer, r call) bool {
		if n++; n%nth == 0 {
			c.send([]byte("garbage that is no Modbus"))
			return true
		}
		return false
	}
	return f
}

// A short loss of the connection is no reason to call a device offline, however fast it is polled.
func TestAReconnectAloneMakesNothingBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := garbled(1400) // each 70 s
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Offline: offline(3, 5*time.Second, time.Minute), Points: points("d", Holding, 50*time.Millisecond, 10)}}}, f)
		pass(10 * time.Minute)
		got := r.got.of("d/10")
		if goods(got) < 11000 || goods(got) != len(got) || f.conns() < 5 {
			t.Errorf("%d of %d good, %d connections", goods(got), len(got), f.conns())
		}
		if s := r.Stats().Devices[0]; s.Skipped == 0 {
			t.Errorf("the ticks without a connection are not counted: %+v", s)
		}
	})
}

func TestTroubleNowAndThenDoesNotAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := garbled(50) // each 2.5 s
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Offline: offline(3, 5*time.Second, time.Minute), Points: points("d", Holding, 50*time.Millisecond, 10)}}}, f)
		pass(10 * time.Minute)
		if n := goods(r.got.of("d/10")); n < 6000 {
			t.Errorf("%d of 12000 readings", n)
		}
	})
}

// Values do not stay good for minutes because the link is waiting for its next try.
func TestALinkThatStaysDownMakesItsPointsBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		d := &dialer{f: f}
		r := runDial(t, d, Config{Devices: []Device{{Name: "d", Unit: 1, Offline: offline(3, 5*time.Second, time.Minute), Points: points("d", Holding, time.Second, 10)}}})
		pass(10 * time.Second)
		d.refuse.Store(true)
		f.set(func(f *field) { _ = f.peers[0].Close() })
		pass(6 * time.Second)
		got := r.got.of("d/10")
		if last := got[len(got)-1]; !errors.Is(last.Err, gateway.ErrNoAnswer) || goods(got) != len(got)-1 {
			t.Errorf("%v", got)
		}
	})
}

func TestTheDeadlineOfARequestCoversBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deaf := func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe() // nobody reads
			t.Cleanup(func() { _ = theirs.Close() })
			return ours, nil
		}
		r := runWith(t, deaf, Config{Timeout: time.Second, Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Hour, 10)}}})
		began := time.Now()
		err := r.Write(t.Context(), "d/10", gateway.UintValue(1), gateway.Confirm{})
		if !errors.Is(err, gateway.ErrNoAnswer) || time.Since(began) > 2200*time.Millisecond { // behind one poll
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestAnAdapterRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, Config{}, newField())
		pass(time.Second)
		if err := r.Run(t.Context(), r.got.accept); err == nil {
			t.Error("it ran twice")
		}
		r.stop()
		if err := r.Write(t.Context(), "x", gateway.Value{}, gateway.Confirm{}); !errors.Is(err, gateway.ErrUnknownPoint) {
			t.Errorf("%v", err)
		}
	})
}
