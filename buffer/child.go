package buffer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime/debug"
	"syscall"
	"time"
)

// What the process that checks a file may use.
const (
	checkTime   = 60 * time.Second
	checkStack  = 64 << 20  // bytes of one goroutine
	checkMemory = 512 << 20 // bytes of address space beside the mapped file
)

// ChildCheck makes a Config.Check that runs CheckFile in a process of its own: the command line is
// argv and the path of the file, and that process is to call CheckMain. A process that dies over the
// file, twice or by taking longer than a minute, means that the file is damaged. The error is about
// starting the process, or what CheckFile returned in it.
func ChildCheck(argv ...string) func(context.Context, string) (Report, error) {
	return func(ctx context.Context, path string) (Report, error) {
		report, died, err := checkInChild(ctx, checkTime, append(argv[:len(argv):len(argv)], path))
		if died && err == nil { // it may have been ended by somebody who meant another one
			report, _, err = checkInChild(ctx, checkTime, append(argv[:len(argv):len(argv)], path))
		}
		return report, err
	}
}

// answer is what the child says.
type answer struct {
	Report Report `json:"report"`
	Error  string `json:"error,omitempty"` // CheckFile's
}

// checkInChild runs one child. That it died without an answer, and not of time, is in died.
func checkInChild(ctx context.Context, limit time.Duration, argv []string) (report Report, died bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &limited{to: &trouble, left: 1 << 10}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return Report{}, false, fmt.Errorf("the process that checks the file: %w", err)
	}
	failure := cmd.Wait()
	var a answer
	switch {
	case errors.Is(context.Cause(ctx), errSlow):
		return Report{Damage: fmt.Sprintf("reading it took longer than %v", limit)}, false, nil
	case ctx.Err() != nil:
		return Report{}, false, ctx.Err()
	case failure != nil:
		first, _, _ := bytes.Cut(trouble.Bytes(), []byte("\n"))
		return Report{Damage: fmt.Sprintf("reading it ended the process that did: %v: %s", failure, first)}, true, nil
	}
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		return Report{}, false, fmt.Errorf("the process that checks the file answered %.100q", out.Bytes())
	}
	if a.Error != "" {
		err = errors.New(a.Error)
	}
	return a.Report, false, err
}

var errSlow = errors.New("the check takes too long")

// limited passes the first bytes on and drops the others.
type limited struct {
	to   io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if _, err := l.to.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// CheckMain is the process that ChildCheck starts: it limits its own stack, memory and time, so that
// it ends even when its parent is gone, runs CheckFile and writes the answer to out.
func CheckMain(path string, out io.Writer) error {
	info, err := os.Stat(path)
	if err != nil {
		return json.NewEncoder(out).Encode(answer{Error: err.Error()})
	}
	if err := limitProcess(uint64(info.Size())); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	time.AfterFunc(checkTime+time.Second, func() { os.Exit(1) })
	var a answer
	a.Report, err = CheckFile(ctx, path)
	if err != nil {
		a.Error = err.Error()
	}
	return json.NewEncoder(out).Encode(a)
}

// limitProcess bounds what this process may use while it works on a file of that size, for ever. The
// address space is what the kernel bounds in one number; Go's runtime has reserved much of it, so the
// limit is what is there now and checkMemory more. bbolt maps up to twice the file's size.
func limitProcess(size uint64) error {
	debug.SetMaxStack(checkStack)
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	var pages uint64
	if _, err := fmt.Sscan(string(statm), &pages); err != nil {
		return fmt.Errorf("/proc/self/statm: %w", err)
	}
	most := pages*uint64(os.Getpagesize()) + checkMemory + 2*size
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_AS, &limit); err != nil {
		return fmt.Errorf("RLIMIT_AS: %w", err)
	}
	if most < limit.Cur && most < math.MaxInt64 {
		limit.Cur = most
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &limit); err != nil {
		return fmt.Errorf("RLIMIT_AS: %w", err)
	}
	return nil
}
