package mapping

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	yaml "go.yaml.in/yaml/v4"

	gateway "iothub-gateway"
)

var wantLine = regexp.MustCompile(`(?m)^# want (\d+:\d+ [EW]\d{3})$`)

// badFiles are the files of testdata, each with its findings in comments at its end.
func badFiles(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil || len(paths) < 10 {
		t.Fatalf("only %d bad files: %v", len(paths), err)
	}
	files := map[string][]byte{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = data
	}
	return files
}

// brief is a list of findings as "line:column CODE".
func brief(found Findings) []string {
	var list []string
	for _, f := range found {
		list = append(list, fmt.Sprintf("%d:%d %s", f.Line, f.Column, f.Code))
	}
	return list
}

func wanted(data []byte) []string {
	var want []string
	for _, found := range wantLine.FindAllSubmatch(data, -1) {
		want = append(want, string(found[1]))
	}
	return want
}

func TestEveryMistakeOfAFileIsFoundAtOnceAndWhereItStands(t *testing.T) {
	for path, data := range badFiles(t) {
		plant, found := Parse(path, data)
		if diff := cmp.Diff(wanted(data), brief(found)); diff != "" {
			t.Errorf("%s (-want +found):\n%s", path, diff)
		}
		if (plant == nil) != (found.Errors() > 0) {
			t.Errorf("%s: %d errors and plant %v", path, found.Errors(), plant != nil)
		}
		for _, f := range found {
			if f.File != path || f.Message == "" || strings.Contains(f.Message, "\n") || strings.Contains(f.Message, "%!") {
				t.Errorf("%s: bad finding %+v", path, f)
			}
		}
	}
}

func TestTwelveDifferentMistakesAreTwelveFindings(t *testing.T) {
	_, found, err := Load("testdata/twelve.bad.yaml")
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	for _, f := range found {
		codes[f.Code] = true
	}
	if len(found) != 12 || found.Errors() != 12 || found.Warnings() != 0 || len(codes) != 12 {
		t.Errorf("%d findings, %d errors, %d codes:\n%v", len(found), found.Errors(), len(codes), brief(found))
	}
}

func TestAFindingSaysWhatIsWrongAndWhatToWriteInstead(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"testdata/twelve.bad.yaml", `testdata/twelve.bad.yaml:6:15: E040 "10.7.3.11" has no port; Modbus/TCP uses 502: write 10.7.3.11:502
  plc: { tcp: 10.7.3.11 }
              ^`},
		{"testdata/twelve.bad.yaml", `testdata/twelve.bad.yaml:13:46: E003 unknown key "scal" in point (did you mean scale?)
      flow_temp:   { at: 30001, type: int16, scal: 0.1, unit: Cel }
                                             ^`},
		{"testdata/addresses.bad.yaml", `testdata/addresses.bad.yaml:8:26: W202 holding 40001 asks the device for protocol address 40001; if the manual means its holding register number 1, write holding 0, or set addressing: modicon and write 40001
      supply_temp: { at: holding 40001, type: int16, scale: 0.1, unit: Cel }
                         ^`},
		{"testdata/coap.bad.yaml", `testdata/coap.bad.yaml:48:22: E231 a device that reports by itself cannot be polled; drop poll
      k: { senml: k, poll: 5s, write: true, linear: { raw: 0..1, to: 0..2 } }
                     ^`},
		{"testdata/tab.bad.yaml", "testdata/tab.bad.yaml:5:1: E012 tab used for indentation; use spaces\n\tlocal: true\n^"},
	} {
		_, found, err := Load(c.file)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.String() == c.want }) {
			t.Errorf("%s: no finding\n%s", c.file, c.want)
		}
	}
}

func TestTheCaretStandsBelowTheColumn(t *testing.T) {
	for _, c := range []struct{ source, want string }{
		{"äöü: x", "     ^"},
		{"\ta: x", "\t    ^"},
		{"ab", "  ^"},
	} {
		f := Finding{File: "f", Line: 1, Column: 6, Code: "E001", Message: "m", Source: c.source}
		if got := strings.SplitN(f.String(), "\n", 3)[2]; got != c.want {
			t.Errorf("%q: caret %q, want %q", c.source, got, c.want)
		}
	}
	if got := (Finding{File: "f", Line: 3, Column: 4, Code: "E013", Message: "m"}).String(); got != "f:3:4: E013 m" {
		t.Errorf("without a source: %q", got)
	}
}

func TestErrorsComeBeforeWarningsAndBothInTheOrderOfTheFile(t *testing.T) {
	_, found, err := Load("testdata/addresses.bad.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if found.Errors() == 0 || found.Warnings() == 0 || found.Errors()+found.Warnings() != len(found) {
		t.Fatalf("%d errors and %d warnings of %d", found.Errors(), found.Warnings(), len(found))
	}
	for i := 1; i < len(found); i++ {
		a, b := found[i-1], found[i]
		if a.Warning() && !b.Warning() {
			t.Errorf("%v comes before %v", brief(found[i-1:i]), brief(found[i:i+1]))
		}
		if a.Warning() == b.Warning() && (a.Line > b.Line || a.Line == b.Line && a.Column > b.Column) {
			t.Errorf("%v comes before %v", brief(found[i-1:i]), brief(found[i:i+1]))
		}
	}
}

func TestTheSameFileAlwaysGivesTheSameFindings(t *testing.T) {
	for path, data := range badFiles(t) {
		_, first := Parse(path, data)
		for range 5 {
			if _, again := Parse(path, data); !slices.Equal(first, again) {
				t.Fatalf("%s: %s", path, cmp.Diff(first, again))
			}
		}
	}
}

func TestALineThatIsTooLongIsNotShown(t *testing.T) {
	long := "version: 1 # " + strings.Repeat("x", widestSource) + "\nhub: {}\n"
	_, found := Parse("f", []byte(long))
	for _, f := range found {
		if len(f.Source) > widestSource {
			t.Errorf("%d characters shown", len(f.Source))
		}
	}
}

func TestSuggestionsAreOneOrTwoLettersAwayOrTheOnlyContinuation(t *testing.T) {
	candidates := []string{"addressing", "order", "gap", "at", "eastron-sdm630"}
	for word, want := range map[string]string{
		"adressing": "addressing", "addresing": "addressing", "ordre": "order", "eastron-smd630": "eastron-sdm630",
		"gab": "gap", "xyz": "", "addr": "addressing", "eastron": "eastron-sdm630", "GAP": "gap", "drore": "", "": "", "a": "at", "zz": "",
	} {
		if got := similar(word, candidates); got != want {
			t.Errorf("%q: suggests %q, want %q", word, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"abc", "abd", 1}, {"abc", "acb", 1}, {"abcd", "abc", 1}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want || distance(c.b, c.a) != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// keysOf lists the keys of a tree that the file's form fixes; not names that happen to be spelled so.
func keysOf(n *yaml.Node) []*yaml.Node {
	known := map[string]bool{}
	for _, p := range places() {
		for _, key := range p.keys() {
			known[key] = true
		}
	}
	var keys []*yaml.Node
	var walk func(n *yaml.Node, names bool)
	walk = func(n *yaml.Node, names bool) {
		for i, c := range n.Content {
			if n.Kind != yaml.MappingNode {
				walk(c, false)
				continue
			}
			if i%2 == 1 {
				walk(c, slices.Contains([]string{"links", "listeners", "devices", "profiles", "points", "methods"}, n.Content[i-1].Value) && !names)
				continue
			}
			if known[c.Value] && !names {
				keys = append(keys, c)
			}
		}
	}
	walk(n, false)
	return keys
}

// A misspelt key is one mistake: it is found where it stands, and what is then missing is not reported
// as well, but for what other parts of the file lose with it.
func TestEachMisspeltKeyOfTheExampleIsOneFinding(t *testing.T) {
	others := []string{"links", "listeners", "profiles", "identity", "device", "enum"}
	var root yaml.Node
	if err := yaml.Load(gateway.ExampleMapping(), &root); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(gateway.ExampleMapping()), "\n")
	keys := keysOf(&root)
	if len(keys) < 150 {
		t.Fatalf("only %d keys in the example", len(keys))
	}
	for _, key := range keys {
		line := []rune(lines[key.Line-1])
		wrong := string(line[:key.Column-1]) + key.Value + "x" + string(line[key.Column-1+len(key.Value):])
		damaged := slices.Clone(lines)
		damaged[key.Line-1] = wrong
		_, found := Parse("f", []byte(strings.Join(damaged, "\n")))
		place := fmt.Sprintf("%d:%d E003", key.Line, key.Column)
		if !slices.Contains(brief(found), place) || len(found) > 1 && !slices.Contains(others, key.Value) {
			t.Errorf("%s: found %v, want %s", wrong, found, place)
			continue
		}
		i := slices.Index(brief(found), place)
		if !strings.Contains(found[i].Message, "(did you mean "+key.Value+"?)") || found[i].Source != wrong {
			t.Errorf("%v", found[i])
		}
	}
}

func TestEachKeyOfTheExampleThatIsGivenTwiceIsOneFinding(t *testing.T) {
	var root yaml.Node
	if err := yaml.Load(gateway.ExampleMapping(), &root); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(gateway.ExampleMapping()), "\n")
	tried := 0
	for _, key := range keysOf(&root) {
		line := []rune(lines[key.Line-1])
		if before := string(line[:key.Column-1]); !strings.HasSuffix(before, "{ ") && !strings.HasSuffix(before, ", ") {
			continue // not in a map of one line
		}
		tried++
		damaged := slices.Clone(lines)
		damaged[key.Line-1] = string(line[:key.Column-1]) + key.Value + ": 7, " + string(line[key.Column-1:])
		_, found := Parse("f", []byte(strings.Join(damaged, "\n")))
		place := fmt.Sprintf("%d:%d E002", key.Line, key.Column+len(key.Value)+5)
		if !slices.Contains(brief(found), place) {
			t.Errorf("%s: found %v, want %s", damaged[key.Line-1], found, place)
		}
	}
	if tried < 100 {
		t.Errorf("only %d keys tried", tried)
	}
}

func TestAMistakeThatManyMakeIsAnsweredWithWhatToWrite(t *testing.T) {
	const device = "devices:\n  d:\n    local: true\n    modbus: { tcp: \"h:502\", unit: 1, addressing: zero }\n    points:\n      p: { at: holding 1, type: int16, unit: Cel }\n"
	for _, c := range []struct{ right, wrong, want string }{
		{"at:", "register:", "did you mean at?"},
		{"unit: 1,", "slave_id: 1,", "did you mean unit?"},
		{"type:", "datatype:", "did you mean type?"},
		{"unit: Cel", "scale: 0,01", "a decimal number is written with a point: 0.1"},
		{"unit: Cel", "publish: change", "such as { on: change, "},
		{"unit: Cel", "range: [1, 6]", "write 0..100"},
		{"unit: Cel", "enum: [off, on]", "such as { 0: stopped, 1: running }"},
		{"local: true", "local: true\n    profile: sdm", "name one of abb-acs580, "},
		{"local: true", "identity: { device: d, sas_key: file:k }\n    messages: { write: p }", "such as [{ write: POINT, from: FIELD }]"},
		{"tcp: \"h:502\"", "serial: /dev/ttyS1, baud: 9600, stop_bits: 1, parity: N", "did you mean none?"},
	} {
		text := strings.Replace(head+device, c.right, c.wrong, 1)
		_, found := Parse("f", []byte(text))
		said := ""
		for _, f := range found {
			said += f.Message + "\n"
		}
		if !strings.Contains(said, c.want) {
			t.Errorf("%s: %q lacks %q", c.wrong, said, c.want)
		}
	}
}
