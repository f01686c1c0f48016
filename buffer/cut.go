package buffer

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"
)

// cutting asks for ends of packs to be committed, before the packs are handed out.
type cutting struct {
	lane  *Lane
	ends  []uint64 // ascending, above those that are committed, or
	half  bool     // in the middle of a pack that is there
	taken gathered // what the packs were planned with; it must not have changed
}

// gathered are entries of a lane that are read but not handed out.
type gathered struct {
	entries  []Entry
	elements []element // the same
	clocks   *clocks
	all      bool  // no more are there
	err      error // why what follows them cannot be read
}

// packed tells whether the lane's messages behind a sequence are packs: by the configuration, or because
// some were cut when that was different.
func (l *Lane) packed(after uint64) bool {
	if l.q.cfg.Batch.MaxBytes > 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.cuts)
	return n > 0 && l.cuts[n-1] > l.from(after)
}

// nextPacks is Next for a lane whose messages are packs.
func (l *Lane) nextPacks(ctx context.Context, after uint64, most int) ([]Entry, error) {
	var grow growing
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if l.q.isClosed() {
			return nil, l.q.errClosed()
		}
		g := l.gather(ctx, after)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		messages, err := l.cutAndPack(ctx, g, most, g.err != nil || g.all && grow.over(g.entries, l.q.cfg.Batch.MaxWait))
		if err != nil || len(messages) > 0 {
			return messages, err
		}
		if g.err != nil {
			return nil, g.err
		}
		behind := after
		if n := len(g.entries); n > 0 && g.all {
			behind = g.entries[n-1].Seq
		}
		if err := l.awaitMore(ctx, behind, grow.timer()); err != nil {
			return nil, err
		}
	}
}

// growing is a pack that waits for more entries.
type growing struct {
	first uint64    // its first sequence
	until time.Time // it is cut then
}

// over tells whether the pack that entries begin has waited long enough.
func (g *growing) over(entries []Entry, maxWait time.Duration) bool {
	if len(entries) == 0 {
		g.first = 0
		return false
	}
	now := time.Now()
	if g.first != entries[0].First {
		g.first = entries[0].First
		g.until = now.Add(growth(entries[0].Telemetry.Created, now, maxWait))
	}
	return !now.Before(g.until)
}

// timer rings when the pack has waited long enough; never if there is none.
func (g *growing) timer() *time.Timer {
	if g.first == 0 {
		return nil
	}
	return time.NewTimer(time.Until(g.until))
}

// gather reads what is behind after, as much as a few packs hold.
func (l *Lane) gather(ctx context.Context, after uint64) (g gathered) {
	for size := 0; size < maxReadBytes && g.err == nil; {
		v, _ := l.look(after, maxRead)
		if g.clocks == nil {
			g.clocks = v.clocks
		}
		if len(v.elements) == 0 || g.clocks != v.clocks {
			g.all = len(v.elements) == 0
			return g
		}
		var entries []Entry
		if entries, _, g.err = l.read(ctx, v.elements, v.clocks); errors.Is(g.err, ErrDamaged) {
			g.err = l.q.condemn(ctx, l, v.elements[0], g.err)
		}
		if g.err == nil {
			g.err = ctx.Err()
		}
		for i := range entries { // none if they were acknowledged while they were read
			size += itemLen(&entries[i])
			after = entries[i].Seq
		}
		g.entries = append(g.entries, entries...)
		g.elements = append(g.elements, v.elements[:len(entries)]...)
	}
	return g
}

// cutAndPack makes messages of what was gathered, as far as it is decided where they end: at most most. They
// count as in flight then.
func (l *Lane) cutAndPack(ctx context.Context, g gathered, most int, whole bool) (messages []Entry, err error) {
	if len(g.entries) == 0 {
		return nil, nil
	}
	after := g.entries[0].First - 1
	lay := l.layout(after)
	messages, rest := lay.messages(g.entries, most)
	if limit := l.q.cfg.Batch.MaxBytes; limit > 0 && len(rest) > 0 && rest[0].Seq > lay.last() && len(messages) < most {
		ends := planCuts(rest, limit, whole && len(messages) == 0)
		if ends = ends[:min(len(ends), most-len(messages))]; len(ends) > 0 {
			n := lengthUpTo(g.entries, ends[len(ends)-1])
			taken := gathered{elements: g.elements[:n], clocks: g.clocks}
			if err := l.q.cut(ctx, cutting{lane: l, ends: ends, taken: taken}); err != nil {
				return nil, err
			}
			messages, _ = l.layout(after).messages(g.entries, most)
		}
	}
	if n := len(messages); n > 0 {
		last := messages[n-1].Seq
		elements := g.elements[:lengthUpTo(g.entries, last)]
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.q.clocks.Load() != g.clocks || len(l.same(elements)) < len(elements) {
			return nil, nil // with other times, or other elements
		}
		l.handed, l.returned = max(l.handed, last), max(l.returned, last)
	}
	return messages, nil
}

// span is the sequences behind one, up to another.
type span struct{ behind, to uint64 }

// layout says how a lane's entries are divided into messages, as far as that is decided.
type layout struct {
	cuts  []uint64
	plain []span // may have been sent as they were put, before packs were switched on, and stay so
}

// layout is the one behind a sequence.
func (l *Lane) layout(after uint64) layout {
	l.mu.Lock()
	defer l.mu.Unlock()
	return layout{cuts: above(l.cuts, max(after, l.gone)), plain: l.plain}
}

// last is up to where it is decided.
func (lay layout) last() (last uint64) {
	if n := len(lay.cuts); n > 0 {
		last = lay.cuts[n-1]
	}
	if n := len(lay.plain); n > 0 {
		last = max(last, lay.plain[n-1].to)
	}
	return last
}

func (lay layout) isPlain(seq uint64) bool {
	return slices.ContainsFunc(lay.plain, func(s span) bool { return seq > s.behind && seq <= s.to })
}

// messages makes up to most messages of entries; rest is what follows, which is not decided or not whole.
func (lay layout) messages(entries []Entry, most int) (messages, rest []Entry) {
	cuts := lay.cuts
	for len(entries) > 0 && len(messages) < most {
		if lay.isPlain(entries[0].Seq) {
			messages, entries = append(messages, entries[0]), entries[1:]
			continue
		}
		for len(cuts) > 0 && cuts[0] < entries[0].Seq {
			cuts = cuts[1:]
		}
		if len(cuts) == 0 || entries[len(entries)-1].Seq < cuts[0] {
			break
		}
		n := lengthUpTo(entries, cuts[0])
		messages = append(messages, packAll(entries[:n])...)
		entries = entries[n:]
	}
	return messages, entries
}

// lengthUpTo is how many of entries, from the first on, are not above a sequence.
func lengthUpTo(entries []Entry, last uint64) int {
	for i := range entries {
		if entries[i].Seq > last {
			return i
		}
	}
	return len(entries)
}

// packAll is the pack of entries that were cut together. If the disk has lost one of them since, a gap
// stands in its place and is a message of its own.
func packAll(entries []Entry) (messages []Entry) {
	const unlimited = math.MaxInt
	for _, end := range planCuts(entries, unlimited, true) {
		n := lengthUpTo(entries, end)
		messages = append(messages, pack(entries[:n]))
		entries = entries[n:]
	}
	return messages
}

// awaitMore returns when there is something behind after, or timer, which may be nil, rings.
func (l *Lane) awaitMore(ctx context.Context, after uint64, timer *time.Timer) error {
	var rings <-chan time.Time
	if timer != nil {
		defer timer.Stop()
		rings = timer.C
	}
	v, wait := l.look(after, 1)
	if len(v.elements) > 0 {
		return nil
	}
	select {
	case <-wait:
	case <-rings:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.q.done:
		if v, _ := l.look(after, 1); len(v.elements) == 0 {
			return l.q.errClosed()
		}
	}
	return nil
}

// cut commits ends of packs.
func (q *Queue) cut(ctx context.Context, c cutting) error {
	q.mu.Lock()
	if q.state >= stopping {
		q.mu.Unlock()
		return q.errClosed()
	}
	b := q.open
	b.cuts = append(b.cuts, c)
	signal(q.now)
	q.mu.Unlock()
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// planCutting writes a lane's cuts: those that have not left yet, and those that are asked for, unless what
// they cut has changed. Should two readers of one lane ask, the first is right, and the other finds its
// cuts when it looks again.
func (q *Queue) planCutting(w *work, c cutting) {
	if !c.half && !c.lane.reserve(c) {
		return
	}
	ends := c.lane.cutsBehind(0)
	for _, earlier := range w.cuts {
		if earlier.lane == c.lane {
			ends = earlier.ends
		}
	}
	for _, end := range c.ends {
		if at, found := slices.BinarySearch(ends, end); !found && (at == len(ends) || c.half) {
			ends = slices.Insert(ends, at, end)
		}
	}
	w.values = append(w.values, cutsValue(c.lane.number, ends))
	w.cuts = append(w.cuts, cutting{lane: c.lane, ends: ends})
}

// reserve counts what is to be cut as in flight, if it has not changed since it was read. If it has, it is
// reserved for the reader's next attempt.
func (l *Lane) reserve(c cutting) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.q.clocks.Load() != c.taken.clocks || len(l.same(c.taken.elements)) < len(c.taken.elements) {
		l.wanted = len(c.taken.elements)
		return false
	}
	l.handed, l.wanted = max(l.handed, c.ends[len(c.ends)-1]), 0
	return true
}

// cutsBehind is the ends of packs above a sequence that are committed and have not left.
func (l *Lane) cutsBehind(after uint64) []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return above(l.cuts, max(after, l.gone))
}

// above is a copy of those ends that are greater than seq.
func above(ends []uint64, seq uint64) []uint64 {
	i, found := slices.BinarySearch(ends, seq)
	if found {
		i++
	}
	return slices.Clone(ends[i:])
}

// setCuts takes cuts that are on disk into memory. What was cut may have been sent.
func (l *Lane) setCuts(ends []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cuts = above(ends, l.gone)
	if n := len(l.cuts); n > 0 {
		l.handed = max(l.handed, l.cuts[n-1])
	}
}

// halve cuts the lane's oldest pack, which ends at seq, in two; false if it is no pack of several.
func (l *Lane) halve(ctx context.Context, seq uint64) (halved bool, err error) {
	l.mu.Lock()
	_, cut := slices.BinarySearch(l.cuts, seq)
	from := l.from(0)
	n := l.chain.count(from, seq)
	var middle []element
	if cut && n > 1 {
		middle = l.chain.appendTo(nil, from, n/2)
	}
	l.mu.Unlock()
	if len(middle) == 0 {
		return false, nil
	}
	return true, l.q.cut(ctx, cutting{lane: l, ends: []uint64{middle[len(middle)-1].last}, half: true})
}
