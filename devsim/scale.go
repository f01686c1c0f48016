package devsim

import (
	"math"
	"math/bits"
	"strconv"
	"strings"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// width is the number of bits of a raw value.
func width(at modbus.Point) int {
	if at.Table.Bits() || at.Bit != modbus.WholeRegister {
		return 1
	}
	if bits := at.Type.Bits(); bits > 0 {
		return bits
	}
	return min(16*at.Registers(), 64)
}

// wholeBinary tells whether the registers hold nothing but one binary number: what the simulator can move. Bytes of
// a register, decimal digits and times stay as they were written, 0 at first.
func wholeBinary(t modbus.Type) bool {
	switch t {
	case modbus.Float16, modbus.BCD16, modbus.BCD32, modbus.BCD64, modbus.SignMagnitude16, modbus.SignMagnitude32:
		return false
	}
	return t.Number() && !t.Half()
}

func isFloat(t modbus.Type) bool { return t == modbus.Float32 || t == modbus.Float64 }

func isSigned(t modbus.Type) bool {
	low, _ := t.Bounds()
	return low != nil && low.Sign() < 0
}

// truncate cuts a two's complement number to the bits of the type.
func truncate(raw uint64, at modbus.Point) uint64 {
	return raw & (math.MaxUint64 >> (64 - width(at)))
}

// signed reads a raw value as the number it is in two's complement.
func signed(raw uint64, at modbus.Point) int64 {
	unused := 64 - width(at)
	return int64(raw<<unused) >> unused
}

// toEngineering is raw * scale + offset, or the line.
func toEngineering(at modbus.Point, raw float64) float64 {
	if l := at.Linear; l != nil {
		return l.To[0] + (raw-l.From[0])*(l.To[1]-l.To[0])/(l.From[1]-l.From[0])
	}
	return raw*at.Scale + at.Offset
}

// toRaw is the inverse of toEngineering.
func toRaw(at modbus.Point, v float64) float64 {
	if l := at.Linear; l != nil {
		return l.From[0] + (v-l.To[0])*(l.From[1]-l.From[0])/(l.To[1]-l.To[0])
	}
	return (v - at.Offset) / at.Scale
}

// plain tells whether the engineering value is the raw value.
func plain(at modbus.Point) bool { return at.Linear == nil && at.Scale == 1 && at.Offset == 0 }

// rawSpan is what a type can carry.
func rawSpan(at modbus.Point) span {
	switch {
	case at.Type == modbus.Float32:
		return span{-math.MaxFloat32, math.MaxFloat32}
	case at.Type == modbus.Float64:
		return span{-math.MaxFloat64 / 4, math.MaxFloat64 / 4} // a quarter, so that a span of it is finite
	case isSigned(at.Type):
		limit := math.Ldexp(1, width(at)-1)
		return span{-limit, limit - 1}
	}
	return span{0, math.Ldexp(1, width(at)) - 1}
}

// carried is the range of engineering values that the registers can carry.
func carried(at modbus.Point) span {
	raw := rawSpan(at)
	if l := at.Linear; l != nil {
		raw = sorted(l.From[0], l.From[1]).within(raw)
	}
	return sorted(toEngineering(at, raw.lo), toEngineering(at, raw.hi))
}

// carrierOf says what the registers of a point tell of how it moves: they carry what fits, a line's
// far end is its range, and a wide unsigned integer counts.
func carrierOf(at modbus.Point) carrier {
	c := carrier{limits: carried(at), usual: span{0, 100}}
	c.counts = (at.Type == modbus.Uint32 || at.Type == modbus.Uint64) && at.Linear == nil
	if at.Linear != nil {
		c.usual = sorted(at.Linear.To[0], at.Linear.To[1])
	}
	return c
}

// numberBits is the raw value nearest to the engineering value v; ok is false if the type cannot
// carry it.
func numberBits(at modbus.Point, v float64) (raw uint64, ok bool) {
	x := toRaw(at, v)
	switch at.Type {
	case modbus.Float32:
		return uint64(math.Float32bits(float32(x))), math.Abs(x) <= math.MaxFloat32
	case modbus.Float64:
		return math.Float64bits(x), !math.IsInf(x, 0) && !math.IsNaN(x)
	}
	x = math.Round(x)
	if isSigned(at.Type) {
		limit := math.Ldexp(1, width(at)-1)
		if !(x >= -limit && x < limit) {
			return 0, false
		}
		return truncate(uint64(int64(x)), at), true
	}
	if !(x >= 0 && x < math.Ldexp(1, width(at))) {
		return 0, false
	}
	return uint64(x), true
}

// integerBits is the raw value of an integer that needs no scaling, exact to 64 bits.
func integerBits(at modbus.Point, v gateway.Value) (raw uint64, ok bool) {
	if isSigned(at.Type) {
		i, ok := v.Int()
		raw := truncate(uint64(i), at)
		return raw, ok && signed(raw, at) == i
	}
	u, ok := v.Uint()
	return u, ok && bits.Len64(u) <= width(at)
}

// number is the engineering value of raw with the decimals that its raw value, scale and offset
// have: 3 times 0.1 is 0.3 (MB-42).
func number(at modbus.Point, raw uint64) gateway.Value {
	var x float64
	places := 0
	switch {
	case isFloat(at.Type):
		text := strconv.FormatFloat(floatOf(at, raw), 'f', -1, width(at))
		x, _ = strconv.ParseFloat(text, 64) // a float32 by its shortest decimal; the text is our own
		places = decimals(text)
	case isSigned(at.Type):
		if plain(at) {
			return gateway.IntValue(signed(raw, at))
		}
		x = float64(signed(raw, at))
	default:
		if plain(at) {
			return gateway.UintValue(raw)
		}
		x = float64(raw)
	}
	v := toEngineering(at, x)
	if at.Linear == nil && !plain(at) {
		places += decimals(strconv.FormatFloat(at.Scale, 'f', -1, 64))
		places = max(places, decimals(strconv.FormatFloat(at.Offset, 'f', -1, 64)))
		v = rounded(v, places)
	}
	return gateway.FloatValue(v)
}

// rounded cuts v to so many decimals.
func rounded(v float64, places int) float64 {
	v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'f', places, 64), 64) // the text is our own
	return v
}

func floatOf(at modbus.Point, raw uint64) float64 {
	if at.Type == modbus.Float32 {
		return float64(math.Float32frombits(uint32(raw)))
	}
	return math.Float64frombits(raw)
}

func decimals(text string) int {
	_, fraction, _ := strings.Cut(text, ".")
	return len(fraction)
}
