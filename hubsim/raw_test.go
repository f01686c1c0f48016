package hubsim_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/mochi-mqtt/server/v2/packets"
)

// rawClient speaks MQTT packet by packet. What the hub sends is decoded by mochi's codec, which is not
// the one that the hub encodes with.
type rawClient struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

func newRawClient(t testing.TB, conn net.Conn) *rawClient {
	t.Cleanup(func() { _ = conn.Close() })
	return &rawClient{t: t, conn: conn, in: bufio.NewReader(conn)}
}

// raw opens a TLS connection and sends nothing.
func (h *testHub) raw(t testing.TB) *rawClient {
	t.Helper()
	return newRawClient(t, dialTLS(t, h.MQTTAddr(), h.Hub))
}

// connectPacket is a good CONNECT of an identity.
func (h *testHub) connectPacket(t testing.TB, identity string, clean bool) *paho.ConnectPacket {
	t.Helper()
	p := paho.NewControlPacket(paho.Connect).(*paho.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.CleanSession, p.Keepalive = "MQTT", 4, clean, 240
	p.ClientIdentifier = identity
	p.UsernameFlag, p.Username = true, h.user(identity)
	p.PasswordFlag, p.Password = true, []byte(h.password(t, identity))
	return p
}

// rawConnected is a client that was let in.
func (h *testHub) rawConnected(t testing.TB, identity string, clean bool) *rawClient {
	t.Helper()
	c := h.raw(t)
	c.sendPacket(h.connectPacket(t, identity, clean))
	if ack := c.expect(packets.Connack); ack.ReasonCode != 0 {
		t.Fatalf("CONNACK %d", ack.ReasonCode)
	}
	return c
}

func (c *rawClient) send(packet []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(packet); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) sendPacket(p paho.ControlPacket) {
	c.t.Helper()
	c.send(wire(p))
}

func wire(p paho.ControlPacket) []byte {
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func (c *rawClient) publish(topic string, qos byte, id uint16, body string) {
	c.t.Helper()
	p := paho.NewControlPacket(paho.Publish).(*paho.PublishPacket)
	p.TopicName, p.Qos, p.MessageID, p.Payload = topic, qos, id, []byte(body)
	c.sendPacket(p)
}

// subscribe sends one SUBSCRIBE and returns what was granted.
func (c *rawClient) subscribe(id uint16, qos byte, filters ...string) []byte {
	c.t.Helper()
	p := paho.NewControlPacket(paho.Subscribe).(*paho.SubscribePacket)
	p.MessageID, p.Topics, p.Qoss = id, filters, bytes.Repeat([]byte{qos}, len(filters))
	c.sendPacket(p)
	ack := c.expect(packets.Suback)
	if ack.PacketID != id {
		c.t.Fatalf("SUBACK %d, want %d", ack.PacketID, id)
	}
	return ack.ReasonCodes
}

// next reads one packet of the hub.
func (c *rawClient) next() (packets.Packet, error) {
	raw, err := c.nextBytes()
	if err != nil {
		return packets.Packet{}, err
	}
	return decode(raw)
}

// nextBytes reads one packet of the hub as it is.
func (c *rawClient) nextBytes() ([]byte, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	return readPacket(c.in)
}

// readPacket reads one packet, from its first byte to its last.
func readPacket(in *bufio.Reader) ([]byte, error) {
	var raw []byte
	for len(raw) < 2 || raw[len(raw)-1] >= 0x80 && len(raw) < 5 {
		b, err := in.ReadByte()
		if err != nil {
			return nil, err
		}
		raw = append(raw, b)
	}
	n, _, err := packets.DecodeLength(bytes.NewReader(raw[1:]))
	if err != nil {
		return nil, err
	}
	body := make([]byte, n)
	_, err = io.ReadFull(in, body)
	return append(raw, body...), err
}

// decode takes a packet of the hub apart.
func decode(raw []byte) (packets.Packet, error) {
	p := packets.Packet{ProtocolVersion: 4}
	if err := p.FixedHeader.Decode(raw[0]); err != nil {
		return p, fmt.Errorf("header %x: %w", raw[0], err)
	}
	n, used, err := packets.DecodeLength(bytes.NewReader(raw[1:]))
	if err != nil {
		return p, err
	}
	body := raw[1+used:]
	p.FixedHeader.Remaining = n
	switch p.FixedHeader.Type {
	case packets.Connack:
		return p, p.ConnackDecode(body)
	case packets.Publish:
		return p, p.PublishDecode(body)
	case packets.Puback:
		return p, p.PubackDecode(body)
	case packets.Suback:
		return p, p.SubackDecode(body)
	case packets.Unsuback:
		return p, p.UnsubackDecode(body)
	case packets.Pingresp:
		return p, nil
	}
	return p, fmt.Errorf("a hub must not send packet type %d", p.FixedHeader.Type)
}

// expect reads a packet of a kind.
func (c *rawClient) expect(kind byte) packets.Packet {
	c.t.Helper()
	p, err := c.next()
	if err != nil {
		c.t.Fatal(err)
	}
	if p.FixedHeader.Type != kind {
		c.t.Fatalf("packet type %d, want %d", p.FixedHeader.Type, kind)
	}
	return p
}

func (c *rawClient) expectPuback(id uint16) {
	c.t.Helper()
	if p := c.expect(packets.Puback); p.PacketID != id {
		c.t.Fatalf("PUBACK %d, want %d", p.PacketID, id)
	}
}

// expectClosed wants the hub to hang up without another packet.
func (c *rawClient) expectClosed() {
	c.t.Helper()
	p, err := c.next()
	if err == nil {
		c.t.Fatalf("the hub sent packet type %d instead of hanging up", p.FixedHeader.Type)
	}
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatal("the hub does not hang up")
	}
}

// alive wants the connection to answer a ping.
func (c *rawClient) alive() {
	c.t.Helper()
	c.send([]byte{0xc0, 0})
	c.expect(packets.Pingresp)
}
