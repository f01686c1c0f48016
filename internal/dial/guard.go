package dial

import (
	"fmt"
	"net"
	"time"
)

// MQTT control packet types that the guard looks into (MQTT 3.1.1 section 2.2.1).
const (
	typeConnack = 2
	typeSuback  = 9
)

// guarded is a connection whose incoming MQTT framing is followed byte by byte. Only the goroutine
// that reads touches the framing state.
type guarded struct {
	net.Conn
	out       *writer
	maxPacket int

	kind    byte // type of the packet in progress
	field   int  // 0: type byte, 1..4: length bytes, 5: content
	length  int
	pending int // content bytes still to come
	failure error
}

// Guard sends writes together where they come together, puts a deadline on each, and refuses, before a reader sees it, a packet that announces
// more than maxPacket bytes, a malformed length, a CONNACK code beyond 5, and a SUBACK for more than
// one filter. The MQTT library above takes the third for success, allocates whatever the first says
// and panics at the last.
func Guard(conn net.Conn, writeTimeout time.Duration, maxPacket int) net.Conn {
	return &guarded{Conn: conn, out: newWriter(conn, writeTimeout), maxPacket: maxPacket}
}

// Write hands b to the writer.
func (g *guarded) Write(b []byte) (int, error) { return g.out.Write(b) }

// SetWriteDeadline does nothing: every write has the guard's own.
func (g *guarded) SetWriteDeadline(time.Time) error { return nil }

// Close sends what waits, for a moment at most, and ends the connection.
func (g *guarded) Close() error { return g.out.Close() }

// Read reads at most what may pass: after a violation no byte of the packet is given out.
func (g *guarded) Read(b []byte) (int, error) {
	if g.failure != nil {
		return 0, g.failure
	}
	n, err := g.Conn.Read(b)
	if passed, bad := g.follow(b[:n]); bad != nil {
		g.failure = bad
		if passed > 0 {
			return passed, nil
		}
		return 0, bad
	}
	return n, err
}

// follow walks the framing over b; it returns how many bytes may pass and what is wrong with the next.
func (g *guarded) follow(b []byte) (int, error) {
	for i := 0; i < len(b); i++ {
		switch {
		case g.field == 0:
			g.kind, g.length, g.field = b[i]>>4, 0, 1
		case g.field <= 4:
			g.length |= int(b[i]&0x7f) << (7 * (g.field - 1))
			if b[i]&0x80 != 0 {
				if g.field++; g.field > 4 {
					return i, fmt.Errorf("hub sent a malformed packet length")
				}
				continue
			}
			if err := g.announced(); err != nil {
				return i, err
			}
			if g.pending, g.field = g.length, 5; g.length == 0 {
				g.field = 0
			}
		default:
			if g.kind == typeConnack && g.pending == 1 && b[i] > 5 {
				return i, fmt.Errorf("hub answered CONNECT with the unknown code %d", b[i])
			}
			skip := 1
			if g.kind != typeConnack {
				skip = min(g.pending, len(b)-i)
			}
			i += skip - 1
			if g.pending -= skip; g.pending == 0 {
				g.field = 0
			}
		}
	}
	return len(b), nil
}

func (g *guarded) announced() error {
	switch {
	case g.length > g.maxPacket:
		return fmt.Errorf("hub announced a packet of %d bytes; at most %d are accepted", g.length, g.maxPacket)
	case g.kind == typeSuback && g.length != 3:
		return fmt.Errorf("hub answered the subscription of one filter with %d codes", g.length-2)
	case g.kind == typeConnack && g.length != 2:
		return fmt.Errorf("hub sent a CONNACK of %d bytes", g.length)
	}
	return nil
}
