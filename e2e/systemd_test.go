package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const (
	unitFile = "../deploy/systemd/iothub-gateway.service"
	unitName = "iothub-gateway.service"
	unitExec = "/usr/bin/iothub-gateway"
)

// unitVariant writes the shipped unit with each pair (old, new) replaced, and says where. An old text
// that the unit does not have is a mistake of the test.
func unitVariant(t *testing.T, pairs ...string) string {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		if !bytes.Contains(text, []byte(pairs[i])) {
			t.Fatalf("%s has no %q", unitFile, pairs[i])
		}
	}
	path := filepath.Join(t.TempDir(), unitName)
	if err := os.WriteFile(path, []byte(strings.NewReplacer(pairs...).Replace(string(text))), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// analyze runs systemd-analyze, which must exist.
func analyze(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=cat")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("%v; it comes with Debian's package systemd", err)
	}
	return out.String(), errs.String(), err
}

// systemd-analyze verify succeeds on a key that it does not know; only what it says tells.
func TestSystemdUnderstandsEveryLineOfTheUnit(t *testing.T) {
	unit := unitVariant(t, "="+unitExec, "="+binary)
	if _, stderr, err := analyze(t, "verify", unit); err != nil || stderr != "" {
		t.Errorf("%v: %s", err, stderr)
	}
}

func TestSystemdVerifyIsAJudgeThatSeesMistakes(t *testing.T) {
	for _, c := range []struct{ name, old, new, finding string }{
		{"a misspelt key", "WatchdogSec=", "WatchdogSecs=", "WatchdogSecs"},
		{"a value of no meaning", "ProtectSystem=strict", "ProtectSystem=strickt", "strickt"},
		{"an unknown set of system calls", "=@system-service", "=@system-services", "@system-services"},
		{"no program", "ExecStart=" + unitExec, "ExecStart=/nowhere/gateway", "/nowhere/gateway"},
	} {
		pairs := []string{c.old, c.new}
		if c.name != "no program" {
			pairs = append(pairs, "="+unitExec, "="+binary)
		}
		if _, stderr, _ := analyze(t, "verify", unitVariant(t, pairs...)); !strings.Contains(stderr, c.finding) {
			t.Errorf("%s: nothing said of %s: %q", c.name, c.finding, stderr)
		}
	}
}

var exposureLine = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

// exposure is systemd's mark for what a unit can reach: 0 nothing, 10 everything.
func exposure(t *testing.T, unit string) (mark float64, err error) {
	t.Helper()
	stdout, stderr, err := analyze(t, "security", "--offline=true", "--threshold=15", unit)
	found := exposureLine.FindStringSubmatch(stdout)
	if found == nil {
		t.Fatalf("no exposure level: %v\n%s%s", err, stdout, stderr)
	}
	mark, parseErr := strconv.ParseFloat(found[1], 64)
	if parseErr != nil {
		t.Fatal(parseErr)
	}
	return mark, err
}

func TestSystemdSaysTheServiceIsHardlyExposed(t *testing.T) {
	serial := []string{"PrivateDevices=yes", "PrivateDevices=no\nDeviceAllow=/dev/ttyUSB0 rw\nSupplementaryGroups=dialout"}
	for _, c := range []struct {
		name   string
		change []string
		most   float64
	}{{"as shipped", nil, 1.3}, {"with a serial line", serial, 1.5}} {
		mark, err := exposure(t, unitVariant(t, c.change...))
		if err != nil || mark > c.most {
			t.Errorf("%s: exposure %.1f, want at most %.1f: %v", c.name, mark, c.most, err)
		}
		t.Logf("%s: exposure %.1f", c.name, mark)
	}
	if mark, err := exposure(t, unitVariant(t, "CapabilityBoundingSet=\n", "", "DynamicUser=yes\nUser=iothub-gateway\n", "")); err == nil || mark <= 1.5 {
		t.Errorf("a service of root with every capability: exposure %.1f is within the threshold", mark)
	}
}
