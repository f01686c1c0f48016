package mapping

import (
	"fmt"
	"strings"
	"testing"
)

// doubts are the warnings about a plant of one device with these points.
func doubts(t *testing.T, points ...string) []string {
	t.Helper()
	text := head + "devices:\n  d:\n    local: true\n    modbus: { tcp: h:502, unit: 1, addressing: zero }\n    points:\n"
	for i, p := range points {
		text += fmt.Sprintf("      p%d: { at: %s }\n", i, p)
	}
	plant, found := Parse("f", []byte(text))
	if plant == nil {
		t.Fatalf("%v\n%s", found, text)
	}
	return brief(found)
}

func TestPointsThatShareARegisterAreDoubted(t *testing.T) {
	for _, c := range []struct {
		points []string
		want   string
	}{
		{[]string{"holding 100, type: int32, unit: V", "holding 101, type: int32, unit: V"}, "9:17 W210"},
		{[]string{"holding 101, type: int32, unit: V", "holding 100, type: int32, unit: V"}, "9:17 W210"}, // the later one in the file
		{[]string{"holding 100, type: int16, unit: V", "holding 100, type: int16, unit: V"}, "9:17 W210"},
		{[]string{"holding 100, type: int64, unit: V", "holding 101, type: int16, unit: V", "holding 103, type: int16, unit: V"}, "9:17 W210 10:17 W210"},
		{[]string{"holding 100, type: string(20)", "holding 108, type: int32, unit: V"}, "9:17 W210"},
		{[]string{"holding 100, type: int16, unit: V", "holding 101, type: int16, unit: V"}, ""},
		{[]string{"holding 100, type: int16, unit: V", "input 100, type: int16, unit: V"}, ""},
		{[]string{"holding 100, type: uint16, unit: V", "holding 100, bit: 1", "holding 100, bit: 2"}, ""}, // a status word
		{[]string{"holding 100, type: uint32, unit: V", "holding 101.5"}, ""},
		{[]string{"holding 100.5", "holding 100, bit: 5"}, "9:17 W210"},
		{[]string{"coil 7", "coil 7", "discrete 7"}, "9:17 W210"},
		{[]string{"coil 7", "coil 8"}, ""},
	} {
		if got := strings.Join(doubts(t, c.points...), " "); got != c.want {
			t.Errorf("%v: %s, want %s", c.points, got, c.want)
		}
	}
}

func TestOverlapsAreFoundAcrossTheDevicesOfOneUnitOnly(t *testing.T) {
	for second, want := range map[string]string{
		"tcp: h:502, unit: 1":      "W210",
		"tcp: H:502, unit: 1":      "W210",
		"tcp: h:502, unit: 2":      "",
		"tcp: other:502, unit: 1":  "",
		"link: l, unit: 1":         "W210",
		"tcp: h:503, unit: 1":      "",
		"tcp: h:502, unit: 0x0001": "W210",
	} {
		_, found := Parse("f", []byte(head+`links: { l: { tcp: h:502 } }
devices:
  a: { local: true, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: coil 5 } } }
  b: { local: true, modbus: { `+second+`, addressing: one }, points: { y: { at: coil 6 } } }
`))
		var codes []string
		for _, f := range found {
			if f.Code != "W206" { // the link, where b does not use it
				codes = append(codes, f.Code)
			}
		}
		if strings.Join(codes, " ") != want {
			t.Errorf("%s: %v, want %s", second, codes, want)
		}
	}
}

func TestNumbersWithoutAUnitAreDoubtedWhenThereAreMany(t *testing.T) {
	const bare = "type: int16"
	at := func(i int, rest string) string { return fmt.Sprintf("holding %d, %s", i, rest) }
	two := []string{at(0, bare), at(1, bare)}
	for _, c := range []struct {
		third string
		want  string
	}{
		{at(2, bare), "7:5 W220"},
		{at(2, bare+", unit: \"1\""), ""},
		{at(2, bare+", enum: { 0: a }"), ""},
		{at(2, bare+", flags: { 0: a }"), ""},
		{at(2, bare+", hidden: true"), ""},
		{at(2, "type: string(2)"), ""},
		{at(2, "bit: 1"), ""},
		{"coil 2", ""},
	} {
		if got := strings.Join(doubts(t, append(two, c.third)...), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.third, got, c.want)
		}
	}
}

func TestWritingABitOfARegisterIsDoubtedAndACoilIsNot(t *testing.T) {
	if got := doubts(t, "holding 1, bit: 3, write: true", "coil 1, write: true", "holding 2, type: bool, write: true"); len(got) != 1 || got[0] != "8:43 W231" {
		t.Errorf("%v", got)
	}
}

func TestAnUnusedLinkIsDoubtedOnceTheFileHasNoErrors(t *testing.T) {
	const device = "devices: { d: { local: true, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } } }\n"
	check(t, head+"links: { l: { tcp: other:502 } }\n"+device, "3:10 W206")
	check(t, head+"links: { l: { tcp: other:502 } }\n"+strings.Replace(device, "tcp: h:502", "link: k", 1), "4:46 E074")
}

// A heartbeat that is written with the poll period in view must be longer than it. One that is
// inherited is not to blame on a point that is polled more slowly.
func TestAHeartbeatIsLongerThanThePollPeriodItWasWrittenFor(t *testing.T) {
	for _, c := range []struct{ defaults, device, point, want string }{
		{"", "", "poll: 1h, ", ""},
		{"publish: { at_least_every: 5s }", "", "poll: 1m, ", ""},
		{"publish: { at_least_every: 5s }", "poll: 10s, ", "", ""},
		{"poll: 10s, publish: { at_least_every: 5s }", "", "", "E180"},
		{"publish: { at_least_every: 500ms }", "", "", "E180"},
		{"", "poll: 10s, publish: { at_least_every: 5s }, ", "", "E180"},
		{"", "publish: { at_least_every: 5s }, ", "poll: 10s, ", ""},
		{"", "poll: 10s, ", "publish: { at_least_every: 5s }, ", "E180"},
		{"", "", "poll: startup, publish: { at_least_every: 5s }, ", ""},
		{"", "", "publish: { at_least_every: 0s }, ", ""},
		{"", "", "publish: { at_most_every: 1h, at_least_every: 2h }, ", ""},
		{"", "", "publish: { at_most_every: 2h, at_least_every: 1h }, ", "E182"},
		{"publish: { at_most_every: 2h, at_least_every: 3h }", "", "publish: { at_least_every: 1h }, ", "E182"},
		{"", "", "publish: { at_most_every: 2h, at_least_every: 0s }, ", ""},
	} {
		text := head + "defaults: { " + c.defaults + " }\ndevices: { d: { local: true, " + c.device +
			"modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { " + c.point + "at: coil 0 } } } }\n"
		_, found := Parse("f", []byte(text))
		var codes []string
		for _, f := range found {
			codes = append(codes, f.Code)
			if !strings.Contains(f.Source, "every: ") || !strings.HasPrefix(string([]rune(f.Source)[f.Column-1:]), "5") &&
				!strings.HasPrefix(string([]rune(f.Source)[f.Column-1:]), "2h") && !strings.HasPrefix(string([]rune(f.Source)[f.Column-1:]), "1h") {
				t.Errorf("blamed at the wrong place: %v", f)
			}
		}
		if strings.Join(codes, " ") != c.want {
			t.Errorf("%+v: %v", c, found)
		}
	}
}

func TestTypesThatManualsCallDifferentlyAreRecognised(t *testing.T) {
	for word, want := range map[string]string{
		"BIT": "bool", "boolean": "bool", "i16": "int16", "INT": "int16", "WORD": "uint16", "u16": "uint16", "dint": "int32",
		"S32": "int32", "DWORD": "uint32", "udint": "uint32", "i64": "int64", "qword": "uint64", "real": "float32", "Float": "float32",
		"double": "float64", "lreal": "float64", "uint61": "uint16", "flaot32": "float32",
	} {
		_, found := Parse("f", []byte(head+"devices: { d: { local: true, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: holding 0, type: "+word+" } } } }\n"))
		if len(found) != 1 || found[0].Code != "E127" || !strings.Contains(found[0].Message, "(did you mean "+want+"?)") {
			t.Errorf("%s: %v, want %s", word, found, want)
		}
	}
}

func TestLimitsMustFitTheRegisterOnceScaledBack(t *testing.T) {
	for point, want := range map[string]string{
		"type: uint16, write: { min: 0, max: 65535 }":                                    "",
		"type: uint16, write: { min: -1, max: 65535 }":                                   "E131",
		"type: uint16, scale: 0.1, write: { min: 0, max: 6553.5 }":                       "",
		"type: uint16, scale: 0.1, write: { min: 0, max: 6553.6 }":                       "E131",
		"type: int16, offset: -40, write: { min: -40, max: 100 }":                        "",
		"type: uint16, offset: -40, write: { min: -41, max: 100 }":                       "E131",
		"type: uint16, linear: { raw: 0..27648, to: 0..10 }, write: { min: 0, max: 10 }": "",
		"type: uint16, linear: { raw: 0..27648, to: 10..0 }, write: { min: 0, max: 10 }": "",
		"type: uint16, linear: { raw: 0..27648, to: 0..10 }, write: { min: 0, max: 30 }": "E131",
		"type: uint16, scale: -1, write: { min: -5, max: 0 }":                            "",
		"type: uint16, scale: -1, write: { min: 0, max: 5 }":                             "E131",
		"type: float32, write: { min: 0, max: 1e38 }":                                    "",
		"type: float32, write: { min: 0, max: 1e39 }":                                    "E131",
		"type: int64, write: { min: -9223372036854775808, max: 9223372036854775807 }":    "",
		"type: int64, write: { min: 0, max: 9223372036854775808 }":                       "E131",
		"type: float64, write: { min: 0, max: 1e308 }":                                   "",
		"type: int16, write: { min: 5, max: 5 }":                                         "",
		"type: int32, scale: 0.001, write: { min: -2147483.648, max: 2147483.647 }":      "",
	} {
		_, found := Parse("f", []byte(head+"devices: { d: { local: true, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: holding 0, unit: V, "+point+" } } } }\n"))
		var codes []string
		for _, f := range found {
			codes = append(codes, f.Code)
		}
		if strings.Join(codes, " ") != want {
			t.Errorf("%s: %v, want %s", point, found, want)
		}
	}
}
