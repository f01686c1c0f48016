package devsim

import (
	"math"
	"testing"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

const hour = 3600 * ticksPerSecond

// moving is a signal of a point with what the mapping says about it.
func moving(at modbus.Point, north gateway.Point) *signal {
	s := newSignal(seedOf(1, string(at.ID)))
	s.move(north, carrierOf(at))
	return &s
}

func TestAMeasurementSwingsInsideItsNaturalRange(t *testing.T) {
	lo, hi := 10.0, 30.0
	tests := []struct {
		name  string
		at    modbus.Point
		north gateway.Point
		want  span
	}{
		{"the mapping's range", scaled(modbus.Int16, 0.1, 0), gateway.Point{Unit: "Cel", Range: &gateway.Range{Min: -40, Max: 85}}, span{-40, 85}},
		{"what may be written", scaled(modbus.Int16, 0.1, 0), gateway.Point{Write: &gateway.WriteRule{Min: &lo, Max: &hi}}, span{10, 30}},
		{"the unit", scaled(modbus.Float32, 1, 0), gateway.Point{Unit: "V"}, span{224, 236}},
		{"the unit of a battery", scaled(modbus.Float32, 1, 0), gateway.Point{ID: "door/Batt_1", Unit: "V"}, span{2.9, 3.2}},
		{"a device called battery", scaled(modbus.Float32, 1, 0), gateway.Point{ID: "battery/mains", Unit: "V"}, span{224, 236}},
		{"the line", linear(modbus.Int16, [2]float64{0, 4000}, [2]float64{6, -2}), gateway.Point{}, span{-2, 6}},
		{"nothing known", scaled(modbus.Uint16, 1, 0), gateway.Point{}, span{0, 100}},
		{"the registers carry less", scaled(modbus.Int16, 0.001, 0), gateway.Point{}, span{0, 32.767}},
		{"the registers carry something else", scaled(modbus.Uint16, 1, 1000), gateway.Point{Unit: "Cel"}, span{17383.75, 50151.25}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := moving(test.at, test.north)
			if math.Abs(s.lo-test.want.lo) > 1e-9 || math.Abs(s.hi-test.want.hi) > 1e-9 {
				t.Fatalf("range %g to %g, want %v", s.lo, s.hi, test.want)
			}
			lowest, highest := math.Inf(1), math.Inf(-1)
			for now := tick(noon * ticksPerSecond); now < noon*ticksPerSecond+hour; now += 7 {
				v := s.number(now)
				lowest, highest = min(lowest, v), max(highest, v)
				if _, ok := numberBits(test.at, v); !ok {
					t.Fatalf("%g cannot be carried", v)
				}
			}
			width := test.want.hi - test.want.lo
			if lowest < test.want.lo+0.05*width || highest > test.want.hi-0.05*width {
				t.Errorf("swings from %g to %g, too near the ends of %v", lowest, highest, test.want)
			}
			if highest-lowest < 0.7*width {
				t.Errorf("swings only from %g to %g in %v", lowest, highest, test.want)
			}
		})
	}
}

func TestACounterGrowsSteadilyAndStartsAgainAtItsWrap(t *testing.T) {
	now := tick(noon * ticksPerSecond)
	hours := moving(at("hours", modbus.Holding, 0, modbus.Uint32), gateway.Point{Unit: "h"})
	if grown := hours.number(now+hour) - hours.number(now); math.Abs(grown-1) > 1e-6 {
		t.Errorf("an hour meter counted %g in an hour", grown)
	}
	energy := moving(at("import", modbus.Input, 0, modbus.Float32), gateway.Point{Unit: "kWh", Wrap: 50})
	wraps := 0
	for last, i := energy.number(now), tick(0); i < hour; i++ {
		v := energy.number(now + i)
		if v < 0 || v >= 50 {
			t.Fatalf("stands at %g, wraps at 50", v)
		}
		if v < last {
			wraps++
		}
		last = v
	}
	if want := int(energy.rate * 3600 / 50); wraps < want || wraps > want+1 {
		t.Errorf("%d wraps in an hour at %g per second, want about %d", wraps, energy.rate, want)
	}
}

func TestACounterInAFloat32IsNotTooLargeToGrow(t *testing.T) {
	for i := range 20 {
		p := at("import"+string(rune('a'+i)), modbus.Input, 0, modbus.Float32)
		s := moving(p, gateway.Point{Unit: "kWh"})
		now := tick(noon * ticksPerSecond)
		before, _ := numberBits(p, s.number(now))
		after, _ := numberBits(p, s.number(now+10*ticksPerSecond))
		if before == after {
			t.Errorf("stands at %g for 10 s at %g per second", s.number(now), s.rate)
		}
	}
}

func TestOnlyWhatCountsInAPlantIsACounter(t *testing.T) {
	tests := []struct {
		name   string
		at     modbus.Point
		north  gateway.Point
		counts bool
	}{
		{"wide unsigned", at("cycles", modbus.Holding, 0, modbus.Uint32), gateway.Point{}, true},
		{"wide unsigned", at("cycles", modbus.Holding, 0, modbus.Uint64), gateway.Point{}, true},
		{"volume", at("gas", modbus.Holding, 0, modbus.Float64), gateway.Point{Unit: "m3"}, true},
		{"narrow hours", at("h", modbus.Holding, 0, modbus.Uint16), gateway.Point{Unit: "h"}, true},
		{"wrap", at("n", modbus.Holding, 0, modbus.Uint16), gateway.Point{Wrap: 65536, Range: &gateway.Range{Max: 65536}}, true},
		{"power in a wide unsigned", at("p", modbus.Holding, 0, modbus.Uint32), gateway.Point{Unit: "W"}, false},
		{"with a range", at("p", modbus.Holding, 0, modbus.Uint32), gateway.Point{Unit: "m3", Range: &gateway.Range{Max: 9}}, false},
		{"signed", at("p", modbus.Holding, 0, modbus.Int32), gateway.Point{}, false},
		{"never above 0", scaled(modbus.Uint32, -1, 0), gateway.Point{}, false},
	}
	for _, test := range tests {
		if s := moving(test.at, test.north); (s.rate > 0) != test.counts {
			t.Errorf("%s: rate %g, want a counter: %v", test.name, s.rate, test.counts)
		}
	}
}

func TestBitsAndWordsStepEveryTenToSixtySeconds(t *testing.T) {
	periods := make(map[tick]bool)
	for i := range 50 {
		s := newSignal(seedOf(7, string(rune('a'+i))))
		var changes []tick
		for now, last := tick(0), s.on(0); now < hour; now++ {
			if on := s.on(now); on != last {
				changes, last = append(changes, now), on
			}
		}
		if len(changes) < 50 {
			t.Fatalf("point %d toggled %d times in an hour", i, len(changes))
		}
		period := changes[1] - changes[0]
		if period < 10*ticksPerSecond || period > 60*ticksPerSecond {
			t.Errorf("point %d toggles every %d ticks", i, period)
		}
		periods[period] = true
		seen := make(map[int]bool)
		for now := tick(0); now < hour; now++ {
			seen[s.choice(5, now)] = true
		}
		if len(seen) != 5 {
			t.Errorf("point %d shows %d of 5 words", i, len(seen))
		}
	}
	if len(periods) < 25 {
		t.Errorf("50 points share %d periods", len(periods))
	}
}

func TestTheSeedAloneMakesThePlant(t *testing.T) {
	snapshot := func(seed int64, ahead tick) map[gateway.PointID]gateway.Value {
		s := build(t, Config{Plant: boilerPlant(), Seed: seed})
		values := make(map[gateway.PointID]gateway.Value)
		for id, p := range s.points {
			v, err := p.value(p.unit.words(p, tickOf(s.now())+ahead))
			if err != nil {
				t.Fatal(err)
			}
			values[id] = v
		}
		return values
	}
	same := func(a, b map[gateway.PointID]gateway.Value) (n int) {
		for id := range a {
			if a[id] == b[id] {
				n++
			}
		}
		return n
	}
	first := snapshot(1, 0)
	if n := same(first, snapshot(1, 0)); n != len(first) {
		t.Errorf("only %d of %d values are those of the same seed", n, len(first))
	}
	if first["boiler/flow_temp"] == snapshot(2, 0)["boiler/flow_temp"] {
		t.Error("another seed shows the same temperature")
	}
	if first["boiler/flow_temp"] == snapshot(1, 1200)["boiler/flow_temp"] {
		t.Error("the temperature has not moved in two minutes")
	}
	if first["boiler/serial_no"] == snapshot(2, 0)["boiler/serial_no"] {
		t.Error("another seed shows the same serial number")
	}
}
