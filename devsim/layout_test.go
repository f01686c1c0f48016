package devsim

import (
	"math"
	"slices"
	"testing"

	"iothub-gateway/adapters/modbus"
)

func ordered(kind modbus.Type, order string) modbus.Point {
	return with(at("x", modbus.Holding, 0, kind), func(p *modbus.Point) { p.Order = order })
}

// The vectors of MB-37, and what follows from MB-36 for the other widths.
func TestEveryOrderLaysOutTheVectorsBothWays(t *testing.T) {
	const (
		i32 = uint64(0xFFFE1DC0) // -123456
		u64 = uint64(0x0102030405060708)
	)
	f32, f64 := uint64(math.Float32bits(123.456)), math.Float64bits(123.456)
	tests := []struct {
		kind  modbus.Type
		order string
		raw   uint64
		want  []uint16
	}{
		{modbus.Float32, "abcd", f32, []uint16{0x42F6, 0xE979}},
		{modbus.Float32, "cdab", f32, []uint16{0xE979, 0x42F6}},
		{modbus.Float32, "badc", f32, []uint16{0xF642, 0x79E9}},
		{modbus.Float32, "dcba", f32, []uint16{0x79E9, 0xF642}},
		{modbus.Int32, "abcd", i32, []uint16{0xFFFE, 0x1DC0}},
		{modbus.Int32, "cdab", i32, []uint16{0x1DC0, 0xFFFE}},
		{modbus.Int32, "badc", i32, []uint16{0xFEFF, 0xC01D}},
		{modbus.Int32, "dcba", i32, []uint16{0xC01D, 0xFEFF}},
		{modbus.Uint64, "abcd", u64, []uint16{0x0102, 0x0304, 0x0506, 0x0708}},
		{modbus.Uint64, "cdab", u64, []uint16{0x0708, 0x0506, 0x0304, 0x0102}},
		{modbus.Uint64, "badc", u64, []uint16{0x0201, 0x0403, 0x0605, 0x0807}},
		{modbus.Uint64, "dcba", u64, []uint16{0x0807, 0x0605, 0x0403, 0x0201}},
		{modbus.Uint64, "cdabghef", u64, []uint16{0x0304, 0x0102, 0x0708, 0x0506}},
		{modbus.Uint64, "hgfedcba", u64, []uint16{0x0807, 0x0605, 0x0403, 0x0201}},
		{modbus.Float64, "abcd", f64, []uint16{0x405E, 0xDD2F, 0x1A9F, 0xBE77}},
		{modbus.Float64, "cdab", f64, []uint16{0xBE77, 0x1A9F, 0xDD2F, 0x405E}},
		{modbus.Float64, "badc", f64, []uint16{0x5E40, 0x2FDD, 0x9F1A, 0x77BE}},
		{modbus.Float64, "dcba", f64, []uint16{0x77BE, 0x9F1A, 0x2FDD, 0x5E40}},
		{modbus.Uint16, "abcd", 0x0102, []uint16{0x0102}},
		{modbus.Uint16, "cdab", 0x0102, []uint16{0x0102}},
		{modbus.Uint16, "badc", 0x0102, []uint16{0x0201}},
		{modbus.Uint16, "dcba", 0x0102, []uint16{0x0201}},
		{modbus.Uint16, "", 0x0102, []uint16{0x0102}},
	}
	for _, test := range tests {
		t.Run(test.kind.String()+" "+test.order, func(t *testing.T) {
			l := layoutOf(ordered(test.kind, test.order))
			words := make([]uint16, len(test.want))
			l.pack(test.raw, words)
			if !slices.Equal(words, test.want) {
				t.Errorf("packed %04X, want %04X", words, test.want)
			}
			if raw := l.unpack(test.want); raw != test.raw {
				t.Errorf("unpacked %#x, want %#x", raw, test.raw)
			}
		})
	}
}

func TestABitIsCountedInTheWordThatTheDeviceMeans(t *testing.T) {
	tests := []struct {
		order string
		bit   int
		want  uint16
	}{
		{"abcd", 0, 0x0001}, {"abcd", 3, 0x0008}, {"abcd", 15, 0x8000}, {"cdab", 3, 0x0008},
		{"badc", 3, 0x0800}, {"badc", 15, 0x0080}, {"dcba", 0, 0x0100},
	}
	for _, test := range tests {
		l := layoutOf(with(ordered(modbus.Bool, test.order), bit(test.bit)))
		words := []uint16{0}
		l.pack(1, words)
		if words[0] != test.want || l.mask() != test.want {
			t.Errorf("%s bit %d: packed %04X, mask %04X, want %04X", test.order, test.bit, words[0], l.mask(), test.want)
		}
		if l.unpack([]uint16{test.want}) != 1 || l.unpack([]uint16{^test.want}) != 0 {
			t.Errorf("%s bit %d: unpacked from elsewhere", test.order, test.bit)
		}
	}
}

func TestATextSwapsItsCharactersOnlyWithinARegister(t *testing.T) {
	tests := []struct {
		order  string
		length int
		text   string
		want   []uint16
	}{
		{"abcd", 4, "Ab1", []uint16{0x4162, 0x3100}},
		{"cdab", 4, "Ab1", []uint16{0x4162, 0x3100}},
		{"badc", 4, "Ab1", []uint16{0x6241, 0x0031}},
		{"dcba", 4, "Ab1", []uint16{0x6241, 0x0031}},
		{"abcd", 3, "Ab1", []uint16{0x4162, 0x3100}},
	}
	for _, test := range tests {
		p := with(ordered(modbus.String, test.order), func(p *modbus.Point) { p.Length = test.length })
		l := layoutOf(p)
		words := make([]uint16, p.Registers())
		l.packBytes([]byte(test.text), words)
		if !slices.Equal(words, test.want) {
			t.Errorf("%s: packed %04X, want %04X", test.order, words, test.want)
		}
		if text := textIn(l.unpackBytes(test.want)[:test.length]); text != test.text {
			t.Errorf("%s: unpacked %q, want %q", test.order, text, test.text)
		}
	}
}

func TestATextEndsAtItsFirstNULAndKeepsForeignLetters(t *testing.T) {
	l := layoutOf(with(ordered(modbus.String, "abcd"), func(p *modbus.Point) { p.Length = 6 }))
	tests := []struct {
		words []uint16
		want  string
	}{
		{[]uint16{0x4142, 0x0043, 0x4445}, "AB"},
		{[]uint16{0x4142, 0x2020, 0x2020}, "AB"},
		{[]uint16{0x41E4, 0x4200, 0x0000}, "AäB"}, // Latin-1
		{[]uint16{0x41C3, 0xA442, 0x0000}, "AäB"}, // UTF-8
		{[]uint16{0, 0, 0}, ""},
	}
	for _, test := range tests {
		if got := textIn(l.unpackBytes(test.words)); got != test.want {
			t.Errorf("%04X: %q, want %q", test.words, got, test.want)
		}
	}
}

func FuzzWhatIsPackedUnpacksTheSame(f *testing.F) {
	f.Add(uint64(0x0102030405060708), byte(modbus.Uint64), "cdab")
	f.Add(uint64(1), byte(modbus.Uint16), "")
	orders := []string{"abcd", "cdab", "badc", "dcba", "abcdefgh", "hgfedcba", "cdabghef"}
	f.Fuzz(func(t *testing.T, raw uint64, kind byte, order string) {
		p := ordered(modbus.Int16+modbus.Type(kind%8), orders[len(order)%len(orders)])
		words := make([]uint16, p.Registers())
		l := layoutOf(p)
		l.pack(raw, words)
		if got := l.unpack(words); got != truncate(raw, p) {
			t.Errorf("%s %s: %#x became %#x", p.Type, p.Order, truncate(raw, p), got)
		}
	})
}
