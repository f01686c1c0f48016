package buffer_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iothub-gateway/buffer"
)

func TestTheSecondGatewayLearnsWhoseTheDirectoryIs(t *testing.T) {
	dir := t.TempDir()
	lock, err := buffer.LockDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = buffer.LockDirectory(dir)
	if !errors.Is(err, buffer.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := buffer.LockDirectory(dir)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

// Left over from a process that was killed, with whatever in it.
func TestAnOldLockFileIsNoLock(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte("4711111111111111\nx"), 0o600); err != nil {
		t.Fatal(err)
	}
	lock, err := buffer.LockDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if content, err := os.ReadFile(filepath.Join(dir, "lock")); err != nil || string(content) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("%q %v", content, err)
	}
}

func TestADirectoryThatCannotBeLockedIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "missing")} {
		if _, err := buffer.LockDirectory(dir); err == nil || errors.Is(err, buffer.ErrInUse) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
