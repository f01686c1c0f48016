package coap

import (
	"math/rand/v2"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

// Times of RFC 7252 section 4.8, and what follows from them.
const (
	exchangeLifetime = 247 * time.Second // how long a confirmable message may be repeated
	nonLifetime      = 145 * time.Second // and a non-confirmable one
	ackTimeout       = 2 * time.Second   // a device repeats its request after this
	maxRetransmit    = 4

	// ackAfter leaves the clock's tick and the way to the device until ackTimeout (COAP-61).
	ackAfter = 1400 * time.Millisecond
)

// What exchanges may take.
const (
	maxRemembered = 1 << 17 // requests whose repetition is recognised
	maxSeparate   = 1 << 10 // separate answers waiting for their acknowledgement
)

// endpoint is where a message came from and where its answer goes: a UDP address or a DTLS session.
// Messages of one endpoint number themselves (RFC 7252 section 4.4).
type endpoint interface {
	// id tells endpoints apart. Keeping it keeps nothing else of the endpoint.
	id() endpointID
	// send sends a datagram, once. What becomes of it is the peer's affair: it asks again.
	send(datagram []byte)
}

type endpointID struct {
	arrival        // of a UDP address
	session uint64 // of a DTLS session
}

// exchange is a request that was admitted, and what it was answered.
type exchange struct {
	request
	from     endpoint // nil when it is done
	key      exchangeID
	device   *device
	received time.Time
	done     bool
	acked    bool   // an empty acknowledgement went ahead, so the answer is a message of its own
	reply    []byte // what a repetition is answered with; nil: nothing
}

// exchangeID is what a repetition has in common with the original.
type exchangeID struct {
	endpointID
	mid uint16
}

func (x *exchange) lifetime() time.Duration {
	if x.confirmable {
		return exchangeLifetime
	}
	return nonLifetime
}

// outgoing is a datagram to be sent when no lock is held.
type outgoing struct {
	to       endpoint
	datagram []byte
}

// separate is an answer on its own way, repeated until it is acknowledged.
type separate struct {
	outgoing
	next    time.Time
	timeout time.Duration
	tries   int
}

// exchanges is the message layer's memory: what was asked, what was answered, what is still to be
// confirmed. It has no clock and no lock of its own.
type exchanges struct {
	known    map[exchangeID]*exchange
	queues   [2][]*exchange // the same by age: non-confirmable, confirmable
	running  map[*exchange]struct{}
	separate map[exchangeID]*separate
	nextMID  uint16
}

func newExchanges() *exchanges {
	return &exchanges{
		known:    make(map[exchangeID]*exchange),
		running:  make(map[*exchange]struct{}),
		separate: make(map[exchangeID]*separate),
		nextMID:  uint16(rand.Uint32()),
	}
}

// repeated tells whether a request is one that was admitted before, and what to send again. A
// retransmission is the same datagram; a message id alone does not make one, as devices start over
// with their numbers after a reboot or never change them (COAP-56), and what they report then must
// not be lost.
func (e *exchanges) repeated(from endpoint, r *request, now time.Time) (reply []byte, repeated bool) {
	x := e.known[exchangeID{from.id(), r.mid}]
	if x == nil || x.print != r.print || now.Sub(x.received) > x.lifetime() {
		return nil, false
	}
	if !x.done && x.acked {
		return header(message.Acknowledgement, x.mid), true
	}
	return x.reply, true
}

// begin remembers an admitted request, but not what it carried.
func (e *exchanges) begin(x *exchange) {
	if len(e.queues[0])+len(e.queues[1]) >= maxRemembered {
		e.forgetOldest()
	}
	x.key = exchangeID{x.from.id(), x.mid}
	x.payload, x.path, x.transfer = nil, nil, ""
	queue := &e.queues[0]
	if x.confirmable {
		queue = &e.queues[1]
	}
	*queue = append(*queue, x)
	e.known[x.key] = x
	e.running[x] = struct{}{}
}

// finish answers an exchange. It returns what is to be sent to its endpoint, nil if nothing. What
// was not carried out is forgotten: when the same datagram comes again it is tried again, as there
// are devices that repeat themselves to the bit until they hear 2.04.
func (e *exchanges) finish(x *exchange, a answer, now time.Time) []byte {
	delete(e.running, x)
	x.done = true
	if a.code != codes.Changed {
		e.forget(x)
	}
	a.block = x.block
	out := e.answer(x, a, now)
	x.from = nil
	return out
}

// answer writes the answer of an exchange as the message that it must be.
func (e *exchanges) answer(x *exchange, a answer, now time.Time) []byte {
	wanted := x.wants(a.code)
	ack := header(message.Acknowledgement, x.mid)
	switch {
	case !x.confirmable && wanted:
		return a.encode(message.NonConfirmable, e.mid(), x.request)
	case !x.confirmable:
		return nil
	case !x.acked && wanted:
		x.reply = a.encode(message.Acknowledgement, x.mid, x.request)
		return x.reply
	case !x.acked:
		x.reply = ack
		return ack
	}
	x.reply = ack
	if !wanted {
		return nil
	}
	return e.separately(x, a, now)
}

// separately makes an answer a message of its own. Without room to wait for its acknowledgement it
// is sent once: a device that misses it asks again.
func (e *exchanges) separately(x *exchange, a answer, now time.Time) []byte {
	mid := e.mid()
	if len(e.separate) >= maxSeparate {
		return a.encode(message.NonConfirmable, mid, x.request)
	}
	timeout := time.Duration(float64(ackTimeout) * (1 + rand.Float64()/2))
	out := outgoing{to: x.from, datagram: a.encode(message.Confirmable, mid, x.request)}
	e.separate[exchangeID{x.key.endpointID, mid}] = &separate{outgoing: out, next: now.Add(timeout), timeout: timeout}
	return out.datagram
}

// settled takes an acknowledgement or a reset in.
func (e *exchanges) settled(from endpoint, mid uint16) {
	delete(e.separate, exchangeID{from.id(), mid})
}

// mid numbers a message of ours. These numbers are never compared with those of a peer (COAP-95).
func (e *exchanges) mid() uint16 {
	e.nextMID++
	return e.nextMID
}

// tick returns what is due: acknowledgements for requests whose answer takes too long, and separate
// answers that were not acknowledged.
func (e *exchanges) tick(now time.Time) (due []outgoing) {
	for x := range e.running {
		if x.confirmable && !x.acked && now.Sub(x.received) >= ackAfter {
			x.acked = true
			due = append(due, outgoing{x.from, header(message.Acknowledgement, x.mid)})
		}
	}
	for id, s := range e.separate {
		if now.Before(s.next) {
			continue
		}
		if s.tries++; s.tries > maxRetransmit {
			delete(e.separate, id)
			continue
		}
		s.timeout *= 2
		s.next = now.Add(s.timeout)
		due = append(due, s.outgoing)
	}
	return due
}

// expire forgets requests that cannot be repeated any more.
func (e *exchanges) expire(now time.Time) {
	for i := range e.queues {
		q := e.queues[i]
		for len(q) > 0 && now.Sub(q[0].received) > q[0].lifetime() {
			e.forget(q[0])
			q[0], q = nil, q[1:]
		}
		e.queues[i] = q
	}
}

// forgetOldest makes room where more is asked than can be remembered.
func (e *exchanges) forgetOldest() {
	i := 0
	if a, b := e.queues[0], e.queues[1]; len(a) == 0 || len(b) > 0 && b[0].received.Before(a[0].received) {
		i = 1
	}
	e.forget(e.queues[i][0])
	e.queues[i][0], e.queues[i] = nil, e.queues[i][1:]
}

func (e *exchanges) forget(x *exchange) {
	if e.known[x.key] == x {
		delete(e.known, x.key)
	}
}
