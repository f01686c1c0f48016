package modbus

import (
	"fmt"
	"testing"
	"time"
)

func TestTicksStayOnTheGridAndMissedOnesAreCounted(t *testing.T) {
	anchor := time.Unix(1000, 0)
	at := func(s float64) time.Time { return anchor.Add(time.Duration(s * float64(time.Second))) }
	for _, c := range []struct {
		from, now, next float64
		missed          int
	}{
		{0, 0, 2, 0},
		{0, 0.3, 2, 0},
		{0, 1.999, 2, 0},
		{0, 2, 4, 1},
		{2, 7, 8, 2},
		{-0.5, -0.4, 0, 0}, // the first reading comes before the first tick
		{0.7, 0.8, 2, 0},   // or after it
	} {
		next, missed := nextTick(anchor, 2*time.Second, at(c.from), at(c.now))
		if !next.Equal(at(c.next)) || missed != c.missed {
			t.Errorf("served the tick %v until %v: next %v, %d missed", c.from, c.now, next.Sub(anchor), missed)
		}
	}
}

func TestDevicesAreSpreadOverThePeriodAndGroupsMeet(t *testing.T) {
	const n = 400
	var quarter [4]int
	for i := range n {
		h := scatter("line-a", fmt.Sprintf("meter-%d", i))
		p := phase(h, time.Second)
		if p < 0 || p >= time.Second {
			t.Fatalf("phase %v", p)
		}
		quarter[p/(250*time.Millisecond)]++
		if phase(h, 5*time.Second)%time.Second != p {
			t.Fatal("a 5 s group does not meet the 1 s group of its device")
		}
	}
	for q, got := range quarter {
		if got < n/8 {
			t.Errorf("only %d of %d devices in quarter %d", got, n, q)
		}
	}
	if phase(7, 0) != 0 {
		t.Error("no period has a phase")
	}
}

func TestAllPointsAreDueWithinASecondOrTheShortestPeriod(t *testing.T) {
	now := time.Unix(1000, 0)
	for i := range 50 {
		p := func(poll time.Duration) Point { q := at(Holding, 1, 1); q.Poll = poll; return q }
		cfg := Config{Devices: []Device{{Name: fmt.Sprint(i), Points: []Point{p(5 * time.Minute), p(200 * time.Millisecond), p(0)}}}}
		d := newDevice(cfg, 0, &unit{})
		d.start("link", now)
		for _, g := range d.groups {
			if wait := g.due.Sub(now); wait < 0 || wait >= 200*time.Millisecond {
				t.Errorf("the group of %v is first read after %v", g.period, wait)
			}
		}
	}
}
