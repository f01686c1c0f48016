package mapping

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"iothub-gateway/adapters/modbus"
)

const whole = modbus.WholeRegister

func TestAnAddressMeansOnTheWireWhatTheManualMeans(t *testing.T) {
	for _, c := range []struct {
		text string
		as   counting
		want address
	}{
		// MB-31, line by line.
		{"holding 0", fromZero, address{modbus.Holding, 0, whole}},
		{"input 0x0034", fromZero, address{modbus.Input, 0x34, whole}},
		{"holding 1", fromOne, address{modbus.Holding, 0, whole}},
		{"holding 3060", fromOne, address{modbus.Holding, 3059, whole}},
		{"holding 65536", fromOne, address{modbus.Holding, 65535, whole}},
		{"40001", byModicon, address{modbus.Holding, 0, whole}},
		{"30053", byModicon, address{modbus.Input, 52, whole}},
		{"10001", byModicon, address{modbus.Discrete, 0, whole}},
		{"00001", byModicon, address{modbus.Coil, 0, whole}},
		{"49999", byModicon, address{modbus.Holding, 9998, whole}},
		{"400001", byModicon, address{modbus.Holding, 0, whole}},
		{"465536", byModicon, address{modbus.Holding, 65535, whole}},
		{"400101", byModicon, address{modbus.Holding, 100, whole}},
		{"000012", byModicon, address{modbus.Coil, 11, whole}},
		{"%MW100", fromZero, address{modbus.Holding, 100, whole}},
		{"%MW100", byModicon, address{modbus.Holding, 100, whole}},
		{"%MW100", fromOne, address{modbus.Holding, 100, whole}},
		{"%mw100.3", fromZero, address{modbus.Holding, 100, 3}},
		{"%M12", fromZero, address{modbus.Coil, 12, whole}},
		{"40001.3", byModicon, address{modbus.Holding, 0, 3}},
		{"40100.10", byModicon, address{modbus.Holding, 99, 10}},
		{"holding 0.15", fromZero, address{modbus.Holding, 0, 15}},
		{"holding 0x64", byModicon, address{modbus.Holding, 100, whole}},
		{"coil 3", fromZero, address{modbus.Coil, 3, whole}},
		{"discrete  12", fromOne, address{modbus.Discrete, 11, whole}},
		{"input 65535", fromZero, address{modbus.Input, 65535, whole}},
		{"coil 40001", fromZero, address{modbus.Coil, 40001, whole}}, // no coil has such a number
		{"holding 50000", fromZero, address{modbus.Holding, 50000, whole}},
		{"input 40001", fromZero, address{modbus.Input, 40001, whole}},
		{"holding 65536", undecided, address{modbus.Holding, 65535, whole}},
	} {
		got, doubts := locate(c.text, c.as)
		if got != c.want || len(doubts) > 0 {
			t.Errorf("%q as %d: %+v %v, want %+v", c.text, c.as, got, doubts, c.want)
		}
	}
}

func TestADoubtfulAddressIsTakenWithAWarning(t *testing.T) {
	for _, c := range []struct {
		text string
		as   counting
		want address
		code string
		says string
	}{
		{"holding 40001", fromZero, address{modbus.Holding, 40001, whole}, "W202", "write holding 0, or"},
		{"holding 40001", fromOne, address{modbus.Holding, 40000, whole}, "W202", "write holding 1, or"},
		{"input 30053", fromZero, address{modbus.Input, 30053, whole}, "W202", "write input 52, or"},
		{"discrete 10012", fromZero, address{modbus.Discrete, 10012, whole}, "W202", "write discrete 11, or"},
		{"holding 0x10", fromOne, address{modbus.Holding, 0x10, whole}, "W201", "0x10 without subtracting 1"},
	} {
		got, doubts := locate(c.text, c.as)
		if got != c.want || len(doubts) != 1 || doubts[0].code != c.code || !strings.Contains(doubts[0].message, c.says) {
			t.Errorf("%q as %d: %+v %v", c.text, c.as, got, doubts)
		}
	}
}

func TestWhatIsNoAddressIsRefusedWithAnotherSpelling(t *testing.T) {
	for _, c := range []struct {
		text string
		as   counting
		code string
		says string
	}{
		{"hold 3", fromZero, "E110", "did you mean holding 3?"},
		{"hr:40", fromZero, "E110", "did you mean holding 40?"},
		{"ir 7", fromZero, "E110", "did you mean input 7?"},
		{"DI:7", fromZero, "E110", "did you mean discrete 7?"},
		{"do1", fromZero, "E110", "did you mean coil 1?"},
		{"4x0001", fromZero, "E110", "is the Modicon number 40001; set addressing: modicon"},
		{"3x53", fromOne, "E110", "is the Modicon number 30053; set addressing: modicon"},
		{"4x00001", byModicon, "E110", "is the Modicon number 400001;"},
		{"4x", fromZero, "E110", "write holding"},
		{"0x34", fromZero, "E116", "write holding 0x34, input 0x34"},
		{"input 7", byModicon, "E117", "write an input register as"},
		{"holding:100", fromZero, "E110", "did you mean holding 100?"},
		{"holdng 100", fromZero, "E110", "did you mean holding?"},
		{"1!400001.3#CDAB", byModicon, "E110", "holding 100"},
		{":", fromZero, "E110", ""},
		{".", fromZero, "E110", ""},
		{"", fromZero, "E110", ""},
		{"holding", fromZero, "E110", ""},
		{"holding 1 2", fromZero, "E110", ""},
		{"%MD100", fromZero, "E111", "%MW"},
		{"%IW4", fromZero, "E111", "input"},
		{"%", fromZero, "E111", ""},
		{"%MW70000", fromZero, "E115", ""},
		{"holding 3.16", fromZero, "E112", "0 to 15"},
		{"holding 3.99999999999999999999", fromZero, "E112", "0 to 15"},
		{"holding 0", fromOne, "E114", "addressing: zero"},
		{"holding 65536", fromZero, "E115", "65535"},
		{"holding 65537", fromOne, "E115", "65535"},
		{"holding 99999999999999999999", fromZero, "E115", "65535"},
		{"holding 400002", fromZero, "E115", "write holding 1"},
		{"input 300002", fromOne, "E115", "addressing: modicon"},
		{"input 0x10000", fromZero, "E115", "65535"},
		{"12", fromZero, "E116", "holding 12"},
		{"40001", fromOne, "E116", "addressing: modicon"},
		{"discrete 10012.", fromZero, "E116", ""},
		{"holding 12a", fromZero, "E116", "holding 100"},
		{"holding -1", fromZero, "E116", "holding 100"},
		{"4001", byModicon, "E117", "5 or 6 digits"},
		{"4000001", byModicon, "E117", "5 or 6 digits"},
		{"50001", byModicon, "E117", "0, 1, 3 or 4"},
		{"40000", byModicon, "E117", "0, 1, 3 or 4 and the rest"},
		{"465537", byModicon, "E117", "65536"},
		{"holding 100", byModicon, "E117", "40001 is the first"},
		{"coil 3", byModicon, "E117", `"00001" is the first`},
		{"coil 3.1", fromZero, "E118", "drop .1"},
		{"10001.1", byModicon, "E118", "drop .1"},
		{"holding 010", fromZero, "E010", "write holding 10"},
	} {
		got, doubts := locate(c.text, c.as)
		if got.table != 0 || len(doubts) != 1 || doubts[0].code != c.code || !strings.Contains(doubts[0].message, c.says) {
			t.Errorf("%q as %d: %+v %v, want %s %q", c.text, c.as, got, doubts, c.code, c.says)
		}
	}
}

// spell writes an address in a random one of the notations of MB-31.
func spell(r *rand.Rand, a address) (string, counting) {
	text, as := "", fromZero
	register := int(a.register)
	switch r.IntN(5) {
	case 0:
		text = fmt.Sprintf("%s %d", a.table, register)
	case 1:
		text, as = fmt.Sprintf("%s %d", a.table, register+1), fromOne
	case 2:
		text, as = fmt.Sprintf("%s 0x%04x", a.table, register), counting(1+r.IntN(3))
	case 3:
		text, as = fmt.Sprintf("%d%05d", modiconDigit(a.table), register+1), byModicon
		if register < 9999 && r.IntN(2) == 0 {
			text = fmt.Sprintf("%d%04d", modiconDigit(a.table), register+1)
		}
	case 4:
		as = counting(1 + r.IntN(3))
		switch a.table {
		case modbus.Holding:
			text = fmt.Sprintf("%%MW%d", register)
		case modbus.Coil:
			text = fmt.Sprintf("%%M%d", register)
		default:
			text = fmt.Sprintf("%s 0X%X", a.table, register)
		}
	}
	if a.bit >= 0 {
		text += fmt.Sprintf(".%d", a.bit)
	}
	return text, as
}

func TestTenThousandRandomAddressesAreReadAsTheyWereWritten(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		want := address{modbus.Table(1 + r.IntN(4)), uint16(r.IntN(65536)), whole}
		if !want.table.Bits() && r.IntN(2) == 0 {
			want.bit = r.IntN(16)
		}
		text, as := spell(r, want)
		got, doubts := locate(text, as)
		if got != want {
			t.Fatalf("%q as %d: %+v, want %+v", text, as, got, want)
		}
		for _, d := range doubts {
			if d.code[0] != 'W' {
				t.Fatalf("%q as %d: %v", text, as, d)
			}
		}
	}
}

func FuzzLocate(f *testing.F) {
	for _, text := range []string{"holding 100", "40001.3", "%MW100", "hr:5", "input 0x34", ":", "0x", "coil 3.1"} {
		f.Add(text, uint8(1))
	}
	f.Fuzz(func(t *testing.T, text string, as uint8) {
		place, doubts := locate(text, counting(as%4))
		if place.table == 0 && len(doubts) == 0 {
			t.Fatalf("%q is refused without a reason", text)
		}
		if place.bit > 15 || place.table != 0 && place.table.Bits() && place.bit >= 0 {
			t.Fatalf("%q: %+v", text, place)
		}
		for _, d := range doubts {
			if (d.code[0] == 'E') != (place.table == 0) {
				t.Fatalf("%q: %+v with %v", text, place, d)
			}
		}
	})
}
