package devsim

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
)

func TestASensorMeasuresWithinItsNaturalRangeAndAsFinelyAsItNeeds(t *testing.T) {
	for _, test := range []struct {
		id            string
		scale, offset float64
		north         gateway.Point
		want          span // of what is sent
		decimals      int
	}{
		{"d/temp", 0, 0, gateway.Point{Unit: "Cel"}, span{20, 80}, 1},
		{"d/temp", 0.01, 0, gateway.Point{Unit: "Cel"}, span{2000, 8000}, 0},
		{"d/temp", -0.1, 100, gateway.Point{Unit: "Cel"}, span{200, 800}, 0},
		{"d/temp", 1000, 0, gateway.Point{Unit: "Cel"}, span{0.02, 0.08}, 4},
		{"d/Battery", 0, 0, gateway.Point{Unit: "V"}, span{2.9, 3.2}, 3},
		{"d/supply", 0, 0, gateway.Point{Unit: "V"}, span{224, 236}, 2},
		{"d/hum", 0, 0, gateway.Point{Unit: "%RH"}, span{30, 70}, 1},
		{"d/light", 0, 0, gateway.Point{Unit: "lux"}, span{150, 800}, 0},
		{"d/ranged", 0, 0, gateway.Point{Unit: "lux", Range: &gateway.Range{Min: -1, Max: 1}}, span{-1, 1}, 3},
		{"d/fixed", 0, 0, gateway.Point{Range: &gateway.Range{Min: 5, Max: 5}}, span{5, 5}, 9},
		{"d/unknown", 0, 0, gateway.Point{}, span{0, 100}, 1},
	} {
		test.north.ID = gateway.PointID(test.id)
		p := newPlace(scaledPoint(sensePoint(test.id, coap.FromSenML, "k"), test.scale, test.offset), test.north, 7)
		if p.decimals != test.decimals {
			t.Errorf("%s in %q: %d decimals, want %d", test.id, test.north.Unit, p.decimals, test.decimals)
		}
		for now := tick(noon * ticksPerSecond); now < noon*ticksPerSecond+hour; now += 97 {
			v := p.read(now)
			f, ok := v.Number()
			if !ok || f < test.want.lo || f > test.want.hi {
				t.Fatalf("%s in %q: sends %s, want a number in %v", test.id, test.north.Unit, v, test.want)
			}
			if _, fraction, _ := strings.Cut(v.String(), "."); len(fraction) > test.decimals {
				t.Fatalf("%s in %q: sends %s, want %d decimals", test.id, test.north.Unit, v, test.decimals)
			}
		}
	}
}

func TestASensorCountsWhatCounts(t *testing.T) {
	p := newPlace(sensePoint("d/water", coap.FromSenML, "w"), gateway.Point{ID: "d/water", Unit: "m3"}, 7)
	now := tick(noon * ticksPerSecond)
	before, _ := p.read(now).Number()
	after, _ := p.read(now + hour).Number()
	if want := 3600 * p.signal.rate; math.Abs(after-before-want) > 0.2 {
		t.Errorf("counted %g in an hour, want %g", after-before, want)
	}
}

func TestOnlyWhatCanBeNothingElseIsAContact(t *testing.T) {
	for _, test := range []struct {
		id    string
		scale float64
		north gateway.Point
		want  bool
	}{
		{"d/door", 0, gateway.Point{}, true},
		{"d/Front_Door", 0, gateway.Point{}, true},
		{"d/pump-on", 1, gateway.Point{}, true},
		{"door/temp", 0, gateway.Point{}, false},
		{"d/doors", 0, gateway.Point{}, false},
		{"d/door", 0.1, gateway.Point{}, false},
		{"d/door", 0, gateway.Point{Unit: "%"}, false},
		{"d/door", 0, gateway.Point{Wrap: 10}, false},
		{"d/door", 0, gateway.Point{Range: &gateway.Range{Max: 1}}, false},
		{"d/door", 0, gateway.Point{Publish: gateway.Publish{Deadband: gateway.Deadband{Percent: 1}}}, false},
	} {
		at := scaledPoint(sensePoint(test.id, coap.FromSenML, "k"), test.scale, 0)
		if got := isContact(at, test.north); got != test.want {
			t.Errorf("%s, scale %g, %+v: %v", test.id, test.scale, test.north, got)
		}
	}
	p := newPlace(sensePoint("d/door", coap.FromSenML, "k"), gateway.Point{}, 7)
	seen := make(map[gateway.Value]bool)
	for now := tick(0); now < hour; now++ {
		seen[p.read(now)] = true
	}
	if len(seen) != 2 || !seen[gateway.BoolValue(true)] || !seen[gateway.BoolValue(false)] {
		t.Errorf("a door shows %v", seen)
	}
}

func TestWhatIsHeldIsSentAndRead(t *testing.T) {
	for _, test := range []struct {
		scale, offset float64
		set           gateway.Value
		sent, read    string
	}{
		{0, 0, gateway.FloatValue(21.5), "21.5", "21.5"},
		{0, 0, gateway.FloatValue(21), "21", "21"},
		{0, 0, gateway.FloatValue(1e300), "1e+300", "1e+300"},
		{0, 0, gateway.UintValue(math.MaxUint64), "18446744073709551615", "18446744073709551615"},
		{0, 0, gateway.IntValue(math.MinInt64), "-9223372036854775808", "-9223372036854775808"},
		{0, 0, gateway.BoolValue(true), "true", "true"},
		{0, 0, gateway.TextValue("auto"), "auto", "auto"},
		{0.1, 0, gateway.FloatValue(0.3), "3", "0.3"},
		{0.01, 300, gateway.FloatValue(1013.25), "71325", "1013.25"},
		{0.01, 300, gateway.FloatValue(1013.2512), "71325.12", "1013.2512"},
		{1, -1e6, gateway.FloatValue(21.2), "1000021.2", "21.2"},
		{1.0 / 3, 0, gateway.FloatValue(21.53), "64.59", "21.53"},
		{1.0 / 3, 0, gateway.FloatValue(904.15), "2712.45", "904.15"},
		{1.8, 32, gateway.FloatValue(331.18), "166.211111111111", "331.18"},
		{-1, 0, gateway.IntValue(7), "-7", "7"},
	} {
		p := &sensed{at: scaledPoint(sensePoint("d/p", coap.FromSenML, "k"), test.scale, test.offset), place: &place{}}
		raw, err := p.encode(test.set)
		if err != nil {
			t.Errorf("%s: %v", test.set, err)
			continue
		}
		p.place.sent = raw
		read, err := p.value()
		if err != nil || raw.String() != test.sent || read.String() != test.read {
			t.Errorf("%s * %g + %g: sent %s, read %s (%v), want %s and %s", test.set, test.scale, test.offset, raw, read, err, test.sent, test.read)
		}
	}
}

func TestAWholeNumberIsAnIntegerUnlessItIsScaled(t *testing.T) {
	s := still(fieldPlant())
	for _, test := range []struct {
		point     gateway.PointID
		set, want gateway.Value
	}{
		{"env-17/humidity", gateway.FloatValue(40), gateway.IntValue(40)},
		{"env-17/humidity", gateway.UintValue(40), gateway.IntValue(40)},
		{"env-17/humidity", gateway.FloatValue(40.5), gateway.FloatValue(40.5)},
		{"env-17/pressure", gateway.IntValue(1000), gateway.FloatValue(1000)},
	} {
		hold(t, s, test.point, test.set)
		if got := sensedValue(t, s, test.point); got != test.want {
			t.Errorf("%s: %v of kind %d, want kind %d", test.point, got, got.Kind(), test.want.Kind())
		}
	}
}

func TestPointsOfOneKeyAlwaysAgree(t *testing.T) {
	s := still(fieldPlant())
	for range 2 {
		level, _ := sensedValue(t, s, "tank/level").Number()
		raw, _ := sensedValue(t, s, "tank/raw").Number()
		if math.Abs(raw*0.1-level) > 1e-9 {
			t.Errorf("level %g from raw %g", level, raw)
		}
		hold(t, s, "tank/raw", gateway.IntValue(123))
	}
	if got := sensedValue(t, s, "tank/level"); got != gateway.FloatValue(12.3) {
		t.Errorf("level %s", got)
	}
}

func TestWhatCannotBeSentIsRefusedAndChangesNothing(t *testing.T) {
	s := still(fieldPlant())
	for _, test := range []struct {
		point gateway.PointID
		set   gateway.Value
		want  error
	}{
		{"env-17/none", gateway.IntValue(1), gateway.ErrUnknownPoint},
		{"env-17/pressure", gateway.TextValue("high"), gateway.ErrRange},
		{"env-17/pressure", gateway.BoolValue(true), gateway.ErrRange},
		{"env-17/humidity", gateway.FloatValue(math.NaN()), gateway.ErrRange},
		{"env-17/humidity", gateway.FloatValue(math.Inf(-1)), gateway.ErrRange},
		{"env-17/humidity", gateway.TextValue("\xff"), gateway.ErrRange},
		{"env-17/humidity", gateway.ObjectValue(`{"a":1}`), gateway.ErrRange},
		{"probe/lux", gateway.Value{}, gateway.ErrRange},
		{"node/level", gateway.IntValue(1), gateway.ErrRange}, // the device reports SenML
		{"tank/state", gateway.IntValue(1), gateway.ErrRange}, // other points stand inside it
	} {
		before, _ := s.Value(test.point)
		if err := s.Set(test.point, test.set); !errors.Is(err, test.want) {
			t.Errorf("%s = %s: %v, want %v", test.point, test.set, err, test.want)
		}
		if after, _ := s.Value(test.point); after != before {
			t.Errorf("%s = %s: now %s", test.point, test.set, after)
		}
	}
}

func TestAPointThatTheReportHasNoValueForIsNotAvailable(t *testing.T) {
	s := still(fieldPlant())
	hold(t, s, "env-17/humidity", gateway.Value{})
	hold(t, s, "tank/raw", gateway.BoolValue(true)) // its scaled twin cannot be true
	for _, point := range []gateway.PointID{"env-17/humidity", "tank/level", "tank/state", "node/level"} {
		if v, err := s.Value(point); !errors.Is(err, gateway.ErrNotAvailable) {
			t.Errorf("%s: %s (%v)", point, v, err)
		}
	}
	if _, err := s.Value("env-17/none"); !errors.Is(err, gateway.ErrUnknownPoint) {
		t.Errorf("unknown: %v", err)
	}
	body, err := s.sensors[0].report.body("b:")
	if err != nil || strings.Contains(string(body), "hum") || !strings.Contains(string(body), "temp") {
		t.Errorf("%s (%v)", body, err)
	}
}

func TestTheSeedAloneMakesTheSensors(t *testing.T) {
	value := func(seed int64, at time.Time) gateway.Value {
		p := newPlace(sensePoint("d/t", coap.FromSenML, "t"), gateway.Point{Unit: "Cel"}, seedOf(seed, "d/t"))
		return p.read(tickOf(at))
	}
	start := time.Unix(noon, 0)
	if value(1, start) != value(1, start) || value(1, start) == value(2, start) || value(1, start) == value(1, start.Add(time.Minute)) {
		t.Errorf("seed 1: %s, later %s, seed 2: %s", value(1, start), value(1, start.Add(time.Minute)), value(2, start))
	}
}

// A value that is held comes back to 15 digits, whatever the scaling.
func FuzzWhatIsHeldIsRead(f *testing.F) {
	f.Add(21.53, 0.01, 300.0)
	f.Add(-1e-9, 3.0, 0.0)
	f.Fuzz(func(t *testing.T, v, scale, offset float64) {
		for _, x := range []float64{v, scale, offset} {
			if !(math.Abs(x) < 1e12) || x != 0 && math.Abs(x) < 1e-12 {
				return
			}
		}
		p := &sensed{at: scaledPoint(sensePoint("d/p", coap.FromSenML, "k"), scale, offset), place: &place{}}
		raw, err := p.encode(gateway.FloatValue(v))
		if err != nil {
			t.Fatal(err)
		}
		p.place.sent = raw
		got, err := p.value()
		read, ok := got.Number()
		if tolerance := 1e-13 * (math.Abs(v) + math.Abs(offset)); err != nil || !ok || math.Abs(read-v) > tolerance {
			t.Errorf("%v * %v + %v: sent %s, read %s (%v)", v, scale, offset, raw, got, err)
		}
	})
}
