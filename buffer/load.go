package buffer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
)

// loader fills the queue's memory from its files. Of the log it reads the keys and the first bytes of
// the records, from the newest to the oldest: so it comes upon a gap before what the gap covers.
type loader struct {
	q        *Queue
	epoch    uint32
	global   uint64 // the highest
	lanes    map[uint32]*laneLoader
	byNumber []*laneLoader // the same, as far as the numbers are small
	id       string
	numbers  uint32 // the highest
	lost     []lostRun
	other    map[string]value
}

// maxByNumber bounds what a damaged number can make the loader allocate.
const maxByNumber = 1 << 20

// load reads gens, oldest first.
func (q *Queue) load(gens []*generation) (*loader, error) {
	l := &loader{q: q, lanes: map[uint32]*laneLoader{}, other: map[string]value{}}
	txs := make([]*bbolt.Tx, len(gens))
	defer func() {
		for _, tx := range txs {
			if tx != nil {
				_ = tx.Rollback() // it only read
			}
		}
	}()
	for i, g := range gens {
		tx, err := g.handle().Begin(false)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.path, err)
		}
		txs[i] = tx
		if err := l.values(tx); err != nil {
			return nil, fmt.Errorf("%s: %w", g.path, err)
		}
		g.id = l.id
	}
	l.byNumber = make([]*laneLoader, min(l.numbers+1, maxByNumber))
	for n, lane := range l.lanes {
		if int(n) < len(l.byNumber) {
			l.byNumber[n] = lane
		}
	}
	if err := l.logs(gens, txs); err != nil {
		return nil, err
	}
	for _, lane := range l.lanes {
		lane.finish(l)
	}
	return l, nil
}

// values reads all but the log. A later file knows better, but not less: marks only grow.
func (l *loader) values(tx *bbolt.Tx) error {
	each := eachValue
	if formatOf(tx) == 1 {
		each = eachBareValue
	}
	visit := map[string]func(key, content []byte) error{
		bucketIdentities: func(k, name []byte) error {
			lane := l.lane(k)
			lane.id = gateway.IdentityID(name)
			return nil
		},
		bucketMarks: func(k, content []byte) error {
			if len(content) != 16 && len(content) != 8 {
				return damagedValue(bucketMarks, k)
			}
			m := mark{seq: binary.BigEndian.Uint64(content)}
			if len(content) == 16 {
				m.global = binary.BigEndian.Uint64(content[8:])
			}
			if lane := l.lane(k); m.seq > lane.mark.seq {
				lane.mark = m
			}
			return nil
		},
		bucketNext: func(k, content []byte) error {
			if len(content) != 8 {
				return damagedValue(bucketNext, k)
			}
			lane := l.lane(k)
			lane.next = max(lane.next, binary.BigEndian.Uint64(content))
			return nil
		},
	}
	for bucket, visit := range visit {
		if tx.Bucket([]byte(bucket)) == nil {
			continue // format 1 has fewer
		}
		if err := each(tx, bucket, 4, visit); err != nil {
			return err
		}
	}
	return l.meta(tx, each)
}

// meta reads what is about the file as a whole.
func (l *loader) meta(tx *bbolt.Tx, each func(*bbolt.Tx, string, int, func(k, v []byte) error) error) error {
	if formatOf(tx) == 1 {
		l.id = string(tx.Bucket([]byte(bucketMeta)).Get([]byte(keyID)))
		return nil
	}
	id, err := getValue(tx, bucketMeta, []byte(keyID))
	if err != nil {
		return err
	}
	l.id = string(id)
	epoch, err := getValue(tx, bucketMeta, []byte(keyEpoch))
	if err != nil || len(epoch) != 4 {
		return damagedValue(bucketMeta, []byte(keyEpoch))
	}
	l.epoch = max(l.epoch, binary.BigEndian.Uint32(epoch))
	first, err := getValue(tx, bucketMeta, []byte(keyFirst))
	if err != nil || len(first) != 8 {
		return damagedValue(bucketMeta, []byte(keyFirst))
	}
	l.global = max(l.global, binary.BigEndian.Uint64(first)-1)
	for _, bucket := range []string{bucketCuts, bucketClock} {
		err := each(tx, bucket, 0, func(k, content []byte) error {
			v := value{bucket, bytes.Clone(k), bytes.Clone(content)}
			l.other[bucket+string(k)] = v
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) lane(number []byte) *laneLoader { return l.numbered(binary.BigEndian.Uint32(number)) }

func (l *loader) numbered(n uint32) *laneLoader {
	lane := l.lanes[n]
	if lane == nil {
		lane = &laneLoader{number: n}
		l.lanes[n] = lane
		l.numbers = max(l.numbers, n)
	}
	return lane
}

// head is where a cursor stands: at the key global and number.
type head struct {
	gen    *generation
	c      *bbolt.Cursor
	k, v   []byte
	global uint64
	number uint32
}

// read takes in the key that the cursor has come to.
func (h *head) read(k, v []byte) error {
	h.k, h.v = k, v
	if k == nil {
		return nil
	}
	var ok bool
	if h.global, h.number, ok = parseKey(k); !ok {
		return fmt.Errorf("%s: %w: key %x in the log", h.gen.path, ErrDamaged, k)
	}
	return nil
}

// compare tells which key comes first. Nothing has come before what was never read.
func (h *head) compare(other *head) int {
	if h.global != other.global {
		return cmp.Compare(h.global, other.global)
	}
	return cmp.Compare(h.number, other.number)
}

// logs visits the records of all logs by descending key; of equal keys only the one in the newest
// file.
func (l *loader) logs(gens []*generation, txs []*bbolt.Tx) error {
	heads := make([]*head, 0, len(gens))
	for i := len(gens) - 1; i >= 0; i-- { // the newest first
		h := &head{gen: gens[i], c: txs[i].Bucket([]byte(bucketLog)).Cursor()}
		if err := h.read(h.c.Last()); err != nil {
			return err
		}
		heads = append(heads, h)
	}
	for heads = deleteEmpty(heads); len(heads) > 0; heads = deleteEmpty(heads) {
		best, bound := heads[0], &head{} // bound is the highest of the others
		for _, h := range heads[1:] {
			if h.compare(best) > 0 {
				best, bound = h, best
			} else if h.compare(bound) > 0 {
				bound = h
			}
		}
		if err := l.drain(best, bound); err != nil {
			return err
		}
		if bound.k != nil && best.k != nil && best.compare(bound) == 0 {
			if err := l.drainEqual(heads, *bound); err != nil {
				return err
			}
		}
	}
	return nil
}

// drain visits the records of h while their keys are above bound.
func (l *loader) drain(h, bound *head) error {
	for h.k != nil && h.compare(bound) > 0 {
		if !l.plain(h) {
			if err := l.visit(h); err != nil {
				return err
			}
		}
		if err := h.read(h.c.Prev()); err != nil {
			return err
		}
	}
	return nil
}

// plain takes the record that nearly all are: the entry before the one that was taken last. It is visit
// for millions. Nothing is checked that is as expected: what reads the record checks it.
func (l *loader) plain(h *head) bool {
	if int(h.number) >= len(l.byNumber) {
		return false
	}
	lane := l.byNumber[h.number]
	if lane == nil || len(h.v) < minRecord || h.v[atKind] != kindData || h.global <= lane.mark.global ||
		lane.low <= lane.mark.seq+1 || sequenceOf(h.v) != lane.low-1 || lane.part.n == 0 {
		return false
	}
	lane.low--
	lane.above = h.global
	lane.part.push(h.global)
	lane.bytes += int64(len(h.k) + len(h.v))
	h.gen.live++
	h.gen.total++
	l.q.places.note(h.global, h.gen)
	return true
}

// drainEqual passes the heads that stand at key; the first of them is in the newest file.
func (l *loader) drainEqual(heads []*head, at head) error {
	visited := false
	for _, h := range heads {
		if h.k == nil || h.compare(&at) != 0 {
			continue
		}
		if visited {
			h.gen.total++
		} else if err := l.visit(h); err != nil {
			return err
		}
		visited = true
		if err := h.read(h.c.Prev()); err != nil {
			return err
		}
	}
	return nil
}

func deleteEmpty(heads []*head) []*head {
	kept := heads[:0]
	for _, h := range heads {
		if h.k != nil {
			kept = append(kept, h)
		}
	}
	return kept
}

// visit takes one record.
func (l *loader) visit(h *head) error {
	var lane *laneLoader
	if int(h.number) < len(l.byNumber) {
		lane = l.byNumber[h.number]
	} else {
		lane = l.lanes[h.number]
	}
	if lane == nil || lane.id == "" {
		return fmt.Errorf("%s: %w: key %x in the log is of an unknown identity", h.gen.path, ErrDamaged, h.k)
	}
	l.global = max(l.global, h.global)
	h.gen.total++
	if h.global > lane.mark.global {
		lane.visit(l, h, h.global)
	}
	return nil
}
