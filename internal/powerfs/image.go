package powerfs

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Image is what a disk holds: files and directories by their path below the mounted one.
type Image struct {
	Files map[string][]byte
	Dirs  []string // parents before children
}

// Store writes the image into dir, which exists and is empty.
func (im Image) Store(dir string) error {
	for _, d := range im.Dirs {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return fmt.Errorf("powerfs: store image: %w", err)
		}
	}
	for name, content := range im.Files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return fmt.Errorf("powerfs: store image: %w", err)
		}
	}
	return nil
}

// Player goes through a record from its beginning.
type Player struct {
	log   *Log
	at    int // operations that have happened
	names map[uint64]map[string]uint64
	files map[uint64]*file
	meta  []waiting // changes of directories
}

// file is the content of a file: base, which is on disk, and what was done to it since.
type file struct {
	base []byte
	done []waiting
}

// waiting is an operation that was not on disk when it was done.
type waiting struct {
	op     *Op
	at     int
	dirs   []uint64 // directories that must be flushed yet
	onDisk bool
	stuck  bool // its flush failed: a later one does not help (the kernel takes the pages for clean)
}

// NewPlayer makes a player that stands before the first operation of log.
func NewPlayer(log *Log) *Player {
	return &Player{log: log, names: map[uint64]map[string]uint64{Root: {}}, files: map[uint64]*file{}}
}

// Advance goes on until n operations have happened.
func (p *Player) Advance(n int) {
	for ; p.at < n; p.at++ {
		p.step(&p.log.Ops[p.at])
	}
}

func (p *Player) step(op *Op) {
	w := waiting{op: op, at: p.at}
	switch op.Kind {
	case Create:
		p.files[op.Child] = &file{}
	case Mkdir:
		p.names[op.Child] = map[string]uint64{}
	}
	switch op.Kind {
	case Create, Mkdir, Remove:
		w.dirs = []uint64{op.Node}
		p.meta = append(p.meta, w)
	case Rename:
		w.dirs = slices.Compact([]uint64{op.Node, op.To})
		p.meta = append(p.meta, w)
	case Write, Truncate:
		f := p.files[op.Node]
		f.done = append(f.done, w)
	case Fsync, FsyncFailed:
		p.flush(op.Node, op.Kind == FsyncFailed)
	case Sync:
		p.sync()
	}
}

func (p *Player) flush(node uint64, failed bool) {
	if f := p.files[node]; f != nil {
		for i := range f.done {
			w := &f.done[i]
			w.stuck = w.stuck || failed && !w.onDisk
			w.onDisk = !w.stuck
		}
		f.fold()
		return
	}
	for i := range p.meta {
		w := &p.meta[i]
		if !slices.Contains(w.dirs, node) || w.stuck {
			continue
		}
		if w.stuck = failed; failed {
			continue
		}
		w.dirs = slices.DeleteFunc(w.dirs, func(d uint64) bool { return d == node })
		w.onDisk = len(w.dirs) == 0
	}
	p.fold()
}

func (p *Player) sync() {
	for _, f := range p.files {
		for i := range f.done {
			f.done[i].onDisk = true
		}
		f.fold()
	}
	for i := range p.meta {
		p.meta[i].onDisk = true
	}
	p.fold()
}

// fold takes into base what is on disk, as far as nothing that is not came before it.
func (f *file) fold() {
	for len(f.done) > 0 && f.done[0].onDisk {
		f.base = change(f.base, f.done[0].op, nil)
		f.done = f.done[1:]
	}
}

func (p *Player) fold() {
	for len(p.meta) > 0 && p.meta[0].onDisk {
		rename(p.names, p.meta[0].op)
		p.meta = p.meta[1:]
	}
}

// change does op to content. A write keeps only the pieces that torn lets through; nil is all.
func change(content []byte, op *Op, torn func(write func(from, to int))) []byte {
	if op.Kind == Truncate {
		return resize(content, int(op.Offset))
	}
	write := func(from, to int) {
		if end := int(op.Offset) + to; end > len(content) {
			content = resize(content, end)
		}
		copy(content[int(op.Offset)+from:], op.Data[from:to])
	}
	if torn == nil {
		write(0, len(op.Data))
	} else {
		torn(write)
	}
	return content
}

// resize makes content n bytes long; what is new is zero.
func resize(content []byte, n int) []byte {
	if n <= len(content) {
		return content[:n]
	}
	was := len(content)
	content = slices.Grow(content, n-was)[:n]
	clear(content[was:])
	return content
}

// rename does op to the names of directories.
func rename(names map[uint64]map[string]uint64, op *Op) {
	forget := func() {
		if names[op.Node][op.Name] == op.Child {
			delete(names[op.Node], op.Name)
		}
	}
	switch op.Kind {
	case Create, Mkdir:
		names[op.Node][op.Name] = op.Child
	case Remove:
		forget()
	case Rename:
		forget()
		names[op.To][op.ToName] = op.Child
	}
}

// Image makes one of the images that a power cut may leave now. Its contents may be shared with the
// player: they hold until the next Advance and must not be changed.
func (p *Player) Image(random *rand.Rand) Image {
	c := newChoice(random, p.oldest(), p.at)
	names := make(map[uint64]map[string]uint64, len(p.names))
	for dir, entries := range p.names {
		names[dir] = maps.Clone(entries)
	}
	for i := range p.meta {
		if w := &p.meta[i]; w.onDisk || c.name(w.at) {
			rename(names, w.op)
		}
	}
	im := Image{Files: map[string][]byte{}}
	p.walk(&im, names, Root, "", c)
	return im
}

// walk puts what is below dir into im, in an order that depends on the record only.
func (p *Player) walk(im *Image, names map[uint64]map[string]uint64, dir uint64, path string, c *choice) {
	for _, name := range slices.Sorted(maps.Keys(names[dir])) {
		child, at := names[dir][name], filepath.Join(path, name)
		if f := p.files[child]; f != nil {
			im.Files[at] = f.image(c)
			continue
		}
		im.Dirs = append(im.Dirs, at)
		p.walk(im, names, child, at, c)
	}
}

func (f *file) image(c *choice) []byte {
	if len(f.done) == 0 {
		return f.base
	}
	content := slices.Clone(f.base)
	for i := range f.done {
		w := &f.done[i]
		switch {
		case w.onDisk:
			content = change(content, w.op, nil)
		case w.op.Kind == Truncate:
			if c.whole(w.at) {
				content = change(content, w.op, nil)
			}
		default:
			content = change(content, w.op, func(write func(from, to int)) { c.pieces(w, write) })
		}
	}
	return content
}

// oldest is the first operation that is not on disk.
func (p *Player) oldest() int {
	oldest := p.at
	for _, f := range p.files {
		if len(f.done) > 0 {
			oldest = min(oldest, f.done[0].at)
		}
	}
	if len(p.meta) > 0 {
		oldest = min(oldest, p.meta[0].at)
	}
	return oldest
}

// preload is the record of an image's birth, all of it on disk.
func preload(im Image) (ops []Op, last uint64, err error) {
	dirs := map[string]uint64{".": Root}
	last = Root
	add := func(kind Kind, path string) error {
		dir, found := dirs[filepath.Dir(path)]
		if !found {
			return errors.New("powerfs: " + path + " stands before its directory")
		}
		last++
		ops = append(ops, Op{Kind: kind, Node: dir, Name: filepath.Base(path), Child: last})
		return nil
	}
	for _, d := range im.Dirs {
		if err := add(Mkdir, d); err != nil {
			return nil, 0, err
		}
		dirs[d] = last
	}
	for _, path := range slices.Sorted(maps.Keys(im.Files)) {
		if err := add(Create, path); err != nil {
			return nil, 0, err
		}
		ops = append(ops, Op{Kind: Write, Node: last, Data: slices.Clone(im.Files[path])})
	}
	return append(ops, Op{Kind: Sync}), last, nil
}
