package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// maxPurge is how many records one transaction takes out of a log when space is short.
const maxPurge = 1 << 14

// tidy does what has to be done beside Puts and acknowledgements.
func (q *Queue) tidy() error {
	q.shift()
	if err := q.correct(); err != nil {
		return err
	}
	if err := q.lookAfter(); err != nil {
		return err
	}
	return q.merge()
}

// lookAfter looks after the files and the age of entries, if it is time. Nothing has failed before.
func (q *Queue) lookAfter() error {
	c := &q.committer
	now := time.Now()
	if now.Before(c.upkeepAt) && c.upkeep != nil {
		return nil
	}
	c.upkeepAt, c.upkeep = now.Add(upkeepEvery), time.After(upkeepEvery)
	q.unlinkEmpty()
	q.keepNames()
	q.lookForStragglers()
	return q.expire()
}

// shift begins a new generation when the newest is large. That it cannot be begun is no error: the
// queue goes on in the old one.
func (q *Queue) shift() {
	c := &q.committer
	if c.newest.written.Load() <= q.generationBytes() || time.Now().Before(c.shiftAt) {
		return
	}
	if err := q.begin(); err != nil {
		c.shiftAt = time.Now().Add(retryDelay)
		q.log.Warn().Err(err).Str("dir", q.cfg.Dir).Msg("a new queue file cannot be begun: the old one grows; free space")
	}
}

// begin makes a new generation and lets it take what comes.
func (q *Queue) begin() error {
	c := &q.committer
	number, err := nextNumber(q.cfg.Dir)
	if err != nil {
		return err
	}
	h, err := q.heritage()
	if err != nil {
		return err
	}
	if err := birth(q.cfg.Dir, number, h); err != nil {
		return err
	}
	f, err := openFile(generationPath(q.cfg.Dir, number), false)
	if err != nil {
		return errors.Join(err, os.Remove(generationPath(q.cfg.Dir, number)))
	}
	q.adopt(&generation{file: f, number: number, id: q.id}, c.global+1)
	return nil
}

// adopt makes gen the file that is written.
func (q *Queue) adopt(gen *generation, first uint64) {
	c := &q.committer
	c.newest = gen
	q.places.begin(gen, first)
	_ = gen.handle().View(func(tx *bbolt.Tx) error {
		c.lastTx, c.tried = tx.ID(), tx.ID()
		gen.written.Store(tx.Size())
		return nil
	})
}

// heritage is what the next generation gets.
func (q *Queue) heritage() (heritage, error) {
	c := &q.committer
	h := heritage{
		id: q.id, first: c.global + 1, epoch: c.epoch,
		identities: map[uint32]string{}, marks: map[uint32]mark{}, next: map[uint32]uint64{},
	}
	for number, l := range c.byNumber {
		if !l.named {
			continue
		}
		h.identities[number] = string(l.id)
		h.next[number] = l.next
		if l.gone > 0 { // only this goroutine writes it
			h.marks[number] = mark{l.gone, l.goneGlobal}
		}
	}
	err := c.newest.handle().View(func(tx *bbolt.Tx) error {
		for _, bucket := range []string{bucketCuts, bucketClock} {
			err := eachValue(tx, bucket, 0, func(k, content []byte) error {
				h.other = append(h.other, value{bucket, bytes.Clone(k), bytes.Clone(content)})
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return h, err
}

// unlinkEmpty removes the sealed generations that hold nothing that waits. The marks that say so are
// on disk.
func (q *Queue) unlinkEmpty() {
	c := &q.committer
	if c.doubt != nil {
		return
	}
	for _, g := range q.places.all() {
		if g == c.newest || g.live > 0 {
			continue
		}
		if err := os.Remove(g.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			q.log.Warn().Err(err).Msg("a drained queue file cannot be removed")
			continue
		}
		q.places.end(g)
		_ = g.close() // it was only read
	}
}

// outOfSpace tells whether an error is about space, which a shorter log would give back. bbolt does
// not wrap all of them.
func outOfSpace(err error) bool {
	for _, no := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, no) || strings.Contains(err.Error(), no.Error()) {
			return true
		}
	}
	return false
}

// purge takes records that have left out of the newest log, for when there is no space to begin a new
// file: the pages are used again.
func (q *Queue) purge(log *bbolt.Bucket, w *work) error {
	c := log.Cursor()
	k, _ := c.First()
	for k != nil && w.purged < maxPurge {
		global, number, ok := parseKey(k)
		l := q.committer.byNumber[number]
		if !ok || l == nil || l.change != nil || l.has(global) {
			k, _ = c.Next()
			continue
		}
		if err := c.Delete(); err != nil {
			return err
		}
		w.purged++
		k, _ = c.Seek(binary.BigEndian.AppendUint64(nil, global)) // the next one
	}
	return nil
}

// has tells whether an element of the lane is at global. The committer calls it.
func (l *Lane) has(global uint64) bool {
	_, holds := l.chain.holds(global)
	return holds
}

// generationBytes is how large a file gets.
func (q *Queue) generationBytes() int64 {
	if q.cfg.GenerationBytes > 0 {
		return q.cfg.GenerationBytes
	}
	return defaultGeneration
}
