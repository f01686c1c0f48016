package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sentence is a row of what the gateway does, in docs/hub-conformance.md: lines of the page, what the gateway
// does, clauses, test.
var sentence = regexp.MustCompile(`(?m)^\| ([0-9][0-9–, ]*) \| ([^|]+) \| ([A-Z0-9, -]+) \| (Test\w+) \|$`)

// gatewayTests are the tests of the packages that the gateway is made of, and of the whole.
func gatewayTests(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, dir := range []string{".", "../upstream", "../identity", "../internal/dial", "../bridge"} {
		files, err := filepath.Glob(dir + "/*_test.go")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
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

func TestEverySentenceOfMicrosoftsPageNamesATestOfTheGateway(t *testing.T) {
	page, err := os.ReadFile("../docs/hub-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile("../hubsim/testdata/clauses.txt")
	if err != nil {
		t.Fatal(err)
	}
	known, open := map[string]bool{}, map[string]bool{} // open: stated by the page and not named yet
	for line := range strings.Lines(string(list)) {
		if fields := strings.Fields(line); fields[0] != "#" {
			known[fields[0]] = true
			if len(fields) > 1 {
				open[fields[0]] = true
			}
		}
	}
	tests := gatewayTests(t)
	rows := sentence.FindAllStringSubmatch(string(page), -1)
	if len(rows) < 35 {
		t.Fatalf("only %d sentences", len(rows))
	}
	for _, row := range rows {
		for clause := range strings.SplitSeq(row[3], ", ") {
			if !known[clause] {
				t.Errorf("lines %s: there is no clause %q", row[1], clause)
			}
			delete(open, clause)
		}
		if !tests[row[4]] {
			t.Errorf("lines %s: the gateway has no test %q", row[1], row[4])
		}
	}
	for clause := range open {
		t.Errorf("%s is stated by Microsoft's page, and no sentence says what the gateway does", clause)
	}
}
