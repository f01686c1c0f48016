package modbus

import (
	"math"
	"strconv"
)

// halfFloat is the number in the bits of an IEEE 754 binary16.
func halfFloat(bits uint16) float64 {
	sign := 1.0
	if bits>>15 != 0 {
		sign = -1
	}
	exponent, fraction := int(bits>>10&0x1F), float64(bits&0x3FF)
	switch {
	case exponent == 0x1F && fraction != 0:
		return math.NaN()
	case exponent == 0x1F:
		return math.Inf(int(sign))
	case exponent == 0:
		return math.Ldexp(sign*fraction, -24)
	}
	return math.Ldexp(sign*(1024+fraction), exponent-25)
}

// halfBits are the bits of the binary16 nearest to f, ties to even; infinite if f is too big.
func halfBits(f float64) uint16 {
	const infinite, overflow = 0x7C00, 65520
	sign := uint16(0)
	if math.Signbit(f) {
		sign, f = 0x8000, -f
	}
	switch {
	case f == 0:
		return sign
	case f >= overflow:
		return sign | infinite
	}
	_, exponent := math.Frexp(f) // f is in [1/2, 1) times 2^exponent
	exponent = max(exponent-1, -14)
	steps := math.RoundToEven(math.Ldexp(f, 10-exponent)) // one more than 10 bits carries into the exponent
	return sign | uint16((exponent+14)<<10) + uint16(steps)
}

// halfText is the shortest decimal that reads back as the binary16 f.
func halfText(f float64) string {
	const enough = 5 // digits tell any two apart
	for digits := 1; digits < enough; digits++ {
		text := strconv.FormatFloat(f, 'g', digits, 64)
		if back, err := strconv.ParseFloat(text, 64); err == nil && halfBits(back) == halfBits(f) {
			return text
		}
	}
	return strconv.FormatFloat(f, 'g', enough, 64)
}
