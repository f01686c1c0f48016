package adaptertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	gateway "iothub-gateway"
)

func readingsArrive(t *testing.T, s Setup) {
	began := time.Now()
	r := start(t, s, nil)
	got := r.await(t, "a good reading", isGood(s.Good))
	if got.Value != s.Want {
		t.Errorf("%s is %v, want %v", s.Good, got.Value, s.Want)
	}
	if got.Time.Before(began) || got.Time.After(time.Now()) {
		t.Errorf("it came at %v, between %v and now", got.Time, began)
	}
	r.await(t, "a second one", func(x gateway.Sample) bool { return isGood(s.Good)(x) && x.Time.After(got.Time) })
}

func failedReading(t *testing.T, s Setup) {
	if s.Bad == "" {
		return
	}
	r := start(t, s, nil)
	bad := r.await(t, "a bad reading", func(x gateway.Sample) bool { return x.Point == s.Bad })
	if bad.Err == nil || bad.Value.Kind() != gateway.Absent || bad.Time.IsZero() {
		t.Errorf("the reading of %s is %+v", s.Bad, bad)
	}
	r.await(t, "a good reading beside it", isGood(s.Good))
}

func oneAtATime(t *testing.T, s Setup) {
	var inside, calls atomic.Int32
	r := start(t, s, func(context.Context, []gateway.Sample) error {
		if inside.Add(1) > 1 {
			t.Error("two calls of accept at once")
		}
		<-time.After(30 * time.Millisecond) // a slow disk
		inside.Add(-1)
		calls.Add(1)
		return nil
	})
	r.until(t, "five calls of accept", func() bool { return calls.Load() >= 5 })
}

// refusedByAccept refuses the first three calls, and the first three with Once in them.
func refusedByAccept(t *testing.T, s Setup) {
	var all, once atomic.Int32
	full := errors.New("the disk is full")
	r := start(t, s, func(_ context.Context, batch []gateway.Sample) error {
		has := s.Once != "" && slices.ContainsFunc(batch, func(x gateway.Sample) bool { return x.Point == s.Once })
		refuse := all.Add(1) <= 3
		if has {
			refuse = once.Add(1) <= 3 || refuse
		}
		if refuse {
			return full
		}
		return nil
	})
	r.await(t, "a good reading after accept refused some", isGood(s.Good))
	if s.Once == "" {
		return
	}
	r.await(t, "the reading that comes once", isGood(s.Once))
	if once.Load() < 4 {
		t.Errorf("it was offered %d times, and refused three times", once.Load())
	}
}

// fullQueue has room for everything but Good. An adapter that waited for room, or that offered the
// same reading again, would hold up what shares its link.
func fullQueue(t *testing.T, s Setup) {
	var offers, repeats atomic.Int32
	last := map[gateway.PointID]gateway.Sample{}
	r := start(t, s, func(_ context.Context, batch []gateway.Sample) error {
		full := &gateway.FullError{}
		for _, x := range batch {
			if x.Point != s.Good {
				continue
			}
			full.Points = append(full.Points, x.Point)
			offers.Add(1)
			if x == last[x.Point] {
				repeats.Add(1)
			}
			last[x.Point] = x
		}
		if full.Points == nil {
			return nil
		}
		return fmt.Errorf("bridge: %w", full)
	})
	r.until(t, "ten readings while the queue is full", func() bool { return offers.Load() >= 10 })
	if n := repeats.Load(); n > 0 {
		t.Errorf("%d refused readings were offered again", n)
	}
}

func runEnds(t *testing.T, s Setup) {
	before := goleak.IgnoreCurrent()
	var ended atomic.Bool
	r := start(t, s, func(context.Context, []gateway.Sample) error {
		if ended.Load() {
			t.Error("accept was called after Run returned")
		}
		return nil
	})
	r.await(t, "a good reading", isGood(s.Good))
	if err := r.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	ended.Store(true)
	if err := goleak.Find(before); err != nil {
		t.Errorf("after Run returned: %v", err)
	}
}

func runEndsWhileAcceptWaits(t *testing.T, s Setup) {
	waiting := make(chan struct{}, 1)
	r := start(t, s, func(ctx context.Context, _ []gateway.Sample) error {
		select {
		case waiting <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return ctx.Err()
	})
	var report sync.WaitGroup
	defer report.Wait()
	if r.Report != nil {
		report.Go(r.Report) // waits for accept, which waits for the end
	}
	select {
	case <-waiting:
	case <-time.After(patience):
		t.Fatal("accept was never called")
	}
	if err := r.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}
