package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	gateway "iothub-gateway"
)

// A message that is put tells how its identity's state moved on. So with report on change, no two
// successive messages of an identity may be the same: the later one was judged when the earlier one
// was already known. Calls that touch several identities, in any order, must not block each other,
// and calls whose Put fails must leave no trace.
func TestMessagesArePutInTheOrderTheirReadingsWereJudged(t *testing.T) {
	var mu sync.Mutex // guards last and puts
	last := lastBodies{}
	puts := 0
	put := func(_ context.Context, ts ...gateway.Telemetry) error {
		runtime.Gosched() // the disk takes its time
		mu.Lock()
		defer mu.Unlock()
		if puts++; puts%5 == 0 {
			return errors.New("disk full")
		}
		last.take(t, ts)
		return nil
	}
	points := []gateway.Point{field("x", "a"), field("y", "b"), field("z", "c")}
	u := NewUp(points, nil, storing(put))
	var adapters sync.WaitGroup
	for seed := range uint64(8) {
		adapters.Go(func() {
			r := rand.New(rand.NewPCG(seed, 1))
			for i := range 500 {
				var samples []gateway.Sample
				for _, at := range r.Perm(len(points))[:1+r.IntN(len(points))] {
					samples = append(samples, sample(points[at].ID, float(float64(r.IntN(3))), time.Duration(i)))
				}
				_ = u.Accept(context.Background(), samples) // fails where the disk does
			}
		})
	}
	adapters.Wait()
	s := u.Stats()
	if s.Samples != s.Reported+s.Suppressed+s.Dropped+s.Private+s.Failed || s.PutErrors == 0 || s.Suppressed == 0 || s.Reported == 0 {
		t.Errorf("stats do not add up: %+v", s)
	}
}

// benchPlant is 100 points of one identity with two sets of readings of them that differ.
func benchPlant() (*Up, [2][]gateway.Sample) {
	var points []gateway.Point
	var readings [2][]gateway.Sample
	for i := range 100 {
		p := field("boiler", fmt.Sprintf("temperature_%02d", i))
		p.Publish.Deadband.Absolute = 0.2
		points = append(points, p)
		readings[0] = append(readings[0], sample(p.ID, float(20.5+float64(i)), 0))
		readings[1] = append(readings[1], sample(p.ID, float(30.5+float64(i)), 0))
	}
	put := func(context.Context, ...gateway.Telemetry) error { return nil }
	return NewUp(points, nil, storing(put)), readings
}

func BenchmarkAccept100NothingDue(b *testing.B) {
	u, readings := benchPlant()
	b.ReportAllocs()
	for b.Loop() {
		if err := u.Accept(context.Background(), readings[0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAccept100AllDue(b *testing.B) {
	u, readings := benchPlant()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := u.Accept(context.Background(), readings[i%2]); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAcceptAllocatesPerCallAndPerMessageNotPerReading(t *testing.T) {
	u, readings := benchPlant()
	i := 0
	quiet := testing.AllocsPerRun(100, func() { _ = u.Accept(context.Background(), readings[0]) })
	busy := testing.AllocsPerRun(100, func() {
		i++
		_ = u.Accept(context.Background(), readings[i%2])
	})
	if quiet > 4 || busy > 8 {
		t.Errorf("100 readings cost %v allocations with nothing due and %v with all due", quiet, busy)
	}
}

// lastBodies are the newest message of each identity.
type lastBodies map[gateway.IdentityID][]byte

// take finds messages that are the same as the one before.
func (last lastBodies) take(t *testing.T, ts []gateway.Telemetry) {
	for _, m := range ts {
		if bytes.Equal(last[m.Identity], m.Body) {
			t.Errorf("%s was put twice in a row: %s", m.Identity, m.Body)
		}
		last[m.Identity] = m.Body
	}
}
