package buffer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lockName is the file in the queue's directory that the gateway that works there holds locked. It
// holds that process's id as text and is never removed: a second process could then lock a file
// that the first has not.
const lockName = "lock"

// lockDirectory takes the lock of the directory dir and writes this process's id into it. It waits a
// second for another process to end; the error then wraps ErrInUse and names that process. The lock
// ends with Close, or with the process. On a file system that cannot be written the lock is taken
// without the id.
func lockDirectory(dir string) (io.Closer, error) {
	path := filepath.Join(dir, lockName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		file, err = os.Open(path)
	}
	if err != nil {
		return nil, err
	}
	if err := lockFile(file); err != nil {
		if errors.Is(err, ErrInUse) {
			err = inUse(file)
		}
		return nil, errors.Join(err, file.Close())
	}
	// Whether the id can be written, on a full disk for example, does not matter to the lock.
	if file.Truncate(0) == nil {
		_, _ = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return file, nil
}

// lockFile locks file; ErrInUse if another process has it locked for a second.
func lockFile(file *os.File) error {
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		case time.Now().After(deadline):
			return ErrInUse
		}
	}
}

// inUse names the process that holds the lock file.
func inUse(file *os.File) error {
	var text [32]byte
	n, _ := file.ReadAt(text[:], 0) // what is not there cannot be said
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n]))); err == nil {
		return fmt.Errorf("%w: process %d; stop it or give this one a directory of its own", ErrInUse, pid)
	}
	return fmt.Errorf("%w; stop it or give this one a directory of its own", ErrInUse)
}
