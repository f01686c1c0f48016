package buffer

import (
	"slices"
	"sync"
	"time"

	gateway "iothub-gateway"
)

// Lane is the queue of one identity. Its methods may be called from any goroutine.
type Lane struct {
	q  *Queue
	id gateway.IdentityID

	// Owned by the committer.
	number uint32  // in the keys; 0 before the first Put
	named  bool    // number is in the file
	next   uint64  // sequence of the next Put
	change *change // what the transaction in work does to the lane

	mu         sync.Mutex // guards the fields below; of those up to dropped only the committer writes
	gone       uint64     // sequence of the newest entry that has left the queue
	goneGlobal uint64     // its global sequence
	chain      chain      // what follows
	bytes      int64      // records and keys
	oldest     time.Time
	dropped    uint64 // entries that were dropped since Open
	version    uint64 // counts the times that elements were replaced

	seen     []seen        // what is known of the oldest elements, without a hole
	handed   uint64        // elements up to this sequence may have been sent: they do not change any more
	returned uint64        // highest sequence that Next has returned since Open
	plain    []span        // entries that stay as they were put when packs are on
	cuts     []uint64      // where packs end that were handed out; see cut.go
	acked    uint64        // highest sequence that was acknowledged; >= gone
	waiting  bool          // the committer knows of acked
	wake     chan struct{} // closed by the next Put; nil if nobody waits

	frozen bool          // a transaction may replace elements
	upTo   uint64        // but none up to this sequence
	thaw   chan struct{} // closed when it is over
	wanted int           // so many elements does a reader wait for that was held up
}

// seen is what Next has found out about an element, for the time when it is acknowledged.
type seen struct {
	last    uint64
	size    int64
	created time.Time
}

// maxSeen bounds the memory for readers that read far ahead.
const maxSeen = 1 << 10

func (l *Lane) key(global uint64) key { return makeKey(global, l.number) }

// last is the highest sequence that was used. It needs mu, or to be called by the committer.
func (l *Lane) last() uint64 { return max(l.gone, l.chain.last()) }

// protectedAfterOpen is up to where the elements may have been sent before the queue was opened.
func (l *Lane) protectedAfterOpen() uint64 {
	first := l.chain.appendTo(nil, l.gone, MaxInFlight)
	if len(first) == 0 {
		return l.gone
	}
	return first[len(first)-1].last
}

// Ack says that every entry up to and including seq is at the hub. They leave the queue with the
// next commit, at the latest 500 ms after the one before, sooner if many wait; after a crash before that they are returned again. Ack
// never blocks on the disk. A sequence that Next has not returned since Open is a mistake of the
// caller that could lose entries: it is ignored and logged.
func (l *Lane) Ack(seq uint64) {
	l.mu.Lock()
	if seq > l.returned {
		returned := l.returned
		l.mu.Unlock()
		l.q.log.Error().Str("identity", string(l.id)).Uint64("seq", seq).Uint64("newest", returned).
			Msg("an entry was acknowledged that was never read: ignored")
		return
	}
	tell := seq > l.acked && !l.waiting
	l.acked = max(l.acked, seq)
	l.waiting = l.waiting || tell
	many := l.chain.count(l.gone, l.acked) > MaxInFlight/4 // the reader shall not have to wait for them
	l.mu.Unlock()
	if tell {
		l.q.enterAck(l)
	}
	if many {
		signal(l.q.now)
	}
}

// hold notes that the committer keeps the lane's acknowledgements for a later transaction. It tells
// whether it has to: the lane may have handed in newer ones since.
func (l *Lane) hold() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting {
		return false
	}
	l.waiting = true
	return true
}

// ackedElements appends acknowledged elements to dst, at most most, and tells whether that is all of
// them. Those at the end whose sequences are acknowledged in part stay.
func (l *Lane) ackedElements(dst []element, most int) (elements []element, all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.chain.count(l.gone, l.acked)
	l.waiting = n > most
	from := len(dst)
	dst = l.chain.appendTo(dst, l.gone, min(n, most))
	if end := len(dst); end > from && dst[end-1].last > l.acked {
		dst = dst[:end-1]
	}
	return dst, n <= most
}

// note keeps what a reader has found out about elements. It needs mu.
func (l *Lane) note(e element, record []byte) {
	next := l.gone + 1
	if n := len(l.seen); n > 0 {
		next = l.seen[n-1].last + 1
	}
	if e.first == next && len(l.seen) < maxSeen {
		l.seen = append(l.seen, seen{e.last, int64(keyLen + len(record)), createdOf(record)})
	}
}

// known returns what is known of the n oldest elements, or of fewer.
func (l *Lane) known(n int) []seen {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.seen[:min(n, len(l.seen))])
}

// freeze keeps readers from going beyond what is in flight, or wanted by one that was held up before,
// until the transaction is over, and returns up to which sequence that is.
func (l *Lane) freeze() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	upTo := l.inFlight()
	l.freezeAt(upTo)
	return upTo
}

// inFlight is up to which sequence elements may have been sent, or are wanted. It needs mu.
func (l *Lane) inFlight() uint64 {
	upTo := max(l.handed, l.acked)
	if l.wanted > 0 {
		if ahead := l.chain.appendTo(nil, upTo, l.wanted); len(ahead) > 0 {
			upTo = ahead[len(ahead)-1].last
		}
	}
	return upTo
}

// freezeUnread is freeze for what nobody has read since Open, though it may have been sent before.
func (l *Lane) freezeUnread() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.returned == 0 && l.wanted == 0 {
		l.handed = l.gone
	}
	upTo := l.inFlight()
	l.freezeAt(upTo)
	return upTo
}

// freezeAt keeps readers from what is behind upTo. It needs mu.
func (l *Lane) freezeAt(upTo uint64) {
	if l.frozen {
		l.upTo = min(l.upTo, upTo)
		return
	}
	l.frozen, l.upTo, l.thaw = true, upTo, make(chan struct{})
}

// unfreeze needs mu.
func (l *Lane) unfreeze() {
	if l.frozen {
		l.frozen = false
		close(l.thaw)
	}
}

func (l *Lane) counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Counts{
		Entries: int64(l.chain.len()), Bytes: l.bytes, Oldest: l.oldest,
		Put: l.last(), Acked: l.gone, Dropped: l.dropped,
	}
}
