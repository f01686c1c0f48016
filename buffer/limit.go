package buffer

import (
	"slices"
)

// admit takes out of a Put what has no room. An identity is refused as a whole: nothing of it is
// stored then.
func (q *Queue) admit(w *work, c *call) {
	need := map[*Lane]int64{}
	var lanes []*Lane // in the order of the call
	for _, p := range c.puts {
		if need[p.lane] == 0 {
			lanes = append(lanes, p.lane)
		}
		need[p.lane] += p.size()
	}
	total := w.bytes
	refused := map[*Lane]bool{}
	for _, l := range lanes {
		if exceeds(w.of(l).planned+need[l], q.cfg.LaneMaxBytes) || exceeds(total+need[l], q.cfg.MaxBytes) {
			refused[l] = true
			c.refused = append(c.refused, l.id)
			continue
		}
		total += need[l]
	}
	if len(refused) > 0 {
		q.wasFull()
		c.puts = slices.DeleteFunc(c.puts, func(p pending) bool { return refused[p.lane] })
	}
}

// exceeds tells whether bytes are more than a limit, which 0 is none.
func exceeds(bytes, limit int64) bool { return limit > 0 && bytes > limit }

// makeRoom drops the oldest entries of lanes and of the queue until the limits hold again. What is in
// flight stays.
func (q *Queue) makeRoom(w *work) error {
	if q.cfg.WhenFull == RefuseNew || q.cfg.LaneMaxBytes == 0 && q.cfg.MaxBytes == 0 || len(w.puts) == 0 {
		return nil
	}
	for _, ch := range slices.Clone(w.changes) {
		if over := ch.total() - q.cfg.LaneMaxBytes; q.cfg.LaneMaxBytes > 0 && over > 0 {
			if err := q.free(w, ch, over); err != nil {
				return err
			}
		}
	}
	if q.cfg.MaxBytes == 0 {
		return nil
	}
	dry := map[*Lane]bool{}
	for {
		over := w.bytes + dropped(w) - q.cfg.MaxBytes
		l := q.largest(dry)
		if over <= 0 || l == nil {
			return nil
		}
		ch := w.of(l)
		if err := q.free(w, ch, over); err != nil {
			return err
		}
		dry[l] = ch.drop.dry
	}
}

// dropped is by how much the droppers change the bytes of the queue.
func dropped(w *work) (delta int64) {
	for _, ch := range w.changes {
		delta += ch.drop.delta()
	}
	return delta
}

// largest is the lane with the most bytes; nil if all are dry, which have nothing to drop.
func (q *Queue) largest(dry map[*Lane]bool) (largest *Lane) {
	most := int64(0)
	for _, l := range q.committer.byNumber {
		bytes := l.bytes // only this goroutine writes it
		if l.change != nil {
			bytes = l.change.total()
		}
		if bytes > most && !dry[l] {
			largest, most = l, bytes
		}
	}
	return largest
}

// free drops the lane's oldest entries until over bytes are free or nothing is left to drop.
func (q *Queue) free(w *work, ch *change, over int64) error {
	q.wasFull()
	if ch.drop == nil {
		ch.drop = newDropper(w, ch.lane, ch.lane.freeze(), ReasonSize)
	}
	target := ch.drop.delta() - over
	return ch.drop.take(func(fact) bool { return ch.drop.delta() > target })
}

// total is the lane's bytes after the change.
func (ch *change) total() int64 { return ch.planned + ch.drop.delta() }

// dropper takes a lane's elements away, from a sequence on, and makes the gap that stands in their
// place: at the global sequence of the last one.
type dropper struct {
	w      *work
	lane   *Lane
	reason string
	alone  bool   // a gap that comes next may have been sent: it stays
	after  uint64 // up to here the elements were looked at
	putAt  int    // and the puts of w
	ahead  []fact // elements that come next
	batch  int    // so many are read at once
	dry    bool   // none does

	gap     Gap
	start   uint64 // first global sequence that it covers
	covered int64  // bytes
	at      uint64 // its global sequence
	record  []byte
	freed   int64 // bytes of what was taken, older gaps included
	left    []element
	entries uint64 // entries among them and among the puts
}

func newDropper(w *work, l *Lane, after uint64, reason string) *dropper {
	return &dropper{w: w, lane: l, after: after, reason: reason, gap: Gap{Reasons: map[string]uint64{}}}
}

// works tells whether anything is dropped. Taking nothing but an older gap is nothing.
func (d *dropper) works() bool { return d != nil && d.entries > 0 }

// delta is by how much the bytes of the lane change.
func (d *dropper) delta() int64 {
	if !d.works() {
		return 0
	}
	return int64(keyLen+len(d.record)) - d.freed
}

// take takes elements while more says so, and then a gap that comes next: two that touch become one.
func (d *dropper) take(more func(next fact) bool) error {
	for {
		f, put, err := d.peek()
		if err != nil {
			return err
		}
		if f == nil {
			d.dry = true
			return nil
		}
		if f.gap == nil && !more(*f) {
			return nil
		}
		if f.gap != nil && d.entries > 0 && !more(*f) {
			if !d.alone {
				d.absorb(f, nil)
			}
			return nil
		}
		d.absorb(f, put)
	}
}

// peek is what comes next: an element of the lane, or one of the puts.
func (d *dropper) peek() (f *fact, put *pending, err error) {
	if len(d.ahead) == 0 {
		d.batch = min(4*d.batch+1, maxRead)
		elements := d.lane.chain.appendTo(nil, max(d.after, d.lane.gone), d.batch)
		if d.ahead, err = d.lane.facts(elements); err != nil {
			return nil, nil, err
		}
	}
	if len(d.ahead) > 0 {
		return &d.ahead[0], nil, nil
	}
	for ; d.putAt < len(d.w.puts); d.putAt++ {
		if p := &d.w.puts[d.putAt]; p.lane == d.lane {
			f := factOf(element{p.seq, p.seq, d.w.from + uint64(d.putAt), nil}, p.record, true, nil)
			return &f, p, nil
		}
	}
	return nil, nil, nil
}

// absorb makes f a part of the gap.
func (d *dropper) absorb(f *fact, put *pending) {
	if d.gap.First == 0 {
		d.gap.First, d.start = f.first, f.start
	}
	from, to := f.created, f.created
	if f.gap != nil && len(f.message.Reasons) > 0 {
		from, to = f.message.From, f.message.To
		d.covered += f.covered
		for reason, n := range f.message.Reasons {
			d.gap.Reasons[reason] += n
		}
	} else { // a gap that is damaged too
		n := f.last - f.first + 1
		d.covered += f.size
		d.gap.Reasons[d.reason] += n
		d.entries += n
	}
	if d.gap.From.IsZero() {
		d.gap.From = from
	}
	if !to.IsZero() {
		d.gap.To = to
	}
	d.gap.Last, d.at = f.last, f.global
	d.gap.Count += f.last - f.first + 1
	d.freed += f.size
	d.after = f.last
	if put != nil {
		put.dropped = true
		d.putAt++
	} else {
		d.left = append(d.left, f.element)
		d.ahead = d.ahead[1:]
	}
	d.record = encodeGap(d.gap, d.start, d.covered)
}

// end puts the gap into the lane. It needs the lane's mu.
func (d *dropper) end(l *Lane, newest *generation) {
	size := int64(keyLen + len(d.record))
	front := l.gone+1 == d.gap.First
	l.chain.replace(element{d.gap.First, d.gap.Last, d.at, &gapPlace{newest, size}})
	newest.live++
	l.bytes += d.delta()
	l.dropped += d.entries
	l.version++
	if front {
		l.oldest = createdOf(d.record)
	}
	l.seen = slices.DeleteFunc(l.seen, func(s seen) bool { return s.last >= d.gap.First })
}

// expire drops what has been in the queue for too long, a portion of each lane.
func (q *Queue) expire() error {
	now, good := q.clock()
	if q.cfg.MaxAge == 0 || !good {
		return nil
	}
	limit := now.Add(-q.cfg.MaxAge)
	for _, l := range q.committer.byNumber {
		o := &op{lane: l, reason: ReasonAge, from: l.freeze}
		n := 0
		o.more = func(f fact) bool {
			n++
			return n <= maxAcks && !f.accepted.IsZero() && f.accepted.Before(limit)
		}
		if err := q.operate(o); err != nil {
			return err
		}
		if n > maxAcks {
			signal(q.now)
		}
	}
	return nil
}
