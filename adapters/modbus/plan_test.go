package modbus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
)

func at(t Table, address, registers int) Point {
	p := Point{ID: gateway.PointID(fmt.Sprint(t, address)), Table: t, Address: uint16(address), Bit: WholeRegister, Type: Uint16}
	switch {
	case t.Bits():
		p.Type = Bool
	case registers == 2:
		p.Type = Uint32
	case registers == 4:
		p.Type = Uint64
	case registers != 1:
		p.Type, p.Length = String, 2*registers
	}
	return p
}

func TestAPlanJoinsWhatTheRulesAllow(t *testing.T) {
	for _, c := range []struct {
		name   string
		d      Device
		points []Point
		cuts   []Cut
		want   []string
	}{
		{"nothing", Device{}, nil, nil, nil},
		{"neighbours", Device{}, []Point{at(Holding, 11, 2), at(Holding, 10, 1)}, nil, []string{"holding 10..12 [1 0]"}},
		{"gap just allowed", Device{Gap: 3}, []Point{at(Holding, 10, 1), at(Holding, 14, 1)}, nil, []string{"holding 10..14 [0 1]"}},
		{"gap too wide", Device{Gap: 2}, []Point{at(Holding, 10, 1), at(Holding, 14, 1)}, nil, []string{"holding 10 [0]", "holding 14 [1]"}},
		{"tables apart", Device{Gap: 9}, []Point{at(Input, 10, 1), at(Holding, 11, 1)}, nil, []string{"holding 11 [1]", "input 10 [0]"}},
		{"same register twice", Device{}, []Point{at(Holding, 10, 1), at(Holding, 10, 1)}, nil, []string{"holding 10 [0 1]"}},
		{"overlap", Device{}, []Point{at(Holding, 10, 4), at(Holding, 11, 1)}, nil, []string{"holding 10..13 [0 1]"}},
		{"the limit splits between points", Device{MaxRead: 4}, []Point{at(Holding, 0, 2), at(Holding, 2, 1), at(Holding, 3, 2)}, nil, []string{"holding 0..2 [0 1]", "holding 3..4 [2]"}},
		{"125 registers at most", Device{Gap: 200}, []Point{at(Holding, 0, 1), at(Holding, 124, 1), at(Holding, 125, 1)}, nil, []string{"holding 0..124 [0 1]", "holding 125 [2]"}},
		{"2000 bits at most", Device{Gap: 5000, MaxRead: 10}, []Point{at(Coil, 0, 1), at(Coil, 1999, 1), at(Coil, 2000, 1)}, nil, []string{"coil 0..1999 [0 1]", "coil 2000 [2]"}},
		{"even", Device{Even: true}, []Point{at(Holding, 11, 1)}, nil, []string{"holding 10..11 [0]"}},
		{"even does not pass the limit", Device{Even: true, MaxRead: 3, Gap: 5}, []Point{at(Holding, 0, 1), at(Holding, 2, 1)}, nil, []string{"holding 0..1 [0]", "holding 2..3 [1]"}},
		{"even leaves bits alone", Device{Even: true}, []Point{at(Coil, 11, 1)}, nil, []string{"coil 11 [0]"}},
		{"the last register", Device{Even: true, Gap: 4}, []Point{at(Holding, 65535, 1), at(Holding, 65533, 1)}, nil, []string{"holding 65532..65535 [1 0]"}},
		{"a cut", Device{Gap: 9}, []Point{at(Holding, 0, 1), at(Holding, 4, 1), at(Holding, 5, 1)}, []Cut{{Holding, 4}, {Input, 5}}, []string{"holding 0 [0]", "holding 4..5 [1 2]"}},
		{"wider than the limit", Device{MaxRead: 2}, []Point{at(Holding, 0, 4), at(Holding, 4, 1)}, nil, []string{"holding 0..3 [0]", "holding 4 [1]"}},
	} {
		var got []string
		for _, b := range Plan(c.d, c.points, c.cuts) {
			got = append(got, fmt.Sprint(b, " ", b.Points))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// randomPlant is a device with up to 60 points that are as close and as odd as a seed makes them.
func randomPlant(r *rand.Rand) (Device, []Cut) {
	d := Device{Gap: r.IntN(40), MaxRead: 8 + r.IntN(118), Even: r.IntN(3) == 0}
	base, room := r.IntN(65000), 20+r.IntN(500)
	for range 1 + r.IntN(60) {
		table := Table(1 + r.IntN(4))
		width := []int{1, 1, 2, 4, 7}[r.IntN(5)]
		if table.Bits() {
			width = 1
		}
		d.Points = append(d.Points, at(table, min(base+r.IntN(room), 65536-width), width))
	}
	var cuts []Cut
	for range r.IntN(4) {
		cuts = append(cuts, Cut{Table(1 + r.IntN(4)), base + r.IntN(room)})
	}
	return d, cuts
}

func TestAnyPlanCoversEveryPointOnceWithinTheLimits(t *testing.T) {
	for seed := range uint64(1000) {
		d, cuts := randomPlant(rand.New(rand.NewPCG(seed, 1)))
		served := make([]int, len(d.Points))
		for _, b := range Plan(d, d.Points, cuts) {
			for _, i := range b.Points {
				served[i]++
			}
			checkBlock(t, d, b, cuts)
		}
		for i, n := range served {
			if n != 1 {
				t.Errorf("seed %d: point %d is served by %d blocks", seed, i, n)
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func checkBlock(t *testing.T, d Device, b Block, cuts []Cut) {
	t.Helper()
	end := int(b.Start) + b.Quantity
	if b.Quantity < 1 || end > 65536 || !b.Table.Bits() && b.Quantity > d.MaxRead || b.Quantity > MaxReadBits {
		t.Errorf("%v breaks a limit", b)
	}
	if d.Even && !b.Table.Bits() && (b.Start%2 != 0 || b.Quantity%2 != 0) {
		t.Errorf("%v is not even", b)
	}
	asked := make([]bool, b.Quantity)
	for _, i := range b.Points {
		p := d.Points[i]
		if p.Table != b.Table || int(p.Address) < int(b.Start) || int(p.Address)+p.Registers() > end {
			t.Errorf("%v does not hold point %d whole", b, i)
			return
		}
		for n := range p.Registers() {
			asked[int(p.Address)-int(b.Start)+n] = true
		}
		for _, c := range cuts {
			if c.Table == b.Table && int(d.Points[b.Points[0]].Address) < c.Address && c.Address <= int(p.Address) {
				t.Errorf("%v crosses the cut %v", b, c)
			}
		}
	}
	first, last := slices.Index(asked, true), b.Quantity-1
	for !asked[last] {
		last--
	}
	if first > 1 || b.Quantity-1-last > 1 || !d.Even && (first > 0 || last != b.Quantity-1) {
		t.Errorf("%v reads beyond its points", b)
	}
	for n, run := first, 0; n <= last; n++ {
		if run++; asked[n] {
			run = 0
		}
		if run > d.Gap {
			t.Errorf("%v bridges more than the gap %d", b, d.Gap)
		}
	}
}

func TestHalvesOfABlockHoldItsPoints(t *testing.T) {
	d := Device{}
	points := []Point{at(Holding, 10, 1), at(Holding, 10, 1), at(Holding, 10, 1), at(Holding, 10, 2), at(Holding, 20, 1)}
	b := enclose(d, points, []int{0, 1, 2, 3, 4})
	left, right, ok := split(d, points, b)
	if !ok || left.String() != "holding 10" || right.String() != "holding 10..20" {
		t.Errorf("split into %v and %v, %v", left, right, ok)
	}
	if _, _, ok := split(d, points, left); ok {
		t.Error("points at one place were parted")
	}
}
