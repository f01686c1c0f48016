package buffer

import "sync"

// What the memory for the newest records is bounded by.
const (
	recentEntries = 1 << 16
	recentBytes   = 16 << 20
)

// recent holds the newest records of all lanes in memory until they are acknowledged, so that a
// lane that keeps up never reads the file. It is a ring by global sequence: the oldest make room,
// whosever they are, so a lane that nobody reads cannot keep the memory from the others.
type recent struct {
	maxBytes int

	mu     sync.RWMutex // guards the fields below
	slots  [][]byte     // slots[global%len] for low <= global < high; nil when acknowledged
	low    uint64
	high   uint64
	memory int
}

// newRecent makes the ring; the first record it gets has the global sequence next.
func newRecent(entries, maxBytes int, next uint64) *recent {
	return &recent{maxBytes: maxBytes, slots: make([][]byte, entries), low: next, high: next}
}

func (r *recent) slot(global uint64) *[]byte { return &r.slots[global%uint64(len(r.slots))] }

// add takes the records of a batch, whose global sequences begin at from; a failed commit may have
// left some out before it. Those that were dropped at once have no record.
func (r *recent) add(from uint64, puts []pending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.high < from {
		r.push(nil)
	}
	for _, p := range puts {
		r.push(p.kept())
		for r.memory > r.maxBytes {
			r.forget(r.low)
			r.low++
		}
	}
}

func (r *recent) push(record []byte) {
	if r.high-r.low == uint64(len(r.slots)) {
		r.forget(r.low)
		r.low++
	}
	*r.slot(r.high) = record
	r.memory += len(record)
	r.high++
}

func (r *recent) forget(global uint64) {
	s := r.slot(global)
	r.memory -= len(*s)
	*s = nil
}

// drop releases records that were acknowledged.
func (r *recent) drop(elements []element) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range elements {
		g := e.global
		if r.low <= g && g < r.high {
			r.forget(g)
		}
	}
	for r.low < r.high && *r.slot(r.low) == nil {
		r.low++
	}
}

// appendTo appends the records of elements to dst, as many from the first on as are here.
func (r *recent) appendTo(dst [][]byte, elements []element) [][]byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, e := range elements {
		g := e.global
		if e.gap != nil || g < r.low || g >= r.high || *r.slot(g) == nil {
			break
		}
		dst = append(dst, *r.slot(g))
	}
	return dst
}
