package buffer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
)

// What one read of the file takes: a read transaction pins pages, so it is short.
const (
	maxRead      = 256
	maxReadBytes = 1 << 20
)

// Lane is the queue of one identity. Its methods may be called from any goroutine.
type Lane struct {
	q  *Queue
	id gateway.IdentityID

	// Owned by the committer.
	number uint32 // in the keys; 0 before the first Put
	named  bool   // number is in the file
	next   uint64 // sequence of the next Put

	mu      sync.Mutex // guards the fields below; only the committer writes gone, index, bytes, oldest
	gone    uint64     // sequence of the newest entry that has left the file
	index   index      // global sequences of gone+1, gone+2, ...
	bytes   int64      // records and keys in the file
	oldest  time.Time
	handed  uint64        // highest sequence that Next has returned
	acked   uint64        // highest sequence that was acknowledged; >= gone
	waiting bool          // the committer knows of acked
	wake    chan struct{} // closed by the next Put; nil if nobody waits
}

func (l *Lane) key(global uint64) key { return makeKey(global, l.number) }

// Next returns entries whose sequence is greater than after, in order and without a hole: at least
// one and at most max (at least 1), fewer if they are large. It waits until there is one and then
// does not wait for more. Acknowledged entries are not returned again. Any number of readers may
// read a lane; each sees all entries.
//
// It returns ctx.Err() when ctx ends, ErrClosed when there is none and Run has ended, so that none
// will come. An error that wraps ErrDamaged or ErrFormat is about the entry after the last that was
// returned: it cannot be read, and this lane stays there while others go on.
func (l *Lane) Next(ctx context.Context, after uint64, max int) ([]Entry, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if l.q.file.isClosed() {
			return nil, l.q.errClosed()
		}
		first, globals, wake := l.look(after, max)
		if len(globals) > 0 {
			entries, err := l.read(ctx, first, globals)
			if err != nil || len(entries) > 0 {
				return entries, err
			}
			continue // acknowledged while it was read
		}
		select {
		case <-wake:
		case <-ctx.Done():
		case <-l.q.done:
			if _, globals, _ := l.look(after, 1); len(globals) == 0 {
				return nil, l.q.errClosed()
			}
		}
	}
}

// look returns where the entries behind after are, and the sequence of the first. If there is none
// it returns the handle that the next Put closes: taken under the same lock, so that no Put comes
// in between.
func (l *Lane) look(after uint64, most int) (first uint64, globals []uint64, wake chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	after = max(after, l.acked)
	last := l.gone + uint64(l.index.len())
	if after < last {
		n := min(uint64(max(most, 1)), maxRead, last-after)
		return after + 1, l.index.appendTo(make([]uint64, 0, n), int(after-l.gone), int(n)), nil
	}
	if l.wake == nil {
		l.wake = make(chan struct{})
	}
	return after + 1, nil, l.wake
}

// read returns the entries at globals, from memory or from the file. It returns none if they were
// acknowledged in the meantime.
func (l *Lane) read(ctx context.Context, first uint64, globals []uint64) ([]Entry, error) {
	records := l.q.recent.appendTo(make([][]byte, 0, len(globals)), globals)
	stored := len(records) == 0
	if stored {
		err := l.q.file.view(ctx, func(tx *bbolt.Tx) error {
			records = l.readLog(tx, globals)
			return nil
		})
		if err != nil {
			return nil, l.failed(err, first, globals[0])
		}
	}
	entries := make([]Entry, 0, len(records))
	d := decoder{identity: l.id, queue: l.q.id}
	for i, r := range records {
		e, err := l.entry(&d, r, globals[i], stored)
		if err == nil && e.Seq != first+uint64(i) {
			err = fmt.Errorf("%w: sequence %d stands where %d belongs", ErrDamaged, e.Seq, first+uint64(i))
		}
		if err != nil && i == 0 {
			return nil, l.failed(err, first, globals[0])
		}
		if err != nil {
			break // the entries before it are good; the next call comes upon it
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return nil, l.missing(first, globals[0])
	}
	l.mu.Lock()
	l.handed = max(l.handed, entries[len(entries)-1].Seq)
	l.mu.Unlock()
	return entries, nil
}

func (l *Lane) entry(d *decoder, record []byte, global uint64, stored bool) (Entry, error) {
	if stored { // what comes from memory was never on disk
		if err := check(l.key(global), record); err != nil {
			return Entry{}, err
		}
	}
	return d.decode(record)
}

// readLog copies the records at globals out of the file, from the first on as many as there are.
func (l *Lane) readLog(tx *bbolt.Tx, globals []uint64) [][]byte {
	var records [][]byte
	var memory []byte
	c := tx.Bucket([]byte(bucketLog)).Cursor()
	for i, g := range globals {
		k := l.key(g)
		var found, v []byte
		if i > 0 && g == globals[i-1]+1 {
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

// missing tells why an entry is not in the file: nil if it was acknowledged.
func (l *Lane) missing(seq, global uint64) error {
	l.mu.Lock()
	acked := l.acked >= seq
	l.mu.Unlock()
	if acked {
		return nil
	}
	return l.failed(fmt.Errorf("%w: the record is missing", ErrDamaged), seq, global)
}

// failed says which entry cannot be read and what to do about it.
func (l *Lane) failed(err error, seq, global uint64) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat):
		return fmt.Errorf("buffer: queue file %s: %w", l.q.file.path, err)
	}
	return fmt.Errorf("buffer: queue file %s: %s entry %d at key %x: %w; keep a copy of the file and check the disk; "+
		"moving the file away lets the gateway start with an empty queue", l.q.file.path, l.id, seq, l.key(global), err)
}

// Ack says that every entry up to and including seq is at the hub. They leave the file with the
// next commit, at the latest 20 ms later; after a crash before that they are returned again. Ack
// never blocks on the disk. A sequence that Next has not returned since Open is a mistake of the
// caller that could lose entries: it is ignored and logged.
func (l *Lane) Ack(seq uint64) {
	l.mu.Lock()
	if seq > l.handed {
		handed := l.handed
		l.mu.Unlock()
		l.q.log.Error().Str("identity", string(l.id)).Uint64("seq", seq).Uint64("newest", handed).
			Msg("an entry was acknowledged that was never read: ignored")
		return
	}
	tell := seq > l.acked && !l.waiting
	l.acked = max(l.acked, seq)
	l.waiting = l.waiting || tell
	l.mu.Unlock()
	if tell {
		l.q.enterAck(l)
	}
}

// planRemoval appends the global sequences of acknowledged entries to globals, at most most, and
// tells whether that is all of them.
func (l *Lane) planRemoval(globals *[]uint64, most int) (all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int(l.acked - l.gone)
	all = n <= most
	*globals = l.index.appendTo(*globals, 0, min(n, most))
	l.waiting = !all
	return all
}

// hold notes that the committer keeps the lane's acknowledgements for a later transaction. It tells
// whether it has to: the lane may have handed in newer ones since.
func (l *Lane) hold() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting {
		return false
	}
	l.waiting = true
	return true
}

// removed takes a removal that is on disk into memory.
func (l *Lane) removed(r *removal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index.drop(len(r.globals))
	l.gone = r.mark
	l.bytes -= r.bytes
	l.oldest = r.oldest
}

// added takes an entry that is on disk into memory and returns what to close for those who wait.
func (l *Lane) added(global uint64, record []byte) (wake chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index.push(global)
	l.bytes += int64(keyLen + len(record))
	if l.index.len() == 1 {
		l.oldest = createdOf(record)
	}
	wake, l.wake = l.wake, nil
	return wake
}

func (l *Lane) counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.index.len()
	return Counts{Entries: int64(n), Bytes: l.bytes, Oldest: l.oldest, Put: l.gone + uint64(n), Acked: l.gone}
}
