package buffer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iothub-gateway/buffer"
)

// checkWord is the first word of a command line that makes this test program the child of ChildCheck.
const checkWord = "check-queue-file"

func childCheck() func(context.Context, string) (buffer.Report, error) {
	return buffer.ChildCheck(os.Args[0], checkWord)
}

// copyFile copies testdata, whose files nobody may change, and gives its path.
func copyFile(t testing.TB, from string) string {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(from))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestASoundFileIsFoundSoundInTheChild(t *testing.T) {
	for _, check := range []func(context.Context, string) (buffer.Report, error){buffer.CheckFile, childCheck()} {
		report, err := check(t.Context(), copyFile(t, "testdata/format1.db"))
		if err != nil || report.Damage != "" || report.Format != 1 || report.QueueID != "3b6a826c66c43d66" || report.Records != 254 {
			t.Errorf("%+v %v", report, err)
		}
	}
}

func TestTheCheckSaysWhatIsWrong(t *testing.T) {
	path := copyFile(t, "testdata/format1.db")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(change func(b []byte) []byte) string {
		path := filepath.Join(t.TempDir(), "changed.db")
		if err := os.WriteFile(path, change([]byte(string(good))), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for want, path := range map[string]string{
		"checksum mismatch": write(func(b []byte) []byte {
			b[strings.Index(string(b), `{"n":240}`)+5] = '7' // the newest record of boiler
			return b
		}),
		"was cut off":             write(func(b []byte) []byte { return b[:32<<10] }),
		"neither of the first":    write(func(b []byte) []byte { clear(b[:16<<10]); return b }),
		"not a regular file":      t.TempDir(),
		"page 0 is not as it was": write(func(b []byte) []byte { b[60]++; return b }),
	} {
		report, err := buffer.CheckFile(t.Context(), path)
		if err != nil || !strings.Contains(report.Damage, want) {
			t.Errorf("%s: %+v %v", want, report, err)
		}
	}
	report, err := childCheck()(t.Context(), write(func(b []byte) []byte { clear(b[32<<10:]); return b }))
	if err != nil || report.Damage == "" {
		t.Errorf("in the child: %+v %v", report, err)
	}
	if _, err := childCheck()(t.Context(), filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a missing file was checked")
	}
}

// dying is a check whose process ends without an answer, once or always.
func dying(script string) func(context.Context, string) (buffer.Report, error) {
	return buffer.ChildCheck("/bin/sh", "-c", script, "sh")
}

func TestAFileThatKillsTheCheckIsDamaged(t *testing.T) {
	path := copyFile(t, "testdata/format1.db")
	report, err := dying("echo the stack overflowed >&2; kill -SEGV $$")(t.Context(), path)
	if err != nil || !strings.Contains(report.Damage, "segmentation fault") || !strings.Contains(report.Damage, "the stack overflowed") {
		t.Errorf("%+v %v", report, err)
	}
	// Somebody ended the first one: that says nothing about the file.
	report, err = dying(`if [ -e "$1.once" ]; then echo '{"report":{"format":1}}'; else touch "$1.once"; kill -KILL $$; fi`)(t.Context(), path)
	if err != nil || report.Damage != "" || report.Format != 1 {
		t.Errorf("%+v %v", report, err)
	}
}

func TestTheCheckEndsWithItsContextOrItsTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := dying("exec sleep 60")(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	report, err := buffer.CheckInChild(t.Context(), 100*time.Millisecond, "/bin/sh", "-c", "exec sleep 60")
	if err != nil || !strings.Contains(report.Damage, "longer than 100ms") {
		t.Errorf("%+v %v", report, err)
	}
}

func TestACheckThatCannotBeStartedIsAnErrorAndNoDamage(t *testing.T) {
	for _, argv := range [][]string{{"/nowhere/gateway"}, {"/bin/echo"}} {
		if report, err := buffer.ChildCheck(argv...)(t.Context(), "x"); err == nil || report.Damage != "" {
			t.Errorf("%v: %+v %v", argv, report, err)
		}
	}
}

// The limits of the child are the kernel's and the runtime's: memory and stack end it.
func TestTheLimitsEndAProcessThatNeedsTooMuch(t *testing.T) {
	for _, role := range []string{"memory", "stack"} {
		began := time.Now()
		report, err := dying(fmt.Sprintf("BUFFER_TEST_ROLE=%s exec %s", role, os.Args[0]))(t.Context(), "x")
		if err != nil || !strings.Contains(report.Damage, "exit status 2") {
			t.Errorf("%s: %+v %v", role, report, err)
		}
		t.Logf("%s: %v, %s", role, time.Since(began), report.Damage)
	}
}

// devour takes memory or stack without end.
func devour(role string) error {
	if err := buffer.LimitProcess(0); err != nil {
		return err
	}
	if role == "stack" {
		return fmt.Errorf("%d", deeper(1))
	}
	var all [][]byte
	for range 1 << 10 {
		b := make([]byte, 16<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	return fmt.Errorf("%d pieces of 16 MiB", len(all))
}

func deeper(n int) int {
	var frame [512]byte
	frame[n%512] = 1
	return deeper(n+1) + int(frame[(n+1)%512])
}
