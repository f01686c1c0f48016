package mapping

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// head is the part of a mapping that tests put their devices under.
const head = "version: 1\nhub: { host: h.example }\n"

// check parses text and compares its findings.
func check(t *testing.T, text string, want ...string) *Plant {
	t.Helper()
	plant, found := Parse("f.yaml", []byte(text))
	if diff := cmp.Diff(want, brief(found)); diff != "" {
		t.Errorf("findings (-want +found):\n%s\n%v", diff, found)
	}
	return plant
}

// good is the plant of a mapping without findings.
func good(t *testing.T, devices string) *Plant {
	t.Helper()
	plant := check(t, head+devices)
	if plant == nil {
		t.FailNow()
	}
	return plant
}

func TestAFileThatCannotBeReadIsAnErrorNotAFinding(t *testing.T) {
	plant, found, err := Load(filepath.Join(t.TempDir(), "absent.yaml"))
	if err == nil || plant != nil || found != nil || !strings.Contains(err.Error(), "absent.yaml") {
		t.Errorf("%v, %v, %v", plant, found, err)
	}
	if _, _, err := Load(t.TempDir()); err == nil {
		t.Error("a directory was read")
	}
}

func TestAFileIsRefusedAboveTenMebibytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large.yaml")
	if err := os.WriteFile(path, make([]byte, 10<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	plant, found, err := Load(path)
	if err != nil || plant != nil || len(found) != 1 || found[0].Code != "E013" || found.Errors() != 1 {
		t.Errorf("one byte too many: plant %v, %v, %v", plant != nil, found, err)
	}
	if err := os.Truncate(path, 10<<20); err != nil {
		t.Fatal(err)
	}
	if _, found, err = Load(path); err != nil || len(found) != 1 || found[0].Code != "E006" { // zeroes are no text
		t.Errorf("exactly 10 MiB: %v, %v", found, err)
	}
}

func TestAPlantHasAtMostAHundredThousandPoints(t *testing.T) {
	if maxPoints != 100_000 { // MAP-23
		t.Errorf("the limit is %d points", maxPoints)
	}
	text := head + "profiles:\n  p:\n    modbus: { addressing: zero }\n    points: { x: { at: coil 0 }, y: { at: coil 1 } }\ndevices:\n"
	const most = 10
	for i := range most/2 + 2 {
		_, found := parse("f", []byte(text), most)
		if i > most/2 && (len(found) != 1 || found[0].Code != "E013" || !strings.HasPrefix(found[0].Message, "this is point 11;")) {
			t.Errorf("%d devices: %v", i, found)
		}
		if i > 0 && i <= most/2 && len(found) > 0 {
			t.Errorf("%d devices: %v", i, found)
		}
		text += fmt.Sprintf("  d%d: { local: true, profile: p, modbus: { tcp: h:502, unit: %d } }\n", i, i+1)
	}
}

func TestAliasesCannotBlowUpAFile(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString(head + "devices:\n  a: &a0 { x: 1, y: 2 }\n")
	for i := range 20 {
		fmt.Fprintf(&bomb, "  b%d: &a%d { x: *a%d, y: *a%d }\n", i, i+1, i, i)
	}
	_, found := Parse("f", []byte(bomb.String()))
	if len(found) != 1 || found[0].Code != "E013" {
		t.Errorf("%v", found)
	}
	check(t, head+"devices: &d { a: *d }\n", "3:18 E013")
	check(t, head+"devices: &d { a: { <<: *d } }\n", "3:24 E013")
	deep := head + "devices:\n  a: { modbus: &m0 { unit: 1 } }\n"
	for i := range maxMerge + 2 {
		deep += fmt.Sprintf("  b%d: { modbus: &m%d { <<: *m%d } }\n", i, i+1, i)
	}
	if _, found := Parse("f", []byte(deep)); !strings.Contains(fmt.Sprint(brief(found)), "E013") {
		t.Errorf("merge keys %d deep: %v", maxMerge+2, brief(found))
	}
}

func TestWhatIsNotPlainUTF8TextIsRefusedAtItsPlace(t *testing.T) {
	for text, want := range map[string]string{
		"version: 1\nhub: \xff":        "2:6 E006",
		"ä: \x01":                      "1:4 E006",
		"a: b # \u0085 c":              "1:8 E006", // a line end to YAML, none to editors
		"a: b # \u2028":                "1:8 E006",
		"\xff\xfea\x00:\x00":           "1:1 E006", // UTF-16
		"a: \ufeff":                    "1:4 E006",
		"a: \"unfinished":              "1:15 E006",
		"a: {":                         "1:5 E006",
		"a: *nobody":                   "1:4 E006",
		"a: @b":                        "1:4 E006",
		"a: b: c":                      "1:5 E006",
		"a:\n  - b\n c":                "3:2 E006",
		"a:\n  b: c\n\td: e":           "3:1 E012",
		"a: {\n  b: %c }":              "2:6 E011",
		"- a\n--- \nb":                 "2:1 E006",
		"":                             "1:1 E008",
		"just text":                    "1:1 E007",
		"? [a]\n: b":                   "1:1 E008 1:1 E008 1:1 E008",
		"version: 1\nhub: {host: h}\n": "1:1 E008",
	} {
		_, found := Parse("f", []byte(text))
		if text == "? [a]\n: b" {
			if got := brief(found); len(got) != 2 || got[0] != "1:1 E008" || got[1] != "1:3 E007" {
				t.Errorf("%q: %v", text, got)
			}
			continue
		}
		if got := strings.Join(brief(found), " "); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestLinesAndColumnsAreThoseOfAnEditor(t *testing.T) {
	for _, newline := range []string{"\n", "\r\n", "\r"} {
		text := strings.ReplaceAll("\ufeff"+head+"# Größe\ndevices:\n  \"ä\": { local: true, oops: 1 }\n", "\n", newline)
		plant, found := Parse("f", []byte(text))
		if plant != nil || len(found) != 3 {
			t.Fatalf("%q: %v", newline, found)
		}
		for _, f := range found {
			if f.Line != 5 || f.Code == "E003" && f.Column != 23 || f.Source != `  "ä": { local: true, oops: 1 }` {
				t.Errorf("%q: %+v", newline, f)
			}
		}
	}
}

func TestMergeKeysAndAnchorsSaveRepeating(t *testing.T) {
	plant := good(t, `devices:
  a:
    local: true
    modbus: &bus { tcp: h:502, unit: 1, addressing: zero }
    points:
      x: &x { at: holding 0, type: int16, unit: Cel, scale: 0.1 }
      y: { at: holding 1, <<: *x }
  b:
    local: true
    modbus: { <<: *bus, unit: 2 }
    points: { x: *x, z: { <<: [{ at: holding 9, deadband: 2 }, *x] } }
`)
	link := plant.Links[0]
	if len(link.Devices) != 2 || link.Devices[1].Unit != 2 || link.Devices[0].Points[1].Scale != 0.1 ||
		link.Devices[0].Points[1].Address != 1 || link.Devices[1].Points[1].Address != 9 || plant.Points[3].Publish.Deadband.Absolute != 2 {
		t.Errorf("%+v", plant)
	}
}
