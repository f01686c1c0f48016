package upstream

import (
	"fmt"
	"sync"
	"time"

	"iothub-gateway/internal/dial"
)

// flight is what one connection has sent and not seen acknowledged: at most a window of entries,
// consecutive in their lane. The hub acknowledges in the order of sending (D2C-26).
type flight struct {
	window int
	// room has capacity 1: something was acknowledged since it was last emptied.
	room chan struct{}

	mu    sync.Mutex // guards the fields below
	seqs  []uint64   // of the entries in flight, oldest first
	next  uint16     // packet id of the next entry, less dial.FirstOwnID
	moved time.Time  // when the oldest was acknowledged last, or the first of now was sent
}

func newFlight(window int) *flight {
	return &flight{window: window, room: make(chan struct{}, 1), seqs: make([]uint64, 0, window)}
}

// idMask keeps packet ids in the range that belongs to this side: FirstOwnID to 65535.
const idMask = 0xffff - dial.FirstOwnID

// free is how many entries may be sent now.
func (f *flight) free() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.window - len(f.seqs)
}

// add takes an entry that is about to be sent and returns its packet id; first tells that nothing was
// in flight before it.
func (f *flight) add(seq uint64, now time.Time) (id uint16, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if first = len(f.seqs) == 0; first {
		f.moved = now
	}
	f.seqs = append(f.seqs, seq)
	id = dial.FirstOwnID + f.next
	f.next = (f.next + 1) & idMask
	return id, first
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
	f.moved = now
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
