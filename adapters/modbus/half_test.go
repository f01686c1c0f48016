package modbus

import (
	"math"
	"testing"
)

func TestEveryHalfFloatIsReadAndWrittenExactly(t *testing.T) {
	for n := range 1 << 16 {
		bits := uint16(n)
		f := halfFloat(bits)
		if math.IsNaN(f) {
			continue
		}
		if back := halfBits(f); back != bits {
			t.Fatalf("%04x is %v is %04x", bits, f, back)
		}
		if finite(f) {
			text, _ := decimalText(halfText(f)).Float64()
			if back := halfBits(text); back != bits && f != 0 {
				t.Fatalf("%04x is %s is %04x", bits, halfText(f), back)
			}
		}
	}
}

// Values from IEEE 754-2008 and its tables of binary16.
func TestHalfFloatsAreThoseOfTheStandard(t *testing.T) {
	for bits, want := range map[uint16]float64{
		0x3C00: 1, 0x3C01: 1.0009765625, 0xC000: -2, 0x7BFF: 65504, 0x0400: 0.00006103515625, 0x03FF: 0.000060975551605224609375,
		0x0001: 0.000000059604644775390625, 0x3555: 0.333251953125, 0x7C00: math.Inf(1), 0xFC00: math.Inf(-1),
	} {
		if got := halfFloat(bits); got != want {
			t.Errorf("%04x is %v, want %v", bits, got, want)
		}
	}
	for f, want := range map[float64]uint16{1.00048828125: 0x3C00, 1.00146484375: 0x3C02, 65519.9: 0x7BFF, 65520: 0x7C00, 2.9e-8: 0, 3.1e-8: 1} {
		if got := halfBits(f); got != want {
			t.Errorf("%v became %04x, want %04x", f, got, want)
		}
	}
}
