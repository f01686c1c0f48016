package buffer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// openFiles opens the generations, makes the first one if there is none, and fills the memory.
func (q *Queue) openFiles() error {
	gens, err := openGenerations(q.cfg.Dir)
	if err != nil {
		return err
	}
	l, err := q.load(gens)
	if err == nil {
		err = q.takeOver(l, gens)
	}
	if err != nil {
		for _, g := range gens {
			err = errors.Join(err, g.close())
		}
		return fmt.Errorf("buffer: queue file %w", err)
	}
	return nil
}

// openGenerations opens the generations in dir, oldest first; all but the last are sealed.
func openGenerations(dir string) (gens []*generation, err error) {
	numbers, err := listGenerations(dir)
	if err != nil {
		return nil, fmt.Errorf("buffer: queue %s: %w", dir, err)
	}
	if len(numbers) == 0 {
		numbers = []int{1}
		if err := birth(dir, 1, heritage{id: newID(), first: 1}); err != nil {
			return nil, fmt.Errorf("buffer: queue %s: %w", dir, err)
		}
	}
	for i, n := range numbers {
		path := generationPath(dir, n)
		f, err := openFile(path, i < len(numbers)-1)
		if err != nil {
			err = fmt.Errorf("buffer: queue file %s: %w", path, err)
			for _, g := range gens {
				err = errors.Join(err, g.close())
			}
			return nil, err
		}
		gens = append(gens, &generation{file: f, number: n})
	}
	return gens, nil
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
	return q.try(c.lastTx+1, func(tx *bbolt.Tx) error {
		if err := errors.Join(epoch.put(tx), l.inherit(tx)); err != nil {
			return err
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
