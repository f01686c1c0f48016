package buffer

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"unicode/utf8"

	"go.etcd.io/bbolt"
)

// maxFound is how many records of a damaged file are held in memory at a time, 48 bytes each.
const maxFound = 1 << 19

// portion is how many bytes of records are written in one transaction.
const portion = 4 << 20

// wreck is a damaged file, and what could be found out about it without its tree.
type wreck struct {
	*pages
	file     *os.File
	format   uint32 // 1, or 0 if a later one
	heritage heritage
	extent   extent
	// lost counts the pages and elements that are not as they were written: what they held is not
	// known, nor is the end of any lane.
	lost int
	// broken are the global sequences of records with another content than was written.
	broken map[uint32][]uint64
}

// openWreck surveys the file at path. Close it.
func openWreck(ctx context.Context, path string) (*wreck, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	w := &wreck{file: file}
	info, err := file.Stat()
	if err == nil {
		w.pages, err = openPages(file, info.Size())
	}
	if err == nil {
		err = w.survey(ctx)
	}
	if err == nil {
		w.extent, err = w.measure(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return w, nil
}

func (w *wreck) Close() error { return w.file.Close() }

// salvage makes tmp, a generation, of what is whole in the file: the newest whole copy of every record
// that has not left, and of every value. The tree is not needed: records and values carry checksums.
// kin knows what may be lost here: the queue id, and names; records of identities without a name stay
// behind. kept counts the others.
func (w *wreck) salvage(ctx context.Context, tmp string, kin heritage) (kept int64, err error) {
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if w.heritage.id == "" {
		w.heritage.id = kin.id
	}
	w.learn(kin.identities)
	if err := create(tmp, w.heritage); err != nil {
		return 0, err
	}
	db, err := bbolt.Open(tmp, 0o600, boltOptions())
	if err != nil {
		return 0, err
	}
	db.NoSync = true // nobody knows the file yet; Sync follows
	kept, err = w.copyTo(ctx, db, w.heritage.identities)
	return kept, errors.Join(err, db.Sync(), db.Close())
}

// learn takes over names that are lost here.
func (w *wreck) learn(names map[uint32]string) {
	for number, name := range names {
		if w.heritage.identities[number] == "" {
			w.heritage.identities[number] = name
		}
	}
}

// successor is what the generation after this one begins with, when this one cannot be written to any
// more. Sequences and global sequences that may have been used here are not used again. If the end of
// this one is not known, each lane's next sequence leaves room for a gap, which then says that
// something may be missing there; and the queue gets a new id.
func (w *wreck) successor(sound bool) heritage {
	h := w.heritage
	h.first = max(h.first, w.extent.last+1)
	if !sound {
		h.id = newID()
		h.first += 1 << 20
	}
	next := map[uint32]uint64{}
	for number := range h.identities {
		top := w.extent.lanes[number]
		next[number] = max(h.next[number], h.marks[number].seq+1, top.seq+1)
		for _, global := range w.broken[number] {
			if global > top.global {
				next[number]++
			}
		}
		if w.lost > 0 {
			next[number]++
		}
	}
	h.next = next
	return h
}

// survey finds the values: in any page first, then, because they are the present ones, those that can
// be reached. Of marks the highest counts.
func (w *wreck) survey(ctx context.Context) error {
	values, names := map[string]value{}, map[string]value{}
	_, err := w.scan(ctx, func(e item) error {
		if e.bucket == bucketIdentities && utf8.Valid(e.value) { // inside of its bucket: in format 1 that has to do
			w.take(names, e.bucket, e.key, e.value)
		}
		for _, bucket := range buckets() {
			if content, ok := openValue(bucket, e.key, e.value); ok && bucket != bucketLog {
				w.take(values, bucket, e.key, content)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, later := values[bucketMeta+keyFormat]; !later {
		w.format = 1
		values = names
	}
	for _, m := range slices.Backward(w.metas) { // the newest last
		w.lost, w.broken = 0, map[uint32][]uint64{}
		lost, err := w.glean(ctx, m, func(e item) error {
			if e.bucket == bucketLog {
				w.examine(e)
			} else if content, ok := openValue(e.bucket, e.key, e.value); ok && w.format != 1 {
				w.take(values, e.bucket, e.key, content)
			} else if w.format == 1 {
				w.take(values, e.bucket, e.key, e.value)
			}
			return nil
		})
		if err != nil {
			return err
		}
		w.lost += lost
	}
	if len(w.metas) == 0 {
		w.lost++
	}
	w.inherit(values)
	return nil
}

// examine notes a record that is not as it was written. Whose it was says its key, unless that is what
// is broken.
func (w *wreck) examine(e item) {
	global, number, ok := parseKey(e.key)
	switch {
	case !ok:
		w.lost++
	case check(key(e.key), e.value) != nil:
		w.broken[number] = append(w.broken[number], global)
	}
}

// take keeps a value.
func (w *wreck) take(values map[string]value, bucket string, key, content []byte) {
	name := bucket + string(key)
	if old, seen := values[name]; seen && bucket == bucketMarks && slices.Compare(old.content, content) > 0 {
		return
	}
	values[name] = value{bucket, slices.Clone(key), slices.Clone(content)}
}

// inherit sorts the values into what a generation begins with.
func (w *wreck) inherit(values map[string]value) {
	h := heritage{first: 1, identities: map[uint32]string{}, marks: map[uint32]mark{}, next: map[uint32]uint64{}}
	for _, v := range values {
		number, u64 := uint32(0), uint64(0)
		if len(v.key) == 4 {
			number = binary.BigEndian.Uint32(v.key)
		}
		if len(v.content) >= 8 {
			u64 = binary.BigEndian.Uint64(v.content)
		}
		switch {
		case v.bucket == bucketIdentities && number > 0:
			h.identities[number] = string(v.content)
		case v.bucket == bucketMarks && number > 0 && len(v.content) == 16:
			h.marks[number] = mark{u64, binary.BigEndian.Uint64(v.content[8:])}
		case v.bucket == bucketMarks && number > 0 && len(v.content) == 8: // format 1
			h.marks[number] = mark{seq: u64}
		case v.bucket == bucketNext && number > 0 && len(v.content) == 8:
			h.next[number] = u64
		case v.bucket == bucketMeta && string(v.key) == keyID && len(v.content) == 2*idLen:
			h.id = string(v.content)
		case v.bucket == bucketMeta && string(v.key) == keyFirst && len(v.content) == 8:
			h.first = u64
		case v.bucket == bucketMeta && string(v.key) == keyEpoch && len(v.content) == 4:
			h.epoch = binary.BigEndian.Uint32(v.content)
		case v.bucket == bucketCuts, v.bucket == bucketClock:
			h.other = append(h.other, v)
		}
	}
	w.heritage = h
}

// found is a whole record.
type found struct {
	seq, global   uint64
	at            int64 // offset of its key
	number, epoch uint32
	size          int32
	kind          byte
}

// records visits the whole records that have not left, stale copies as well.
func (w *wreck) records(ctx context.Context, visit func(found) error) error {
	_, err := w.scan(ctx, func(e item) error {
		global, number, ok := parseKey(e.key)
		if !ok || check(key(e.key), e.value) != nil || e.value[0] > recordVersion {
			return nil
		}
		f := found{seq: sequenceOf(e.value), global: global, at: e.at, number: number, size: int32(len(e.value)), kind: e.value[atKind]}
		if e.value[0] > 1 {
			f.epoch = binary.BigEndian.Uint32(e.value[atEpoch:])
		}
		if f.seq <= w.heritage.marks[number].seq {
			return nil
		}
		return visit(f)
	})
	return err
}

// extent is where the records of a wreck lie.
type extent struct {
	count       int
	first, last uint64          // global sequences
	lanes       map[uint32]mark // the newest record of each lane
}

func (w *wreck) measure(ctx context.Context) (extent, error) {
	x := extent{first: 1<<64 - 1, lanes: map[uint32]mark{}}
	err := w.records(ctx, func(f found) error {
		x.count++
		x.first, x.last = min(x.first, f.global), max(x.last, f.global)
		if f.seq > x.lanes[f.number].seq {
			x.lanes[f.number] = mark{f.seq, f.global}
		}
		return nil
	})
	return x, err
}

// copyTo writes the records of known identities into db, in the order of their keys.
func (w *wreck) copyTo(ctx context.Context, db *bbolt.DB, known map[uint32]string) (kept int64, err error) {
	err = w.each(ctx, known, func(all []found) error {
		kept += int64(len(all))
		return w.write(ctx, db, all)
	})
	return kept, err
}

// each visits the newest copies of the records of known identities, in the order of their keys, so many
// at a time as may be in memory.
func (w *wreck) each(ctx context.Context, known map[uint32]string, visit func([]found) error) error {
	x := w.extent
	width := (x.last-x.first)/uint64(x.count/maxFound+1) + 1
	for from := x.first; x.count > 0 && from <= x.last; from += width {
		var all []found
		err := w.records(ctx, func(f found) error {
			if f.global >= from && f.global-from < width && known[f.number] != "" {
				all = append(all, f)
			}
			return nil
		})
		if err == nil {
			err = visit(newestCopies(all))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// newestCopies keeps one record of each sequence of each lane, and of each key: that of the newest epoch, in it a
// gap rather than the entry whose place it took, and the highest global sequence; in the order of the keys.
func newestCopies(all []found) []found {
	slices.SortFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.seq, b.seq),
			cmp.Compare(b.epoch, a.epoch), cmp.Compare(b.kind, a.kind), cmp.Compare(b.global, a.global))
	})
	all = slices.CompactFunc(all, func(a, b found) bool { return a.number == b.number && a.seq == b.seq })
	slices.SortFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(a.global, b.global), cmp.Compare(a.number, b.number), cmp.Compare(b.epoch, a.epoch))
	})
	return slices.CompactFunc(all, func(a, b found) bool { return a.global == b.global && a.number == b.number })
}

// write copies records to db in transactions of a portion each.
func (w *wreck) write(ctx context.Context, db *bbolt.DB, all []found) error {
	for len(all) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := db.Update(func(tx *bbolt.Tx) error {
			log := tx.Bucket([]byte(bucketLog))
			log.FillPercent = fillPercent
			for bytes := 0; len(all) > 0 && bytes < portion; all = all[1:] {
				b := make([]byte, keyLen+int(all[0].size))
				if err := w.read(b, all[0].at); err != nil {
					return err
				}
				if err := log.Put(b[:keyLen], b[keyLen:]); err != nil {
					return err
				}
				bytes += len(b)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("after %d records: %w", len(all), err)
		}
	}
	return nil
}
