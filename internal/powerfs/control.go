package powerfs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// controlName is the file in the mounted directory that is none.
const controlName = ".powerfs"

// Fault says what fails: the operations of one kind, from the After-th from now on (1 is the next),
// Count of them; 0 all, as on a full disk. The zero Fault fails nothing.
type Fault struct {
	Kind  Kind
	After int
	Count int
	Errno syscall.Errno
}

// Fail sets the fault in the place of the one before and begins to count.
func (f *FS) Fail(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.seen, f.fired = fault, 0, 0
}

// fails needs mu. It tells whether the next operation of the kind fails, and how.
func (f *FS) fails(k Kind) syscall.Errno {
	if f.fault.Kind == 0 || k != f.fault.Kind {
		return 0
	}
	f.seen++
	if f.seen < f.fault.After || f.fault.Count > 0 && f.seen >= f.fault.After+f.fault.Count {
		return 0
	}
	f.fired++
	return f.fault.Errno
}

// Control reaches the file system from another process.
type Control struct{ file *os.File }

// OpenControl opens the dials of the file system mounted at dir.
func OpenControl(dir string) (*Control, error) {
	file, err := os.OpenFile(filepath.Join(dir, controlName), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("powerfs: is it mounted? %w", err)
	}
	return &Control{file}, nil
}

// Close gives the dials back.
func (c *Control) Close() error { return c.file.Close() }

func (c *Control) say(text string) error {
	_, err := c.file.WriteAt([]byte(text), 0)
	return err
}

// Note puts a text into the record, between what was done before and what will be.
func (c *Control) Note(text string) error { return c.say("note " + text) }

// Fail is FS.Fail.
func (c *Control) Fail(fault Fault) error {
	text, err := json.Marshal(fault)
	if err != nil {
		return err
	}
	return c.say("fail " + string(text))
}

// Fired is how many operations have failed since Fail was called.
func (c *Control) Fired() (int, error) {
	b := make([]byte, 32)
	n, err := c.file.ReadAt(b, 0)
	if n == 0 {
		return 0, fmt.Errorf("powerfs: read the dials: %w", err)
	}
	return strconv.Atoi(string(b[:n]))
}

// control is the file behind Control.
type control struct {
	fs.Inode
	fs *FS
}

// Open keeps the kernel from caching: each Write is one call here.
func (c *control) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (c *control) Write(_ context.Context, _ fs.FileHandle, data []byte, _ int64) (uint32, syscall.Errno) {
	verb, text, _ := strings.Cut(string(data), " ")
	switch verb {
	case "note":
		_ = c.fs.do(Op{Kind: Note, Data: []byte(text)}, nil) // notes do not fail
	case "fail":
		var fault Fault
		if json.Unmarshal([]byte(text), &fault) != nil {
			return 0, syscall.EINVAL
		}
		c.fs.Fail(fault)
	default:
		return 0, syscall.EINVAL
	}
	return uint32(len(data)), 0
}

func (c *control) Read(_ context.Context, _ fs.FileHandle, _ []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	text := strconv.Itoa(c.fs.fired)
	return fuse.ReadResultData([]byte(text[min(int(off), len(text)):])), 0
}
