package powerfs

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// maxWrite is the most that arrives as one write.
const maxWrite = 1 << 20

// FS is a mounted file system.
type FS struct {
	server *fuse.Server

	mu    sync.Mutex // guards the fields below and the contents of all files
	ops   []Op
	last  uint64 // number of the newest file or directory
	fault Fault
	seen  int // operations of the fault's kind since it was set
	fired int // of these, how many failed
}

// Mount mounts a file system that holds what im does at dir, which exists. It takes the rights of root,
// or the fusermount3 of Debian's package fuse3.
func Mount(dir string, im Image) (*FS, error) {
	ops, last, err := preload(im)
	if err != nil {
		return nil, err
	}
	f := &FS{ops: ops, last: last}
	root := &node{fs: f, number: Root, dir: true}
	forever := time.Hour
	options := &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true, FsName: "powerfs", Name: "powerfs", MaxWrite: maxWrite, DisableXAttrs: true},
		EntryTimeout: &forever,
		AttrTimeout:  &forever,
		OnAdd:        func(ctx context.Context) { root.grow(ctx, ops) },
	}
	if f.server, err = fs.Mount(dir, root, options); err != nil {
		return nil, fmt.Errorf("powerfs: mount at %s: %w; be root, or install fuse3", dir, err)
	}
	return f, nil
}

// Unmount ends the file system. Nobody may have a file of it open.
func (f *FS) Unmount() error {
	if err := f.server.Unmount(); err != nil {
		return fmt.Errorf("powerfs: unmount: %w", err)
	}
	f.server.Wait()
	return nil
}

// Log is what was done so far; format says what the files are.
func (f *FS) Log(format string) *Log {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &Log{Format: format, Ops: slices.Clone(f.ops)}
}

// Sync makes everything so far be on disk in all images.
func (f *FS) Sync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, Op{Kind: Sync})
}

// do records op and does it with change, unless it is to fail.
func (f *FS) do(op Op, change func()) syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	if errno := f.fails(op.Kind); errno != 0 {
		if op.Kind == Fsync {
			f.ops = append(f.ops, Op{Kind: FsyncFailed, Node: op.Node})
		}
		return errno
	}
	f.ops = append(f.ops, op)
	if change != nil {
		change()
	}
	return 0
}

// grow makes the tree that ops describe.
func (n *node) grow(ctx context.Context, ops []Op) {
	nodes := map[uint64]*node{Root: n}
	for _, op := range ops {
		switch op.Kind {
		case Create, Mkdir:
			child := &node{fs: n.fs, number: op.Child, dir: op.Kind == Mkdir}
			nodes[op.Child] = child
			parent := nodes[op.Node]
			parent.AddChild(op.Name, parent.NewPersistentInode(ctx, child, child.attr()), false)
		case Write:
			nodes[op.Node].data = slices.Clone(op.Data)
		}
	}
	n.AddChild(controlName, n.NewPersistentInode(ctx, &control{fs: n.fs}, fs.StableAttr{Mode: syscall.S_IFREG}), false)
}
