package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
)

func TestAFailedPutSuppressesNothing(t *testing.T) {
	full := errors.New("disk full")
	d := disk{fail: full}
	u := NewUp([]gateway.Point{field("x", "a"), field("y", "b")}, nil, &d)
	both := []gateway.Sample{sample("x/a", float(1), 0), sample("y/b", float(1), 0)}
	for range 2 {
		if err := u.Accept(context.Background(), both); !errors.Is(err, full) {
			t.Fatalf("Accept returned %v", err)
		}
	}
	d.fail = nil
	accept(t, u, both...)
	expect(t, &d, `x {"a":1}`, `y {"b":1}`)
	d.fail = full
	if err := u.Accept(context.Background(), []gateway.Sample{sample("x/a", float(2), 1)}); !errors.Is(err, full) {
		t.Fatalf("Accept returned %v", err)
	}
	d.fail = nil
	accept(t, u, sample("x/a", float(1), 2)) // back to what the cloud knows: nothing to say
	accept(t, u, sample("x/a", float(2), 3))
	expect(t, &d, `x {"a":2}`)
	want := UpStats{Samples: 9, Reported: 3, Suppressed: 1, Failed: 5, Messages: 3, PutErrors: 3}
	if diff := cmp.Diff(want, u.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestWhatAFullQueueRefusesStaysDueAndTheRestIsReported(t *testing.T) {
	d := disk{full: []gateway.IdentityID{"y"}}
	u := NewUp([]gateway.Point{field("x", "a"), field("y", "b"), field("y", "c"), field("z", "d")}, nil, &d)
	all := []gateway.Sample{
		sample("x/a", float(1), 0), sample("y/b", float(1), 0), sample("y/c", float(1), 0), sample("z/d", float(1), 0),
		sample("y/b", float(2), 1), sample("z/d", float(2), 1),
	}
	err := u.Accept(context.Background(), all)
	var full *gateway.FullError
	if !errors.As(err, &full) || !errors.Is(err, gateway.ErrFull) {
		t.Fatalf("Accept returned %v", err)
	}
	if diff := cmp.Diff(&gateway.FullError{Identities: d.full, Points: []gateway.PointID{"y/b", "y/c", "y/b"}}, full); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	expect(t, &d, `x {"a":1}`, `z {"d":1}`, `z {"d":2}`)
	accept(t, u, sample("x/a", float(1), 2), sample("z/d", float(2), 2)) // the cloud knows these
	d.full = nil
	accept(t, u, sample("y/b", float(2), 3), sample("y/c", float(1), 3))
	expect(t, &d, `y {"b":2,"c":1}`)
	want := UpStats{Samples: 10, Reported: 5, Suppressed: 2, Refused: 3, Messages: 4}
	if diff := cmp.Diff(want, u.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestAWrapDuringAnOutageOfTheDiskIsNotForgotten(t *testing.T) {
	d := disk{fail: errors.New("disk full")}
	count := field("x", "count")
	count.Wrap = 100
	u := NewUp([]gateway.Point{count}, nil, &d)
	for i, raw := range []float64{90, 10, 30, 50, 70, 90, 10} {
		if err := u.Accept(context.Background(), []gateway.Sample{sample("x/count", float(raw), time.Duration(i+1))}); err == nil {
			t.Fatal("no error")
		}
	}
	d.fail = nil
	accept(t, u, sample("x/count", float(20), 8))
	expect(t, &d, `x {"count":220}`)
}

func TestIdentitiesDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		put := func(ctx context.Context, ts ...gateway.Telemetry) error {
			if ts[0].Identity == "slow" {
				<-release
			}
			return nil
		}
		u := NewUp([]gateway.Point{field("slow", "a"), field("quick", "b")}, nil, storing(put))
		slow := make(chan error, 2)
		for i := range 2 { // the second waits for the first: they are of one identity
			go func() {
				slow <- u.Accept(context.Background(), []gateway.Sample{sample("slow/a", float(float64(i)), 0)})
			}()
		}
		synctest.Wait()
		accept(t, u, sample("quick/b", float(1), 0))
		if _, ok := u.Latest("slow/a"); !ok || len(slow) != 0 {
			t.Error("the newest reading waits for the disk")
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := u.Accept(ctx, []gateway.Sample{sample("quick/b", float(2), 1), sample("slow/a", float(7), 1)})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Accept returned %v", err)
		}
		accept(t, u, sample("quick/b", float(2), 2)) // the call that gave up holds nothing
		if s := u.Stats(); s.Reported != 2 || s.Failed != 2 || s.PutErrors != 0 {
			t.Errorf("stats %+v", s)
		}
		close(release)
		for range 2 {
			if err := <-slow; err != nil {
				t.Error(err)
			}
		}
	})
}

type patient struct {
	hurry chan struct{}
	waits []time.Duration // of every call
}

func (p *patient) PutWithin(_ context.Context, patience time.Duration, _ ...gateway.Telemetry) error {
	start := time.Now()
	if patience > 0 {
		select {
		case <-p.hurry:
		case <-time.After(patience):
		}
	}
	p.waits = append(p.waits, time.Since(start))
	return nil
}

func (p *patient) Hurry() {
	select {
	case p.hurry <- struct{}{}:
	default:
	}
}

func TestWhoWaitsForTheSameIdentityEndsThePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var points []gateway.Point
		for i := range 10 {
			points = append(points, field("boiler", fmt.Sprintf("p%d", i)))
		}
		store := &patient{hurry: make(chan struct{})}
		u := NewUp(points, nil, store)
		start := time.Now()
		var links sync.WaitGroup
		for i, p := range points {
			links.Go(func() {
				err := u.AcceptWithin(t.Context(), time.Second, []gateway.Sample{sample(p.ID, float(float64(i)), 0)})
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		links.Wait()
		if took := time.Since(start); took > time.Second || len(store.waits) != len(points) {
			t.Errorf("%v for %d messages; each waited %v", took, len(store.waits), store.waits)
		}
	})
}
