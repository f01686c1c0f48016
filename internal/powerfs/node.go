package powerfs

import (
	"context"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a file or a directory. Its place in the tree is the library's.
type node struct {
	fs.Inode
	fs     *FS
	number uint64
	dir    bool
	data   []byte // guarded by fs.mu
}

func (n *node) attr() fs.StableAttr {
	mode := uint32(syscall.S_IFREG)
	if n.dir {
		mode = syscall.S_IFDIR
	}
	return fs.StableAttr{Mode: mode, Ino: n.number}
}

// child is the number of what is called name; the kernel has made sure that it exists.
func (n *node) child(name string) uint64 {
	if c, ok := n.GetChild(name).Operations().(*node); ok {
		return c.number
	}
	return 0
}

// Getattr is of the library's interface, as are the methods below.
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	out.Size, out.Mode, out.Nlink = uint64(len(n.data)), 0o600, 1
	if n.dir {
		out.Mode = 0o700
	}
	return 0
}

func (n *node) add(ctx context.Context, kind Kind, name string) (*fs.Inode, syscall.Errno) {
	child := &node{fs: n.fs, dir: kind == Mkdir}
	n.fs.mu.Lock()
	n.fs.last++
	child.number = n.fs.last
	n.fs.mu.Unlock()
	if errno := n.fs.do(Op{Kind: kind, Node: n.number, Name: name, Child: child.number}, nil); errno != 0 {
		return nil, errno
	}
	return n.NewPersistentInode(ctx, child, child.attr()), 0
}

func (n *node) Create(ctx context.Context, name string, _, _ uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, errno := n.add(ctx, Create, name)
	out.Attr.Mode, out.Attr.Nlink = 0o600, 1
	return inode, nil, fuse.FOPEN_KEEP_CACHE, errno
}

func (n *node) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	out.Attr.Mode, out.Attr.Nlink = 0o700, 1
	return n.add(ctx, Mkdir, name)
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	return n.fs.do(Op{Kind: Remove, Node: n.number, Name: name, Child: n.child(name)}, nil)
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	if len(n.GetChild(name).Children()) > 0 {
		return syscall.ENOTEMPTY
	}
	return n.Unlink(ctx, name)
}

func (n *node) Rename(_ context.Context, name string, to fs.InodeEmbedder, toName string, flags uint32) syscall.Errno {
	target, ok := to.(*node)
	if !ok || flags != 0 {
		return syscall.EINVAL
	}
	return n.fs.do(Op{Kind: Rename, Node: n.number, Name: name, Child: n.child(name), To: target.number, ToName: toName}, nil)
}

func (n *node) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0 // only the kernel that caches it changes the file
}

func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if off >= int64(len(n.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, n.data[off:])]), 0
}

func (n *node) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	op := Op{Kind: Write, Node: n.number, Offset: off, Data: slices.Clone(data)}
	errno := n.fs.do(op, func() { n.data = change(n.data, &op, nil) })
	return uint32(len(data)), errno
}

// Setattr truncates; the other attributes are of no meaning here.
func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		op := Op{Kind: Truncate, Node: n.number, Offset: int64(size)}
		if errno := n.fs.do(op, func() { n.data = change(n.data, &op, nil) }); errno != 0 {
			return errno
		}
	}
	return n.Getattr(ctx, f, out)
}

func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	return n.fs.do(Op{Kind: Fsync, Node: n.number}, nil)
}

// Statfs reports half of the disk as free.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	const blocks = 1 << 20
	out.Blocks, out.Bfree, out.Bavail, out.Bsize, out.Frsize, out.NameLen = blocks, blocks/2, blocks/2, 4096, 4096, 255
	out.Files, out.Ffree = blocks, blocks/2
	return 0
}
