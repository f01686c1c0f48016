package modbus

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
)

func TestARefusedRegisterTakesNoNeighbourWithIt(t *testing.T) {
	for _, hole := range []int{10, 47, 73, 129} {
		synctest.Test(t, func(t *testing.T) {
			f := newField()
			f.holes[spot{1, Holding, hole}] = true
			r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Second, span2(10, 120)...)}}}, f)
			pass(10 * time.Second)
			f.set(func(f *field) { f.log = nil })
			pass(10 * time.Second)
			if calls := polled(f, 1); len(calls) > 32 {
				t.Errorf("hole %d: %d requests in 10 s once it is known: %v", hole, len(calls), calls[:6])
			}
			for _, p := range r.cfg.Devices[0].Points {
				got := r.got.of(p.ID)
				if int(p.Address) != hole && (goods(got) < 18 || goods(got) != len(got)) {
					t.Errorf("hole %d: %s: %d readings, %d good", hole, p.ID, len(got), goods(got))
				}
				if int(p.Address) == hole && (len(got) != 2 || !errors.Is(got[0].Err, gateway.ErrRefused)) { // once more after 15 s
					t.Errorf("hole %d: %v", hole, got)
				}
			}
			if s := r.Stats().Devices[0]; !slices.Equal(s.Refused, []gateway.PointID{gateway.PointID(fmt.Sprintf("d/%d", hole))}) {
				t.Errorf("refused: %v", s.Refused)
			}
			f.set(func(f *field) { f.holes = nil })
			pass(11 * time.Minute)
			if got := r.got.of(gateway.PointID(fmt.Sprintf("d/%d", hole))); goods(got) < 2 {
				t.Errorf("the point did not come back: %v", got)
			}
			f.set(func(f *field) { f.log = nil })
			pass(10 * time.Second)
			if calls := polled(f, 1); len(calls) > 10 {
				t.Errorf("after it came back: %d requests in 10 s", len(calls))
			}
		})
	}
}

// A PLC that loads a program refuses everything for a moment.
func TestADeviceThatRefusedEverythingForAMomentIsBackSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		for a := 10; a < 15; a++ {
			f.holes[spot{1, Holding, a}] = true
		}
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Second, span2(10, 5)...)}}}, f)
		pass(5 * time.Second)
		if n := len(r.Stats().Devices[0].Refused); n != 5 {
			t.Fatalf("%d of 5 points are refused", n)
		}
		f.set(func(f *field) { f.holes = nil })
		pass(20 * time.Second)
		if refused := r.Stats().Devices[0].Refused; len(refused) != 0 {
			t.Errorf("20 s later %v are still not read", refused)
		}
	})
}

func TestRefusedPointsAreTriedLessAndLessOften(t *testing.T) {
	l := newLore()
	now := time.Now()
	var waits []time.Duration
	for range 9 {
		l.refuse(3, now)
		waits = append(waits, l.refused[3].Sub(now))
	}
	if waits[0] != refusedSoon || waits[1] != 2*refusedSoon || waits[8] != refusedRetry {
		t.Errorf("waits %v", waits)
	}
	l.give(3)
	l.refuse(3, now)
	if wait := l.refused[3].Sub(now); wait != refusedSoon {
		t.Errorf("after it was given: %v", wait)
	}
}

func TestAHoleBetweenPointsIsLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.holes[spot{1, Holding, 33}] = true
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Gap: 10, Points: points("d", Holding, time.Second, 10, 20, 30, 40, 50)}}}, f)
		pass(3 * time.Second)
		f.set(func(f *field) { f.log = nil })
		pass(time.Minute)
		for _, c := range polled(f, 1) {
			if c != "10+21" && c != "40+11" {
				t.Errorf("request %s", c)
			}
		}
		if holes := r.Stats().Devices[0].Holes; fmt.Sprint(holes) != "[holding 31..39]" {
			t.Errorf("holes %v", holes)
		}
		for _, p := range r.cfg.Devices[0].Points {
			if got := r.got.of(p.ID); goods(got) < 60 || goods(got) != len(got) {
				t.Errorf("%s: %d of %d good", p.ID, goods(got), len(got))
			}
		}
	})
}

func TestADeviceThatRefusesEveryHoleIsReadWithoutGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		var addresses []int
		for a := range 400 {
			if a%4 == 0 {
				addresses = append(addresses, 1000+a)
			} else {
				f.holes[spot{1, Input, 1000 + a}] = true
			}
		}
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Gap: 32, Points: points("d", Input, time.Second, addresses...)}}}, f)
		pass(40 * time.Second)
		for _, p := range r.cfg.Devices[0].Points {
			got := r.got.of(p.ID)
			if goods(got) < 20 || goods(got) != len(got) {
				t.Errorf("%s: %d of %d good", p.ID, goods(got), len(got))
			}
		}
	})
}

func TestAnyPatternOfHolesIsLearnedUntilOnlyHolesAreBad(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			f := newField()
			for range random.IntN(30) {
				f.holes[spot{1, Holding, 100 + random.IntN(300)}] = true
			}
			d := Device{Name: "d", Unit: 1, Gap: random.IntN(20), MaxRead: 20 + random.IntN(100)}
			for n := range 60 {
				p := at(Holding, 100+random.IntN(296), []int{1, 2, 4}[random.IntN(3)])
				p.ID, p.Scale, p.Poll = gateway.PointID(fmt.Sprintf("d/%d", n)), 1, time.Second
				d.Points = append(d.Points, p)
			}
			r := run(t, Config{Devices: []Device{d}}, f)
			pass(time.Minute)
			r.got.take()
			pass(10 * time.Second)
			for _, p := range d.Points {
				bad := slices.ContainsFunc(span2(int(p.Address), p.Registers()), func(a int) bool { return f.holes[spot{1, Holding, a}] })
				if got := r.got.of(p.ID); bad && len(got) > 0 || !bad && (goods(got) < 9 || goods(got) != len(got)) {
					t.Errorf("seed %d: %s at %d, bad %v: %d of %d good", seed, p.ID, p.Address, bad, goods(got), len(got))
				}
			}
		})
	}
}
