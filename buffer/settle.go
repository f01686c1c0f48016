package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// A commit that failed may be on disk all the same: bbolt writes the pages, flushes, writes the meta
// page, flushes, and when the last flush fails the transaction is readable afterwards. Repeating it
// would store everything twice, believing the error would lose it. So the handle is retired, the
// file opened again, and what stands there decides. What stands there may only stand in the page
// cache: before a Put is told "on disk", one more transaction must have succeeded. It writes the
// other meta page and flushes it, and the pages of the doubtful transaction were flushed before its
// own meta page was written.

const retryDelay = time.Second

var (
	errRetired = errors.New("the file is being opened again after an error")
	errForeign = errors.New("another program has changed the queue file; keep it for one gateway only and start again")
)

// failed notes that a transaction failed.
func (q *Queue) failed(err error) {
	c := &q.committer
	if c.failure == nil {
		c.since = time.Now()
		q.log.Error().Err(err).Str("path", q.committer.newest.path).Msg("the queue file cannot be written: readings are refused until it can")
	}
	c.failure = fmt.Errorf("buffer: queue file %s: %w; free space or repair the disk, it is tried again every second", q.committer.newest.path, err)
	q.setFailure(c.failure)
	c.retryAt = time.Now().Add(retryDelay)
	c.retry = time.After(retryDelay)
}

// recovered notes that a transaction succeeded. Only one with Puts shows that there is space again.
func (q *Queue) recovered(w *work) {
	c := &q.committer
	if c.failure == nil || len(w.puts) == 0 {
		return
	}
	c.failure = nil
	q.setFailure(nil)
	q.log.Info().Str("path", q.committer.newest.path).Stringer("after", time.Since(c.since).Round(time.Millisecond)).Msg("the queue file works again")
}

// settle finds out what became of the transaction in doubt. nil means that it is decided: in memory
// now and its Puts told so, or taken back. Otherwise it is still in doubt.
func (q *Queue) settle() error {
	c := &q.committer
	w := c.doubt
	q.committer.newest.retire()
	in, err := q.lookAgain(w)
	if err != nil {
		return q.undecided(err)
	}
	if !in {
		c.doubt, c.tried = nil, c.lastTx
		q.undo(w)
		return nil
	}
	damage := q.verify(w)
	if err := q.confirm(); err != nil {
		q.committer.newest.retire()
		return q.undecided(err)
	}
	c.doubt = nil
	q.apply(w)
	w.finish(damage)
	q.recovered(w)
	return nil
}

func (q *Queue) undecided(err error) error {
	q.committer.retryAt = time.Now().Add(retryDelay) // before the timer, which must not ring too early
	q.committer.retry = time.After(retryDelay)
	return fmt.Errorf("buffer: queue file %s: %w; whether the last entries are stored is decided when it can be opened again", q.committer.newest.path, err)
}

// lookAgain opens the file again and tells whether w is in it. Readers get the new handle only if it
// is the file that it was.
func (q *Queue) lookAgain(w *work) (in bool, err error) {
	db, err := q.committer.newest.connect()
	if err != nil {
		return false, err
	}
	c := &q.committer
	err = db.View(func(tx *bbolt.Tx) error {
		id, err := getValue(tx, bucketMeta, []byte(keyID))
		if err != nil || string(id) != q.id || tx.ID() < w.tx-1 || tx.ID() > max(c.tried, c.lastTx) {
			return errForeign
		}
		c.lastTx = tx.ID()
		return nil
	})
	if err != nil {
		return false, errors.Join(err, db.Close())
	}
	q.committer.newest.publish(db)
	return c.lastTx >= w.tx, nil
}

// verify reads the records of w back. What differs stays in the file: its sequences are taken, and
// readers find it damaged.
func (q *Queue) verify(w *work) error {
	written := slices.Clone(w.records)
	for i := range w.puts {
		if p := &w.puts[i]; !p.dropped {
			written = append(written, logRecord{p.lane.key(w.from + uint64(i)), p.record})
		}
	}
	gen := q.committer.newest
	return gen.handle().View(func(tx *bbolt.Tx) error {
		log := tx.Bucket([]byte(bucketLog))
		for _, r := range written {
			if !bytes.Equal(log.Get(r.key[:]), r.record) {
				return fmt.Errorf("buffer: queue file %s: %w: the record at key %x is not the one that was written; check the disk",
					gen.path, ErrDamaged, r.key)
			}
		}
		return nil
	})
}

// confirm makes sure that what stands in the file is on disk.
func (q *Queue) confirm() error {
	id := q.committer.lastTx + 1
	return q.try(id, func(tx *bbolt.Tx) error {
		return putValue(tx, bucketMeta, []byte(keySettled), binary.BigEndian.AppendUint64(nil, uint64(id)))
	})
}
