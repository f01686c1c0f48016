package devsim

import (
	"math"
	"math/big"
	"math/bits"
	"sort"
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

func isSigned(t modbus.Type) bool {
	low, _ := t.Bounds()
	return low != nil && low.Sign() < 0
}

// isDecimal tells whether each four bits of the type are a decimal digit.
func isDecimal(t modbus.Type) bool {
	return t == modbus.BCD16 || t == modbus.BCD32 || t == modbus.BCD64
}

// hasSignBit tells whether the highest bit of the type is the sign and the others are the amount.
func hasSignBit(t modbus.Type) bool {
	return t == modbus.SignMagnitude16 || t == modbus.SignMagnitude32
}

// truncate cuts a raw value to the bits of the type.
func truncate(raw uint64, at modbus.Point) uint64 {
	return raw & (math.MaxUint64 >> (64 - width(at)))
}

// signed reads a raw value as the number it is in two's complement, or with a sign bit.
func signed(raw uint64, at modbus.Point) int64 {
	if unused := 64 - width(at); !hasSignBit(at.Type) {
		return int64(raw<<unused) >> unused
	}
	sign := uint64(1) << (width(at) - 1)
	amount := int64(raw & (sign - 1))
	if raw&sign != 0 {
		return -amount
	}
	return amount
}

// signedBits is the inverse of signed; false if n has no place.
func signedBits(at modbus.Point, n int64) (raw uint64, ok bool) {
	raw = truncate(uint64(n), at)
	if hasSignBit(at.Type) && n < 0 {
		raw = truncate(uint64(-n), at) | 1<<(width(at)-1)
	}
	return raw, signed(raw, at) == n
}

// digitsIn reads the decimal digits of so many bits, the last one lowest; false if one is above 9.
func digitsIn(raw uint64, width int) (n uint64, ok bool) {
	n, err := strconv.ParseUint(strconv.FormatUint(raw, 16), 10, 64) // hexadecimal that looks decimal
	return n, err == nil && bits.Len64(raw) <= width
}

// unsignedBits are the bits of an integer that is never negative; false if it has no place.
func unsignedBits(at modbus.Point, n uint64) (raw uint64, ok bool) {
	raw = n
	if isDecimal(at.Type) {
		raw, _ = strconv.ParseUint(strconv.FormatUint(n, 10), 16, 64)
		back, _ := digitsIn(raw, 64)
		ok = back == n
		return raw, ok && bits.Len64(raw) <= width(at)
	}
	return raw, bits.Len64(raw) <= width(at)
}

// whole is the integer in a raw value, and wholeBits its inverse; false if the integer has no place. Above
// 2^63 it is negative: words of an enum and flags do not reach that far.
func whole(at modbus.Point, raw uint64) int64 {
	switch {
	case isSigned(at.Type):
		return signed(raw, at)
	case isDecimal(at.Type):
		raw, _ = digitsIn(raw, width(at))
	}
	return int64(raw)
}

func wholeBits(at modbus.Point, n int64) (raw uint64, ok bool) {
	if isSigned(at.Type) {
		return signedBits(at, n)
	}
	return unsignedBits(at, uint64(n))
}

// below is the raw value next to one, where there is one nearer to 0.
func below(at modbus.Point, raw uint64) uint64 {
	if n, ok := digitsIn(raw, width(at)); isDecimal(at.Type) && ok && n > 0 {
		raw, _ = unsignedBits(at, n-1)
		return raw
	}
	return truncate(raw-1, at)
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
	switch at.Type {
	case modbus.Float16:
		return span{-halfMax, halfMax}
	case modbus.Float32:
		return span{-math.MaxFloat32, math.MaxFloat32}
	case modbus.Float64:
		return span{-math.MaxFloat64 / 4, math.MaxFloat64 / 4} // a quarter, so that a span of it is finite
	}
	low, high := at.Type.Bounds()
	if low == nil {
		return span{0, math.Ldexp(1, width(at)) - 1}
	}
	lo, _ := new(big.Float).SetInt(low).Float64()
	hi, _ := new(big.Float).SetInt(high).Float64()
	return span{lo, hi}
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
	c.counts = at.Type.Integer() && !isSigned(at.Type) && width(at) >= 32 && at.Linear == nil
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
	case modbus.Float16:
		return uint64(halfBits(x)), math.Abs(x) <= halfMax
	case modbus.Float32:
		return uint64(math.Float32bits(float32(x))), math.Abs(x) <= math.MaxFloat32
	case modbus.Float64:
		return math.Float64bits(x), !math.IsInf(x, 0) && !math.IsNaN(x)
	}
	x = math.Round(x)
	if isSigned(at.Type) {
		raw, ok = signedBits(at, int64(x))
		return raw, ok && x >= -math.Ldexp(1, 63) && x < math.Ldexp(1, 63)
	}
	if !(x >= 0 && x < math.Ldexp(1, 64)) {
		return 0, false
	}
	return unsignedBits(at, uint64(x))
}

// integerBits is the raw value of an integer that needs no scaling, exact to 64 bits.
func integerBits(at modbus.Point, v gateway.Value) (raw uint64, ok bool) {
	if isSigned(at.Type) {
		i, ok := v.Int()
		raw, fits := signedBits(at, i)
		return raw, ok && fits
	}
	u, ok := v.Uint()
	raw, fits := unsignedBits(at, u)
	return raw, ok && fits
}

// number is the engineering value of raw with the decimals that its raw value, scale and offset
// have: 3 times 0.1 is 0.3 (MB-42).
func number(at modbus.Point, raw uint64) gateway.Value {
	var x float64
	places := 0
	switch {
	case at.Type.Floating():
		text := shortest(at, raw)
		x, _ = strconv.ParseFloat(text, 64) // the text is our own
		places = decimals(text)
	case isSigned(at.Type):
		if plain(at) {
			return gateway.IntValue(signed(raw, at))
		}
		x = float64(signed(raw, at))
	default:
		n := raw
		if isDecimal(at.Type) {
			n, _ = digitsIn(raw, width(at))
		}
		if plain(at) {
			return gateway.UintValue(n)
		}
		x = float64(n)
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
	switch at.Type {
	case modbus.Float16:
		return halfOf(uint16(raw))
	case modbus.Float32:
		return float64(math.Float32frombits(uint32(raw)))
	}
	return math.Float64frombits(raw)
}

// shortest is the shortest decimal that means the floating raw value and no other (MB-42).
func shortest(at modbus.Point, raw uint64) string {
	x := floatOf(at, raw)
	for digits := 1; at.Type == modbus.Float16 && digits < 5; digits++ { // five tell any two apart
		near, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'g', digits, 64), 64)
		if halfBits(near) == uint16(raw) {
			return strconv.FormatFloat(near, 'f', -1, 64)
		}
	}
	return strconv.FormatFloat(x, 'f', -1, max(width(at), 32))
}

// halfMax is the greatest number that 16 bits hold, halfInf the pattern behind it.
const (
	halfMax = 65504
	halfInf = 0x7C00
)

// halfOf is the number in the bits of an IEEE 754 binary16.
func halfOf(raw uint16) float64 {
	exponent, fraction, sign := uint64(raw>>10&0x1F), uint64(raw&0x3FF), uint64(raw>>15)
	switch exponent {
	case 0: // subnormal
		return math.Copysign(float64(fraction)/(1<<24), 0.5-float64(sign))
	case 0x1F:
		exponent = 0x7FF
	default:
		exponent += 1023 - 15
	}
	return math.Float64frombits(sign<<63 | exponent<<52 | fraction<<42)
}

// halfBits is the pattern of the binary16 nearest to x, the even one of two; patterns without their sign are in
// the order of their numbers.
func halfBits(x float64) uint16 {
	if math.IsNaN(x) {
		return halfInf | 0x200
	}
	amount, sign := math.Abs(x), uint16(0)
	if math.Signbit(x) {
		sign = 0x8000
	}
	at := uint16(sort.Search(halfInf, func(i int) bool { return halfOf(uint16(i)) >= amount }))
	if at == 0 || at == halfInf {
		return sign | at
	}
	up, down := halfOf(at)-amount, amount-halfOf(at-1)
	if down < up || down == up && at%2 != 0 {
		at--
	}
	return sign | at
}

func decimals(text string) int {
	_, fraction, _ := strings.Cut(text, ".")
	return len(fraction)
}
