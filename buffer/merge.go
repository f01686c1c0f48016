package buffer

import (
	"bytes"

	"go.etcd.io/bbolt"
)

const (
	// mergePortion is how many bytes one transaction moves: few enough not to hold up Puts.
	mergePortion = 1 << 20
	// mergeKeys is how many keys it looks at.
	mergeKeys = 1 << 16
)

// share is how much of a sealed file still waits.
type share struct {
	live, total int64 // elements
	bytes       int64 // of the file
}

func (s share) part() float64 { return float64(s.live) / float64(max(s.total, 1)) }

// pickStraggler decides which file is moved into the newest: the one with the smallest part that still
// waits, if that is less than half, or whatever it is while the files take more than limit (0: none) and
// moving gives something back. -1: none.
func pickStraggler(files []share, newest, limit int64) (best int) {
	best = -1
	sum := newest
	for i, f := range files {
		sum += f.bytes
		if f.live > 0 && (best < 0 || f.part() < files[best].part()) {
			best = i
		}
	}
	over := limit > 0 && sum > limit
	if best >= 0 && (files[best].part() < 0.5 || over && files[best].part() < 0.9) {
		return best
	}
	return -1
}

// merging is a file that is being moved.
type merging struct {
	gen   *generation
	after []byte // keys up to this one have been looked at
}

// move is an element of a transaction that moves it.
type move struct {
	lane   *Lane
	global uint64
	gap    *gapPlace // its new place; nil for an entry
}

// merge moves a portion of a straggler, if there is one and nobody waits for the committer, or the files
// take too much.
func (q *Queue) merge() error {
	c := &q.committer
	if c.merging.gen == nil || !q.isIdle() && !c.overFull {
		return nil
	}
	gen := c.merging.gen
	if !q.places.has(gen) { // it has been drained since
		c.merging = merging{}
		return nil
	}
	w := q.newWork()
	w.source = gen
	end, err := q.planMoves(w, gen)
	if err != nil {
		return err
	}
	if len(w.records) > 0 {
		if err := q.execute(w); err != nil {
			return err
		}
	}
	c.merging.after = w.upTo
	if end {
		c.merging = merging{}
		gen.merged = true // once: what is left in it, if the count was wrong, waits until it has left
		q.unlinkEmpty()
		q.lookForStragglers()
		return nil
	}
	signal(q.now)
	return nil
}

// planMoves collects what still waits in gen, in the order of the log; end tells that it is the rest.
func (q *Queue) planMoves(w *work, gen *generation) (end bool, err error) {
	after := q.committer.merging.after
	err = gen.handle().View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(bucketLog)).Cursor()
		k, v := c.First()
		if after != nil {
			if k, v = c.Seek(after); bytes.Equal(k, after) {
				k, v = c.Next()
			}
		}
		size := 0
		for n := 0; ; n++ {
			if end = k == nil; end {
				return nil
			}
			// What has the same global sequence moves together: places knows no more.
			if (n >= mergeKeys || size >= mergePortion) && !bytes.HasPrefix(k, w.upTo[:8]) {
				return nil
			}
			w.upTo = bytes.Clone(k)
			if m, ok := q.waits(gen, k, int64(len(k)+len(v))); ok {
				w.moves = append(w.moves, m)
				w.records = append(w.records, logRecord{key(k), bytes.Clone(v)})
				size += len(k) + len(v)
			}
			k, v = c.Next()
		}
	})
	return end, err
}

// waits tells whether the record at k in gen is an element that has not left, and how it moves.
func (q *Queue) waits(gen *generation, k []byte, size int64) (m move, ok bool) {
	global, number, ok := parseKey(k)
	l := q.committer.byNumber[number]
	if !ok || l == nil {
		return move{}, false
	}
	gap, ok := l.chain.holds(global)
	switch {
	case !ok:
		return move{}, false
	case gap != nil:
		return move{l, global, &gapPlace{q.committer.newest, size}}, gap.gen == gen
	}
	return move{l, global, nil}, q.places.of(global) == gen
}

// moved takes moves that are on disk into memory.
func (q *Queue) moved(w *work) {
	if len(w.moves) == 0 {
		return
	}
	newest := q.committer.newest
	n := int64(len(w.moves))
	newest.live += n
	w.source.live -= n
	upTo, _, _ := parseKey(w.upTo)
	q.places.move(w.source, upTo, newest)
	for _, m := range w.moves {
		if m.gap != nil {
			m.lane.mu.Lock()
			m.lane.chain.relocate(m.global, m.gap)
			m.lane.mu.Unlock()
		}
	}
}

// lookForStragglers decides what merge does next.
func (q *Queue) lookForStragglers() {
	c := &q.committer
	limit := int64(0)
	if q.cfg.MaxBytes > 0 {
		limit = q.cfg.MaxBytes + q.generationBytes()
	}
	var gens []*generation
	var files []share
	sum := int64(0)
	for _, g := range q.places.all() {
		sum += g.written.Load()
		if g != c.newest && g.id == c.newest.id && !g.merged { // an entry keeps the id of the queue that numbered it
			gens = append(gens, g)
			files = append(files, share{g.live, g.total, g.written.Load()})
		}
	}
	c.overFull = limit > 0 && sum > limit
	if c.merging.gen != nil {
		return
	}
	if i := pickStraggler(files, c.newest.written.Load(), limit); i >= 0 {
		c.merging = merging{gen: gens[i]}
		signal(q.now)
	}
}

// isIdle tells whether nobody waits for the committer.
func (q *Queue) isIdle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.open.calls) == 0 && len(q.open.cuts) == 0 && len(q.open.ops) == 0
}
