package buffer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// What one read of a file takes: a read transaction pins pages, so it is short.
const (
	maxRead      = 256
	maxReadBytes = 1 << 20
)

// Next returns entries whose sequence is greater than after, in order and without a hole: at least
// one and at most max (at least 1), fewer if they are large. It waits until there is one and then
// does not wait for more. Acknowledged entries are not returned again. What Next has returned counts
// as in flight until it is acknowledged: it is neither dropped nor changed. Any number of readers may
// read a lane; each sees all entries.
//
// A record that the disk has lost is returned as a gap, once that is stored. Next returns ctx.Err()
// when ctx ends, and ErrClosed when there is no entry and Run has ended, so that none will come. An
// error that wraps ErrFormat is about the entry after the last that was returned: a newer program
// wrote it, and this lane stays there while others go on.
func (l *Lane) Next(ctx context.Context, after uint64, max int) ([]Entry, error) {
	defer l.waitsNoMore()
	if l.packed(after) {
		return l.nextPacks(ctx, after, max)
	}
	for {
		// Readers of thousands of lanes wait here: little of this function is on their stacks.
		entries, wait, err := l.ready(ctx, after, max)
		if err != nil || len(entries) > 0 {
			return entries, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
		case <-l.q.done:
			if l.isEmpty(after) {
				return nil, l.q.errClosed()
			}
		}
	}
}

// ready returns what is behind after; if nothing is, what is closed when it is worth looking again.
func (l *Lane) ready(ctx context.Context, after uint64, max int) (entries []Entry, wait <-chan struct{}, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if l.q.isClosed() {
			return nil, nil, l.q.errClosed()
		}
		if l.q.cfg.Batch.MaxBytes == 0 && l.holdsBack(ctx) {
			continue
		}
		v, wait := l.look(after, max)
		if len(v.elements) == 0 {
			return nil, wait, nil
		}
		entries, err := l.take(ctx, v)
		if err != nil || len(entries) > 0 {
			return entries, nil, err
		} // else it has changed while it was read
	}
}

func (l *Lane) isEmpty(after uint64) bool {
	v, _ := l.look(after, 1)
	return len(v.elements) == 0
}

// holdsBack waits, if more acknowledgements than a restart allows for are not on disk, until they are,
// for a second at most; it then tells that it did. While the disk fails nothing is held back: what can
// be delivered is better at the hub. Packs need none of this, their ends are on disk.
func (l *Lane) holdsBack(ctx context.Context) bool {
	l.mu.Lock()
	if l.chain.count(l.gone, l.acked) <= MaxInFlight/2 {
		l.mu.Unlock()
		return false
	}
	if l.wake == nil {
		l.wake = make(chan struct{})
	}
	wake := l.wake
	l.mu.Unlock()
	if l.q.fails() {
		return false
	}
	signal(l.q.now)
	late := time.NewTimer(retryDelay)
	defer late.Stop()
	select {
	case <-wake:
	case <-late.C:
	case <-ctx.Done():
	case <-l.q.done:
		return false
	}
	return true
}

func clampRead(n int) int { return min(max(n, 1), maxRead) }

// waitsNoMore forgets what a reader that was held up wanted: it has got it, or has left.
func (l *Lane) waitsNoMore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = 0
}

// from is the sequence behind which a reader goes on that wants what is behind after.
func (l *Lane) from(after uint64) uint64 { return max(after, l.acked, l.gone) }

// view is what a reader saw.
type view struct {
	elements []element
	version  uint64
	clocks   *clocks
}

// look returns the elements behind after. If there is none it returns the handle that the next Put
// closes, or the transaction that holds the reader up: taken under the same lock, so that neither
// comes in between.
func (l *Lane) look(after uint64, most int) (v view, wait <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v = view{l.chain.appendTo(nil, l.from(after), clampRead(most)), l.version, l.q.clocks.Load()}
	if len(v.elements) > 0 && l.frozen {
		v.elements = upTo(v.elements, l.upTo)
		if len(v.elements) == 0 {
			l.wanted = clampRead(most)
			return v, l.thaw
		}
	}
	if l.wake == nil {
		l.wake = make(chan struct{})
	}
	return v, l.wake
}

// upTo is the elements up to a sequence.
func upTo(elements []element, last uint64) []element {
	for i, e := range elements {
		if e.last > last {
			return elements[:i]
		}
	}
	return elements
}

// take reads the elements and counts them as in flight, unless they have changed. It returns none if
// they have, or were acknowledged in the meantime.
func (l *Lane) take(ctx context.Context, v view) ([]Entry, error) {
	entries, records, err := l.read(ctx, v.elements, v.clocks)
	if errors.Is(err, ErrDamaged) {
		return nil, l.q.condemn(ctx, l, v.elements[0], err)
	}
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	elements := v.elements[:len(entries)]
	if l.version != v.version {
		elements = l.same(elements)
	}
	if l.frozen {
		elements = upTo(elements, l.upTo)
	}
	if l.q.clocks.Load() != v.clocks {
		elements = nil // with other times
	}
	if len(elements) == 0 {
		l.wanted = len(v.elements)
		return nil, nil
	}
	for i, e := range elements {
		l.note(e, records[i])
	}
	last := elements[len(elements)-1].last
	l.handed, l.returned, l.wanted = max(l.handed, last), max(l.returned, last), 0
	return entries[:len(elements)], nil
}

// same is those of elements, from the first on, that are still there. It needs mu.
func (l *Lane) same(elements []element) []element {
	now := l.chain.appendTo(nil, max(elements[0].first-1, l.gone), len(elements))
	for i, e := range elements {
		if i == len(now) || now[i] != e {
			return elements[:i]
		}
	}
	return elements
}

// read returns the entries of elements, from the first on as many as stand in one place, and their
// records. It returns none if they were acknowledged in the meantime.
func (l *Lane) read(ctx context.Context, elements []element, c *clocks) ([]Entry, [][]byte, error) {
	records := l.q.recent.appendTo(make([][]byte, 0, len(elements)), elements)
	stored := len(records) == 0
	if stored {
		gen := l.genOf(elements[0])
		err := gen.view(ctx, func(tx *bbolt.Tx) error {
			records = l.readLog(tx, gen, elements)
			return nil
		})
		if errors.Is(err, ErrClosed) && !l.q.places.has(gen) {
			return nil, nil, nil // all of that file has left
		}
		if err != nil {
			return nil, nil, l.failed(err, gen, elements[0])
		}
	}
	entries := make([]Entry, 0, len(records))
	d := decoder{identity: l.id, queue: l.genOf(elements[0]).id, number: l.number, clocks: *c}
	for i, r := range records {
		e, err := l.entry(&d, r, elements[i], stored)
		if err != nil && i == 0 {
			return nil, nil, l.failed(err, l.genOf(elements[0]), elements[0])
		}
		if err != nil {
			break // the entries before it are good; the next call comes upon it
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return nil, nil, l.missing(elements[0])
	}
	return entries, records[:len(entries)], nil
}

// genOf is the file with the element.
func (l *Lane) genOf(e element) *generation {
	if e.gap != nil {
		return e.gap.gen
	}
	return l.q.places.of(e.global)
}

func (l *Lane) entry(d *decoder, record []byte, e element, stored bool) (Entry, error) {
	if stored { // what comes from memory was never on disk
		if err := check(l.key(e.global), record); err != nil {
			return Entry{}, err
		}
	}
	entry, err := d.decode(record)
	if err == nil && (entry.First != e.first || entry.Seq != e.last) {
		err = fmt.Errorf("%w: sequences %d to %d stand where %d to %d belong", ErrDamaged, entry.First, entry.Seq, e.first, e.last)
	}
	return entry, err
}

// readLog copies the records of elements out of gen, from the first on as many as are there.
func (l *Lane) readLog(tx *bbolt.Tx, gen *generation, elements []element) [][]byte {
	var records [][]byte
	var memory []byte
	c := tx.Bucket([]byte(bucketLog)).Cursor()
	for i, e := range elements {
		if i > 0 && l.genOf(e) != gen {
			break
		}
		k := l.key(e.global)
		var found, v []byte
		if i > 0 && e.global == elements[i-1].global+1 {
			found, v = c.Next()
		} else {
			found, v = c.Seek(k[:])
		}
		if !bytes.Equal(found, k[:]) {
			break
		}
		from := len(memory)
		memory = append(memory, v...)
		records = append(records, memory[from:len(memory):len(memory)])
		if len(memory) >= maxReadBytes {
			break
		}
	}
	return records
}

// missing tells why an element is not in its file: nil if it was acknowledged or moved.
func (l *Lane) missing(e element) error {
	l.mu.Lock()
	now := l.chain.appendTo(nil, max(e.first-1, l.gone), 1)
	l.mu.Unlock()
	gen := l.genOf(e)
	if len(now) == 0 || now[0] != e || gen.isClosed() {
		return nil
	}
	return l.failed(fmt.Errorf("%w: the record is missing", ErrDamaged), gen, e)
}

// failed says which entry cannot be read.
func (l *Lane) failed(err error, gen *generation, e element) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat):
		return fmt.Errorf("buffer: queue file %s: %w", gen.path, err)
	}
	return fmt.Errorf("buffer: queue file %s: %s entry %d at key %x: %w", gen.path, l.id, e.last, l.key(e.global), err)
}
