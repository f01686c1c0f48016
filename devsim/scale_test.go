package devsim

import (
	"math"
	"testing"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

func scaled(kind modbus.Type, scale, offset float64) modbus.Point {
	return with(at("x", modbus.Input, 0, kind), func(p *modbus.Point) { p.Scale, p.Offset = scale, offset })
}

func linear(kind modbus.Type, from, to [2]float64) modbus.Point {
	return with(at("x", modbus.Input, 0, kind), func(p *modbus.Point) { p.Linear = &modbus.Linear{From: from, To: to} })
}

func TestARawNumberAndItsEngineeringValueBelongTogether(t *testing.T) {
	f32 := func(f float32) uint64 { return uint64(math.Float32bits(f)) }
	tests := []struct {
		name string
		at   modbus.Point
		raw  uint64
		want gateway.Value
	}{
		{"int16", scaled(modbus.Int16, 1, 0), 0xFFFF, gateway.IntValue(-1)},
		{"uint16", scaled(modbus.Uint16, 1, 0), 0xFFFF, gateway.UintValue(65535)},
		{"int32", scaled(modbus.Int32, 1, 0), 0xFFFE1DC0, gateway.IntValue(-123456)},
		{"int64", scaled(modbus.Int64, 1, 0), 1 << 63, gateway.IntValue(math.MinInt64)},
		{"uint64", scaled(modbus.Uint64, 1, 0), math.MaxUint64, gateway.UintValue(math.MaxUint64)},
		{"a tenth has one decimal", scaled(modbus.Int16, 0.1, 0), 3, gateway.FloatValue(0.3)},
		{"negative", scaled(modbus.Int16, 0.1, 0), 0xFF85, gateway.FloatValue(-12.3)},
		{"offset", scaled(modbus.Uint16, 0.1, -40.25), 401, gateway.FloatValue(-0.15)},
		{"scale 10", scaled(modbus.Uint16, 10, 0), 12, gateway.FloatValue(120)},
		{"scale below 0", scaled(modbus.Int16, -0.5, 0), 3, gateway.FloatValue(-1.5)},
		{"float32 by its shortest decimal", scaled(modbus.Float32, 1, 0), f32(21.7), gateway.FloatValue(21.7)},
		{"scaled float32", scaled(modbus.Float32, 0.1, 0), f32(21.7), gateway.FloatValue(2.17)},
		{"float64", scaled(modbus.Float64, 1, 0), math.Float64bits(math.Pi), gateway.FloatValue(math.Pi)},
		{"linear", linear(modbus.Uint16, [2]float64{0, 27648}, [2]float64{-50, 150}), 13824, gateway.FloatValue(50)},
		{"falling line", linear(modbus.Uint16, [2]float64{4000, 20000}, [2]float64{100, 0}), 8000, gateway.FloatValue(75)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := number(test.at, test.raw); got != test.want {
				t.Errorf("raw %#x is %v, want %v", test.raw, got, test.want)
			}
			p := newPoint(test.at, gateway.Point{}, 0)
			raw, err := p.encodeNumber(test.want)
			if err != nil || raw != test.raw {
				t.Errorf("%v is raw %#x (%v), want %#x", test.want, raw, err, test.raw)
			}
		})
	}
}

func TestANumberThatTheRegistersCannotCarryHasNoRawValue(t *testing.T) {
	tests := []struct {
		name string
		at   modbus.Point
		v    float64
		ok   bool
	}{
		{"int16 top", scaled(modbus.Int16, 1, 0), 32767.4, true},
		{"int16 above", scaled(modbus.Int16, 1, 0), 32767.5, false},
		{"int16 bottom", scaled(modbus.Int16, 1, 0), -32768, true},
		{"int16 below", scaled(modbus.Int16, 1, 0), -32769, false},
		{"uint16 below", scaled(modbus.Uint16, 1, 0), -1, false},
		{"uint16 above", scaled(modbus.Uint16, 0.1, 0), 6554, false},
		{"uint32 top", scaled(modbus.Uint32, 1, 0), math.MaxUint32, true},
		{"int64 above", scaled(modbus.Int64, 1, 0), math.Ldexp(1, 63), false},
		{"uint64 above", scaled(modbus.Uint64, 1, 0), math.Ldexp(1, 64), false},
		{"float32 above", scaled(modbus.Float32, 1, 0), 1e39, false},
		{"no number", scaled(modbus.Uint16, 1, 0), math.NaN(), false},
		{"no float", scaled(modbus.Float64, 1, 0), math.Inf(1), false},
	}
	for _, test := range tests {
		if _, ok := numberBits(test.at, test.v); ok != test.ok {
			t.Errorf("%s: %g is carried: %v, want %v", test.name, test.v, ok, test.ok)
		}
	}
}

func TestAnExactIntegerIsNotRoundedThroughAFloat(t *testing.T) {
	big := uint64(1<<53 + 1)
	raw, err := newPoint(scaled(modbus.Uint64, 1, 0), gateway.Point{}, 0).encodeNumber(gateway.UintValue(big))
	if err != nil || raw != big {
		t.Errorf("%d became %d (%v)", big, raw, err)
	}
}

func FuzzAnEngineeringValueComesBackWithinHalfARawStep(f *testing.F) {
	f.Add(21.5, 0.1, 0.0, byte(modbus.Int16))
	f.Add(-40.0, -0.01, 3.5, byte(modbus.Int32))
	f.Fuzz(func(t *testing.T, v, scale, offset float64, kind byte) {
		if !(math.Abs(scale) > 1e-6 && math.Abs(scale) < 1e6) || !(math.Abs(offset) < 1e6) || !(math.Abs(v) < 1e9) {
			return
		}
		p := scaled(modbus.Int16+modbus.Type(kind%4), scale, offset)
		raw, ok := numberBits(p, v)
		if !ok {
			limits := carried(p)
			if v > limits.lo+math.Abs(scale) && v < limits.hi-math.Abs(scale) {
				t.Errorf("%s * %g + %g refuses %g, but carries %v", p.Type, scale, offset, v, limits)
			}
			return
		}
		back, _ := number(p, raw).Number()
		if math.Abs(back-v) > math.Abs(scale)*0.500001+1e-6 {
			t.Errorf("%s * %g + %g: %g came back as %g", p.Type, scale, offset, v, back)
		}
	})
}

func TestAPointOfAnyTypeCanStandInASimulatedDevice(t *testing.T) {
	d := modbus.Device{Name: "d", Unit: 1}
	for i, ty := range modbus.Types() {
		p := modbus.Point{ID: gateway.PointID("d/" + ty.String()), Table: modbus.Holding, Address: uint16(10 * i), Bit: modbus.WholeRegister, Type: ty, Scale: 1, Order: "cdab", Writable: i%2 == 0}
		if ty.Registers() == 0 {
			p.Length = 7
		}
		d.Points = append(d.Points, p)
	}
	for _, p := range d.Points {
		s := newPoint(p, gateway.Point{ID: p.ID}, 1)
		for range p.Registers() {
			s.cells = append(s.cells, &cell{})
		}
		s.start()
		s.move(0)
		if _, err := s.value(s.words()); err != nil {
			t.Errorf("%s: %v", p.ID, err)
		}
	}
}
