package bridge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
)

func TestARenewedWayUpRepeatsNothingOfWhatStaysAndTellsWhatIsNewOnce(t *testing.T) {
	stays, moves := field("x", "stays"), field("x", "moves")
	other, count := field("x", "other"), field("x", "count")
	count.Wrap = 100
	all := func(at time.Duration, counted float64) []gateway.Sample {
		return []gateway.Sample{
			sample("x/stays", float(1), at), sample("x/moves", float(2), at), sample("x/other", float(3), at), sample("x/count", float(counted), at),
		}
	}
	var d disk
	old := NewUp([]gateway.Point{stays, moves, other, count}, []gateway.Identity{{ID: "x"}}, &d)
	accept(t, old, all(0, 95)...)
	accept(t, old, all(time.Second, 5)...) // the meter has gone over its end
	expect(t, &d, `x {"stays":1,"moves":2,"other":3,"count":95}`, `x {"count":105}`)

	stays.Publish.Deadband.Absolute = 0.5 // when it is reported changes, not what is known of it
	moves.Identity = "y"
	u := old.Renew([]gateway.Point{moves, stays, other, count}, []gateway.Identity{{ID: "y"}, {ID: "x"}},
		func(id gateway.PointID) bool { return id == "x/other" })
	accept(t, u, all(2*time.Second, 7)...)
	expect(t, &d, `x {"other":3,"count":107}`, `y {"moves":2}`)
	accept(t, u, all(3*time.Second, 7)...)
	expect(t, &d)
	accept(t, old, all(4*time.Second, 7)...) // what a link had read before it was stopped
	expect(t, &d)
	if s := u.Stats(); s.Samples != 20 || s.Messages != 4 || s != old.Stats() {
		t.Errorf("%+v", s)
	}
	if err := u.Renew(nil, nil, nil).Accept(context.Background(), all(0, 1)); err == nil {
		t.Error("a point that has gone is known")
	}
}

// As in the test of one Up: no two successive messages of an identity may be the same, whichever of the mappings
// judged their readings, and calls of different mappings must not block each other although each has another order.
func TestCallsOfTwoMappingsKeepTheOrderAndDoNotBlockEachOther(t *testing.T) {
	var mu sync.Mutex // guards last
	last := lastBodies{}
	put := func(_ context.Context, ts ...gateway.Telemetry) error {
		mu.Lock()
		defer mu.Unlock()
		last.take(t, ts)
		return nil
	}
	points := []gateway.Point{field("x", "a"), field("y", "b"), field("z", "c")}
	turned := []gateway.Point{points[2], field("new", "d"), points[1], points[0]}
	first := NewUp(points, nil, storing(put))
	ups := []*Up{first, first.Renew(turned, nil, nil)}
	ups = append(ups, ups[1].Renew(points, nil, nil))
	var adapters sync.WaitGroup
	for seed := range uint64(9) {
		adapters.Go(func() {
			r := rand.New(rand.NewPCG(seed, 1))
			for i := range 300 {
				var samples []gateway.Sample
				for _, at := range r.Perm(len(points))[:1+r.IntN(len(points))] {
					samples = append(samples, sample(points[at].ID, float(float64(r.IntN(3))), time.Duration(i)))
				}
				if err := ups[seed%3].Accept(context.Background(), samples); err != nil {
					t.Error(err)
				}
			}
		})
	}
	adapters.Wait()
}

func TestAWriteThatWaitsIsMadeByTheRulesOfTheNextMappingOrGivenUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLater(gateway.ErrNoAnswer)
		l.start()
		defer l.stop()
		call(l.down, "later", `{"value":40}`)
		call(l.down, "later", `{"value":80}`)
		pass(10 * time.Minute) // the pause between two attempts is at its longest

		l.writes.Use(nil)
		l.device.written, l.err = nil, nil
		pass(time.Minute)
		if len(l.device.written) > 0 {
			t.Errorf("written while no rules hold: %v", l.device.written)
		}
		cfg := boiler(l.device)
		cfg.Later = l.writes
		cfg.Methods = []gateway.Method{{Identity: "boiler", Name: "soon", Write: "boiler/setpoint", From: "value", Queued: time.Hour}}
		for i, p := range cfg.Points {
			if p.ID == "boiler/setpoint" {
				limit := 50.0
				cfg.Points[i].Write = &gateway.WriteRule{Max: &limit}
			}
		}
		l.writes.Use(NewDown(cfg))
		synctest.Wait() // at once
		if got := fmt.Sprint(l.device.written, l.told); got != "[boiler/setpoint=40] [later 200 later 400]" {
			t.Error(got)
		}

		l.err = gateway.ErrNoAnswer
		call(NewDown(cfg), "soon", `{"value":45}`)
		synctest.Wait()
		cfg.Methods = nil
		l.told = nil
		l.writes.Use(NewDown(cfg))
		synctest.Wait()
		if got := fmt.Sprint(l.told, l.notes.All()); got != "[soon 404] map[]" {
			t.Error(got)
		}
	})
}
