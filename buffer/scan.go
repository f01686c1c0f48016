package buffer

import (
	"context"
	"encoding/binary"
)

// scan visits whatever looks like an element in any page of the file, reachable or not, whatever the
// page's header says, the older copies that bbolt leaves behind as well: it is for a file whose tree
// is broken. The caller has to know by a checksum which elements are ones. Only the disk's, ctx's
// and visit's errors end it; what cannot be read is passed over and counted.
func (p *pages) scan(ctx context.Context, visit func(item) error) (unreadable int64, err error) {
	page := make([]byte, p.page)
	for at := int64(0); at < p.size; at += p.page {
		if err := ctx.Err(); err != nil {
			return unreadable, err
		}
		b := page[:min(p.page, p.size-at)]
		if _, err := p.r.ReadAt(b, at); err != nil {
			unreadable++
			continue
		}
		if err := p.scanPage(b, at, visit); err != nil {
			return unreadable, err
		}
	}
	return unreadable, nil
}

// scanPage visits the elements of the page b at offset at. How many there are is not believed: what
// stands behind the last header is tried as one too.
func (p *pages) scanPage(b []byte, at int64, visit func(item) error) error {
	budget := maxPageBytes // for contents behind the page
	n := binary.NativeEndian
	for i := pageHeader; i+elementHeader <= len(b); i += elementHeader {
		e, ok := leafElement(b[i:])
		pos, keys, values := int64(n.Uint32(b[i+4:])), int64(n.Uint32(b[i+8:])), int64(n.Uint32(b[i+12:]))
		if keys == 0 || keys > maxKeyBytes || values > maxElement || e.flags > elementIsBucket || pos < elementHeader {
			continue
		}
		e.at = at + int64(i) + pos
		if size := int(keys + values); !ok && size <= budget {
			budget -= size
			content := make([]byte, size)
			if p.read(content, e.at) != nil {
				continue
			}
			e.key, e.value, ok = content[:keys], content[keys:], true
		}
		if !ok {
			continue
		}
		if err := p.scanElement(e, visit); err != nil {
			return err
		}
	}
	return nil
}

// scanElement visits e, or what is in e if e is a bucket with its page inside.
func (p *pages) scanElement(e item, visit func(item) error) error {
	if e.flags != elementIsBucket {
		return visit(e)
	}
	if len(e.value) < bucketHeader+pageHeader || binary.NativeEndian.Uint64(e.value) != 0 {
		return nil
	}
	inner := e.value[bucketHeader:]
	for i := pageHeader; i+elementHeader <= len(inner); i += elementHeader {
		if child, ok := leafElement(inner[i:]); ok && child.flags == 0 && len(child.key) > 0 && len(child.key) <= maxKeyBytes {
			child.bucket = string(e.key)
			child.at = e.at + int64(len(e.key)+bucketHeader+i) + int64(binary.NativeEndian.Uint32(inner[i+4:]))
			if err := visit(child); err != nil {
				return err
			}
		}
	}
	return nil
}
