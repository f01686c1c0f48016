package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"iothub-gateway/internal/powerfs"
)

// A proof is worth what it finds. These are queues and disks that break the promise; the proof of
// power_test.go must find each of them within this time, or it is the proof that is wrong.
const mustFindWithin = 60 * time.Second

func TestTheProofFindsAQueueThatNeverFlushes(t *testing.T) {
	mustFind(t, recordPower(t, powerfs.Image{}, 1, "BUFFER_TEST_NOSYNC=1"))
}

func TestTheProofFindsADiskThatIgnoresFlushes(t *testing.T) {
	honest := readRecord(t, recordedLog)
	for name, every := range map[string]int{"all": 1, "one in ten": 10} {
		t.Run(name, func(t *testing.T) {
			n := 0
			ops := slices.DeleteFunc(slices.Clone(honest.Ops), func(op powerfs.Op) bool {
				if op.Kind == powerfs.Fsync {
					n++
				}
				return op.Kind == powerfs.Fsync && n%every == 0
			})
			mustFind(t, &powerfs.Log{Format: honest.Format, Ops: ops})
		})
	}
}

// mustFind lets the proof look for a violation in log, in a process of its own: a damaged file may kill
// or hang the one that opens it, which is a find too.
func mustFind(t *testing.T, log *powerfs.Log) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.gz")
	writeRecord(t, log, path)
	ctx, cancel := context.WithTimeout(t.Context(), mustFindWithin)
	defer cancel()
	begun := time.Now()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "BUFFER_TEST_ROLE=find", "BUFFER_TEST_PATH="+path)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || ctx.Err() != nil || !bytes.HasPrefix(out, []byte("looking")) {
		t.Fatalf("not found within %v: %v %s", mustFindWithin, err, out)
	}
	t.Logf("found after %v: %.200s", time.Since(begun).Round(time.Millisecond), out)
}

// findChild checks images of a record until one is wrong, which is its error.
func findChild(path string) error {
	log, err := openRecord(path)
	if err == nil {
		fmt.Println("looking")
	}
	for seed := uint64(1); err == nil; seed++ {
		err = new(proof).images(log, said{}, 1000, seed)
	}
	return err
}
