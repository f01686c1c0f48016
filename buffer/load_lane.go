package buffer

import (
	"slices"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
)

// laneLoader collects the elements of a lane, newest first.
type laneLoader struct {
	number uint32
	id     gateway.IdentityID
	mark   mark
	next   uint64 // the next sequence is not lower

	low   uint64     // the lowest sequence so far; 0: none
	above uint64     // the global sequence of that element
	top   []standing // damaged ones above the highest sound one, from which their sequences follow
	runs  []run      // newest first
	part  downward   // entries of the run in work, which ends at
	last  uint64
	bytes int64
}

// standing is where a record is, and how large.
type standing struct {
	gen    *generation
	global uint64
	size   int64
}

// visit takes a record of the lane. Nothing is checked that is as expected: what reads the record
// checks it.
func (lane *laneLoader) visit(l *loader, h *head, global uint64) {
	size := int64(len(h.k) + len(h.v))
	if len(h.v) >= minRecord && h.v[atKind] == kindData && lane.low > 1 && sequenceOf(h.v) == lane.low-1 {
		if lane.low-1 > lane.mark.seq {
			lane.entry(l, standing{h.gen, global, size}, lane.low-1)
		}
		return
	}
	first, last, gap, ok := elementOf(h)
	switch {
	case ok && last <= lane.mark.seq, ok && lane.low != 0 && last >= lane.low:
		return // it has left, or a gap covers it
	case !ok && lane.low == 0:
		lane.top = append(lane.top, standing{h.gen, global, size})
		return
	case !ok && lane.low-1 <= lane.mark.seq:
		return
	case !ok:
		first, last = lane.low-1, lane.low-1 // damaged: who reads it says so
	}
	if lane.low == 0 {
		lane.begin(l, last)
	}
	if lane.low != 0 && last < lane.low-1 {
		lane.lose(last+1, lane.low-1, lane.above-1)
	}
	if !gap {
		lane.entry(l, standing{h.gen, global, size}, last)
		return
	}
	lane.closeRun()
	h.gen.live++
	lane.runs = append(lane.runs, run{first: first, last: last, global: global, gap: &gapPlace{h.gen, size}})
	lane.bytes += size
	lane.low, lane.above = first, global
}

// elementOf reads a record of which nothing is expected.
func elementOf(h *head) (first, last uint64, gap, ok bool) {
	if check(makeKey(h.global, h.number), h.v) != nil {
		return 0, 0, false, false
	}
	last = sequenceOf(h.v)
	if h.v[atKind] != kindGap {
		return last, last, false, last > 0
	}
	var d decoder
	e, err := d.decode(h.v)
	return e.First, e.Seq, true, err == nil && e.First > 0
}

// entry takes the record of the entry seq.
func (lane *laneLoader) entry(l *loader, r standing, seq uint64) {
	if lane.part.n == 0 {
		lane.last = seq
	}
	lane.part.push(r.global)
	lane.low, lane.above = seq, r.global
	lane.bytes += r.size
	r.gen.live++
	l.q.places.note(r.global, r.gen)
}

// closeRun completes the run in work.
func (lane *laneLoader) closeRun() {
	if lane.part.n > 0 {
		lane.runs = append(lane.runs, run{first: lane.low, last: lane.last, index: lane.part.index()})
	}
}

// lose notes that sequences are in no file; a gap will say so at the global sequence at.
func (lane *laneLoader) lose(first, last, at uint64) {
	lane.closeRun()
	lane.runs = append(lane.runs, run{first: first, last: last, global: at, gap: &gapPlace{}})
	lane.low, lane.above = first, at
}

// begin numbers what is above the highest sound element, which ends at the sequence last.
func (lane *laneLoader) begin(l *loader, last uint64) {
	if highest := last + uint64(len(lane.top)); highest+1 < lane.next {
		lane.lose(highest+1, lane.next-1, 0) // finish finds it a global sequence
	}
	for i, t := range lane.top {
		lane.entry(l, t, last+uint64(len(lane.top)-i))
	}
	lane.top = nil
}

// finish makes the lane of what was collected.
func (lane *laneLoader) finish(l *loader) {
	if lane.id == "" {
		return // a mark of nobody
	}
	if lane.low == 0 {
		last := lane.mark.seq
		if n := last + uint64(len(lane.top)) + 1; n < lane.next && len(lane.top) > 0 {
			last += lane.next - n
		}
		lane.begin(l, last)
	}
	if lane.low > lane.mark.seq+1 {
		lane.lose(lane.mark.seq+1, lane.low-1, max(lane.above, 1)-1)
	}
	lane.closeRun()
	slices.Reverse(lane.runs)
	made := l.q.lane(lane.id)
	made.number, made.named = lane.number, true
	made.gone, made.acked, made.bytes = lane.mark.seq, lane.mark.seq, lane.bytes
	made.goneGlobal = lane.mark.global
	made.chain.runs = lane.runs
	for i := range lane.runs {
		r := &lane.runs[i]
		made.chain.n += r.len()
		if r.gap != nil && r.gap.gen == nil {
			if r.global == 0 {
				l.global++
				r.global = l.global
			}
			l.lost = append(l.lost, lostRun{made, r})
		}
	}
	made.next = max(lane.next, made.last()+1)
	made.handed = made.protectedAfterOpen()
	if cuts, ok := parseCuts(l.other[bucketCuts+string(numberKey(lane.number))].content); ok {
		made.setCuts(cuts)
	}
}

// lostRun is a gap that load found and that is in no file yet.
type lostRun struct {
	lane *Lane
	run  *run
}

// write writes the gap into the newest file.
func (r lostRun) write(tx *bbolt.Tx, gen *generation, epoch uint32) error {
	n := r.run.last - r.run.first + 1
	record := encodeGap(Gap{First: r.run.first, Last: r.run.last, Count: n, Reasons: map[string]uint64{ReasonDamaged: n}}, r.run.global, 0)
	k := r.lane.key(r.run.global)
	seal(record, k, r.run.last, epoch)
	*r.run.gap = gapPlace{gen, int64(keyLen + len(record))}
	return tx.Bucket([]byte(bucketLog)).Put(k[:], record)
}
