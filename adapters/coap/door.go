package coap

import (
	"bytes"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What peers without a session may take.
const (
	maxOpening      = 256      // handshakes at a time
	openingsASecond = 200      // and how many may begin
	openingBytes    = 32 << 10 // of one handshake: ten times what a PSK handshake needs
)

// door sends each DTLS datagram to its session. It does what a bare listener does not: an
// established session hears nothing in clear text, so that a forged datagram cannot end it; and a
// ClientHello from the address of an established session opens a second one beside it, which takes
// its place once the handshake has proven who it is (RFC 6347 section 4.2.8, COAP-117).
type door struct {
	open  func(arrival, hello) *session // makes a session and starts it; nil if that fails
	pace  *rate.Limiter
	limit int // established sessions

	mu      sync.Mutex // guards the fields below
	opening map[netip.AddrPort]*session
	live    map[netip.AddrPort]*session // by the address of the handshake
	byCID   map[string]*session
	shut    bool
}

func newDoor(limit int, open func(arrival, hello) *session) *door {
	return &door{
		open:    open,
		pace:    rate.NewLimiter(openingsASecond, openingsASecond),
		limit:   limit,
		opening: make(map[netip.AddrPort]*session),
		live:    make(map[netip.AddrPort]*session),
		byCID:   make(map[string]*session),
	}
}

// route takes a datagram in; false if it is not DTLS.
func (d *door) route(a arrival, datagram []byte, now time.Time) bool {
	first, _, ok := nextRecord(datagram)
	if !ok {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return true
	}
	if first.kind == cidRecord {
		if s := d.byCID[first.cid]; s != nil {
			d.deliver(s, a, datagram)
		}
		return true
	}
	if h, ok := first.helloOf(); ok && h.first {
		d.knock(a, h, now)
	}
	if s := d.opening[a.from]; s != nil {
		d.deliver(s, a, datagram)
	}
	if s := d.live[a.from]; s != nil {
		d.deliver(s, a, datagram)
	}
	return true
}

// knock begins a handshake, unless it is a repetition of the one that is under way. One that
// begins anew is of a device that gave up the other; a forged one cannot end the other at once.
func (d *door) knock(a arrival, h hello, now time.Time) {
	const patience = 10 * time.Second
	old := d.opening[a.from]
	if old != nil && (old.hello.random == h.random || old.proven && now.Sub(old.began) < patience) {
		return
	}
	if !d.pace.AllowN(now, 1) {
		return
	}
	if old == nil && len(d.opening) >= maxOpening {
		if old = d.leastProven(); old == nil {
			return
		}
	}
	if old != nil {
		d.forget(old)
		old.end()
	}
	if s := d.open(a, h); s != nil {
		d.opening[a.from] = s
		d.byCID[s.cid] = s
	}
}

// leastProven is the oldest handshake whose peer has not shown yet that it hears us: addresses
// that do not exist cannot keep a device out. nil if there is none.
func (d *door) leastProven() *session {
	var oldest *session
	for _, s := range d.opening {
		if !s.proven && (oldest == nil || s.began.Before(oldest.began)) {
			oldest = s
		}
	}
	return oldest
}

// deliver hands a copy of a datagram to a session.
func (d *door) deliver(s *session, a arrival, datagram []byte) {
	if s.established {
		if kept := protected(datagram); kept != nil {
			s.pipe.put(a, kept)
		}
		return
	}
	first, _, _ := nextRecord(datagram)
	if h, ok := first.helloOf(); ok && !h.first {
		s.proven = true
	}
	if s.taken += len(datagram); s.taken <= openingBytes {
		s.pipe.put(a, bytes.Clone(datagram))
	}
}

// establish makes a session whose handshake is complete the one of its address, and returns the
// sessions that must end for it: the one it replaces, the one silent for longest if there are too
// many. False if it has been given up itself.
func (d *door) establish(s *session, now time.Time) (others []*session, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opening[s.addr] != s {
		return nil, false
	}
	delete(d.opening, s.addr)
	if old := d.live[s.addr]; old != nil {
		if old.remote() == s.addr {
			d.forget(old)
			others = append(others, old)
		}
	}
	s.established = true
	s.heard.Store(now.UnixNano())
	d.live[s.addr] = s
	if total := d.sessions(); len(total) > d.limit {
		quietest := total[0]
		for _, other := range total {
			if other.heard.Load() < quietest.heard.Load() {
				quietest = other
			}
		}
		d.forget(quietest)
		others = append(others, quietest)
	}
	return append(others, d.supersede(s, now)...), true
}

// supersede marks the older sessions of the same identity: a device that rebooted may use both for
// a while (COAP-43). Beyond a few the oldest ends at once.
func (d *door) supersede(s *session, now time.Time) (ended []*session) {
	const few = 4
	var oldest *session
	count := 0
	for _, other := range d.sessions() {
		if other.identity != s.identity {
			continue
		}
		if count++; oldest == nil || other.began.Before(oldest.began) {
			oldest = other
		}
		if other != s && other.superseded.IsZero() {
			other.superseded = now
		}
	}
	if count > few {
		d.forget(oldest)
		ended = append(ended, oldest)
	}
	return ended
}

// sessions lists the established sessions. Who moved to another address under its connection id
// is found by that alone.
func (d *door) sessions() []*session {
	var all []*session
	for _, s := range d.byCID {
		if s.established {
			all = append(all, s)
		}
	}
	return all
}

// forget takes a session out of the tables.
func (d *door) forget(s *session) {
	if d.opening[s.addr] == s {
		delete(d.opening, s.addr)
	}
	if d.live[s.addr] == s {
		delete(d.live, s.addr)
	}
	if d.byCID[s.cid] == s {
		delete(d.byCID, s.cid)
	}
}

// leave takes a session out that has ended.
func (d *door) leave(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forget(s)
}

// expire returns the sessions that have been idle or superseded for too long.
func (d *door) expire(now time.Time, idle time.Duration) (over []*session) {
	const overlap = time.Minute
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sessions() {
		silent := now.Sub(time.Unix(0, s.heard.Load()))
		if silent > idle || !s.superseded.IsZero() && now.Sub(s.superseded) > overlap {
			d.forget(s)
			over = append(over, s)
		}
	}
	return over
}

// close lets nobody in any more and returns every session.
func (d *door) close() (all []*session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = true
	for _, s := range d.byCID {
		all = append(all, s)
	}
	return all
}

// established lists the sessions whose handshake is complete.
func (d *door) established() []*session {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sessions()
}
