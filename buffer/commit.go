package buffer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// ackDelay is how long acknowledgements wait for others, or for a Put, to share a commit with.
	ackDelay = 20 * time.Millisecond
	// maxRemovals is how many entries one transaction removes; more would hold up the Puts.
	maxRemovals = 1 << 14
)

// batch is the Puts of one transaction: all that waited when the committer came by. They share its
// fate, so one channel tells them all.
type batch struct {
	puts []pending
	done chan struct{} // closed when err is set
	err  error
}

type pending struct {
	lane   *Lane
	record []byte
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// finish tells the Puts. Only the first call counts.
func (b *batch) finish(err error) {
	select {
	case <-b.done:
	default:
		b.err = err
		close(b.done)
	}
}

// committer is what belongs to the goroutine in Run.
type committer struct {
	global  uint64 // global sequence of the newest entry
	numbers uint32 // highest identity number
	epoch   uint32 // how often the queue was opened
	lastTx  int    // id of the last transaction that is known to be on disk
	tried   int    // id of the last transaction that was tried

	doubt   *work            // a failed transaction that may be on disk all the same; nil if none
	failure error            // why a transaction failed; nil once one with Puts succeeds
	since   time.Time        // since when
	retryAt time.Time        // nothing is tried before
	retry   <-chan time.Time // wakes the committer then
	held    []*Lane          // lanes whose acknowledgements are in no transaction because of a failure

	globals []uint64        // scratch of plan
	wakes   []chan struct{} // scratch of apply
}

// work is one transaction.
type work struct {
	tx       int // its id
	batch    *batch
	removals []removal
}

// removal takes the oldest entries of a lane out, because they were acknowledged.
type removal struct {
	lane    *Lane
	globals []uint64
	mark    uint64 // lane sequence of the last of them
	// Found out by writeRemovals:
	bytes  int64
	oldest time.Time // of what is left; zero if nothing is
}

// Run commits Puts and acknowledgements until ctx ends; then it commits those that were handed in
// by then and returns nil. While the file cannot be written it keeps trying, once a second. It
// returns an error if acknowledgements could not be committed at the end (their entries are sent
// again, with the same sequences), or if another program changed the file.
func (q *Queue) Run(ctx context.Context) error {
	if err := q.start(); err != nil {
		return err
	}
	defer q.end()
	for {
		q.await(ctx)
		if ctx.Err() != nil {
			return q.finish()
		}
		// Those whose Put has just returned may have the next entry ready: letting them come in
		// first halves the number of commits under load, and costs nothing without.
		runtime.Gosched()
		if err := q.commitAll(q.take()); errors.Is(err, errForeign) {
			return err
		}
	}
}

func (q *Queue) start() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch q.state {
	case idle:
		q.state = running
		return nil
	case ended:
		return q.errClosed()
	}
	return fmt.Errorf("buffer: queue file %s: Run is already working", q.file.path)
}

// finish refuses new Puts and commits what waits. After a failure it tries once more, for the
// acknowledgements; the Puts have been told.
func (q *Queue) finish() error {
	q.mu.Lock()
	q.state = stopping
	q.mu.Unlock()
	c := &q.committer
	failures := 0
	for {
		b, acked := q.take()
		if len(b.puts) == 0 && len(acked) == 0 && len(c.held) == 0 && c.doubt == nil {
			b.finish(nil) // a Beat may be waiting
			return nil
		}
		c.retryAt = time.Time{}
		if err := q.commitAll(b, acked); err != nil {
			if failures++; failures == 2 {
				return err
			}
		}
	}
}

// end releases whoever waits for something that will not come.
func (q *Queue) end() {
	q.mu.Lock()
	q.state = ended
	b := q.open
	q.mu.Unlock()
	b.finish(q.errClosed())
	if q.file.handle() == nil {
		_ = q.file.close() // there is nothing to close, but readers wait for a handle
	}
	close(q.done)
}

// await returns when there is something to commit or ctx has ended.
func (q *Queue) await(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-q.now:
	case <-q.committer.retry:
	case <-q.soon:
		delay := time.NewTimer(ackDelay)
		defer delay.Stop()
		select {
		case <-ctx.Done():
		case <-q.now:
		case <-delay.C:
		}
	}
}

// take takes everything that waits.
func (q *Queue) take() (*batch, []*Lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b, acked := q.open, q.acked
	q.open, q.acked = newBatch(), nil
	return b, acked
}

// commitAll commits b and the acknowledgements of acked in one transaction. After a failure nothing
// is tried for a second. Then the acknowledgements go first and alone, because they free the space
// that the Puts lack. The error has been told to the Puts of b.
func (q *Queue) commitAll(b *batch, acked []*Lane) error {
	c := &q.committer
	acked, c.held = append(c.held, acked...), nil
	if c.failure == nil {
		return q.transact(b, acked)
	}
	if err := q.afterFailure(acked); err != nil {
		b.finish(c.failure)
		return err
	}
	return q.transact(b, nil)
}

// afterFailure does what comes before the next Puts.
func (q *Queue) afterFailure(acked []*Lane) error {
	c := &q.committer
	if time.Now().Before(c.retryAt) {
		c.held = acked
		return c.failure
	}
	if c.doubt != nil {
		if err := q.settle(); err != nil {
			c.held = append(c.held, acked...)
			return err
		}
		acked, c.held = append(acked, c.held...), nil // those that settle took back
	}
	return q.transact(newBatch(), acked)
}

// transact is one transaction, from the decision what is in it to the answer to the Puts.
func (q *Queue) transact(b *batch, acked []*Lane) error {
	c := &q.committer
	w := q.plan(b, acked)
	if len(b.puts) == 0 && len(w.removals) == 0 {
		b.finish(nil)
		return nil
	}
	err := q.try(w.tx, func(tx *bbolt.Tx) error { return q.write(tx, w) })
	if err == nil {
		q.apply(w)
		b.finish(nil)
		q.recovered(w)
		return nil
	}
	q.failed(err)
	c.doubt = w
	if err := q.settle(); err != nil {
		b.finish(err)
		return err
	}
	b.finish(c.failure) // settle has told the Puts if they are in
	return b.err
}

// plan decides what the next transaction removes, and numbers its Puts.
func (q *Queue) plan(b *batch, acked []*Lane) *work {
	c := &q.committer
	w := &work{tx: c.lastTx + 1, batch: b}
	for i, p := range b.puts {
		if p.lane.number == 0 {
			c.numbers++
			p.lane.number = c.numbers
		}
		seal(p.record, p.lane.key(c.global+1+uint64(i)), p.lane.next, c.epoch)
		p.lane.next++
	}
	c.globals = c.globals[:0]
	// Every lane gets the same share: interleaved as they are, their oldest entries then lie in the
	// same pages. One lane after the other would rewrite the whole file for each.
	share := max(1, maxRemovals/max(1, len(acked)))
	for _, l := range acked {
		from := len(c.globals)
		all := l.planRemoval(&c.globals, share)
		if globals := c.globals[from:len(c.globals):len(c.globals)]; len(globals) > 0 {
			w.removals = append(w.removals, removal{lane: l, globals: globals, mark: l.gone + uint64(len(globals))})
		}
		if !all {
			q.enterAck(l)
			signal(q.now)
		}
	}
	return w
}

// try makes one transaction with the id tx of what write does.
func (q *Queue) try(id int, write func(*bbolt.Tx) error) error {
	db := q.file.handle()
	if db == nil {
		return errRetired
	}
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	if err := write(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	q.committer.tried = id
	if err := q.commit(tx); err != nil {
		return err
	}
	q.committer.lastTx = id
	return nil
}

func (q *Queue) write(tx *bbolt.Tx, w *work) error {
	if err := q.writePuts(tx, w.batch.puts); err != nil {
		return err
	}
	for i := range w.removals {
		if err := q.writeRemoval(tx, &w.removals[i]); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) writePuts(tx *bbolt.Tx, puts []pending) error {
	log := tx.Bucket([]byte(bucketLog))
	log.FillPercent = fillPercent
	for i, p := range puts {
		if !p.lane.named {
			if err := putValue(tx, bucketIdentities, numberKey(p.lane.number), []byte(p.lane.id)); err != nil {
				return err
			}
		}
		k := p.lane.key(q.committer.global + 1 + uint64(i))
		if err := log.Put(k[:], p.record); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) writeRemoval(tx *bbolt.Tx, r *removal) error {
	log := tx.Bucket([]byte(bucketLog))
	log.FillPercent = fillPercent
	c := log.Cursor()
	r.bytes = 0
	for _, g := range r.globals {
		k := r.lane.key(g)
		found, v := c.Seek(k[:])
		if !bytes.Equal(found, k[:]) {
			continue // a hole in a damaged file: it is gone already
		}
		r.bytes += int64(len(found) + len(v))
		if err := c.Delete(); err != nil {
			return err
		}
	}
	r.oldest = q.oldestAfter(tx, r)
	mark := binary.BigEndian.AppendUint64(nil, r.mark)
	mark = binary.BigEndian.AppendUint64(mark, r.globals[len(r.globals)-1])
	return putValue(tx, bucketMarks, numberKey(r.lane.number), mark)
}

// oldestAfter is the creation time of the entry that is the lane's oldest once r is done.
func (q *Queue) oldestAfter(tx *bbolt.Tx, r *removal) time.Time {
	left := r.lane.index.appendTo(nil, len(r.globals), 1) // only this goroutine changes the index
	if len(left) == 0 {
		return time.Time{}
	}
	if recent := q.recent.appendTo(nil, left); len(recent) == 1 {
		return createdOf(recent[0])
	}
	if record := readRecord(tx, r.lane.key(left[0])); record != nil {
		return createdOf(record)
	}
	return time.Time{}
}

// apply takes a transaction that is on disk into memory.
func (q *Queue) apply(w *work) {
	c := &q.committer
	q.mu.Lock()
	q.commits++
	q.mu.Unlock()
	for i := range w.removals {
		w.removals[i].lane.removed(&w.removals[i])
		q.recent.drop(w.removals[i].globals)
	}
	q.recent.add(w.batch.puts) // before readers learn of them
	for _, p := range w.batch.puts {
		c.global++
		p.lane.named = true
		if wake := p.lane.added(c.global, p.record); wake != nil {
			c.wakes = append(c.wakes, wake)
		}
	}
	for _, wake := range c.wakes {
		close(wake)
	}
	clear(c.wakes)
	c.wakes = c.wakes[:0]
}

// undo takes back what plan did for a transaction that is not on disk. The acknowledgements go into
// a later one.
func (q *Queue) undo(w *work) {
	c := &q.committer
	for _, p := range w.batch.puts {
		p.lane.next = p.lane.gone + uint64(p.lane.index.len()) + 1
	}
	for _, r := range w.removals {
		if r.lane.hold() {
			c.held = append(c.held, r.lane)
		}
	}
}
