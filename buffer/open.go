package buffer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// attempt opens the queue of cfg; tries counts those that failed before.
func attempt(ctx context.Context, cfg Config, tries int) (*Queue, error) {
	q := newQueue(cfg)
	q.committer.tries = tries
	err := q.openFiles(ctx, false)
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrFormat) { // what the quick look did not see
		q = newQueue(cfg)
		err = q.openFiles(ctx, true)
	}
	if err != nil {
		return nil, err
	}
	return q, nil
}

// openFiles takes the directory, makes its files fit to be opened, opens them and fills the memory.
func (q *Queue) openFiles(ctx context.Context, thorough bool) (err error) {
	if err := makeDir(q.cfg.Dir); err != nil {
		return err
	}
	if q.lock, err = lockDirectory(q.cfg.Dir); err != nil {
		return err
	}
	err = q.openGenerations(ctx, thorough)
	_ = clearMarker(q.cfg.Dir, markerOpening) // if it stays, more is checked than needed
	if err != nil {
		return errors.Join(err, q.release())
	}
	q.aside = listAside(q.cfg.Dir)
	return nil
}

// openGenerations opens what prepare has made sound; all but the last are sealed.
func (q *Queue) openGenerations(ctx context.Context, thorough bool) error {
	numbers, err := q.prepare(ctx, thorough)
	if err != nil {
		return err
	}
	slices.Sort(numbers)
	var gens []*generation
	for i, n := range numbers {
		f, err := openFile(generationPath(q.cfg.Dir, n), i < len(numbers)-1)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", generationPath(q.cfg.Dir, n), err), closeAll(gens))
		}
		gens = append(gens, &generation{file: f, number: n})
	}
	l, err := q.load(gens)
	if err == nil {
		err = q.takeOver(l, gens)
	}
	if err != nil {
		return errors.Join(err, closeAll(gens))
	}
	return nil
}

func closeAll(gens []*generation) (err error) {
	for _, g := range gens {
		err = errors.Join(err, g.close())
	}
	return err
}

// become takes over what other, an attempt that succeeded, has opened. Readers may wait for entries
// of q, but there was none so far.
func (q *Queue) become(other *Queue) {
	lanes := map[*Lane]*Lane{}
	for id, l := range other.lanes {
		lanes[l] = q.Lane(id)
	}
	q.recent = other.recent
	q.clocks.Store(other.clocks.Load())
	q.places.mu.Lock()
	q.places.gens, q.places.ranges = other.places.gens, other.places.ranges
	q.places.mu.Unlock()
	q.mu.Lock()
	q.id, q.lock, q.aside = other.id, other.lock, other.aside
	q.mu.Unlock()
	q.committer = other.committer
	for number, l := range other.committer.byNumber {
		q.committer.byNumber[number] = lanes[l]
	}
	for from, to := range lanes {
		to.become(from)
	}
}

// become takes over what an attempt has found, and tells those who wait for it.
func (l *Lane) become(other *Lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number, l.named, l.next = other.number, other.named, other.next
	l.gone, l.goneGlobal, l.chain, l.bytes, l.oldest = other.gone, other.goneGlobal, other.chain, other.bytes, other.oldest
	l.handed, l.acked, l.cuts, l.plain = other.handed, other.acked, other.cuts, other.plain
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// awaitFiles opens what Open could not, once a second, until that succeeds or ctx ends. Until then
// whoever wants something stored is told why it is not.
func (q *Queue) awaitFiles(ctx context.Context) {
	for tries := 1; q.committer.newest == nil; {
		retry := time.NewTimer(time.Until(q.committer.retryAt))
		select {
		case <-ctx.Done():
			retry.Stop()
			return
		case <-q.now:
			b, _ := q.take()
			b.refuse(q.committer.failure)
		case <-retry.C:
			opened, err := attempt(ctx, q.cfg, tries)
			if err != nil {
				q.unavailable(err)
				tries++
				break
			}
			q.become(opened)
			q.setFailure(nil)
			q.log.Info().Str("dir", q.cfg.Dir).Msg("the queue works now")
		}
		retry.Stop()
	}
}

// unavailable notes why the queue cannot be opened.
func (q *Queue) unavailable(err error) {
	c := &q.committer
	if c.failure == nil {
		q.log.Error().Err(err).Str("dir", q.cfg.Dir).Msg("the queue cannot be opened: readings are refused until it can")
	}
	c.failure = fmt.Errorf("buffer: queue %s: %w; %s; it is tried again every second", q.cfg.Dir, err, remedy(err))
	q.setFailure(c.failure)
	c.retryAt = time.Now().Add(retryDelay)
}

// release gives back what an attempt to open has taken.
func (q *Queue) release() error {
	err := closeAll(q.places.all())
	if q.lock != nil {
		err = errors.Join(err, ignoreClosed(q.lock.Close()))
	}
	return err
}

// takeOver makes what was loaded the queue's own, and begins a new epoch, durably: within one no
// global sequence is used twice.
func (q *Queue) takeOver(l *loader, gens []*generation) error {
	c := &q.committer
	q.id = l.id
	q.since = time.Now()
	q.places.noted(gens, l.global+1)
	c.newest = gens[len(gens)-1]
	c.global, c.numbers, c.epoch = l.global, l.numbers, l.epoch+1
	c.byNumber = make(map[uint32]*Lane, len(q.lanes))
	for _, lane := range q.lanes {
		c.byNumber[lane.number] = lane
	}
	q.loadClocks(l.other)
	for _, g := range gens {
		if err := g.measure(); err != nil {
			return err
		}
	}
	err := c.newest.view(context.Background(), func(tx *bbolt.Tx) error {
		c.lastTx, c.tried = tx.ID(), tx.ID()
		return nil
	})
	if err != nil {
		return err
	}
	if err := q.beginEpoch(l); err != nil {
		return fmt.Errorf("%s: %w", c.newest.path, err)
	}
	q.recent = newRecent(recentEntries, recentBytes, c.global+1)
	for _, lane := range q.lanes {
		if err := lane.findOldest(); err != nil {
			return err
		}
		c.bytes += lane.bytes
	}
	return nil
}

// beginEpoch writes what opening has changed.
func (q *Queue) beginEpoch(l *loader) error {
	c := &q.committer
	epoch := value{bucketMeta, []byte(keyEpoch), binary.BigEndian.AppendUint32(nil, c.epoch)}
	values := q.keepPlain(l)
	corrected, due := q.correction(func(lane *Lane) uint64 { return lane.handed })
	if due {
		values = append(values, corrected[q.boot.id].value(q.boot.id))
	}
	err := q.try(c.lastTx+1, func(tx *bbolt.Tx) error {
		if err := errors.Join(epoch.put(tx), l.inherit(tx)); err != nil {
			return err
		}
		for _, v := range values {
			if err := v.put(tx); err != nil {
				return err
			}
		}
		for _, lost := range l.lost {
			if err := lost.write(tx, c.newest, c.epoch); err != nil {
				return err
			}
			lost.lane.bytes += lost.run.gap.size
			c.newest.live++
		}
		return nil
	})
	if err == nil && due {
		q.clocks.Store(&corrected)
	}
	return err
}

// inherit makes sure that the newest file has what the others know: its birth may have been given up
// after which the older one went on.
func (l *loader) inherit(tx *bbolt.Tx) error {
	var values []value
	for number, lane := range l.lanes {
		if lane.id == "" {
			continue
		}
		values = append(values, value{bucketIdentities, numberKey(number), []byte(lane.id)})
		if lane.mark.seq > 0 {
			values = append(values, markValue(number, lane.mark))
		}
		if lane.next > 0 {
			values = append(values, value{bucketNext, numberKey(number), binary.BigEndian.AppendUint64(nil, lane.next)})
		}
	}
	for _, v := range l.other {
		values = append(values, v)
	}
	for _, v := range values {
		stored, _ := getValue(tx, v.bucket, v.key)
		if bytes.Equal(stored, v.content) {
			continue
		}
		if err := v.put(tx); err != nil {
			return err
		}
	}
	return nil
}

// measure finds out how large the file is.
func (g *generation) measure() error {
	return g.view(context.Background(), func(tx *bbolt.Tx) error {
		g.written.Store(tx.Size())
		return nil
	})
}

// findOldest finds out when the lane's oldest element was created.
func (l *Lane) findOldest() error {
	first := l.chain.appendTo(nil, l.gone, 1)
	if len(first) == 0 {
		return nil
	}
	facts, err := l.facts(first)
	if err == nil {
		l.oldest = facts[0].created
	}
	return err
}
