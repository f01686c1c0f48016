package hubsim_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/internal/testkit"
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

func TestThePageOfConformanceNamesEveryClauseAndTestsThatExist(t *testing.T) {
	want, stated := clauses(t)
	tests := testkit.Names(t, ".", "../e2e")
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
