package buffer

import (
	"context"
	"encoding/binary"
	"slices"
	"time"
)

// cutting asks for ends of packs to be committed, before the packs are handed out.
type cutting struct {
	lane *Lane
	ends []uint64 // ascending, above those that are committed, or
	half bool     // in the middle of a pack that is there
}

// packs tells whether the lane's messages are packs: by the configuration, or because some were cut
// when that was different.
func (l *Lane) packs() bool {
	if l.q.cfg.Batch.MaxBytes > 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.cuts)
	return n > 0 && l.cuts[n-1] > max(l.acked, l.gone)
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
		entries, all, err := l.gather(ctx, after)
		if err != nil {
			return nil, err
		}
		messages, err := l.cutAndPack(ctx, entries, most, all && grow.over(entries, l.q.cfg.Batch.MaxWait))
		if err != nil || len(messages) > 0 {
			return messages, err
		}
		if n := len(entries); n > 0 {
			after = entries[n-1].Seq
		}
		if err := l.awaitMore(ctx, after, grow.timer()); err != nil {
			return nil, err
		}
		if n := len(entries); n > 0 {
			after = entries[0].First - 1
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

// gather takes what is behind after, as much as a few packs hold; all tells that this is all.
func (l *Lane) gather(ctx context.Context, after uint64) (entries []Entry, all bool, err error) {
	size := 0
	for size < maxReadBytes {
		v, _ := l.look(after, maxRead)
		if len(v.elements) == 0 {
			return entries, true, nil
		}
		more, err := l.take(ctx, v)
		if err != nil {
			if len(entries) > 0 {
				return entries, false, nil // the next call comes upon it
			}
			return nil, false, err
		}
		if len(more) == 0 {
			if err := ctx.Err(); err != nil {
				return nil, false, err
			}
			continue // it has changed while it was read
		}
		for i := range more {
			size += itemLen(&more[i])
		}
		entries = append(entries, more...)
		after = more[len(more)-1].Seq
	}
	return entries, false, nil
}

// cutAndPack makes messages of entries, as far as it is decided where they end: at most most.
func (l *Lane) cutAndPack(ctx context.Context, entries []Entry, most int, whole bool) (messages []Entry, err error) {
	if len(entries) == 0 {
		return nil, nil
	}
	limit, after := l.q.cfg.Batch.MaxBytes, entries[0].First-1
	cuts := l.cutsBehind(after)
	if limit > 0 && len(cuts) < most {
		rest := entries
		if n := len(cuts); n > 0 {
			rest = entries[lengthUpTo(entries, cuts[n-1]):]
		}
		ends := planCuts(rest, limit, whole && len(cuts) == 0)
		if ends = ends[:min(len(ends), most-len(cuts))]; len(ends) > 0 {
			if err := l.q.cut(ctx, cutting{lane: l, ends: ends}); err != nil {
				return nil, err
			}
			cuts = l.cutsBehind(after)
		}
	}
	for _, end := range cuts {
		n := lengthUpTo(entries, end)
		if n == 0 || entries[n-1].Seq < end || len(messages) >= most {
			return messages, nil
		}
		messages = append(messages, packAll(entries[:n])...)
		entries = entries[n:]
	}
	if limit == 0 && len(messages) == 0 {
		return entries[:min(len(entries), most)], nil // behind the last pack of former times
	}
	return messages, nil
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
	const unlimited = 1 << 40
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

// planCutting writes a lane's cuts: those that have not left yet, and those that are asked for. Should two
// readers of one lane ask, the first is right, and the other finds its cuts when it looks again.
func (q *Queue) planCutting(w *work, c cutting) {
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

// cutsValue stores ends.
func cutsValue(number uint32, ends []uint64) value {
	content := make([]byte, 0, 8*len(ends))
	for _, end := range ends {
		content = binary.BigEndian.AppendUint64(content, end)
	}
	return value{bucketCuts, numberKey(number), content}
}

// parseCuts reads what cutsValue stores.
func parseCuts(content []byte) (ends []uint64, ok bool) {
	for ; len(content) >= 8; content = content[8:] {
		ends = append(ends, binary.BigEndian.Uint64(content))
	}
	return ends, len(content) == 0 && slices.IsSorted(ends)
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
