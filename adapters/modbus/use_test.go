package modbus

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
)

func TestAUnitsWatchdogIsKeptQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.mute[2] = true
		r := run(t, Config{KeepAlive: 400 * time.Millisecond, Timeout: 100 * time.Millisecond, Devices: []Device{
			{Name: "coupler", Unit: 1, Points: points("coupler", Holding, 10*time.Second, 10, 500)},
			{Name: "dead", Unit: 2, Offline: offline(2, time.Minute, time.Minute), Points: points("dead", Holding, 10*time.Second, 10)},
		}}, f)
		pass(10 * time.Second)
		f.set(func(f *field) { f.log = nil })
		pass(time.Minute)
		if g := slices.Max(gaps(f, 1)); g > 501*time.Millisecond {
			t.Errorf("the coupler heard nothing for %v", g)
		}
		if n := len(polled(f, 2)); n > 8 {
			t.Errorf("a dead unit was asked %d times", n)
		}
		if n := len(r.got.of("coupler/10")); n < 6 || n > 9 {
			t.Errorf("%d readings: what keeps a watchdog quiet is no poll", n)
		}
	})
}

func TestAConnectionIsClosedAfterThePoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{CloseAfterPoll: true, Devices: []Device{
			{Name: "d", Unit: 1, Points: points("d", Holding, 5*time.Second, 10, 500)},
		}}, f)
		for range 20 {
			pass(5 * time.Second)
			if s := r.Stats().Link; s.Up {
				t.Errorf("%+v", s)
			}
		}
		if got := r.got.of("d/500"); goods(got) < 20 || goods(got) != len(got) || f.conns() > len(got)+1 {
			t.Errorf("%d of %d readings are good, %d connections", goods(got), len(got), f.conns())
		}
		if err := r.Write(t.Context(), "d/10", gateway.UintValue(4), gateway.Confirm{}); err != nil || f.register(1, 10) != 4 {
			t.Errorf("%v", err)
		}
		f.set(func(f *field) { f.mute[1] = true })
		pass(time.Minute)
		f.set(func(f *field) { f.mute[1] = false })
		pass(2 * time.Minute)
		if s := r.Stats().Devices[0]; s.State != Up {
			t.Errorf("%+v", s)
		}
	})
}

func TestALostAnswerIsAskedForAgain(t *testing.T) {
	for _, framing := range []Framing{MBAP, RTU} {
		synctest.Test(t, func(t *testing.T) {
			f := newField()
			f.framing = framing
			n := 0
			f.trick = func(*peer, call) bool { n++; return n%5 == 0 }
			r := run(t, Config{Framing: framing, Retries: 1, Timeout: 100 * time.Millisecond, Devices: []Device{
				{Name: "d", Unit: 1, Offline: offline(3, time.Minute, time.Minute), Points: points("d", Holding, time.Second, 10, 500)},
			}}, f)
			pass(time.Minute)
			for _, id := range []gateway.PointID{"d/10", "d/500"} {
				if got := r.got.of(id); goods(got) < 59 || goods(got) != len(got) {
					t.Errorf("%s: %s: %d of %d", framing, id, goods(got), len(got))
				}
			}
			f.set(func(f *field) { f.mute[1], f.log, f.trick = true, nil, nil })
			pass(10 * time.Second)
			if n := len(f.calls()); n != 4 {
				t.Errorf("%s: %d requests until it was offline: one of them again", framing, n)
			}
		})
	}
}

func TestTheLineRestsBetweenRequestsAsLongAsItIsTold(t *testing.T) {
	for _, framing := range []Framing{MBAP, RTU} {
		synctest.Test(t, func(t *testing.T) {
			f := newField()
			f.framing = framing
			began := time.Now()
			run(t, Config{Framing: framing, Pause: 30 * time.Millisecond, PauseAfterConnect: 700 * time.Millisecond, Devices: units(4, 50*time.Millisecond, Offline{})}, f)
			pass(10 * time.Second)
			calls := f.calls()
			if d := calls[0].at.Sub(began); d < 700*time.Millisecond {
				t.Errorf("%s: the first request after %v", framing, d)
			}
			for i := 1; i < len(calls); i++ {
				if d := calls[i].at.Sub(calls[i-1].at); d < 30*time.Millisecond {
					t.Fatalf("%s: %v between two requests", framing, d)
				}
			}
			if len(calls) < 280 {
				t.Errorf("%s: %d requests", framing, len(calls))
			}
		})
	}
}

func TestSeveralConnectionsServeSeveralUnitsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.delay = 90 * time.Millisecond
		r := run(t, Config{MaxConnections: 3, Devices: units(4, 200*time.Millisecond, Offline{})}, f)
		pass(time.Minute)
		if n := f.conns(); n != 3 {
			t.Errorf("%d connections", n)
		}
		var all []gateway.PointID
		for _, d := range r.cfg.Devices {
			all = append(all, d.Points[0].ID)
			if n := goods(r.got.of(d.Points[0].ID)); n < 290 {
				t.Errorf("%s: %d readings", d.Name, n)
			}
		}
		if s := r.Stats().Link; !s.Up || s.Connections != 3 || s.Connects != 3 {
			t.Errorf("%+v", s)
		}
		got, err := r.Read(t.Context(), all)
		for i, s := range got {
			if v, _ := s.Value.Uint(); err != nil || s.Point != all[i] || v != uint64(10*(i+1)) {
				t.Errorf("%v %v", s, err)
			}
		}
		r.stop()
		if s := r.Stats().Link; s.Up || s.Connections != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestALinkThatIsReadOnlySendsNoWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{ReadOnly: true, Devices: []Device{{Name: "d", Unit: 1, Points: slices.Concat(points("d", Holding, time.Second, 10), points("d", Coil, time.Second, 3))}}}, f)
		pass(2 * time.Second)
		for id, v := range map[gateway.PointID]gateway.Value{"d/10": gateway.UintValue(1), "d/3": gateway.BoolValue(true)} {
			if err := r.Write(t.Context(), id, v, gateway.Confirm{}); !errors.Is(err, gateway.ErrReadOnly) {
				t.Errorf("%s: %v", id, err)
			}
		}
		l := newLink(Config{ReadOnly: true, Timeout: time.Second}, f.dial, r.log) // not even past the adapter
		l.note, l.stale = func(func(*LinkStats)) {}, func(uint8) {}
		if fault := l.ready(t.Context(), true); fault != nil {
			t.Fatal(fault)
		}
		u := newUnit(1, l)
		for _, call := range []func() ([]byte, error){
			func() ([]byte, error) { return u.client.WriteSingleRegister(1, 1) },
			func() ([]byte, error) { return u.client.MaskWriteRegister(1, 1, 1) },
			func() ([]byte, error) { return u.client.ReadWriteMultipleRegisters(1, 1, 1, 1, []byte{1, 1}) },
		} {
			if _, f := l.exchange(t.Context(), request{call: call}); f == nil || !errors.Is(f.writeErr(), gateway.ErrReadOnly) {
				t.Errorf("%v", f)
			}
		}
		l.drop(errDone, true)
		if n := len(f.writes()); n != 0 || goods(r.got.of("d/10")) == 0 {
			t.Errorf("%d writes were sent", n)
		}
	})
}

func TestWritesWaitForTheirTurnAtTheRateOfTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{WriteRate: 2, Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Hour, 10)}}}, f)
		pass(time.Minute)
		began := time.Now()
		for n := range uint64(12) {
			if err := r.Write(t.Context(), "d/10", gateway.UintValue(n), gateway.Confirm{}); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("12 writes took %v", took)
		}
		ctx, cancel := contextFor(t, 100*time.Millisecond)
		defer cancel()
		if err := r.Write(ctx, "d/10", gateway.UintValue(99), gateway.Confirm{}); !errors.Is(err, gateway.ErrTooOften) || f.register(1, 10) == 99 {
			t.Errorf("%v", err)
		}
	})
}
