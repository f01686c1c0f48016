package modbus

import (
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"

	gateway "iothub-gateway"
)

func raw(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func reg(ty Type, change ...func(*Point)) Point {
	p := Point{ID: "d/p", Table: Holding, Bit: WholeRegister, Type: ty, Order: "abcd", Scale: 1, Writable: true}
	for _, c := range change {
		c(&p)
	}
	return p
}

func ordered(o string) func(*Point)         { return func(p *Point) { p.Order = o } }
func scaled(s, o float64) func(*Point)      { return func(p *Point) { p.Scale, p.Offset = s, o } }
func missing(na ...uint64) func(*Point)     { return func(p *Point) { p.NotAvailable = na } }
func bit(n int) func(*Point)                { return func(p *Point) { p.Bit = n } }
func length(n int) func(*Point)             { return func(p *Point) { p.Length = n } }
func straight(f, t [2]float64) func(*Point) { return func(p *Point) { p.Linear = &Linear{f, t} } }
func words(w ...EnumWord) func(*Point)      { return func(p *Point) { p.Enum = w } }

func in(table Table) func(*Point) { return func(p *Point) { p.Table = table } }

// both are registers and values that stand for each other.
var both = []struct {
	name string
	p    Point
	raw  string
	v    gateway.Value
}{
	// MB-37
	{"f32 abcd", reg(Float32, ordered("abcd")), "42F6 E979", gateway.FloatValue(123.456)},
	{"f32 cdab", reg(Float32, ordered("cdab")), "E979 42F6", gateway.FloatValue(123.456)},
	{"f32 badc", reg(Float32, ordered("badc")), "F642 79E9", gateway.FloatValue(123.456)},
	{"f32 dcba", reg(Float32, ordered("dcba")), "79E9 F642", gateway.FloatValue(123.456)},
	{"i32 abcd", reg(Int32, ordered("abcd")), "FFFE 1DC0", gateway.IntValue(-123456)},
	{"i32 cdab", reg(Int32, ordered("cdab")), "1DC0 FFFE", gateway.IntValue(-123456)},
	{"i32 badc", reg(Int32, ordered("badc")), "FEFF C01D", gateway.IntValue(-123456)},
	{"i32 dcba", reg(Int32, ordered("dcba")), "C01D FEFF", gateway.IntValue(-123456)},
	{"u64 abcd", reg(Uint64, ordered("abcd")), "0102 0304 0506 0708", gateway.UintValue(0x0102030405060708)},
	{"u64 cdab", reg(Uint64, ordered("cdab")), "0708 0506 0304 0102", gateway.UintValue(0x0102030405060708)},
	{"u64 badc", reg(Uint64, ordered("badc")), "0201 0403 0605 0807", gateway.UintValue(0x0102030405060708)},
	{"u64 dcba", reg(Uint64, ordered("dcba")), "0807 0605 0403 0201", gateway.UintValue(0x0102030405060708)},
	{"f64 abcd", reg(Float64, ordered("abcd")), "405E DD2F 1A9F BE77", gateway.FloatValue(123.456)},
	{"f64 cdab", reg(Float64, ordered("cdab")), "BE77 1A9F DD2F 405E", gateway.FloatValue(123.456)},
	{"f64 badc", reg(Float64, ordered("badc")), "5E40 2FDD 9F1A 77BE", gateway.FloatValue(123.456)},
	{"f64 dcba", reg(Float64, ordered("dcba")), "77BE 9F1A 2FDD 5E40", gateway.FloatValue(123.456)},
	// MB-36: any permutation of 8 bytes; one register
	{"u64 cdabghef", reg(Uint64, ordered("cdabghef")), "0304 0102 0708 0506", gateway.UintValue(0x0102030405060708)},
	{"u64 hgfedcba", reg(Uint64, ordered("hgfedcba")), "0807 0605 0403 0201", gateway.UintValue(0x0102030405060708)},
	{"u16 cdab", reg(Uint16, ordered("cdab")), "0102", gateway.UintValue(0x0102)},
	{"u16 badc", reg(Uint16, ordered("badc")), "0102", gateway.UintValue(0x0201)},
	{"u16 dcba", reg(Uint16, ordered("dcba")), "0102", gateway.UintValue(0x0201)},
	// plain integers
	{"i16", reg(Int16), "8000", gateway.IntValue(-32768)},
	{"u16", reg(Uint16), "FFFF", gateway.UintValue(65535)},
	{"u32", reg(Uint32), "FFFFFFFF", gateway.UintValue(math.MaxUint32)},
	{"i64", reg(Int64), "8000000000000000", gateway.IntValue(math.MinInt64)},
	{"u64", reg(Uint64), "FFFFFFFFFFFFFFFF", gateway.UintValue(math.MaxUint64)},
	// MB-42: decimals
	{"3 * 0.1", reg(Int16, scaled(0.1, 0)), "0003", gateway.FloatValue(0.3)},
	{"offset", reg(Int16, scaled(0.1, -40)), "0215", gateway.FloatValue(13.3)},
	{"scale 10", reg(Uint16, scaled(10, 0)), "0003", gateway.FloatValue(30)},
	{"only an offset", reg(Uint16, scaled(1, 0.5)), "0003", gateway.FloatValue(3.5)},
	{"f32 21.7", reg(Float32), "41AD999A", gateway.FloatValue(21.7)},
	{"f32 scaled", reg(Float32, scaled(0.1, 0)), "41AD999A", gateway.FloatValue(2.17)},
	{"linear", reg(Int16, straight([2]float64{0, 27648}, [2]float64{-50, 150})), "3600", gateway.FloatValue(50)},
	{"linear thirds", reg(Int16, straight([2]float64{0, 3}, [2]float64{0, 10})), "0001", gateway.FloatValue(3.3)},
	{"linear falling", reg(Int16, straight([2]float64{0, 100}, [2]float64{10, 0})), "0019", gateway.FloatValue(7.5)},
	// words, texts, bits
	{"enum", reg(Uint16, words(EnumWord{0, "off"}, EnumWord{2, "manual"})), "0002", gateway.TextValue("manual")},
	{"enum below 0", reg(Int16, words(EnumWord{-1, "fault"})), "FFFF", gateway.TextValue("fault")},
	{"enum u64", reg(Uint64, words(EnumWord{7, "on"})), "0000000000000007", gateway.TextValue("on")},
	{"enum of a coil", reg(Bool, in(Coil), words(EnumWord{0, "open"}, EnumWord{1, "closed"})), "01", gateway.TextValue("closed")},
	{"coil", reg(Bool, in(Coil)), "01", gateway.BoolValue(true)},
	{"coil off", reg(Bool, in(Coil)), "00", gateway.BoolValue(false)},
	{"bool register", reg(Bool), "0001", gateway.BoolValue(true)},
	{"string", reg(String, length(6)), "5075 6D70 0000", gateway.TextValue("Pump")},
	{"string badc", reg(String, length(4), ordered("badc")), "7550 706D", gateway.TextValue("Pump")},
	{"string of odd length", reg(String, length(3)), "4142 4300", gateway.TextValue("ABC")},
	{"string utf-8", reg(String, length(4)), "C3A9 0000", gateway.TextValue("é")},
	{"string of spaces", reg(String, length(5), func(p *Point) { p.Pad = ' ' }), "5075 6D70 2000", gateway.TextValue("Pump")},
	// the other permutations of 4 and 6 bytes
	{"u32 bcda", reg(Uint32, ordered("bcda")), "0203 0401", gateway.UintValue(0x01020304)},
	{"u48 cdab", reg(Uint48, ordered("cdab")), "0506 0304 0102", gateway.UintValue(0x010203040506)},
	{"u48 badc", reg(Uint48, ordered("badc")), "0201 0403 0605", gateway.UintValue(0x010203040506)},
	{"u48 dcba", reg(Uint48, ordered("dcba")), "0605 0403 0201", gateway.UintValue(0x010203040506)},
	{"u48 efabcd", reg(Uint48, ordered("efabcd")), "0506 0102 0304", gateway.UintValue(0x010203040506)},
	// MB-38: the other widths
	{"i48", reg(Int48), "FFFF FFFF FFFE", gateway.IntValue(-2)},
	{"u48", reg(Uint48), "FFFF FFFF FFFF", gateway.UintValue(1<<48 - 1)},
	{"i24", reg(Int24), "FFFF FFFE", gateway.IntValue(-2)},
	{"i24 above 0", reg(Int24), "007F FFFF", gateway.IntValue(1<<23 - 1)},
	{"u24", reg(Uint24, ordered("cdab")), "FFFF 00FF", gateway.UintValue(1<<24 - 1)},
	{"f16", reg(Float16), "C000", gateway.FloatValue(-2)},
	{"f16 by its shortest decimal", reg(Float16), "2E66", gateway.FloatValue(0.1)},
	{"f16 greatest", reg(Float16), "7BFF", gateway.FloatValue(65500)},
	{"f16 least", reg(Float16), "0001", gateway.FloatValue(6e-8)},
	{"f16 badc", reg(Float16, ordered("badc")), "003C", gateway.FloatValue(1)},
	{"bcd16", reg(BCD16), "1234", gateway.UintValue(1234)},
	{"bcd32", reg(BCD32, ordered("cdab"), scaled(0.01, 0)), "5678 1234", gateway.FloatValue(123456.78)},
	{"bcd64", reg(BCD64), "9999 9999 9999 9999", gateway.UintValue(9999999999999999)},
	{"sm16", reg(SignMagnitude16, scaled(0.1, 0)), "800F", gateway.FloatValue(-1.5)},
	{"sm16 above 0", reg(SignMagnitude16), "7FFF", gateway.IntValue(32767)},
	{"sm32", reg(SignMagnitude32), "FFFF FFFF", gateway.IntValue(-math.MaxInt32)},
	// octets and times
	{"hex", reg(Hex, length(3)), "00FF A500", gateway.TextValue("00ffa5")},
	{"hex badc", reg(Hex, length(4), ordered("badc")), "FF00 01A5", gateway.TextValue("00ffa501")},
	{"unix32", reg(TimeUnix32), "6553F100", gateway.TextValue("2023-11-14T22:13:20Z")},
	{"unix32 after 2038", reg(TimeUnix32, ordered("cdab")), "FFFF FFFF", gateway.TextValue("2106-02-07T06:28:15Z")},
	{"unix64", reg(TimeUnix64), "0000 0001 0000 0000", gateway.TextValue("2106-02-07T06:28:16Z")},
	{"unixms", reg(TimeUnixMilli), "0000 018B CFE5 687B", gateway.TextValue("2023-11-14T22:13:20.123Z")},
	{"ymdhms", reg(TimeYMDHMS), "07EA 0002 001C 0017 003B 0009", gateway.TextValue("2026-02-28T23:59:09Z")},
	{"ymdhms badc", reg(TimeYMDHMS, ordered("badc")), "EA07 0200 1C00 1700 3B00 0900", gateway.TextValue("2026-02-28T23:59:09Z")},
	{"iec870", reg(TimeIEC870), "001A 0B1A 080C 1D4C", gateway.TextValue("2026-11-26T08:12:07.5Z")},
	{"string empty", reg(String, length(4)), "0000 0000", gateway.TextValue("")},
}

func TestRegistersAndValuesStandForEachOther(t *testing.T) {
	for _, c := range both {
		codec := newCodec(c.p)
		got, err := codec.decode(raw(t, c.raw))
		if err != nil || got != c.v {
			t.Errorf("%s: decoded %v %v, want %v", c.name, got, err, c.v)
		}
		back, err := codec.encode(c.v)
		if err != nil || string(back) != string(raw(t, c.raw)) {
			t.Errorf("%s: encoded % X %v, want %s", c.name, back, err, c.raw)
		}
	}
}

func TestWhatRegistersMean(t *testing.T) {
	status := reg(Uint16, func(p *Point) { p.Flags = []Flag{{0, "run"}, {3, "fault"}, {15, `a"b`}} })
	for _, c := range []struct {
		name string
		p    Point
		raw  string
		want gateway.Value
	}{
		{"bit 3", reg(Bool, bit(3)), "0008", gateway.BoolValue(true)},
		{"bit 0", reg(Bool, bit(0)), "FFFE", gateway.BoolValue(false)},
		{"bit 15", reg(Bool, bit(15)), "8000", gateway.BoolValue(true)},
		{"bit 0 badc", reg(Bool, bit(0), ordered("badc")), "0100", gateway.BoolValue(true)},
		{"any bit of a bool register", reg(Bool), "8000", gateway.BoolValue(true)},
		{"unknown enum number", reg(Uint16, words(EnumWord{0, "off"})), "0011", gateway.TextValue("17")},
		{"unknown enum number beyond int64", reg(Uint64, words(EnumWord{0, "off"})), "FFFFFFFFFFFFFFFF", gateway.TextValue("18446744073709551615")},
		{"flags", status, "8001", gateway.ObjectValue(`{"run":true,"fault":false,"a\"b":true}`)},
		{"flags of 64 bits", reg(Uint64, func(p *Point) { p.Flags = []Flag{{63, "top"}} }), "8000000000000000", gateway.ObjectValue(`{"top":true}`)},
		{"spaces at the end", reg(String, length(6)), "5075 2020 2020", gateway.TextValue("Pu")},
		{"i8 high", reg(Int8High), "FE01", gateway.IntValue(-2)},
		{"i8 low", reg(Int8Low), "01FE", gateway.IntValue(-2)},
		{"u8 high", reg(Uint8High, scaled(0.1, 0)), "FE01", gateway.FloatValue(25.4)},
		{"u8 low badc", reg(Uint8Low, ordered("badc")), "FE01", gateway.UintValue(254)},
		{"flags of a byte", reg(Uint8High, func(p *Point) { p.Flags = []Flag{{7, "top"}} }), "8000", gateway.ObjectValue(`{"top":true}`)},
		{"u24 does not read the fourth byte", reg(Uint24), "AB00 0001", gateway.UintValue(1)},
		{"i24 neither", reg(Int24), "00FF FFFF", gateway.IntValue(-1)},
		{"sm16 minus 0", reg(SignMagnitude16), "8000", gateway.IntValue(0)},
		{"iec870 with weekday and summer time", reg(TimeIEC870), "001A 0B9A 880C 1D4C", gateway.TextValue("2026-11-26T08:12:07.5Z")},
		{"what follows a NUL", reg(String, length(6)), "5000 7878 7878", gateway.TextValue("P")},
		{"latin-1", reg(String, length(4)), "B043 2020", gateway.TextValue("°C")},
		{"minus zero", reg(Float32), "80000000", gateway.FloatValue(0)},
		{"scale 0 is 1", reg(Int16, scaled(0, 0)), "0005", gateway.IntValue(5)},
		{"u64 scaled", reg(Uint64, scaled(0.001, 0)), "FFFFFFFFFFFFFFFF", gateway.FloatValue(18446744073709551.615)},
		{"an exact big sum", reg(Int64, scaled(0.01, 0)), "7FFFFFFFFFFFFFFF", gateway.FloatValue(92233720368547758.07)},
	} {
		got, err := newCodec(c.p).decode(raw(t, c.raw))
		if err != nil || got != c.want || got.String() != c.want.String() {
			t.Errorf("%s: %v %v, want %v", c.name, got, err, c.want)
		}
	}
}

func TestNoValueIsNeverANumber(t *testing.T) {
	for _, c := range []struct {
		name string
		p    Point
		raw  string
	}{
		{"i16 sentinel", reg(Int16, missing(0x8000)), "8000"},
		{"the bits count, not the scaled value", reg(Int16, missing(0x8000), scaled(0.1, 5)), "8000"},
		{"the second of several", reg(Uint16, missing(1, 0xFFFF)), "FFFF"},
		{"in the point's order", reg(Uint32, missing(0x7FFFFFFF), ordered("cdab")), "FFFF 7FFF"},
		{"given as a negative number", reg(Int16, missing(uint64(0xFFFFFFFFFFFF8000))), "8000"},
		{"a chosen f32", reg(Float32, missing(0xFF7FFFFF)), "FF7FFFFF"},
		{"NaN", reg(Float32), "7FC00000"},
		{"f64 NaN", reg(Float64, scaled(2, 0)), "7FF8000000000000"},
		{"infinite", reg(Float32), "FF800000"},
		{"too big once scaled", reg(Float64, scaled(1e10, 0)), "7FE0000000000000"},
		{"bcd of other digits", reg(BCD16), "12A4"},
		{"bcd sentinel", reg(BCD16, missing(0x9999)), "9999"},
		{"f16 NaN", reg(Float16), "7E00"},
		{"a byte's sentinel", reg(Uint8High, missing(0xFF)), "FF00"},
		{"24 bits' sentinel", reg(Int24, missing(0x800000)), "0080 0000"},
		{"month 13", reg(TimeYMDHMS), "07EA 000D 0001 0000 0000 0000"},
		{"no date", reg(TimeYMDHMS), "0000 0000 0000 0000 0000 0000"},
		{"30 February", reg(TimeIEC870), "001A 021E 0000 0000"},
		{"a clock that is not set", reg(TimeIEC870), "001A 0B1A 088C 1D4C"},
		{"a time beyond all calendars", reg(TimeUnix64), "7FFF FFFF FFFF FFFF"},
		{"enum", reg(Uint16, missing(0xFFFF), words(EnumWord{0, "off"})), "FFFF"},
	} {
		got, err := newCodec(c.p).decode(raw(t, c.raw))
		if !errors.Is(err, gateway.ErrNotAvailable) || got.Kind() != gateway.Absent {
			t.Errorf("%s: %v %v", c.name, got, err)
		}
	}
}

func TestWhatARegisterCannotHoldIsRefused(t *testing.T) {
	on := gateway.BoolValue(true)
	for _, c := range []struct {
		name string
		p    Point
		v    gateway.Value
	}{
		{"12.34 by 0.1", reg(Int16, scaled(0.1, 0)), gateway.FloatValue(12.34)},
		{"half a count", reg(Uint16), gateway.FloatValue(0.5)},
		{"above i16", reg(Int16), gateway.IntValue(32768)},
		{"below i16", reg(Int16), gateway.IntValue(-32769)},
		{"negative u16", reg(Uint16), gateway.IntValue(-1)},
		{"above u16 once scaled", reg(Uint16, scaled(0.1, 0)), gateway.FloatValue(6553.6)},
		{"above u64", reg(Uint64), gateway.FloatValue(1e20)},
		{"above f32", reg(Float32), gateway.FloatValue(1e39)},
		{"NaN", reg(Float64), gateway.FloatValue(math.NaN())},
		{"infinite", reg(Float32), gateway.FloatValue(math.Inf(-1))},
		{"unknown word", reg(Uint16, words(EnumWord{0, "off"})), gateway.TextValue("on")},
		{"number for an enum", reg(Uint16, words(EnumWord{0, "off"})), gateway.IntValue(0)},
		{"a word too big for its register", reg(Uint16, words(EnumWord{70000, "off"})), gateway.TextValue("off")},
		{"a word for a coil that is neither", reg(Bool, in(Coil), words(EnumWord{2, "x"})), gateway.TextValue("x")},
		{"text for a number", reg(Uint16), gateway.TextValue("1")},
		{"bool for a number", reg(Uint16), on},
		{"number for a bool", reg(Bool, in(Coil)), gateway.IntValue(1)},
		{"nothing", reg(Uint16), gateway.Value{}},
		{"a sentinel", reg(Int16, missing(0x8000)), gateway.IntValue(-32768)},
		{"flags", reg(Uint16, func(p *Point) { p.Flags = []Flag{{0, "run"}} }), gateway.ObjectValue(`{"run":true}`)},
		{"above bcd16", reg(BCD16), gateway.IntValue(10000)},
		{"below 0 in bcd", reg(BCD32), gateway.IntValue(-1)},
		{"below sm16", reg(SignMagnitude16), gateway.IntValue(-32768)},
		{"above i24", reg(Int24), gateway.IntValue(1 << 23)},
		{"above u48", reg(Uint48), gateway.IntValue(1 << 48)},
		{"above f16", reg(Float16), gateway.IntValue(65520)},
		{"too few octets", reg(Hex, length(3)), gateway.TextValue("00ff")},
		{"no octets", reg(Hex, length(3)), gateway.TextValue("pumpen")},
		{"number for octets", reg(Hex, length(3)), gateway.IntValue(1)},
		{"no time", reg(TimeUnix32), gateway.TextValue("yesterday")},
		{"before 1970", reg(TimeUnix32), gateway.TextValue("1969-12-31T23:59:59Z")},
		{"a fraction of a second", reg(TimeYMDHMS), gateway.TextValue("2026-02-28T23:59:09.5Z")},
		{"a year of three digits", reg(TimeIEC870), gateway.TextValue("2130-01-01T00:00:00Z")},
		{"number for a time", reg(TimeUnix32), gateway.IntValue(1)},
		{"flat line", reg(Uint16, straight([2]float64{0, 1}, [2]float64{5, 5})), gateway.IntValue(5)},
		{"text too long", reg(String, length(3)), gateway.TextValue("ABCD")},
		{"NUL", reg(String, length(3)), gateway.TextValue("A\x00")},
		{"number for a text", reg(String, length(3)), gateway.IntValue(1)},
	} {
		if got, err := newCodec(c.p).encode(c.v); !errors.Is(err, gateway.ErrRange) {
			t.Errorf("%s: % X %v", c.name, got, err)
		}
	}
	_, err := newCodec(reg(Int16, scaled(0.1, 0))).encode(gateway.FloatValue(12.34))
	if err == nil || !strings.Contains(err.Error(), "12.3") {
		t.Errorf("the error does not name the nearest value: %v", err)
	}
}

func TestAFloat32TakesTheNearestValue(t *testing.T) {
	c := newCodec(reg(Float32))
	for _, v := range []gateway.Value{gateway.FloatValue(21.7), gateway.FloatValue(0.1), gateway.IntValue(3), gateway.FloatValue(1.23456789012)} {
		b, err := c.encode(v)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := v.Number()
		if got := math.Float32frombits(uint32(gather(c.order, b))); got != float32(want) {
			t.Errorf("%v became %v", v, got)
		}
	}
}

func TestAnAnalogValueHasTheDecimalsThatMeanSomething(t *testing.T) {
	for _, c := range []struct {
		from, to [2]float64
		raw      uint16
		want     float64
	}{
		{[2]float64{0, 27648}, [2]float64{0, 10}, 3319, 1.20045},
		{[2]float64{0, 27648}, [2]float64{0, 10}, 27648, 10},
		{[2]float64{0, 32767}, [2]float64{4, 20}, 1, 4.00049},
		{[2]float64{0, 3}, [2]float64{0, 1000}, 1, 333},
		{[2]float64{0, 4096}, [2]float64{0, 1}, 1, 0.000244140625},              // ends by itself
		{[2]float64{95, 27648}, [2]float64{-50, 81.9144213287539}, 0, -50.4548}, // a line that needs more than int64
	} {
		codec := newCodec(reg(Uint16, straight(c.from, c.to)))
		got, err := codec.decode([]byte{byte(c.raw >> 8), byte(c.raw)})
		if err != nil || got != gateway.FloatValue(c.want) {
			t.Errorf("%v..%v, raw %d: %v, want %v", c.from, c.to, c.raw, got, c.want)
		}
	}
}

func TestAnAnalogOutputTakesTheNearestStep(t *testing.T) {
	codec := newCodec(reg(Uint16, straight([2]float64{0, 27648}, [2]float64{0, 10})))
	got, err := codec.encode(gateway.FloatValue(3.3))
	if raw := uint16(got[0])<<8 | uint16(got[1]); err != nil || raw != 9124 {
		t.Errorf("3.3 is written as %d, %v; 9123.84 is nearest to 9124", raw, err)
	}
	if _, err := codec.encode(gateway.FloatValue(30)); !errors.Is(err, gateway.ErrRange) {
		t.Errorf("30 on a scale that a register ends at 23.7: %v", err)
	}
}

func TestAnAnswerOfTheWrongSizeIsNotDecoded(t *testing.T) {
	for _, p := range []Point{reg(Uint32), reg(Bool, in(Coil)), reg(String, length(3))} {
		for _, n := range []int{0, 2, 3, 5, 8} {
			if n == newCodec(p).size() {
				continue
			}
			if v, err := newCodec(p).decode(make([]byte, n)); err == nil {
				t.Errorf("%s out of %d bytes: %v", p.Type, n, v)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range both {
		f.Add(uint8(c.p.Type), uint8(0), 1.0, 0.0, raw(f, c.raw))
	}
	f.Add(uint8(Float32), uint8(2), 0.1, 1e300, []byte{0x7f, 0x7f, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, ty, order uint8, scale, offset float64, b []byte) {
		p := reg(Type(ty)%typesEnd, scaled(scale, offset), ordered([]string{"abcd", "cdab", "badc", "dcba", "cdabghef", "", "efcdab", "bdac"}[order%8]), length(int(order)%9))
		if !finite(scale) || !finite(offset) {
			return
		}
		c := newCodec(p)
		v, err := c.decode(b)
		switch {
		case err == nil && len(b) != c.size():
			t.Fatalf("%d bytes were taken for %d", len(b), c.size())
		case err != nil && v.Kind() != gateway.Absent:
			t.Fatalf("a value and an error: %v %v", v, err)
		case err == nil:
			if n, ok := v.Number(); ok && !finite(n) {
				t.Fatalf("%v", n)
			}
			if p.Type.Integer() && !p.Type.Half() && p.Type.Bits()%16 == 0 && c.facts.form != signMagnitude && c.line.unit {
				if back, err := c.encode(v); err != nil || string(back) != string(b) {
					t.Fatalf("% X is %v is % X %v", b, v, back, err)
				}
			}
		}
	})
}

func BenchmarkDecodeScaled(b *testing.B) {
	c := newCodec(reg(Int16, scaled(0.1, -40)))
	for b.Loop() {
		if _, err := c.decode([]byte{1, 2}); err != nil {
			b.Fatal(err)
		}
	}
}
