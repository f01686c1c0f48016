package modbus

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
)

// gaps are the times between neighbouring requests of a unit.
func gaps(f *field, unit byte) []time.Duration {
	var out []time.Duration
	var last time.Time
	for _, c := range f.calls() {
		if c.unit != unit {
			continue
		}
		if !last.IsZero() {
			out = append(out, c.at.Sub(last))
		}
		last = c.at
	}
	return out
}

// units are n devices, one a unit from 1 on, each with one register.
func units(n int, poll time.Duration, o Offline) []Device {
	var out []Device
	for u := 1; u <= n; u++ {
		name := fmt.Sprintf("u%d", u)
		out = append(out, Device{Name: name, Unit: uint8(u), Offline: o, Points: points(name, Holding, poll, 10*u)})
	}
	return out
}

func TestTwoDevicesOnOneDeadUnitCostOneTimeout(t *testing.T) {
	for _, framing := range []Framing{MBAP, RTU} {
		synctest.Test(t, func(t *testing.T) {
			f := newField()
			f.framing = framing
			f.mute[2] = true
			o := offline(30, 5*time.Second, 5*time.Second)
			r := run(t, Config{Framing: framing, Timeout: 200 * time.Millisecond, Devices: []Device{
				{Name: "alive", Unit: 1, Offline: o, Points: points("alive", Holding, time.Second, 10)},
				{Name: "a", Unit: 2, Offline: o, Points: points("a", Holding, time.Second, 20)},
				{Name: "b", Unit: 2, Offline: o, Points: points("b", Holding, time.Second, 30)},
			}}, f)
			pass(29 * time.Second) // not offline yet: each of them is due 29 times
			if n := len(polled(f, 2)); n < 27 || n > 31 {
				t.Errorf("%s: %d requests to the dead unit in 29 rounds of two devices", framing, n)
			}
			pass(5 * time.Second)
			for _, s := range r.Stats().Devices[1:] {
				if s.State != Down {
					t.Errorf("%s: %+v", framing, s)
				}
			}
			f.set(func(f *field) { f.log = nil })
			pass(time.Minute)
			if n := len(polled(f, 2)); n < 11 || n > 13 {
				t.Errorf("%s: %d probes in 12 intervals", framing, n)
			}
			f.set(func(f *field) { f.mute[2] = false })
			pass(6 * time.Second)
			for _, id := range []gateway.PointID{"a/20", "b/30"} {
				if got := r.got.of(id); goods(got) == 0 || len(got)-goods(got) != 1 {
					t.Errorf("%s: %s: %v", framing, id, got)
				}
			}
		})
	}
}

// A request range of one device that is never answered does not speak for the others of its unit.
func TestADeviceOfALivingUnitIsPolledWhateverItsNeighbourMisses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.trick = func(_ *peer, r call) bool { return r.address == 20 }
		o := offline(3, 5*time.Second, 5*time.Second)
		r := run(t, Config{Timeout: 100 * time.Millisecond, Devices: []Device{
			{Name: "a", Unit: 2, Offline: o, Points: points("a", Holding, time.Second, 20)},
			{Name: "b", Unit: 2, Offline: o, Points: points("b", Holding, time.Second, 30)},
		}}, f)
		pass(time.Minute)
		if got := r.got.of("b/30"); goods(got) < 50 || goods(got) != len(got) {
			t.Errorf("%d of %d readings are good", goods(got), len(got))
		}
		if s := r.Stats(); s.Devices[0].State != Down || s.Devices[1].State != Up {
			t.Errorf("%+v", s)
		}
	})
}

// Half of the units are dead, the others keep the line busy all the time: what they lose to probes in a
// probe interval is less than a timeout and what the probe itself takes.
func TestDeadUnitsCostTheLivingLessThanOneTimeoutAProbeInterval(t *testing.T) {
	const interval, timeout, delay, measured = 5 * time.Second, time.Second, 100 * time.Millisecond, 5 * time.Minute
	for _, framing := range []Framing{MBAP, RTU} {
		lived := map[bool]int{}
		for _, dead := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				f := newField()
				f.framing, f.delay = framing, delay
				for u := byte(6); dead && u <= 10; u++ {
					f.mute[u] = true
				}
				n := 10
				if !dead {
					n = 5
				}
				r := run(t, Config{Framing: framing, Timeout: timeout, Devices: units(n, 50*time.Millisecond, offline(2, interval, time.Minute))}, f)
				pass(2 * time.Minute)
				f.set(func(f *field) { f.log = nil })
				pass(measured)
				var probes []time.Time
				for _, c := range f.calls() {
					if c.unit <= 5 {
						lived[dead]++
						continue
					}
					if probes = append(probes, c.at); len(probes) > 1 && c.at.Sub(probes[len(probes)-2]) < interval {
						t.Errorf("%s: two probes within %v", framing, c.at.Sub(probes[len(probes)-2]))
					}
				}
				for u := byte(6); dead && u <= 10; u++ {
					if n := len(polled(f, u)); n < 4 {
						t.Errorf("%s: unit %d was probed %d times in %v", framing, u, n, measured)
					}
				}
				for _, s := range r.Stats().Devices {
					if want := map[bool]State{true: Down, false: Up}[s.Unit > 5]; s.State != want {
						t.Errorf("%s: %+v", framing, s)
					}
				}
			})
		}
		lost := float64(lived[false]-lived[true]) * float64(interval) / float64(lived[false])
		t.Logf("%s: %d requests alone, %d with as many dead units: %v a probe interval of %v", framing, lived[false], lived[true], time.Duration(lost), interval)
		if time.Duration(lost) >= timeout {
			t.Errorf("%s: the living lose %v a probe interval", framing, time.Duration(lost))
		}
	}
}

func TestAUnitWithManyRequestsDoesNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.delay = 20 * time.Millisecond
		r := run(t, Config{Devices: []Device{
			{Name: "big", Unit: 1, MaxRead: 1, Points: points("big", Holding, time.Second, span2(100, 35)...)}, // 700 ms a cycle
			{Name: "a", Unit: 2, Points: points("a", Holding, 200*time.Millisecond, 10)},
			{Name: "b", Unit: 3, Points: points("b", Holding, 200*time.Millisecond, 10)},
		}}, f)
		pass(2 * time.Second)
		f.set(func(f *field) { f.log = nil })
		pass(time.Minute)
		for _, unit := range []byte{2, 3} {
			if g := slices.Max(gaps(f, unit)); g > 261*time.Millisecond { // its period and one request of each other unit
				t.Errorf("unit %d waited %v", unit, g)
			}
			if n := len(polled(f, unit)); n < 298 {
				t.Errorf("unit %d was read %d times", unit, n)
			}
		}
		if got := len(r.got.of("big/120")); got < 59 {
			t.Errorf("the big one was read %d times", got)
		}
	})
}

func TestASilentUnitOfALineIsLeftAloneUntilItsAnswerCannotComeAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.framing = RTU
		f.mute[2] = true
		const timeout = 300 * time.Millisecond
		r := run(t, Config{Framing: RTU, Timeout: timeout, Devices: []Device{
			{Name: "alive", Unit: 1, Points: points("alive", Holding, 100*time.Millisecond, 10)},
			{Name: "dead", Unit: 2, Offline: offline(1000, time.Second, time.Second), Points: points("dead", Holding, 100*time.Millisecond, 10)},
		}}, f)
		pass(time.Minute)
		if g := slices.Min(gaps(f, 2)); g < 2*timeout {
			t.Errorf("the silent unit was asked again after %v", g)
		}
		if g := slices.Max(gaps(f, 1)); g > timeout+110*time.Millisecond {
			t.Errorf("the living unit waited %v", g)
		}
		began := time.Now()
		for range 3 { // nor are commands quicker
			if s, err := r.Read(t.Context(), []gateway.PointID{"dead/10"}); err != nil || !errors.Is(s[0].Err, gateway.ErrNoAnswer) {
				t.Errorf("%v %v", s, err)
			}
		}
		if took := time.Since(began); took < 3*timeout {
			t.Errorf("three commands took %v", took)
		}
		if g := slices.Min(gaps(f, 2)); g < 2*timeout {
			t.Errorf("the silent unit was asked again after %v", g)
		}
	})
}

func TestAUnitThatIsSlowerThanItsTimeoutIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.framing = RTU
		f.delay = 450 * time.Millisecond
		r := run(t, Config{Framing: RTU, Timeout: 300 * time.Millisecond, Devices: []Device{
			{Name: "d", Unit: 1, Offline: offline(3, time.Second, time.Second), Points: points("d", Holding, time.Second, 10)},
		}}, f)
		pass(time.Minute)
		if got := r.got.of("d/10"); goods(got) < 57 || goods(got) != len(got) {
			t.Errorf("%d of %d readings are good", goods(got), len(got))
		}
		if s := r.Stats().Link; s.Timeouts != 1 || s.StaleFrames != 1 {
			t.Errorf("%+v", s)
		}
		f.set(func(f *field) { f.delay = 0 })
		pass(5 * time.Minute)
		f.set(func(f *field) { f.mute[1] = true })
		pass(3 * time.Second)
		if s := r.Stats().Devices[0]; s.TimeLost > 450*time.Millisecond+2*310*time.Millisecond+time.Second {
			t.Errorf("it is still waited for %v", s.TimeLost)
		}
	})
}

func TestALatenessDoublesThePatienceUpToItsEnd(t *testing.T) {
	u := newUnit(1, newLink(Config{Timeout: 3 * time.Second}, nil, zerolog.Nop()))
	if u.late() {
		t.Error("nothing was asked")
	}
	for _, want := range []time.Duration{6 * time.Second, patienceMax, patienceMax} {
		u.missed(time.Now(), true)
		u.late()
		if u.late(); u.patience != want { // twice: the same answer counts once
			t.Errorf("%v, want %v", u.patience, want)
		}
	}
	for n := range 2 * promptEnough {
		if n == promptEnough/2 {
			u.answered(4 * time.Second)
		}
		if u.answered(time.Second); (u.patience == 3*time.Second) != (n >= promptEnough/2+promptEnough-1) {
			t.Fatalf("%v after %d prompt answers", u.patience, n+1)
		}
	}
}

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
		if err := r.Write(t.Context(), "d/10", gateway.UintValue(4)); err != nil || f.register(1, 10) != 4 {
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
			if err := r.Write(t.Context(), id, v); !errors.Is(err, gateway.ErrReadOnly) {
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
			if err := r.Write(t.Context(), "d/10", gateway.UintValue(n)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("12 writes took %v", took)
		}
		ctx, cancel := contextFor(t, 100*time.Millisecond)
		defer cancel()
		if err := r.Write(ctx, "d/10", gateway.UintValue(99)); !errors.Is(err, gateway.ErrNoAnswer) || f.register(1, 10) == 99 {
			t.Errorf("%v", err)
		}
	})
}
