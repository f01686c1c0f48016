package dial

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// MQTT control packet types that the connection looks into (MQTT 3.1.1 section 2.2.1).
const (
	typeConnack = 2
	typePublish = 3
	typeSuback  = 9
	puback      = 0x40 // first byte of a PUBACK, which is always 4 bytes long
	pubackSize  = 4
	suback      = 0x90 // first byte of a SUBACK, which is 5 bytes long for one filter
	subackSize  = 5
)

// FirstOwnID is the lowest packet id of what its user writes past the MQTT library: the PUBACKs of such
// publishes and the SUBACKs of such subscriptions go to the functions of Acks and Grants, all others to the
// library, which counts its ids from 1.
const FirstOwnID = 0x8000

// inputSize is what is read at a time. It is held by idle connections too.
const inputSize = 512

// Conn is a connection to a hub that an MQTT library reads and writes, guarded, and whose user may
// publish on it past the library. Reads come from one goroutine at a time; writes from any, each a
// whole number of packets.
type Conn struct {
	net.Conn
	out       *writer
	maxPacket int
	acked     func(id uint16)
	granted   func(id uint16, code byte)
	made      time.Time
	heard     atomic.Int64  // when something was received last, nanoseconds since made
	publishes atomic.Uint64 // PUBLISH packets that have begun to pass

	// The rest belongs to the goroutine that reads.
	input   [inputSize]byte
	from    int // input[from:to] has been received and not given out
	to      int
	kind    byte // type of the packet in progress
	field   int  // 0: type byte, 1..4: length bytes, 5: content
	length  int
	pending int // content bytes still to come
	failure error
}

// Guard sends writes together where they come together, puts a deadline on each, and refuses, before
// a reader sees it, a packet that announces more than maxPacket bytes, a malformed length, a CONNACK
// code beyond 5, and a SUBACK for more than one filter. The MQTT library above takes the third for
// success, allocates whatever the first says and panics at the last.
func Guard(conn net.Conn, writeTimeout time.Duration, maxPacket int) *Conn {
	return &Conn{Conn: conn, made: time.Now(), out: newWriter(conn, writeTimeout), maxPacket: maxPacket, acked: func(uint16) {}, granted: func(uint16, byte) {}}
}

// Acks makes f hear of each PUBACK whose id is FirstOwnID or more, in the order they come, on the
// goroutine that reads; it must not wait. Call it before the first read.
func (c *Conn) Acks(f func(id uint16)) { c.acked = f }

// Grants does the same for each SUBACK of one filter: f hears its code, the QoS or 0x80 (MQTT 3.1.1
// section 3.9.3).
func (c *Conn) Grants(f func(id uint16, code byte)) { c.granted = f }

// Heard is when something was received last, or when the connection was made.
func (c *Conn) Heard() time.Time { return c.made.Add(time.Duration(c.heard.Load())) }

// Publishes is how many PUBLISH packets the reader above has been given, the one in progress included.
func (c *Conn) Publishes() uint64 { return c.publishes.Load() }

// Write takes whole packets; they are sent within the write timeout, in order.
func (c *Conn) Write(b []byte) (int, error) { return c.out.Write(b) }

// SetWriteDeadline does nothing: every write has the guard's own.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// Close sends what waits, for a moment at most, and ends the connection.
func (c *Conn) Close() error { return c.out.Close() }

// Read gives out at most what may pass: after a violation no byte of the packet.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for c.failure == nil {
		if n := c.pass(b); n > 0 {
			return n, nil
		}
		if c.failure == nil {
			// Received behind what is there already. An idle connection waits here: whatever stands on the
			// stack beside it is held by thousands.
			c.to, c.from = copy(c.input[:], c.input[c.from:c.to]), 0
			n, err := c.Conn.Read(c.input[c.to:])
			c.failure = c.received(n, err)
		}
	}
	return 0, c.failure
}

// received takes in what a read returned; the error is what is wrong with the connection.
func (c *Conn) received(n int, err error) error {
	c.to += n
	if n > 0 {
		c.heard.Store(int64(time.Since(c.made)))
		return nil // an error comes again
	}
	if err == nil {
		err = errors.New("the connection reads nothing")
	}
	if failure := c.out.failed(); failure != nil {
		// The error of a connection that the writer has closed would pass for a close on purpose.
		return fmt.Errorf("writing: %w", failure)
	}
	return err
}

// pass gives the next bytes of what was received out to b, taking own acknowledgements out. It returns 0
// if more must be received, or after a violation.
func (c *Conn) pass(b []byte) int {
	for c.from < c.to {
		in := c.input[c.from:c.to]
		if c.field == 0 && (in[0] == puback || in[0] == suback) {
			size, whole := c.own(in)
			if !whole {
				return 0
			}
			if size > 0 {
				c.from += size
				continue
			}
		}
		n, err := c.follow(in[:min(len(in), len(b))])
		c.failure = err
		c.from += n
		return copy(b, in[:n])
	}
	return 0
}

// own hands over the acknowledgement that in begins with and returns its size, 0 if it is not an own one;
// whole is false if that cannot be told yet.
func (c *Conn) own(in []byte) (size int, whole bool) {
	size = pubackSize
	if in[0] == suback {
		size = subackSize
	}
	if len(in) > 1 && int(in[1]) != size-2 {
		return 0, true
	}
	if len(in) < size {
		return 0, false
	}
	id := uint16(in[2])<<8 | uint16(in[3])
	switch {
	case id < FirstOwnID:
		return 0, true
	case in[0] == suback:
		c.granted(id, in[4])
	default:
		c.acked(id)
	}
	return size, true
}

// follow walks the framing over b, to the end of a packet at most; it returns how many bytes may pass
// and what is wrong with the next.
func (c *Conn) follow(b []byte) (int, error) {
	for i := 0; i < len(b); i++ {
		switch {
		case c.field == 0:
			c.kind, c.length, c.field = b[i]>>4, 0, 1
			if c.kind == typePublish {
				c.publishes.Add(1)
			}
		case c.field <= 4:
			c.length |= int(b[i]&0x7f) << (7 * (c.field - 1))
			if b[i]&0x80 != 0 {
				if c.field++; c.field > 4 {
					return i, errors.New("hub sent a malformed packet length")
				}
				continue
			}
			if err := c.announced(); err != nil {
				return i, err
			}
			if c.pending, c.field = c.length, 5; c.length == 0 {
				c.field = 0
				return i + 1, nil
			}
		case c.kind == typeConnack && c.pending == 1 && b[i] > 5:
			return i, fmt.Errorf("hub answered CONNECT with the unknown code %d", b[i])
		default:
			skip := 1
			if c.kind != typeConnack {
				skip = min(c.pending, len(b)-i)
			}
			i += skip - 1
			if c.pending -= skip; c.pending == 0 {
				c.field = 0
				return i + 1, nil
			}
		}
	}
	return len(b), nil
}

func (c *Conn) announced() error {
	switch {
	case c.length > c.maxPacket:
		return fmt.Errorf("hub announced a packet of %d bytes; at most %d are accepted", c.length, c.maxPacket)
	case c.kind == typeSuback && c.length != 3:
		return fmt.Errorf("hub answered the subscription of one filter with %d codes", c.length-2)
	case c.kind == typeConnack && c.length != 2:
		return fmt.Errorf("hub sent a CONNACK of %d bytes", c.length)
	}
	return nil
}
