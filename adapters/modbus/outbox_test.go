package modbus

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
)

func reading(id gateway.PointID, n int64) gateway.Sample {
	return gateway.Sample{Point: id, Value: gateway.IntValue(n)}
}

// shown is what waits in the outbox, as "point=value" texts.
func shown(o *outbox) (texts []string) {
	for _, s := range o.take() {
		texts = append(texts, string(s.Point)+"="+s.Value.String())
	}
	return texts
}

func TestANewerReadingReplacesTheOneThatWaits(t *testing.T) {
	o := newOutbox()
	o.put([]gateway.Sample{reading("a", 1), reading("b", 1)})
	o.put([]gateway.Sample{reading("x", 1)})
	o.put(nil)
	o.put([]gateway.Sample{reading("b", 2), reading("c", 1)})
	if replaced, _, _ := o.counts(); replaced != 1 {
		t.Errorf("%d replaced", replaced)
	}
	if diff := cmp.Diff([]string{"a=1", "x=1", "b=2", "c=1"}, shown(o)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatWasRefusedComesBackAsTheOlder(t *testing.T) {
	o := newOutbox()
	o.put([]gateway.Sample{reading("a", 1), reading("b", 1)})
	first := o.take()
	o.put([]gateway.Sample{reading("x", 1)})
	o.put([]gateway.Sample{reading("b", 2)})
	o.putBack(first)
	if replaced, _, _ := o.counts(); replaced != 1 {
		t.Errorf("%d replaced", replaced)
	}
	if diff := cmp.Diff([]string{"a=1", "x=1", "b=2"}, shown(o)); diff != "" {
		t.Error(diff)
	}
}

func TestTheWireNeverWaitsForASlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, 100*time.Millisecond, 10, 11)}}}, f)
		r.got.mu.Lock()
		r.got.hold = 3 * time.Second
		r.got.mu.Unlock()
		pass(time.Minute)
		if n := len(f.calls()); n < 595 {
			t.Errorf("only %d requests in a minute", n)
		}
		got := r.got.of("d/10")
		if len(got) < 18 || len(got) > 21 {
			t.Errorf("%d readings", len(got))
		}
		if last := got[len(got)-1]; time.Since(last.Time) > 6200*time.Millisecond {
			t.Errorf("the newest reading accepted is %v old", time.Since(last.Time))
		}
		s := r.Stats()
		// every reading is accepted, replaced, in accept's hands, or waiting
		if produced, known := uint64(2*len(f.calls())), uint64(2*len(got))+s.Replaced; produced-known > 4 {
			t.Errorf("%d readings of %d are unaccounted for", produced-known, produced)
		}
	})
}

// Two devices share the link; the queue has no room for the one, and the other does not notice.
func TestAFullLaneDelaysNobodyElseOnTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{Devices: []Device{
			{Name: "full", Unit: 1, Points: points("full", Holding, 100*time.Millisecond, 10, 11)},
			{Name: "free", Unit: 2, Points: points("free", Holding, 100*time.Millisecond, 10)},
		}}, f)
		r.got.mu.Lock()
		r.got.fail = func(samples []gateway.Sample) error {
			if samples[0].Point != "full/10" {
				return nil
			}
			full := &gateway.FullError{Identities: []gateway.IdentityID{"full"}}
			for _, s := range samples {
				full.Points = append(full.Points, s.Point)
			}
			return fmt.Errorf("bridge: %w", full)
		}
		r.got.mu.Unlock()
		pass(time.Minute)
		got := r.got.of("free/10")
		if len(got) < 598 || len(r.got.of("full/10")) > 0 {
			t.Errorf("%d readings of the device with room, %d of the full one", len(got), len(r.got.of("full/10")))
		}
		s := r.Stats()
		if s.Refused < 2*598 || s.Replaced > 0 {
			t.Errorf("%d refused, %d replaced", s.Refused, s.Replaced)
		}
		r.stop()
		if s := r.Stats(); s.Lost > 0 || uint64(len(r.got.of("free/10")))+s.Refused/2 != uint64(len(f.calls())) {
			t.Errorf("%+v for %d requests", s, len(f.calls()))
		}
	})
}

func TestWhatIsNotAcceptedAtTheEndIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, 100*time.Millisecond, 10, 11, 12)}}}, f)
		pass(time.Second)
		accepted := uint64(3 * len(r.got.of("d/10")))
		r.got.mu.Lock()
		r.got.fail = func([]gateway.Sample) error { return errors.New("disk full") }
		r.got.mu.Unlock()
		pass(time.Minute)
		r.stop()
		s := r.Stats()
		if s.Lost != 3 || accepted+s.Replaced+s.Lost != uint64(3*len(f.calls())) {
			t.Errorf("%d lost, %d replaced, %d accepted of %d", s.Lost, s.Replaced, accepted, 3*len(f.calls()))
		}
	})
}

func TestTheLastReadingsAreAcceptedAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, 100*time.Millisecond, 10)}}}, f)
		r.got.mu.Lock()
		r.got.hold = 800 * time.Millisecond // less than the grace for two calls
		r.got.mu.Unlock()
		pass(5 * time.Second)
		r.stop()
		if s := r.Stats(); s.Lost != 0 || uint64(len(r.got.of("d/10")))+s.Replaced != uint64(len(f.calls())) {
			t.Errorf("%+v, %d accepted of %d", s, len(r.got.of("d/10")), len(f.calls()))
		}
	})
}

func TestAcceptThatNeverReturnsEndsWithTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Second, 10)}}}, newField())
		r.got.mu.Lock()
		r.got.hold = time.Hour
		r.got.mu.Unlock()
		pass(5 * time.Second)
		began := time.Now()
		r.stop()
		if d := time.Since(began); d > acceptGrace+time.Second {
			t.Errorf("Run took %v to end", d)
		}
		if s := r.Stats(); s.Lost != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestTheGraceEndsWithItsOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		late, release := graceful(ctx)
		cancel()
		pass(time.Second)
		if late.Err() != nil {
			t.Error("it ended with ctx")
		}
		pass(acceptGrace)
		if late.Err() == nil {
			t.Error("it did not end")
		}
		release()
	})
}
