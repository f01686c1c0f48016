package hubsim_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
)

// tappedConn has everything that the hub writes to a client decoded by mochi's codec, which is not the one
// that the hub encodes with.
type tappedConn struct {
	net.Conn
	t       *testing.T
	pending []byte
	let     bool // the CONNACK was there
}

// tap listens in on the hub's connections until the test ends.
func tap(t *testing.T) func(net.Conn) net.Conn {
	return func(conn net.Conn) net.Conn { return &tappedConn{Conn: conn, t: t} }
}

func (c *tappedConn) Write(p []byte) (int, error) {
	c.pending = append(c.pending, p...)
	for len(c.pending) > 0 {
		in := bufio.NewReader(bytes.NewReader(c.pending))
		raw, err := readPacket(in)
		if err != nil {
			break // the rest comes with the next write
		}
		if err := c.check(raw); err != nil {
			c.t.Errorf("the hub wrote %x: %v", raw, err)
		}
		c.pending = c.pending[len(raw):]
	}
	return c.Conn.Write(p)
}

// CloseWrite is there because TLS connections have it.
func (c *tappedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// check says what is wrong with a packet of a server (MQTT 3.1.1 sections 2.2 and 3).
func (c *tappedConn) check(raw []byte) error {
	p, err := decode(raw)
	if err != nil {
		return err
	}
	kind := p.FixedHeader.Type
	switch {
	case (kind == packets.Connack) == c.let:
		return errors.New("a CONNACK comes first, and once")
	case kind != packets.Publish && raw[0]&15 != 0:
		return errors.New("reserved flags are not 0")
	}
	c.let = true
	switch kind {
	case packets.Connack:
		if p.ReasonCode > 5 || p.ReasonCode != 0 && p.SessionPresent {
			return fmt.Errorf("CONNACK %d, session present %v", p.ReasonCode, p.SessionPresent)
		}
	case packets.Publish:
		return checkPublish(p)
	case packets.Suback:
		for _, code := range p.ReasonCodes {
			if code > 1 && code != 0x80 {
				return fmt.Errorf("grants %d", code)
			}
		}
	}
	return nil
}

func checkPublish(p packets.Packet) error {
	h := p.FixedHeader
	switch {
	case h.Qos > 1, (h.Qos == 1) != (p.PacketID != 0), h.Dup && h.Qos == 0, h.Retain:
		return fmt.Errorf("PUBLISH with QoS %d, id %d, DUP %v, RETAIN %v", h.Qos, p.PacketID, h.Dup, h.Retain)
	case p.TopicName == "", strings.ContainsAny(p.TopicName, "+#"), !utf8.ValidString(p.TopicName):
		return fmt.Errorf("topic %q", p.TopicName)
	}
	return nil
}

func TestTheTapFindsWhatAServerMustNotSend(t *testing.T) {
	for _, c := range []struct {
		before, packet string
		wrong          bool
	}{
		{"", "\x20\x02\x00\x00", false},
		{"", "\x20\x02\x01\x05", true},
		{"", "\xd0\x00", true},
		{"\x20\x02\x00\x00", "\xd0\x00", false},
		{"\x20\x02\x00\x00", "\x20\x02\x00\x00", true},
		{"\x20\x02\x00\x00", "\xc0\x00", true},
		{"\x20\x02\x00\x00", "\x30\x04\x00\x01ab", false},
		{"\x20\x02\x00\x00", "\x30\x04\x00\x01#b", true},
		{"\x20\x02\x00\x00", "\x31\x04\x00\x01ab", true},
		{"\x20\x02\x00\x00", "\x32\x05\x00\x01a\x00\x00", true},
		{"\x20\x02\x00\x00", "\x90\x03\x00\x01\x02", true},
	} {
		tapped := &tappedConn{}
		if c.before != "" {
			if err := tapped.check([]byte(c.before)); err != nil {
				t.Fatal(err)
			}
		}
		if err := tapped.check([]byte(c.packet)); (err != nil) != c.wrong {
			t.Errorf("%x after %x: %v", c.packet, c.before, err)
		}
	}
}
