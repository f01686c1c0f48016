package upstream

import (
	"context"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
)

func TestALaneIsLiveWhileItsNextMessageIsYoung(t *testing.T) {
	now := time.Now()
	for age, want := range map[time.Duration]class{
		-time.Hour: live, 0: live, liveAge - 1: live, liveAge: backlog, 24 * time.Hour: backlog,
	} {
		if got := classOf(now.Add(-age), now); got != want {
			t.Errorf("after %v: class %d, want %d", age, got, want)
		}
	}
}

func TestEachClassGetsItsPartWhileBothWaitAndAllWhileItIsAlone(t *testing.T) {
	both := [classes]bool{true, true}
	for _, part := range []float64{0, 0.1, 0.25, 0.5, 0.9, 1} {
		s := newShares(part)
		sent := 0
		const picks = 1000
		for i := range picks {
			if s.next(both) == live {
				sent++
			}
			if want := part * float64(i+1); math.Abs(float64(sent)-want) > 1 {
				t.Fatalf("live %.2f: %d of the first %d", part, sent, i+1)
			}
		}
		if s.next([classes]bool{true, false}) != live || s.next([classes]bool{false, true}) != backlog {
			t.Errorf("live %.2f: a class that is alone does not get its turn", part)
		}
	}
}

func TestAClassThatWasAwaySavedNothingUp(t *testing.T) {
	s := newShares(0.5)
	for range 1000 {
		s.next([classes]bool{false, true})
	}
	sent := 0
	for range 10 {
		if s.next([classes]bool{true, true}) == live {
			sent++
		}
	}
	if sent != 5 {
		t.Errorf("%d of 10 after a pause, want 5", sent)
	}
}

// lane asks for turns again and again, with a pause between them, and counts what it may send.
func lane(ctx context.Context, s *shaper, c class, pause time.Duration, want int) *atomic.Int64 {
	sent := new(atomic.Int64)
	go func() {
		for ctx.Err() == nil {
			sent.Add(int64(s.take(ctx, c, want)))
			if pause > 0 {
				wait(ctx, pause)
			}
		}
	}()
	return sent
}

// shaping runs a shaper in a bubble for a test.
func shaping(t *testing.T, rate, live float64, f func(ctx context.Context, s *shaper)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := newShaper(rate, live)
		go s.run(ctx)
		f(ctx, s)
		cancel()
		synctest.Wait()
	})
}

func between(t *testing.T, what string, got *atomic.Int64, low, high int64) {
	t.Helper()
	if n := got.Load(); n < low || n > high {
		t.Errorf("%s: %d messages, want %d to %d", what, n, low, high)
	}
}

func TestAllLanesTogetherKeepTheRateAndTakeTurns(t *testing.T) {
	for _, rate := range []float64{0.5, 3, 50, 5000} {
		shaping(t, rate, 0.5, func(ctx context.Context, s *shaper) {
			var lanes []*atomic.Int64
			for range 5 {
				lanes = append(lanes, lane(ctx, s, backlog, 0, 16))
			}
			<-time.After(100 * time.Second)
			synctest.Wait()
			var all int64
			least, most := lanes[0].Load(), lanes[0].Load()
			for _, l := range lanes {
				all += l.Load()
				least, most = min(least, l.Load()), max(most, l.Load())
			}
			if want := rate * 100; float64(all) < 0.99*want-1 || float64(all) > want+1+rate*burst.Seconds() {
				t.Errorf("%g a second: %d in 100 s", rate, all)
			}
			if most-least > 17 {
				t.Errorf("%g a second: between %d and %d a lane", rate, least, most)
			}
		})
	}
}

func TestALiveLaneIsNotHeldUpByManyBacklogs(t *testing.T) {
	shaping(t, 100, 0.5, func(ctx context.Context, s *shaper) {
		var old atomic.Int64
		for range 20 {
			go func() {
				for ctx.Err() == nil {
					old.Add(int64(s.take(ctx, backlog, 16)))
				}
			}()
		}
		fresh := lane(ctx, s, live, 100*time.Millisecond, 1) // needs less than its part
		<-time.After(20 * time.Second)
		synctest.Wait()
		between(t, "live", fresh, 150, 200) // 10 a second, less what a turn takes
		if all := old.Load() + fresh.Load(); all < 1990 || all > 2015 {
			t.Errorf("%d messages in all: what one class does not need is not the other's", all)
		}
	})
}

func TestTheShareDividesTheRateWhileBothHaveMoreThanEnough(t *testing.T) {
	shaping(t, 100, 0.25, func(ctx context.Context, s *shaper) {
		fresh, old := lane(ctx, s, live, 0, 16), lane(ctx, s, backlog, 0, 16)
		<-time.After(20 * time.Second)
		synctest.Wait()
		between(t, "live", fresh, 490, 515)
		between(t, "backlog", old, 1475, 1515)
	})
}

func TestAPauseIsNotMadeUpForByAFlood(t *testing.T) {
	shaping(t, 100, 0.5, func(ctx context.Context, s *shaper) {
		s.take(ctx, live, 1)
		<-time.After(time.Hour)
		sent := lane(ctx, s, live, 0, 1000)
		synctest.Wait()
		between(t, "at once", sent, 1, 10)
	})
}

func TestALaneThatGoesAwayCostsTheOthersNothing(t *testing.T) {
	shaping(t, 1, 0.5, func(ctx context.Context, s *shaper) {
		s.take(ctx, live, 1)
		gone, cancel := context.WithCancel(ctx)
		for range 100 {
			go s.take(gone, live, 16)
		}
		synctest.Wait()
		cancel()
		began := time.Now()
		if n := s.take(ctx, live, 16); n != 1 || time.Since(began) > 1100*time.Millisecond {
			t.Errorf("%d messages after %v", n, time.Since(began))
		}
	})
}

func TestWithoutARateNothingWaits(t *testing.T) {
	s := newShaper(0, 0.5)
	s.run(t.Context())
	if n := s.take(t.Context(), backlog, 16); n != 16 {
		t.Errorf("%d of 16", n)
	}
}

func TestALimitedDrainKeepsTheOrderAndTheRate(t *testing.T) {
	r := newRig(t)
	const rate, messages = 100, 60
	r.cfg.DrainRate, r.cfg.LiveShare = rate, 0.5
	r.put("a", messages/2)
	r.put("b", messages/2)
	began := time.Now()
	r.run("a", "b", "locked")
	r.eventually("the queue is empty", r.empty)
	if took := time.Since(began); took < (messages-1-rate/10)*time.Second/rate {
		t.Errorf("%d messages took %v", messages, took)
	}
	if again := r.oracle(map[gateway.IdentityID]uint64{"a": messages / 2, "b": messages / 2}); again > 0 {
		t.Errorf("%d came twice", again)
	}
}
