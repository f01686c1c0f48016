package buffer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// Limits of what is read from a file that nobody vouches for. A page of ours holds at most four
// elements once it is larger than one page of the file, and an element is at most a record.
const (
	maxElement   = MaxMessage + 128<<10 // key, value, and up to two bytes a property's length
	maxPageBytes = 8 * maxElement
	maxKeyBytes  = 512
	maxDepth     = 24 // of a tree; two keys a page fill a petabyte by then
)

// bbolt's file format: magic number, version, page flags, sizes.
const (
	boltMagic       = 0xED0CDAED
	boltVersion     = 2
	flagBranch      = 0x01
	flagLeaf        = 0x02
	flagMeta        = 0x04
	flagFreelist    = 0x10
	pageHeader      = 16 // id 8, flags 2, count 2, overflow 4
	elementHeader   = 16
	bucketHeader    = 16 // root 8, sequence 8
	metaLen         = 64
	noFreelist      = 1<<64 - 1
	elementIsBucket = 1
)

// pages reads a bbolt file that may be damaged in any way. Whatever stands in it, pages neither
// panics nor loops nor allocates more than a few pages, which bbolt does: it trusts its files.
type pages struct {
	r      io.ReaderAt
	size   int64 // of the file
	page   int64 // bytes a page
	metas  []meta
	damage error // of the meta pages; nil if both are as the last two commits left them

	buckets []string // that the last walk came through
}

// meta is the root of one of the last two commits.
type meta struct {
	root, freelist, high, tx uint64 // page ids, first page id that is not used, transaction id
}

// item is an element of a leaf page. Key and value are valid until the next one is read.
type item struct {
	bucket     string // name of the bucket; "" if the walk did not come through one
	flags      uint32
	key, value []byte
	at         int64 // offset of the key in the file, which the value follows; only scan knows it
}

// openPages reads the meta pages. The error is about reading only; what they say is in damage.
func openPages(r io.ReaderAt, size int64) (*pages, error) {
	p := &pages{r: r, size: size}
	var problems [2]error
	for _, page := range []int64{4096, 8192, 16384, 32768, 65536} {
		p.page, p.metas = page, nil
		for i := range problems {
			m, err := p.readMeta(int64(i))
			if problems[i] = err; err == nil {
				p.metas = append(p.metas, m)
			} else if !errors.Is(err, ErrDamaged) {
				return nil, err
			}
		}
		if len(p.metas) > 0 {
			break
		}
	}
	switch {
	case len(p.metas) == 0:
		p.page = 4096
		p.damage = fmt.Errorf("%w: neither of the first two pages is one of a queue file", ErrDamaged)
	case len(p.metas) == 1:
		p.damage = errors.Join(problems[:]...)
	case p.metas[0].tx+1 != p.metas[1].tx && p.metas[1].tx+1 != p.metas[0].tx:
		p.damage = fmt.Errorf("%w: transactions %d and %d do not follow each other; a write was lost", ErrDamaged, p.metas[0].tx, p.metas[1].tx)
	}
	if len(p.metas) == 2 && p.metas[0].tx < p.metas[1].tx {
		p.metas[0], p.metas[1] = p.metas[1], p.metas[0] // the newest first
	}
	return p, nil
}

// readMeta reads meta page 0 or 1.
func (p *pages) readMeta(id int64) (meta, error) {
	b := make([]byte, pageHeader+metaLen)
	if err := p.read(b, id*p.page); err != nil {
		return meta{}, err
	}
	e := binary.NativeEndian
	body := b[pageHeader:]
	m := meta{root: e.Uint64(body[16:]), freelist: e.Uint64(body[32:]), high: e.Uint64(body[40:]), tx: e.Uint64(body[48:])}
	switch {
	case e.Uint64(b) != uint64(id) || e.Uint16(b[8:]) != flagMeta,
		e.Uint32(body) != boltMagic, e.Uint32(body[4:]) != boltVersion, e.Uint64(body[metaLen-8:]) != metaSum(body),
		int64(e.Uint32(body[8:])) != p.page, m.tx%2 != uint64(id):
		return meta{}, fmt.Errorf("%w: page %d is not as it was written", ErrDamaged, id)
	}
	return m, nil
}

// metaSum is the checksum of the meta page whose content b begins with.
func metaSum(b []byte) uint64 {
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaLen-8]) // never fails
	return sum.Sum64()
}

// read fills b from offset; that the file ends before is damage, anything else the disk's error.
func (p *pages) read(b []byte, offset int64) error {
	if offset < 0 || offset > p.size-int64(len(b)) {
		return fmt.Errorf("%w: the file ends at byte %d", ErrDamaged, p.size)
	}
	_, err := p.r.ReadAt(b, offset)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the file ends before byte %d", ErrDamaged, offset+int64(len(b)))
	}
	return err
}

// walk visits every element under the newest commit in the order of its tree and checks on the way
// that the tree is one: what walk finds no fault with, bbolt can open. The error wraps ErrDamaged
// and names the page, or is the disk's, ctx's, or visit's.
func (p *pages) walk(ctx context.Context, visit func(item) error) error {
	if err := p.sound(); err != nil {
		return err
	}
	m := p.metas[0]
	p.buckets = nil
	w := p.walker(ctx, m.high, visit)
	if err := w.subtree(m.root, "", keyRange{}, 0); err != nil {
		return err
	}
	if m.freelist == noFreelist {
		return nil
	}
	return w.freelist(m.freelist)
}

// sound tells whether the newest commit is known, and the file as long as it says.
func (p *pages) sound() error {
	if p.damage != nil {
		return p.damage
	}
	if m := p.metas[0]; m.high < 2 || m.high > uint64(p.size/p.page) {
		return fmt.Errorf("%w: %d pages of %d bytes are used and the file has %d bytes: it was cut off", ErrDamaged, m.high, p.page, p.size)
	}
	return nil
}

// glean visits what can be reached under the commit m in spite of damage, and counts the pages and
// elements that cannot be read as they were written. The error is the disk's, ctx's or visit's.
func (p *pages) glean(ctx context.Context, m meta, visit func(item) error) (lost int, err error) {
	high := max(2, min(m.high, uint64(p.size/p.page)))
	w := p.walker(ctx, high, visit)
	w.lenient = true
	if high < m.high {
		w.lost++
	}
	err = w.pass(w.subtree(m.root, "", keyRange{}, 0))
	return w.lost, err
}

// walker makes a walker that has seen the meta pages.
func (p *pages) walker(ctx context.Context, high uint64, visit func(item) error) *walker {
	w := &walker{pages: p, ctx: ctx, high: high, seen: make([]byte, high/8+1), visit: visit}
	w.take(0, 2)
	return w
}

type walker struct {
	*pages
	ctx     context.Context
	high    uint64
	seen    []byte           // a bit a page
	buffers [maxDepth][]byte // of the pages from the root down
	visit   func(item) error
	lenient bool // damage is passed over and counted in
	lost    int
}

// pass is nil for damage that is passed over, else err.
func (w *walker) pass(err error) error {
	if !w.lenient || !errors.Is(err, ErrDamaged) {
		return err
	}
	w.lost++
	return nil
}

// keyRange bounds the keys of a subtree: low <= key < high; a nil high is no bound.
type keyRange struct{ low, high []byte }

// take marks the pages id..id+n-1 and tells whether all exist and none was taken before.
func (w *walker) take(id, n uint64) bool {
	if id >= w.high || n > w.high-id {
		return false
	}
	for i := id; i < id+n; i++ {
		if w.seen[i/8]&(1<<(i%8)) != 0 {
			return false
		}
		w.seen[i/8] |= 1 << (i % 8)
	}
	return true
}

func broken(id uint64, what string) error {
	return fmt.Errorf("%w: page %d: %s", ErrDamaged, id, what)
}

// load reads page id with its overflow into buffer and returns it.
func (w *walker) load(id uint64, buffer *[]byte) ([]byte, error) {
	if id >= w.high {
		return nil, broken(id, "is not in use, and another refers to it")
	}
	var header [pageHeader]byte
	if err := w.read(header[:], int64(id)*w.page); err != nil {
		return nil, err
	}
	n := uint64(binary.NativeEndian.Uint32(header[12:])) + 1
	switch {
	case binary.NativeEndian.Uint64(header[:]) != id:
		return nil, broken(id, "carries another number")
	case n*uint64(w.page) > uint64(maxPageBytes):
		return nil, broken(id, "is larger than any that was written")
	case !w.take(id, n):
		return nil, broken(id, "overlaps another page")
	}
	size := int(n) * int(w.page)
	if cap(*buffer) < size {
		*buffer = make([]byte, size)
	}
	page := (*buffer)[:size]
	return page, w.read(page, int64(id)*w.page)
}

// subtree walks the tree whose root is page id.
func (w *walker) subtree(id uint64, bucket string, keys keyRange, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if depth == maxDepth {
		return broken(id, "the tree is deeper than any that was written")
	}
	page, err := w.load(id, &w.buffers[depth])
	if err != nil {
		return err
	}
	switch binary.NativeEndian.Uint16(page[8:]) {
	case flagLeaf:
		return w.leaf(id, page, bucket, keys, depth)
	case flagBranch:
		return w.branch(id, page, bucket, keys, depth)
	}
	return broken(id, "is neither branch nor leaf")
}

func (w *walker) branch(id uint64, page []byte, bucket string, keys keyRange, depth int) error {
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if count == 0 || pageHeader+count*elementHeader > len(page) {
		return broken(id, "has an impossible number of elements")
	}
	at := func(i int) (key []byte, child uint64, ok bool) {
		header := page[pageHeader+i*elementHeader:]
		e := binary.NativeEndian
		key, ok = within(header, uint64(e.Uint32(header)), uint64(e.Uint32(header[4:])))
		return key, e.Uint64(header[8:]), ok
	}
	var last []byte
	for i := range count {
		key, child, ok := at(i)
		below := keyRange{low: key, high: keys.high}
		if i+1 < count {
			below.high, _, _ = at(i + 1) // the next round finds out if it is none
		}
		err := broken(id, fmt.Sprintf("element %d is not as it was written", i))
		if ok && len(key) <= maxKeyBytes && keys.covers(key) && (i == 0 || bytes.Compare(last, key) < 0) {
			err = w.subtree(child, bucket, below, depth+1)
		}
		if err := w.pass(err); err != nil {
			return err
		}
		last = key
	}
	return nil
}

func (r keyRange) covers(key []byte) bool {
	return bytes.Compare(key, r.low) >= 0 && (r.high == nil || bytes.Compare(key, r.high) < 0)
}

// within returns the n bytes that begin pos bytes behind the beginning of b.
func within(b []byte, pos, n uint64) ([]byte, bool) {
	if pos > uint64(len(b)) || n > uint64(len(b))-pos {
		return nil, false
	}
	return b[pos : pos+n : pos+n], true
}

// leafElement parses the element whose header is at the beginning of b.
func leafElement(b []byte) (item, bool) {
	e := binary.NativeEndian
	pos, keys, values := uint64(e.Uint32(b[4:])), uint64(e.Uint32(b[8:])), uint64(e.Uint32(b[12:]))
	key, ok := within(b, pos, keys)
	value, ok2 := within(b, pos+keys, values)
	return item{flags: e.Uint32(b), key: key, value: value}, ok && ok2
}

func (w *walker) leaf(id uint64, page []byte, bucket string, keys keyRange, depth int) error {
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if pageHeader+count*elementHeader > len(page) {
		return broken(id, "has an impossible number of elements")
	}
	var last []byte
	for i := range count {
		e, ok := leafElement(page[pageHeader+i*elementHeader:])
		e.bucket = bucket
		var err error
		switch {
		case !ok, len(e.key) == 0, len(e.key) > maxKeyBytes, len(e.value) > maxElement, !keys.covers(e.key),
			i > 0 && bytes.Compare(last, e.key) >= 0:
			err = broken(id, fmt.Sprintf("element %d is not as it was written", i))
		case (bucket == "") != (e.flags == elementIsBucket), e.flags > elementIsBucket:
			err = broken(id, fmt.Sprintf("element %d is of an unknown kind", i))
		case bucket == "":
			err = w.bucket(id, e, depth)
		default:
			err = w.visit(e)
		}
		if err := w.pass(err); err != nil {
			return err
		}
		last = e.key
	}
	return nil
}

// bucket walks the bucket whose entry in the root is e: a tree of its own, or a page inside of e.
func (w *walker) bucket(id uint64, e item, depth int) error {
	if len(e.value) < bucketHeader {
		return broken(id, fmt.Sprintf("bucket %q is cut off", e.key))
	}
	w.pages.buckets = append(w.pages.buckets, string(e.key))
	if root := binary.NativeEndian.Uint64(e.value); root != 0 {
		return w.subtree(root, string(e.key), keyRange{}, depth+1)
	}
	page := e.value[bucketHeader:]
	if len(page) < pageHeader || binary.NativeEndian.Uint16(page[8:]) != flagLeaf {
		return broken(id, fmt.Sprintf("bucket %q is cut off", e.key))
	}
	return w.leaf(id, page, string(e.key), keyRange{}, depth)
}

// freelist checks the list of free pages, which a file of ours does not have unless another program
// wrote to it.
func (w *walker) freelist(id uint64) error {
	var buffer []byte
	page, err := w.load(id, &buffer)
	if err != nil {
		return err
	}
	if binary.NativeEndian.Uint16(page[8:]) != flagFreelist {
		return broken(id, "is not the list of free pages")
	}
	count, ids := uint64(binary.NativeEndian.Uint16(page[10:])), page[pageHeader:]
	if count == 0xFFFF { // then the first entry is the count
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return broken(id, "the list of free pages is cut off")
	}
	for i := range count {
		if !w.take(binary.NativeEndian.Uint64(ids[8*i:]), 1) {
			return broken(id, "the list of free pages names one that is in use")
		}
	}
	return nil
}
