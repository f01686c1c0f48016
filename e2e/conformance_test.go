package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"iothub-gateway/internal/testkit"
)

// sentence is a row of what the gateway does, in docs/hub-conformance.md: lines of the page, what the gateway
// does, clauses, test.
var sentence = regexp.MustCompile(`(?m)^\| ([0-9][0-9–, ]*) \| ([^|]+) \| ([A-Z0-9, -]+) \| (Test\w+) \|$`)

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
	tests := testkit.Names(t, ".", "../upstream", "../identity", "../internal/dial", "../bridge") // of what the gateway is made of, and of the whole
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
