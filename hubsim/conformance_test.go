package hubsim_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	conformancePage = "../docs/hub-conformance.md"
	notSimulated    = "not simulated"
)

// clauses reads testdata/clauses.txt: every clause in its order, and those that Microsoft's page states.
func clauses(t *testing.T) (all []string, stated map[string]bool) {
	t.Helper()
	text, err := os.ReadFile("testdata/clauses.txt")
	if err != nil {
		t.Fatal(err)
	}
	stated = map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[0] != "#" {
			all = append(all, fields[0])
			stated[fields[0]] = len(fields) > 1
		}
	}
	return all, stated
}

// conformance is a row of the page.
type conformance struct{ clause, does, test string }

var conformanceRow = regexp.MustCompile(`(?m)^\| ([A-Z0-9]+-[0-9]+) \| (.*) \| ([^|]*) \|$`)

func conformanceRows(t *testing.T) (rows []conformance) {
	t.Helper()
	text, err := os.ReadFile(conformancePage)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range conformanceRow.FindAllStringSubmatch(string(text), -1) {
		rows = append(rows, conformance{row[1], row[2], row[3]})
	}
	return rows
}

// testNames are the tests of this package and of those that run real clients against the hub.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, pattern := range []string{"*_test.go", "../e2e/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, path := range files {
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, decl := range file.Decls {
				if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
					names[f.Name.Name] = true
				}
			}
		}
	}
	return names
}

func TestThePageOfConformanceNamesEveryClauseAndTestsThatExist(t *testing.T) {
	want, stated := clauses(t)
	tests := testNames(t)
	var got, missing []string
	for _, row := range conformanceRows(t) {
		got = append(got, row.clause)
		switch {
		case row.does == "":
			t.Errorf("%s: what the simulator does is not said", row.clause)
		case row.test == notSimulated:
			missing = append(missing, row.clause)
			if stated[row.clause] {
				t.Errorf("%s is stated by Microsoft's page, and not simulated", row.clause)
			}
		case !tests[row.test]:
			t.Errorf("%s: there is no test %q", row.clause, row.test)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("clauses of the contract, rows of the page (-want +got):\n%s", diff)
	}
	if len(missing)*10 > len(want) {
		t.Errorf("%d of %d clauses are not simulated, more than a tenth: %v", len(missing), len(want), missing)
	}
}
