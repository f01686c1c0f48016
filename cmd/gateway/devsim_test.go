package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAFaultScriptIsCheckedBeforeTheDevicesStart(t *testing.T) {
	mapping := mappingFile(t, strings.Replace(oven, "ADDRESS", "10.7.3.11:502", 1))
	script := filepath.Join(t.TempDir(), "faults.json")
	for text, says := range map[string]string{
		`{"10.7.3.11:502": [{"do": "nothing"}]}`: "fault 1: do \"nothing\"",
		`{"hall": []}`:                           `"hall": the mapping has no such link`,
		`{`:                                      script,
	} {
		if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, problems := command(t, "devsim", mapping, "--faults", script, "--dials", "127.0.0.1:0")
		if code != exitFailed || !strings.Contains(problems, says) {
			t.Errorf("%s: exit %d, want %q\n%s%s", text, code, says, out, problems)
		}
	}
}
