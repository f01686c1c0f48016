package buffer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// ackPatience is how long after a commit acknowledgements wait for others, or for a Put, to share one
	// with: a commit of its own for each would write a hundred times what it says.
	ackPatience = 500 * time.Millisecond
	// upkeepEvery is how often the queue looks after its files and the age of its entries.
	upkeepEvery = time.Second
)

// committer is what belongs to the goroutine in Run.
type committer struct {
	newest    *generation // the file that is written
	byNumber  map[uint32]*Lane
	global    uint64 // highest global sequence that was used, or tried
	numbers   uint32 // highest identity number
	epoch     uint32 // how often the queue was opened
	bytes     int64  // of all lanes
	namesKept int    // how many names stand in the file beside the generations
	tries     int    // how often opening the files failed before
	lastTx    int    // id of the last transaction that is known to be on disk
	tried     int    // id of the last transaction that was tried

	doubt   *work            // a failed transaction that may be on disk all the same; nil if none
	failure error            // why a transaction failed; nil once one with Puts succeeds
	since   time.Time        // since when
	retryAt time.Time        // nothing is tried before
	retry   <-chan time.Time // wakes the committer then
	held    []*Lane          // lanes whose acknowledgements are in no transaction because of a failure

	upkeepAt time.Time        // when the files are looked after next
	upkeep   <-chan time.Time // wakes the committer then
	shiftAt  time.Time        // a new file is not tried before
	merging  merging          // the file that is moved into the newest
	overFull bool             // the files take more than they should

	elements []element       // scratch of plan
	wakes    []chan struct{} // scratch of apply
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
	q.awaitFiles(ctx)
	q.committer.upkeep = time.After(upkeepEvery)
	for {
		q.await(ctx)
		if ctx.Err() != nil {
			return q.finish()
		}
		// Those whose Put has just returned may have the next entry ready: letting them come in
		// first halves the number of commits under load, and costs nothing without.
		runtime.Gosched()
		b, acked := q.take()
		err := q.commitAll(b, acked)
		if err == nil {
			err = q.tidy()
		}
		if errors.Is(err, errForeign) {
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
	return fmt.Errorf("buffer: queue %s: Run is already working", q.cfg.Dir)
}

// finish refuses new Puts and commits what waits. After a failure it tries once more, for the
// acknowledgements; the Puts have been told.
func (q *Queue) finish() error {
	q.mu.Lock()
	q.state = stopping
	q.mu.Unlock()
	c := &q.committer
	if c.newest == nil { // it never could be opened
		return nil
	}
	failures := 0
	for {
		b, acked := q.take()
		if len(b.calls) == 0 && len(b.cuts) == 0 && len(b.ops) == 0 && len(acked) == 0 && len(c.held) == 0 && c.doubt == nil {
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
	b.refuse(q.errClosed())
	if newest := q.committer.newest; newest != nil && newest.handle() == nil {
		_ = newest.close() // there is nothing to close, but readers wait for a handle
	}
	close(q.done)
}

// await returns when there is something to commit that waits no longer, or ctx has ended.
func (q *Queue) await(ctx context.Context) {
	for {
		due, stop := q.patience()
		select {
		case <-q.soon: // somebody waits who has less patience
			stop()
			continue
		case <-ctx.Done():
		case <-q.now:
		case <-q.committer.retry:
		case <-q.committer.upkeep:
		case <-due:
		}
		stop()
		return
	}
}

// patience fires when the patience of those that wait is over: never, while nobody does.
func (q *Queue) patience() (due <-chan time.Time, stop func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.due.IsZero() {
		return nil, func() {}
	}
	timer := time.NewTimer(time.Until(q.due))
	return timer.C, func() { timer.Stop() }
}

// waitSinceLast lets what was handed in wait for others to share a commit with, until patience has
// passed since the last commit: what comes rarely does not wait at all. It needs mu.
func (q *Queue) waitSinceLast(patience time.Duration) {
	due := q.lastCommit.Add(patience)
	if patience <= 0 || !due.After(time.Now()) {
		signal(q.now)
		return
	}
	if q.due.IsZero() || due.Before(q.due) {
		q.due = due
		signal(q.soon)
	}
}

// take takes everything that waits.
func (q *Queue) take() (*batch, []*Lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b, acked := q.open, q.acked
	q.open, q.acked, q.due = newBatch(), nil, time.Time{}
	if len(b.calls) > 0 || len(acked) > 0 {
		q.lastCommit = time.Now()
	}
	return b, acked
}

// commitAll commits b and the acknowledgements of acked in one transaction, and then what else b
// asks for. After a failure nothing is tried for a second. Then the acknowledgements go first and
// alone, with what gives back the space that the Puts lack. The error has been told to those in b.
func (q *Queue) commitAll(b *batch, acked []*Lane) error {
	c := &q.committer
	acked, c.held = append(c.held, acked...), nil
	if c.failure != nil {
		if err := q.afterFailure(acked); err != nil {
			b.refuse(c.failure)
			return err
		}
		acked = nil
	}
	if err := q.transact(b, acked); err != nil {
		b.refuse(err)
		return err
	}
	for _, o := range b.ops {
		if err := q.operate(o); err != nil {
			b.refuse(err)
			return err
		}
	}
	return nil
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
	w, err := q.plan(newBatch(), acked)
	if err != nil {
		return err
	}
	w.purge = c.failure != nil && outOfSpace(c.failure) && c.newest.live < c.newest.total
	return q.execute(w)
}

// transact is one transaction, from the decision what is in it to the answer to the Puts.
func (q *Queue) transact(b *batch, acked []*Lane) error {
	w, err := q.plan(b, acked)
	if err != nil {
		b.finish(err)
		return err
	}
	return q.execute(w)
}

// execute writes w and takes it into memory. It tells those who wait for w.
func (q *Queue) execute(w *work) error {
	c := &q.committer
	if w.empty() {
		q.undo(w)
		w.finish(nil)
		return nil
	}
	err := q.try(w.tx, func(tx *bbolt.Tx) error { return q.write(tx, w) })
	if err == nil {
		q.apply(w)
		w.finish(nil)
		q.recovered(w)
		return nil
	}
	q.failed(err)
	c.doubt = w
	if err := q.settle(); err != nil {
		w.finish(err)
		return err
	}
	w.finish(c.failure) // settle has told them if it is in
	return w.batch.err
}

// try makes one transaction with the id tx of what write does.
func (q *Queue) try(id int, write func(*bbolt.Tx) error) error {
	c := &q.committer
	db := c.newest.handle()
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
	c.tried = id
	size := tx.Size()
	if err := q.commit(tx); err != nil {
		return err
	}
	c.lastTx = id
	c.newest.written.Store(size)
	return nil
}

// write puts w into the newest file.
func (q *Queue) write(tx *bbolt.Tx, w *work) error {
	for _, v := range w.values {
		if err := v.put(tx); err != nil {
			return err
		}
	}
	log := tx.Bucket([]byte(bucketLog))
	log.FillPercent = fillPercent
	for i := range w.puts {
		p := &w.puts[i]
		if p.dropped {
			continue
		}
		k := p.lane.key(w.from + uint64(i))
		if err := log.Put(k[:], p.record); err != nil {
			return err
		}
	}
	for _, r := range w.records {
		if err := log.Put(r.key[:], r.record); err != nil {
			return err
		}
	}
	if w.purge {
		return q.purge(log, w)
	}
	return nil
}

// apply takes a transaction that is on disk into memory.
func (q *Queue) apply(w *work) {
	c := &q.committer
	q.mu.Lock()
	q.commits++
	q.mu.Unlock()
	c.bytes = w.bytes
	for _, ch := range w.changes {
		ch.leave()
	}
	for _, c := range w.cuts {
		c.lane.setCuts(c.ends)
	}
	if w.clocks != nil {
		q.clocks.Store(&w.clocks)
	}
	q.recent.drop(w.left)
	q.recent.add(w.from, w.puts) // before readers learn of them
	for i := range w.puts {
		w.puts[i].lane.added(w.from+uint64(i), &w.puts[i])
	}
	c.newest.live += w.kept
	c.newest.total += w.kept + int64(len(w.records)) - w.purged
	q.moved(w)
	for _, e := range w.left {
		w.genOf(e).live--
	}
	for _, ch := range w.changes {
		if wake := ch.end(c.newest); wake != nil {
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
	for _, ch := range w.changes {
		l := ch.lane
		l.next, l.change = l.last()+1, nil
		if ch.marked && l.hold() {
			c.held = append(c.held, l)
		}
		l.mu.Lock()
		l.unfreeze()
		l.mu.Unlock()
	}
}
