package buffer

import (
	"bytes"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// maxAcks is how many elements leave in one transaction; more would hold up the Puts.
const maxAcks = 1 << 14

// work is one transaction: what it writes, and what it does to the memory once it is on disk.
type work struct {
	tx      int // its id
	batch   *batch
	op      *op // what asked for it, if it was not a Put; else nil
	from    uint64
	puts    []pending // at from, from+1, ...
	kept    int64     // those that were not dropped at once
	records []logRecord
	values  []value
	cuts    []cutting
	clocks  clocks // nil: as before
	purge   bool   // take out of the log what has left
	purged  int64  // so many records
	moves   []move // elements among records that are moved here
	source  *generation
	upTo    []byte // the last key of source that was looked at

	changes []*change
	left    []element // that are not in the queue any more
	genOf   func(element) *generation
	bytes   int64 // of all lanes, after it
}

// logRecord is a gap, or an entry that is moved here from an older file.
type logRecord struct {
	key    key
	record []byte
}

// change is what a transaction does to a lane.
type change struct {
	lane    *Lane
	planned int64 // bytes of the lane after it

	marked   bool // acknowledged elements leave, up to
	mark     mark
	ackBytes int64
	oldest   time.Time // of what is left
	drop     *dropper  // entries that make room; nil if none
}

func (w *work) empty() bool {
	return len(w.puts) == 0 && len(w.records) == 0 && len(w.values) == 0 && !w.purge
}

// finish tells those who wait for the transaction.
func (w *work) finish(err error) {
	w.batch.finish(err)
	if w.op != nil {
		w.op.finish(err)
	}
}

// of is the change of a lane, which is made if there is none.
func (w *work) of(l *Lane) *change {
	if l.change == nil {
		l.change = &change{lane: l, planned: l.bytes} // only the committer writes bytes
		w.changes = append(w.changes, l.change)
	}
	return l.change
}

func (q *Queue) newWork() *work {
	c := &q.committer
	return &work{tx: c.lastTx + 1, batch: newBatch(), from: c.global + 1, bytes: c.bytes,
		genOf: func(e element) *generation {
			if e.gap != nil {
				return e.gap.gen
			}
			return q.places.of(e.global)
		}}
}

// plan decides what the next transaction does: who leaves, which Puts are admitted, and who makes
// room for them.
func (q *Queue) plan(b *batch, acked []*Lane) (*work, error) {
	w := q.newWork()
	w.batch = b
	if err := q.planAcks(w, acked); err != nil {
		q.undo(w)
		return nil, err
	}
	for _, c := range b.cuts {
		q.planCutting(w, c)
	}
	for _, c := range b.calls {
		if q.cfg.WhenFull == RefuseNew {
			q.admit(w, c)
		}
		q.planPuts(w, c.puts)
	}
	if err := q.makeRoom(w); err != nil {
		q.undo(w)
		return nil, err
	}
	q.seal(w)
	return w, nil
}

// planAcks lets acknowledged elements leave.
func (q *Queue) planAcks(w *work, acked []*Lane) error {
	// Every lane gets the same share, so that none waits for another's long list.
	share := max(1, maxAcks/max(1, len(acked)))
	elements := q.committer.elements[:0]
	for i, l := range acked {
		from := len(elements)
		var all bool
		elements, all = l.ackedElements(elements, share)
		if !all {
			q.enterAck(l)
			signal(q.now)
		}
		if left := elements[from:]; len(left) > 0 {
			if err := q.planMark(w, l, left); err != nil {
				q.committer.held = append(q.committer.held, acked[i+1:]...) // undo holds the others
				return err
			}
		}
	}
	q.committer.elements = elements
	w.left = append(w.left, elements...)
	return nil
}

// planMark moves a lane's mark behind left.
func (q *Queue) planMark(w *work, l *Lane, left []element) error {
	ch := w.of(l)
	end := left[len(left)-1]
	ch.marked, ch.mark = true, mark{end.last, end.global}
	known := l.known(len(left) + 1)
	for _, s := range known[:min(len(known), len(left))] {
		ch.ackBytes += s.size
	}
	if unknown := left[min(len(known), len(left)):]; len(unknown) > 0 {
		facts, err := l.facts(unknown)
		if err != nil {
			return err
		}
		for _, f := range facts {
			ch.ackBytes += f.size
		}
	}
	ch.planned -= ch.ackBytes
	w.bytes -= ch.ackBytes
	w.values = append(w.values, markValue(l.number, ch.mark))
	if len(known) > len(left) {
		ch.oldest = known[len(left)].created
		return nil
	}
	next := l.chain.appendTo(nil, end.last, 1) // only this goroutine changes the chain
	if len(next) == 0 {
		return nil
	}
	facts, err := l.facts(next)
	if err == nil {
		ch.oldest = facts[0].created
	}
	return err
}

// planPuts numbers what is put.
func (q *Queue) planPuts(w *work, puts []pending) {
	c := &q.committer
	for i := range puts {
		p := &puts[i]
		l := p.lane
		if l.number == 0 {
			c.numbers++
			l.number = c.numbers
			c.byNumber[l.number] = l
		}
		ch := w.of(l)
		p.seq = l.next
		l.next++
		ch.planned += p.size()
		w.bytes += p.size()
		w.puts = append(w.puts, *p)
	}
	c.global = max(c.global, w.from+uint64(len(w.puts))-1) // never used again, whatever becomes of it
}

// seal completes the records and lists what is written beside the log.
func (q *Queue) seal(w *work) {
	c := &q.committer
	q.noteBoot(w)
	for i := range w.puts {
		p := &w.puts[i]
		if p.dropped {
			continue
		}
		w.kept++
		seal(p.record, p.lane.key(w.from+uint64(i)), p.seq, c.epoch)
	}
	for _, ch := range w.changes {
		if d := ch.drop; d.works() {
			w.left = append(w.left, d.left...)
			w.bytes += d.delta()
			k := ch.lane.key(d.at)
			record := slices.Clone(d.record)
			seal(record, k, d.gap.Last, c.epoch)
			w.records = append(w.records, logRecord{k, record})
		}
		if l := ch.lane; !l.named && l.number != 0 {
			w.values = append(w.values, value{bucketIdentities, numberKey(l.number), []byte(l.id)})
		}
	}
}

// leave takes the elements that have left out of memory.
func (ch *change) leave() {
	if !ch.marked {
		return
	}
	l := ch.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone, l.goneGlobal = ch.mark.seq, ch.mark.global
	l.chain.drop(l.gone)
	l.bytes -= ch.ackBytes
	l.oldest = ch.oldest
	known, _ := slices.BinarySearchFunc(l.seen, l.gone+1, func(s seen, seq uint64) int {
		if s.last < seq {
			return -1
		}
		return 1
	})
	l.seen = slices.Delete(l.seen, 0, known)
}

// added takes an entry into memory.
func (l *Lane) added(global uint64, p *pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.chain.len() == 0 {
		l.oldest = createdOf(p.record)
	}
	l.chain.push(p.seq, global)
	l.bytes += p.size()
}

// end takes the rest of the change into memory, and returns what to close for those who wait.
func (ch *change) end(newest *generation) (wake chan struct{}) {
	l := ch.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := ch.drop; d.works() {
		d.end(l, newest)
	}
	l.named = l.named || l.number != 0
	l.change = nil
	l.unfreeze()
	wake, l.wake = l.wake, nil
	return wake
}

// fact is what is known of an element once its record was read. A record that the disk has damaged
// has a size, but nothing else.
type fact struct {
	element
	size     int64
	created  time.Time
	accepted time.Time // zero: not known
	message  Gap       // of a gap
	start    uint64    // the first global sequence that a gap covers
	covered  int64     // bytes
}

// facts reads elements from memory or the files.
func (l *Lane) facts(elements []element) ([]fact, error) {
	facts := make([]fact, 0, len(elements))
	clocks := *l.q.clocks.Load()
	for len(facts) < len(elements) {
		rest := elements[len(facts):]
		if records := l.q.recent.appendTo(nil, rest); len(records) > 0 {
			for i, r := range records {
				facts = append(facts, factOf(rest[i], r, true, clocks))
			}
			continue
		}
		gen := l.genOf(rest[0])
		db := gen.handle()
		if db == nil {
			return nil, errRetired
		}
		err := db.View(func(tx *bbolt.Tx) error {
			log := tx.Bucket([]byte(bucketLog)).Cursor()
			for _, e := range rest {
				if l.genOf(e) != gen {
					break
				}
				k := l.key(e.global)
				found, v := log.Seek(k[:])
				if !bytes.Equal(found, k[:]) {
					v = nil
				}
				facts = append(facts, factOf(e, v, v != nil && check(k, v) == nil, clocks))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return facts, nil
}

// factOf reads a record; sound tells whether its checksum holds.
func factOf(e element, record []byte, sound bool, clocks clocks) fact {
	f := fact{element: e, size: int64(keyLen + len(record)), start: e.global}
	if record == nil {
		f.size = 0
	}
	if e.gap != nil {
		f.size = e.gap.size
	}
	if !sound {
		f.message = Gap{First: e.first, Last: e.last, Count: e.last - e.first + 1}
		return f
	}
	f.created = createdOf(record)
	s, at, err := parseStamps(record)
	if err == nil && s.unsynchronised {
		if at, ok := clocks.at(s); ok {
			f.accepted = at
		}
	} else if err == nil && !s.unknown {
		f.accepted = s.accepted
		if f.accepted.IsZero() {
			f.accepted = f.created
		}
	}
	if e.gap != nil && err == nil {
		if rest, _, err := skipProperties(record[at : len(record)-crcLen]); err == nil {
			f.message, f.start, f.covered, _, _ = decodeGap(bytes.Clone(rest))
		}
	}
	return f
}
