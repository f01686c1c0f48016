package mapping

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestTimesAreAWholeNumberWithItsUnit(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"200ms": 200 * time.Millisecond, "5s": 5 * time.Second, "15m": 15 * time.Minute, "2h": 2 * time.Hour,
		"7d": 168 * time.Hour, "0s": 0, "999999999ms": 999999999 * time.Millisecond,
	} {
		got, ok := parseDuration(text)
		if !ok || got != want {
			t.Errorf("%q: %v, %t", text, got, ok)
		}
		if got > 0 && strings.TrimLeft(text, "9") != "ms" && shortTime(got) != text && text != "7d" {
			t.Errorf("%q is spelled %s", text, shortTime(got))
		}
	}
	for _, text := range []string{"", "5", "s", "5 s", "-5s", "0.5s", "1h30m", "5S", "5sec", "05s", "9999999999s", "999999999d"} {
		if got, ok := parseDuration(text); ok {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

func TestSizesAreAWholeNumberWithItsUnit(t *testing.T) {
	for text, want := range map[string]int64{"1KiB": 1 << 10, "64KiB": 64 << 10, "1MiB": 1 << 20, "2GiB": 2 << 30, "999999999GiB": 999999999 << 30} {
		if got, ok := parseSize(text); !ok || got != want {
			t.Errorf("%q: %d, %t", text, got, ok)
		}
		if shortSize(want) != text {
			t.Errorf("%q is spelled %s", text, shortSize(want))
		}
	}
	for _, text := range []string{"", "64", "64kB", "64KB", "64 KiB", "-1KiB", "0.5MiB", "064KiB", "1TiB", "9999999999KiB"} {
		if got, ok := parseSize(text); ok {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestNumbersAreReadAsAPersonWritesThem(t *testing.T) {
	for text, want := range map[string]float64{
		"0": 0, "-0.5": -0.5, "+3": 3, "1e3": 1000, "1E-3": 0.001, ".5": 0.5, "5.": 5, "0.1": 0.1, "1e308": 1e308,
	} {
		if got, ok := parseNumber(text); !ok || got != want {
			t.Errorf("%q: %g, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "1_000", "0x10", "NaN", ".inf", "Inf", "1e309", "1e9999", "--1", "1,5", ".", "e3", "0x1p4", strings.Repeat("1", 41)} {
		if got, ok := parseNumber(text); ok {
			t.Errorf("%q is taken for %g", text, got)
		}
	}
	for text, want := range map[string]int64{"0": 0, "-12": -12, "0x1F": 31, "0XfF": 255, "9223372036854775807": math.MaxInt64} {
		if got, ok := parseWhole(text); !ok || got != want {
			t.Errorf("%q: %d, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "1.0", "010", "-010", "0b1", "0o7", "0x", "0xFFFFFFFFFFFFFFFF", "9223372036854775808", "1e3"} {
		if got, ok := parseWhole(text); ok {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestTheRemedyForALeadingZeroIsTheSameNumber(t *testing.T) {
	for text, want := range map[string]string{"010": "10", "-007": "-7", "00": "0", "00.5": "0.5", "+01e3": "+1e3", "000": "0"} {
		if !leadingZero.MatchString(text) || withoutZeroes(text) != want || leadingZero.MatchString(want) {
			t.Errorf("%q: write %s, want %s", text, withoutZeroes(text), want)
		}
	}
	for _, text := range []string{"0", "0.5", "-0", "10", "0x10", "-0.5"} {
		if leadingZero.MatchString(text) {
			t.Errorf("%q is refused", text)
		}
	}
}

// Each value stands alone in a point or device, so that it is the only thing that can be wrong.
func TestAValueIsRefusedForWhatItIs(t *testing.T) {
	for _, c := range []struct{ at, text, want string }{
		{"point", "range: 0...9", "E009"}, // not 0 to 0.9
		{"point", "range: 1..x", "E009"},
		{"point", "range: 01..5", "E010"},
		{"point", "range: 5", "E009"},
		{"point", "range: [1, 2]", "E007"},
		{"point", "range: 5..5", "E124"},
		{"point", "deadband: 0", "E009"},
		{"point", "deadband: 0%", "E009"},
		{"point", "deadband: 1 %", "E009"},
		{"point", "deadband: 01%", "E010"},
		{"point", "scale: 01", "E010"},
		{"point", "scale: .nan", "E009"},
		{"point", "offset: 0x10", "E009"},
		{"point", "hidden: yes", "E009"},
		{"point", "name: \"a\\u0009b\"", "E103"},
		{"point", "name: " + strings.Repeat("n", 129), "E103"},
		{"point", "unit: null", "E007"},
		{"point", "poll: 0s", "E009"},
		{"point", "poll: 400d", "E009"},
		{"point", "poll: never", "E009"},
		{"point", "publish: change", "E007"},
		{"point", "publish: { on: never }", "E009"},
		{"point", "linear: { raw: 0..10, to: 3..3 }", "E124"},
		{"point", "linear: { raw: 0..10 }", "E008"},
		{"point", "not_available: []", "E007"},
		{"point", "not_available: 1.5", "E132"},
		{"point", "write: yes", "E009"},
		{"point", "write: { min: 1, max: x }", "E009"},
		{"point", "write: { min: 0, max: 100, step: 1 }", "E003"},
		{"point", "order: [abcd]", "E007"},
		{"point", "order: abcdefgh", "E125"},
		{"device", "poll: 1", "E009"},
		{"device", "offline: { after: 1.5 }", "E009"},
		{"device", "offline: { after: 03 }", "E010"},
		{"device", "offline: { retry: 5s }", "E009"},
		{"device", "offline: { retry: 5..9s }", "E009"},
		{"device", "offline: { retry: 5s..x }", "E009"},
		{"device", "offline: { retry: [5s] }", "E007"},
		{"device", "profile: [a]", "E007"},
		{"device", "override: 1", "E009"},
		{"modbus", "gap: many", "E150"},
		{"modbus", "even: 1", "E009"},
		{"modbus", "order: abcdefgh", "E125"},
		{"modbus", "timeout: 0s", "E009"},
		{"modbus", "timeout: 1ms", "E009"},
	} {
		text := "devices: { d: { local: true, modbus: { tcp: h:502, unit: 1, addressing: zero<modbus> }, <device>points: { x: { at: holding 1, type: int16, unit: V<point> } } } }\n"
		value := c.text
		switch c.at {
		case "device":
			value += ", "
		default:
			value = ", " + value
		}
		text = strings.Replace(text, "<"+c.at+">", value, 1)
		text = strings.NewReplacer("<point>", "", "<device>", "", "<modbus>", "").Replace(text)
		if c.at == "point" && strings.HasPrefix(c.text, "unit") {
			text = strings.Replace(text, "unit: V, ", "", 1)
		}
		plant, found := Parse("f", []byte(head+text))
		if len(found) != 1 || found[0].Code != c.want || plant != nil {
			t.Errorf("%s: found %v, want %s", c.text, found, c.want)
			continue
		}
		key, _, _ := strings.Cut(c.text, ":")
		if at := strings.Index(text, c.text); at < 0 || found[0].Line != 3 || found[0].Column <= at || found[0].Column > at+len(c.text)+1 {
			t.Errorf("%s: %s is blamed at column %d", c.text, key, found[0].Column)
		}
	}
}
