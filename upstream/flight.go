package upstream

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"iothub-gateway/internal/dial"
)

// flight is what one connection has sent and not seen acknowledged: at most a window of entries,
// consecutive in their lane. The hub acknowledges in the order of sending (D2C-26).
type flight struct {
	// room has capacity 1: something was acknowledged since it was last emptied.
	room chan struct{}

	mu    sync.Mutex // guards the fields below
	seqs  []uint64   // of the entries in flight, oldest first
	next  uint16     // packet id of the next entry, less dial.FirstOwnID
	moved time.Time  // when the oldest was acknowledged last, or the first of now was sent
	timed uint64     // the entry whose way to its acknowledgement is being timed
	start time.Time  // when it was sent; zero if none is
	took  time.Duration
	round uint64 // counts the times that took was set
	sizes []int  // bytes, of the entries of seqs
}

func newFlight() *flight { return &flight{room: make(chan struct{}, 1)} }

// idMask keeps packet ids in the range that belongs to this side: FirstOwnID to 65535.
const idMask = 0xffff - dial.FirstOwnID

// len is how many entries are in flight.
func (f *flight) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.seqs)
}

// entries are those in flight, oldest first.
func (f *flight) entries() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seqs)
}

// roundTrip is how long the entry that was timed last took to its acknowledgement, and how many have been
// timed.
func (f *flight) roundTrip() (took time.Duration, count uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.took, f.round
}

// add takes an entry that is about to be sent and returns its packet id; first tells that nothing was
// in flight before it.
func (f *flight) add(seq uint64, now time.Time) (id uint16, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if first = len(f.seqs) == 0; first {
		f.moved = now
	}
	if f.start.IsZero() {
		f.timed, f.start = seq, now
	}
	f.seqs, f.sizes = append(f.seqs, seq), append(f.sizes, 0)
	id = dial.FirstOwnID + f.next
	f.next = (f.next + 1) & idMask
	return id, first
}

// weigh notes how many bytes the entry has that was added last.
func (f *flight) weigh(size int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.sizes); n > 0 { // else it is acknowledged already
		f.sizes[n-1] = size
	}
}

// heaviest is the size of the largest entry in flight, bytes.
func (f *flight) heaviest() (most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, size := range f.sizes {
		most = max(most, size)
	}
	return most
}

// ack takes the PUBACK of a packet id and returns the entry it is about. Any but the oldest in flight
// is a fault of the hub: to go on would be to guess what it has.
func (f *flight) ack(id uint16, now time.Time) (seq uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	oldest := (f.next - uint16(len(f.seqs))) & idMask
	if len(f.seqs) == 0 || id != dial.FirstOwnID+oldest {
		return 0, fmt.Errorf("the hub acknowledged packet %d, which is not the oldest of the %d in flight", id, len(f.seqs))
	}
	seq = f.seqs[0]
	f.seqs = f.seqs[:copy(f.seqs, f.seqs[1:])]
	f.sizes = f.sizes[:copy(f.sizes, f.sizes[1:])]
	f.moved = now
	if seq == f.timed && !f.start.IsZero() {
		f.took, f.start = now.Sub(f.start), time.Time{}
		f.round++
	}
	select {
	case f.room <- struct{}{}:
	default:
	}
	return seq, nil
}

// waiting is since when the oldest entry in flight has been waiting; false if none is.
func (f *flight) waiting() (since time.Time, some bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.moved, len(f.seqs) > 0
}

// slowRound is from how long on the way of a message to its acknowledgement means that the hub holds
// messages up (THR-17).
const slowRound = 2 * time.Second

// nextWindow is how many messages may be in flight after one of them took so long to its acknowledgement:
// one more than now, up to most, or half as many, lest the hub ends the connection over what it holds up.
func nextWindow(now, most int, took time.Duration) int {
	if took > slowRound {
		return max(1, now/2)
	}
	return min(most, now+1)
}
