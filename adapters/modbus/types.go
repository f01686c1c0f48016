package modbus

import (
	"math"
	"math/big"
)

// Type is how registers become a value (MB-38).
type Type uint8

// The types. Bool is a coil, a discrete input, a register that is not 0, or (with Point.Bit) a bit of a
// register.
const (
	Bool Type = iota
	Int16
	Uint16
	Int32
	Uint32
	Int64
	Uint64
	Float32
	Float64
	String
	Int8High // the high byte of a register, in two's complement
	Int8Low
	Uint8High
	Uint8Low
	Int24 // the low 24 bits of two registers; the fourth byte has no meaning
	Uint24
	Int48
	Uint48
	Float16
	BCD16 // 4 decimal digits
	BCD32
	BCD64
	SignMagnitude16 // the highest bit is the sign, the others the amount
	SignMagnitude32
	Hex        // bytes as they are; the value is a Text of hexadecimal digits
	TimeUnix32 // seconds since 1970; the value of all times is a Text of RFC 3339
	TimeUnix64
	TimeUnixMilli // milliseconds since 1970, 64 bits
	TimeYMDHMS    // six registers: year, month, day, hour, minute, second
	TimeIEC870    // four registers as in Schneider's meters, after IEC 870-5-4
	typesEnd
)

// form is what a type's registers hold.
type form uint8

const (
	truth form = iota
	signed
	unsigned
	decimalDigits
	signMagnitude
	floating
	characters
	octets
	calendar
)

// facts are what is fixed about a type.
type facts struct {
	name      string // as the mapping spells it
	registers int    // 0: as many as Length needs
	bits      int    // that hold a number, the lowest ones but for the High types; else 0
	form      form
}

func (t Type) facts() facts {
	return [...]facts{
		Bool:            {"bool", 1, 16, truth},
		Int16:           {"int16", 1, 16, signed},
		Uint16:          {"uint16", 1, 16, unsigned},
		Int32:           {"int32", 2, 32, signed},
		Uint32:          {"uint32", 2, 32, unsigned},
		Int64:           {"int64", 4, 64, signed},
		Uint64:          {"uint64", 4, 64, unsigned},
		Float32:         {"float32", 2, 32, floating},
		Float64:         {"float64", 4, 64, floating},
		String:          {"string", 0, 0, characters},
		Int8High:        {"int8h", 1, 8, signed},
		Int8Low:         {"int8l", 1, 8, signed},
		Uint8High:       {"uint8h", 1, 8, unsigned},
		Uint8Low:        {"uint8l", 1, 8, unsigned},
		Int24:           {"int24", 2, 24, signed},
		Uint24:          {"uint24", 2, 24, unsigned},
		Int48:           {"int48", 3, 48, signed},
		Uint48:          {"uint48", 3, 48, unsigned},
		Float16:         {"float16", 1, 16, floating},
		BCD16:           {"bcd16", 1, 16, decimalDigits},
		BCD32:           {"bcd32", 2, 32, decimalDigits},
		BCD64:           {"bcd64", 4, 64, decimalDigits},
		SignMagnitude16: {"sm16", 1, 16, signMagnitude},
		SignMagnitude32: {"sm32", 2, 32, signMagnitude},
		Hex:             {"hex", 0, 0, octets},
		TimeUnix32:      {"time(unix32)", 2, 32, calendar},
		TimeUnix64:      {"time(unix64)", 4, 64, calendar},
		TimeUnixMilli:   {"time(unixms)", 4, 64, calendar},
		TimeYMDHMS:      {"time(ymdhms)", 6, 0, calendar},
		TimeIEC870:      {"time(iec870)", 4, 64, calendar},
	}[t]
}

// Types lists every type.
func Types() (all []Type) {
	for t := range typesEnd {
		all = append(all, t)
	}
	return all
}

// String is the word the mapping uses, such as "int16".
func (t Type) String() string { return t.facts().name }

// Registers is how many registers a value of the type takes; for String and Hex it depends on the
// length, and 0 is returned; a Bool of a register takes 1.
func (t Type) Registers() int { return t.facts().registers }

// Bits is how many bits of the registers hold a number; 0 for types that hold none.
func (t Type) Bits() int {
	if t.Number() {
		return t.facts().bits
	}
	return 0
}

// Integer tells whether the registers hold a whole number.
func (t Type) Integer() bool {
	f := t.facts().form
	return f == signed || f == unsigned || f == decimalDigits || f == signMagnitude
}

// Floating tells whether the registers hold an IEEE 754 number.
func (t Type) Floating() bool { return t.facts().form == floating }

// Number tells whether the registers hold a number.
func (t Type) Number() bool { return t.Integer() || t.Floating() }

// Text tells whether the value is a Text by itself: a string, octets or a time.
func (t Type) Text() bool { return t.facts().form >= characters }

// Half tells whether the type is one byte of a register that has another.
func (t Type) Half() bool { return t.Integer() && t.facts().bits == 8 }

// High tells whether that byte is the high one.
func (t Type) High() bool { return t == Int8High || t == Uint8High }

// Bounds are the least and the greatest number of an integer type, 0 and 1 of Bool; nil for all others.
func (t Type) Bounds() (low, high *big.Int) {
	one := big.NewInt(1)
	power := func(n int) *big.Int { return new(big.Int).Lsh(one, uint(n)) }
	f := t.facts()
	switch f.form {
	case truth:
		return new(big.Int), one
	case signed:
		return new(big.Int).Neg(power(f.bits - 1)), new(big.Int).Sub(power(f.bits-1), one)
	case unsigned:
		return new(big.Int), new(big.Int).Sub(power(f.bits), one)
	case signMagnitude:
		high = new(big.Int).Sub(power(f.bits-1), one)
		return new(big.Int).Neg(high), high
	case decimalDigits:
		ten := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(f.bits/4)), nil)
		return new(big.Int), ten.Sub(ten, one)
	}
	return nil, nil
}

// Pattern is the bits that hold a number in an integer type or Bool, lowest first in the result; false if
// the type cannot hold it.
func (t Type) Pattern(n *big.Int) (bits uint64, ok bool) {
	low, high := t.Bounds()
	if low == nil || n.Cmp(low) < 0 || n.Cmp(high) > 0 {
		return 0, false
	}
	f := t.facts()
	switch f.form {
	case decimalDigits:
		for rest, shift := n.Uint64(), 0; rest > 0; rest, shift = rest/10, shift+4 {
			bits |= rest % 10 << shift
		}
		return bits, true
	case signMagnitude:
		bits = new(big.Int).Abs(n).Uint64()
		if n.Sign() < 0 {
			bits |= 1 << (f.bits - 1)
		}
		return bits, true
	}
	if n.Sign() < 0 {
		return uint64(n.Int64()) & lowest(f.bits), true
	}
	return n.Uint64(), true
}

// FloatPattern is the bits of the floating type's number nearest to r; false if it is too big.
func (t Type) FloatPattern(r *big.Rat) (bits uint64, ok bool) {
	switch t {
	case Float16:
		f, _ := r.Float64()
		half := halfBits(f)
		return uint64(half), finite(halfFloat(half))
	case Float32:
		f, _ := r.Float32()
		return uint64(math.Float32bits(f)), finite(float64(f))
	}
	f, _ := r.Float64()
	return math.Float64bits(f), finite(f)
}

// number is Pattern's inverse for all integer types but Uint64, which can be beyond an int64; false if the
// bits are no number of the type.
func (f facts) number(bits uint64) (n int64, ok bool) {
	switch f.form {
	case signed:
		unused := 64 - f.bits
		return int64(bits<<unused) >> unused, true
	case signMagnitude:
		n = int64(bits &^ (1 << (f.bits - 1)))
		if bits>>(f.bits-1) != 0 {
			n = -n
		}
		return n, true
	case decimalDigits:
		for shift := f.bits - 4; shift >= 0; shift -= 4 {
			digit := bits >> shift & 0xF
			if digit > 9 {
				return 0, false
			}
			n = 10*n + int64(digit)
		}
		return n, true
	}
	return int64(bits), true
}
