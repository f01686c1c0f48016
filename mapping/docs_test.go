package mapping

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documentation is the page that the operator reads.
func documentation(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../docs/mapping.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// emitted lists the codes in the sources of the package.
func emitted(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	literal := regexp.MustCompile(`"([EW][0-9]{3})"`)
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range literal.FindAllStringSubmatch(string(source), -1) {
			codes = append(codes, found[1])
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

func TestEveryCodeHasItsRowInTheDocumentationAndNoOtherHas(t *testing.T) {
	row := regexp.MustCompile(`(?m)^\| ([EW][0-9]{3}) \| [^|]+ \| [^|]+ \|$`)
	var rows []string
	for _, found := range row.FindAllStringSubmatch(documentation(t), -1) {
		rows = append(rows, found[1])
	}
	codes := emitted(t)
	if len(codes) < 25 {
		t.Fatalf("only %d codes found in the sources", len(codes))
	}
	for _, code := range codes {
		if !slices.Contains(rows, code) {
			t.Errorf("%s has no row in docs/mapping.md", code)
		}
	}
	for i, code := range rows {
		if !slices.Contains(codes, code) {
			t.Errorf("docs/mapping.md has a row for %s, which is never found", code)
		}
		if slices.Contains(rows[:i], code) {
			t.Errorf("docs/mapping.md has two rows for %s", code)
		}
	}
}

func TestEveryCodeIsProvokedByATest(t *testing.T) {
	provoked := map[string]bool{
		"E013": true,                                                                                                   // load_test.go: limits
		"E050": true, "W052": true, "W053": true, "E053": true, "E054": true, "W055": true, "E202": true, "W207": true, // secrets_test.go
	}
	for _, data := range badFiles(t) {
		for _, want := range wanted(data) {
			provoked[want[len(want)-4:]] = true
		}
	}
	for _, code := range emitted(t) {
		if !provoked[code] {
			t.Errorf("no test provokes %s", code)
		}
	}
}

// Each place has a heading of its own in the documentation, with a row for each key.
func TestEveryKeyIsDocumentedAtItsPlace(t *testing.T) {
	page := documentation(t)
	for _, p := range places() {
		_, section, found := strings.Cut(page, "\n### "+string(p)+"\n")
		if !found {
			t.Errorf("docs/mapping.md has no heading ### %s", p)
			continue
		}
		section, _, _ = strings.Cut(section, "\n#")
		keys := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\|").FindAllStringSubmatch(section, -1)
		var documented []string
		for _, key := range keys {
			documented = append(documented, key[1])
		}
		for _, key := range p.keys() {
			if p == inModbus && slices.Contains(linkKeys(), key) {
				continue // documented at link
			}
			if !slices.Contains(documented, key) {
				t.Errorf("%s: key %s is not documented", p, key)
			}
		}
		for _, key := range documented {
			if !slices.Contains(p.keys(), key) {
				t.Errorf("%s: key %s is documented but unknown", p, key)
			}
		}
	}
}

// Every example mapping of the documentation must be one.
func TestTheExamplesOfTheDocumentationAreGood(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(version: 1\n.*?)```").FindAllStringSubmatch(documentation(t), -1)
	if len(blocks) == 0 {
		t.Fatal("no example mapping in docs/mapping.md")
	}
	for _, block := range blocks {
		if _, found := Parse("docs/mapping.md", []byte(block[1])); len(found) > 0 {
			t.Errorf("%v\n%s", found[0], block[1])
		}
	}
}
