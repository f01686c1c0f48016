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
