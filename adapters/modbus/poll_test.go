package modbus

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
)

// pass lets fake time go by, and then everything come to rest.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// polled are the requests of a unit, as texts.
func polled(f *field, unit byte) []string {
	var out []string
	for _, c := range f.calls() {
		if c.unit == unit {
			out = append(out, fmt.Sprintf("%d+%d", c.address, c.quantity))
		}
	}
	return out
}

func goods(samples []gateway.Sample) (n int) {
	for _, s := range samples {
		if s.Err == nil {
			n++
		}
	}
	return n
}

func TestEveryPointIsReadOnItsPeriodAndRightAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := slices.Concat(points("d", Holding, time.Second, 10, 11), points("d", Holding, 5*time.Second, 12), points("d", Input, 5*time.Minute, 40), points("d", Coil, 0, 7))
		began := time.Now()
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: p}}}, newField())
		pass(time.Second)
		for _, x := range p {
			got := r.got.of(x.ID)
			if len(got) != 1 || got[0].Err != nil || got[0].Time.Before(began) || got[0].Time.After(time.Now()) {
				t.Errorf("%s after a second: %v", x.ID, got)
			}
		}
		if v := r.got.of("d/40")[0].Value; v != gateway.UintValue(40) {
			t.Errorf("input 40 is %v", v)
		}
		if v := r.got.of("d/7")[0].Value; v != gateway.BoolValue(true) {
			t.Errorf("coil 7 is %v", v)
		}
		pass(10 * time.Minute)
		for id, want := range map[gateway.PointID]int{"d/10": 601, "d/12": 121, "d/40": 3, "d/7": 1} {
			if n := len(r.got.of(id)); n < want-1 || n > want+1 {
				t.Errorf("%s was read %d times, want about %d", id, n, want)
			}
		}
		if s := r.Stats().Devices[0]; s.Skipped != 0 || s.State != Up || s.Polls < 600 || s.LastGood.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

func TestGroupsThatMeetAreReadInOneRequestAndHandedOverInOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := slices.Concat(points("d", Holding, 5*time.Second, span2(10, 20)...), points("d", Holding, time.Second, 15))
		p[20].ID = "d/fast"
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: p}}}, newField())
		pass(20500 * time.Millisecond)
		for _, b := range r.got.take() {
			if len(b) != 1 && len(b) != 21 {
				t.Errorf("%d readings in one call", len(b))
			}
			for _, s := range b {
				if !s.Time.Equal(b[0].Time) {
					t.Error("two times in one block")
				}
			}
		}
		for _, c := range polled(r.field, 1) {
			if c != "10+20" && c != "15+1" {
				t.Errorf("request %s", c)
			}
		}
	})
}

func TestASlowDeviceIsNotPolledFasterThanItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.delay = 250 * time.Millisecond
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, 100*time.Millisecond, 10)}}}, f)
		pass(30 * time.Second)
		s := r.Stats().Devices[0]
		if s.Polls < 95 || s.Polls > 101 || s.Skipped < 2*s.Polls-3 || s.Skipped > 2*s.Polls+3 {
			t.Errorf("%d polls, %d skipped", s.Polls, s.Skipped)
		}
	})
}

func TestAnOfflineDeviceIsReportedOnceAndProbedGently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.mute[2] = true
		r := run(t, Config{Devices: []Device{
			{Name: "alive", Unit: 1, Points: points("alive", Holding, 500*time.Millisecond, span2(10, 3)...)},
			{Name: "dead", Unit: 2, MaxRead: 1, Offline: offline(3, 5*time.Second, time.Minute), Points: points("dead", Holding, time.Second, span2(10, 20)...)},
		}}, f)
		pass(time.Hour)
		for _, p := range r.cfg.Devices[1].Points {
			if got := r.got.of(p.ID); len(got) != 1 || !errors.Is(got[0].Err, gateway.ErrNoAnswer) {
				t.Errorf("%s: %v", p.ID, got)
			}
		}
		if n := len(polled(f, 2)); n < 60 || n > 72 {
			t.Errorf("the dead unit was asked %d times in an hour", n)
		}
		s := r.Stats()
		if s.Devices[1].State != Down || s.Devices[1].LastError == "" || s.Devices[0].State != Up || s.Link.Connects != 1 {
			t.Errorf("%+v", s)
		}
		if n := len(r.got.of("alive/10")); n < 7100 {
			t.Errorf("the living unit was read %d times", n)
		}
		checkNeighbour(t, f)

		f.set(func(f *field) { f.mute[2] = false })
		pass(time.Minute + 2*time.Second)
		for _, p := range r.cfg.Devices[1].Points {
			if got := r.got.of(p.ID); goods(got) == 0 {
				t.Errorf("%s did not come back: %v", p.ID, got)
			}
		}
	})
}

// checkNeighbour: between two readings of the living unit lies at most one timeout.
func checkNeighbour(t *testing.T, f *field) {
	t.Helper()
	var last time.Time
	for _, c := range f.calls() {
		if c.unit != 1 {
			continue
		}
		if !last.IsZero() && c.at.Sub(last) > 1600*time.Millisecond {
			t.Errorf("the living unit waited %v", c.at.Sub(last))
		}
		last = c.at
	}
}

func TestSeveralDeadUnitsCostALivingOneOneTimeoutAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		cfg := Config{Devices: []Device{{Name: "alive", Unit: 1, Points: points("alive", Holding, 400*time.Millisecond, 10)}}}
		for u := 2; u < 8; u++ {
			name := fmt.Sprintf("dead%d", u)
			f.mute[byte(u)] = true
			cfg.Devices = append(cfg.Devices, Device{Name: name, Unit: uint8(u), Offline: offline(2, 2*time.Second, 4*time.Second), Points: points(name, Holding, time.Second, 1)})
		}
		run(t, cfg, f)
		pass(30 * time.Second)
		f.set(func(f *field) { f.log = nil })
		pass(10 * time.Minute)
		checkNeighbour(t, f)
		if n := len(polled(f, 5)); n < 30 {
			t.Errorf("a dead unit was probed %d times in ten minutes", n)
		}
		if n := len(polled(f, 1)); n < 450 {
			t.Errorf("the living unit was read %d times in ten minutes", n)
		}
	})
}

// Three silences in a row end a connection; but not those of units known to be silent.
func TestProbesOfDeadUnitsDoNotEndTheConnectionOfALivingOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		cfg := Config{Devices: []Device{{Name: "alive", Unit: 1, Points: points("alive", Holding, time.Minute, 10)}}}
		for u := 2; u < 6; u++ {
			name := fmt.Sprintf("dead%d", u)
			f.mute[byte(u)] = true
			cfg.Devices = append(cfg.Devices, Device{Name: name, Unit: uint8(u), Offline: offline(2, 2*time.Second, 4*time.Second), Points: points(name, Holding, time.Second, 1)})
		}
		run(t, cfg, f)
		pass(5 * time.Minute) // until it is known who is silent
		before := f.conns()
		pass(time.Hour)
		if n := f.conns(); n != before {
			t.Errorf("%d new connections in an hour", n-before)
		}
	})
}

func TestAnExceptionIsNotOfflineButASilentTargetIs(t *testing.T) {
	for code, want := range map[byte]State{4: Up, 6: Up, 2: Up, pathUnavailable: Down, targetSilent: Down} {
		synctest.Test(t, func(t *testing.T) {
			f := newField()
			f.trick = func(c *peer, r call) bool { c.send(r.exception(code)); return true }
			r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Offline: offline(3, time.Second, time.Second), Points: points("d", Holding, time.Second, 10)}}}, f)
			pass(20 * time.Second)
			s := r.Stats().Devices[0]
			if s.State != want || s.Exceptions == 0 || f.conns() != 1 {
				t.Errorf("exception %d: %+v, %d connections", code, s, f.conns())
			}
			got := r.got.of("d/10")
			if len(got) == 0 || errors.Is(got[0].Err, gateway.ErrRefused) != (want == Up) || errors.Is(got[0].Err, gateway.ErrNoAnswer) != (want == Down) {
				t.Errorf("exception %d: %v", code, got)
			}
		})
	}
}

func TestARequestThatIsNeverAnsweredDoesNotStarveTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.trick = func(_ *peer, r call) bool { return r.address == 200 }
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Offline: offline(3, 5*time.Second, time.Minute), Points: points("d", Holding, 4*time.Second, 100, 200, 300, 400)}}}, f)
		pass(10 * time.Minute)
		for _, id := range []gateway.PointID{"d/100", "d/300", "d/400"} {
			if got := r.got.of(id); goods(got) < 140 || goods(got) != len(got) {
				t.Errorf("%s: %d readings, %d good", id, len(got), goods(got))
			}
		}
		if got := r.got.of("d/200"); len(got) != 1 || !errors.Is(got[0].Err, gateway.ErrNoAnswer) {
			t.Errorf("the silent point: %v", got)
		}
		if s := r.Stats().Devices[0]; s.State != Up {
			t.Errorf("%+v", s)
		}
	})
}

func TestTheEndOfTheAddressSpaceIsNotPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := points("d", Holding, time.Second, 65535, 65534)
		wide := at(Holding, 65535, 2)
		wide.ID, wide.Poll = "d/wide", time.Second
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Gap: 8, Even: true, Points: append(p, wide)}}}, newField())
		pass(5 * time.Second)
		for _, c := range r.field.calls() {
			if c.address+c.quantity > 65536 {
				t.Errorf("%v", c)
			}
		}
		got, err := r.Read(t.Context(), []gateway.PointID{"d/wide"})
		if err != nil || got[0].Err == nil {
			t.Errorf("%v %v", got, err)
		}
	})
}

func TestAStartupPointIsReadUntilItSucceedsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		var asked atomic.Int32
		f.trick = func(c *peer, r call) bool {
			if r.address != 50 || asked.Add(1) > 3 {
				return false
			}
			c.send(r.exception(4))
			return true
		}
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Offline: offline(3, time.Second, 4*time.Second), Points: slices.Concat(points("d", Holding, 0, 50, 90), points("d", Holding, time.Second, 10))}}}, f)
		pass(time.Hour)
		if got := r.got.of("d/50"); len(got) != 4 || goods(got) != 1 || got[3].Err != nil {
			t.Errorf("%v", got)
		}
		if got := r.got.of("d/90"); len(got) != 1 {
			t.Errorf("%v", got)
		}
		f.set(func(f *field) { f.mute[1] = true })
		pass(time.Minute)
		if got := r.got.of("d/90"); len(got) != 1 {
			t.Errorf("what was read once turned bad: %v", got)
		}
	})
}

// Values carry their address, answers come late: no value may ever be another register's.
func TestALateAnswerIsNeverTakenForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { lateAnswers(t, Config{}, MBAP) })
}

func lateAnswers(t *testing.T, cfg Config, framing Framing) {
	f := newField()
	f.framing = framing
	random := rand.New(rand.NewPCG(3, 4))
	longest := 115
	if framing != MBAP || cfg.IgnoreTransactionID {
		longest = 190 // up to the end of the quarantine
	}
	f.trick = func(c *peer, r call) bool {
		b := f.answer(r)
		time.AfterFunc(time.Duration(random.IntN(longest))*time.Millisecond, func() { c.send(b) })
		return true
	}
	cfg.Timeout = 100 * time.Millisecond
	for u := range 4 {
		name := fmt.Sprintf("d%d", u)
		cfg.Devices = append(cfg.Devices, Device{Name: name, Unit: uint8(u), MaxRead: 1, Offline: offline(3, time.Second, time.Second),
			Points: points(name, Holding, 300*time.Millisecond, span2(1000*u, 5)...)})
	}
	r := run(t, cfg, f)
	pass(7 * time.Minute)
	n := 0
	for _, d := range cfg.Devices {
		for _, p := range d.Points {
			for _, s := range r.got.of(p.ID) {
				if s.Err == nil {
					n++
					if u, _ := s.Value.Uint(); u != uint64(p.Address) {
						t.Fatalf("%s is %v", p.ID, s.Value)
					}
				}
			}
		}
	}
	late := uint64(400)
	if framing != MBAP || cfg.IgnoreTransactionID {
		late = 4 // a unit that answers late is waited for longer
	}
	if st := r.Stats().Link; n < 2000 || st.StaleFrames < late {
		t.Errorf("%s: only %d values, %d late answers", framing, n, st.StaleFrames)
	}
	r.stop()
}
