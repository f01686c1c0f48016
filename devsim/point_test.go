package devsim

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

func TestAWritablePointStartsInTheMiddleOfItsLimits(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	for id, want := range map[gateway.PointID]gateway.Value{
		"boiler/setpoint": gateway.FloatValue(57.5),
		"boiler/gain":     gateway.FloatValue(1.5),
		"boiler/mode":     gateway.TextValue("auto"),
		"boiler/lamp":     gateway.BoolValue(false),
	} {
		if got := valueOf(t, s, id); got != want {
			t.Errorf("%s starts at %v, want %v", id, got, want)
		}
	}
}

func TestASingleLimitIsWhereAWritablePointStarts(t *testing.T) {
	plant := plantOf(with(at("x", modbus.Holding, 0, modbus.Uint16), writable))
	for _, rule := range []*gateway.WriteRule{{Min: ptr(42.0)}, {Max: ptr(42.0)}} {
		plant.Points = []gateway.Point{{ID: "boiler/x", Write: rule}}
		if got := numberOf(t, build(t, Config{Plant: plant}), "boiler/x"); got != 42 {
			t.Errorf("starts at %g", got)
		}
	}
}

func TestSetHoldsEveryKindOfPoint(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	tests := []struct {
		point gateway.PointID
		set   gateway.Value
		want  gateway.Value
	}{
		{"boiler/flow_temp", gateway.FloatValue(61.3), gateway.FloatValue(61.3)},
		{"boiler/flow_temp", gateway.FloatValue(61.34), gateway.FloatValue(61.3)}, // the raw step is 0.1
		{"boiler/flow_temp", gateway.IntValue(99), gateway.FloatValue(99)},        // outside its range, on purpose
		{"boiler/oil_temp", gateway.FloatValue(21.7), gateway.FloatValue(21.7)},
		{"boiler/burner_on", gateway.BoolValue(true), gateway.BoolValue(true)},
		{"boiler/burner_on", gateway.BoolValue(false), gateway.BoolValue(false)},
		{"boiler/setpoint", gateway.FloatValue(40), gateway.FloatValue(40)},
		{"boiler/mode", gateway.TextValue("manual"), gateway.TextValue("manual")},
		{"boiler/state", gateway.TextValue("cooling"), gateway.TextValue("cooling")},
		{"boiler/state", gateway.IntValue(17), gateway.TextValue("17")}, // a number without a word
		{"boiler/hours", gateway.UintValue(math.MaxUint32), gateway.UintValue(math.MaxUint32)},
		{"boiler/serial_no", gateway.TextValue("B-4711"), gateway.TextValue("B-4711")},
		{"boiler/status", gateway.ObjectValue(`{"run":true,"fault":false}`), gateway.ObjectValue(`{"run":true,"fault":false}`)},
		{"boiler/status", gateway.ObjectValue(`{"fault":true}`), gateway.ObjectValue(`{"run":false,"fault":true}`)},
		{"boiler/status", gateway.IntValue(1), gateway.ObjectValue(`{"run":true,"fault":false}`)},
		{"boiler/pump_fault", gateway.BoolValue(true), gateway.BoolValue(true)},
	}
	for _, test := range tests {
		set(t, s, test.point, test.set)
		s.now = func() time.Time { return time.Unix(noon+3600, 0) }
		if got := valueOf(t, s, test.point); got != test.want {
			t.Errorf("%s set to %v: stands at %v an hour later, want %v", test.point, test.set, got, test.want)
		}
		s.now = func() time.Time { return time.Unix(noon, 0) }
	}
}

func TestSetRefusesWhatThePointCannotHoldAndChangesNothing(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	tests := []struct {
		point gateway.PointID
		v     gateway.Value
		says  string
	}{
		{"boiler/setpoint", gateway.IntValue(4000), "int16 carries -3276.8 to 3276.7"},
		{"boiler/setpoint", gateway.TextValue("warm"), "needs a number"},
		{"boiler/setpoint", gateway.Value{}, "needs a number"},
		{"boiler/burner_on", gateway.IntValue(1), "needs true or false"},
		{"boiler/mode", gateway.TextValue("turbo"), "not a word of the enum"},
		{"boiler/mode", gateway.IntValue(70000), "uint16"},
		{"boiler/hours", gateway.IntValue(-1), "uint32"},
		{"boiler/serial_no", gateway.TextValue("longer than 16 bytes"), "up to 16 bytes"},
		{"boiler/serial_no", gateway.IntValue(1), "needs a text"},
		{"boiler/status", gateway.ObjectValue(`{"smoke":true}`), `no flag is called "smoke"`},
		{"boiler/status", gateway.ObjectValue(`{"run":1}`), "needs an object of true and false"},
	}
	for _, test := range tests {
		before := valueOf(t, s, test.point)
		err := s.Set(test.point, test.v)
		if !errors.Is(err, gateway.ErrRange) || !strings.Contains(err.Error(), test.says) ||
			!strings.Contains(err.Error(), string(test.point)) {
			t.Errorf("%s set to %v: %v, want ErrRange that says %q", test.point, test.v, err, test.says)
		}
		if after := valueOf(t, s, test.point); after != before {
			t.Errorf("%s changed from %v to %v", test.point, before, after)
		}
	}
}

func TestAnUnknownPointIsNamed(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	_, valueErr := s.Value("boiler/nothing")
	_, registerErr := s.Register("boiler/nothing")
	_, bitErr := s.Bit("boiler/nothing")
	for _, err := range []error{valueErr, registerErr, bitErr, s.Set("boiler/nothing", gateway.IntValue(1))} {
		if !errors.Is(err, gateway.ErrUnknownPoint) || !strings.Contains(err.Error(), "boiler/nothing") {
			t.Errorf("%v, want ErrUnknownPoint with the name", err)
		}
	}
}

func TestRegisterAndBitShowWhatIsOnTheWire(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	set(t, s, "boiler/hours", gateway.UintValue(0x01020304))
	set(t, s, "boiler/pump_fault", gateway.BoolValue(true))
	set(t, s, "boiler/burner_on", gateway.BoolValue(true))
	words, err := s.Register("boiler/hours")
	if err != nil || !slices.Equal(words, []uint16{0x0304, 0x0102}) {
		t.Errorf("hours: %04X (%v), want 0304 0102", words, err)
	}
	for _, id := range []gateway.PointID{"boiler/pump_fault", "boiler/burner_on"} {
		if on, err := s.Bit(id); err != nil || !on {
			t.Errorf("%s: %v (%v), want true", id, on, err)
		}
	}
	if words, err := s.Register("boiler/pump_fault"); err != nil || words[0]&8 == 0 {
		t.Errorf("the register of pump_fault: %04X (%v), want bit 3", words, err)
	}
	if _, err := s.Register("boiler/burner_on"); err == nil {
		t.Error("a discrete input has registers")
	}
	if _, err := s.Bit("boiler/hours"); err == nil {
		t.Error("a counter is a bit")
	}
}

func TestTheAbsentValueIsWhatTheDeviceCallsNotAvailable(t *testing.T) {
	probe := with(at("probe", modbus.Input, 0, modbus.Int16), func(p *modbus.Point) { p.NotAvailable = []uint64{0x8000, 0x7FFF} })
	s := build(t, Config{Plant: plantOf(probe, at("flow", modbus.Input, 1, modbus.Float32), at("bulk", modbus.Input, 3, modbus.Float64))})
	for id, want := range map[gateway.PointID][]uint16{
		"boiler/probe": {0x8000}, "boiler/flow": {0x7FC0, 0}, "boiler/bulk": {0x7FF8, 0, 0, 1},
	} {
		set(t, s, id, gateway.Value{})
		if _, err := s.Value(id); !errors.Is(err, gateway.ErrNotAvailable) {
			t.Errorf("%s: %v, want ErrNotAvailable", id, err)
		}
		if words, _ := s.Register(id); !slices.Equal(words, want) {
			t.Errorf("%s stands at %04X, want %04X", id, words, want)
		}
	}
}

func TestAMovingPointNeverMeansNotAvailableByChance(t *testing.T) {
	step := with(at("step", modbus.Input, 0, modbus.Uint16), func(p *modbus.Point) { p.NotAvailable = []uint64{1, 0} })
	plant := plantOf(step)
	plant.Points = []gateway.Point{{ID: "boiler/step", Range: &gateway.Range{Min: 0, Max: 3}}}
	s := build(t, Config{Plant: plant})
	seen := make(map[gateway.Value]bool)
	for second := range 1200 {
		s.now = func() time.Time { return time.Unix(noon+int64(second), 0) }
		seen[valueOf(t, s, "boiler/step")] = true
	}
	if !seen[gateway.UintValue(2)] || !seen[gateway.UintValue(3)] {
		t.Errorf("saw %v: does not move", seen)
	}
}

func TestTheFixedTextIsCutToItsLength(t *testing.T) {
	for _, length := range []int{1, 5, 12, 40} {
		p := with(at("id", modbus.Holding, 0, modbus.String), func(p *modbus.Point) { p.Length = length })
		text, _ := valueOf(t, build(t, Config{Plant: plantOf(p)}), "boiler/id").Text()
		if len(text) != min(length, 12) || !strings.HasPrefix("SIM-", text[:min(4, length)]) {
			t.Errorf("length %d: %q", length, text)
		}
	}
}
