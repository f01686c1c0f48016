package hubsim

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/rs/zerolog"

	"iothub-gateway/internal/testkit"
)

// pipeHub is a hub without sockets, whose log can be read.
type pipeHub struct {
	*Hub
	log *testkit.Log
}

func newPipeHub(t *testing.T, cfg Config) *pipeHub {
	t.Helper()
	return openPipeHub(t, cfg, "")
}

// openPipeHub keeps its state in the file at path.
func openPipeHub(t *testing.T, cfg Config, path string) *pipeHub {
	t.Helper()
	log := &testkit.Log{}
	cfg.HostName, cfg.Log = "contoso.azure-devices.net", zerolog.New(log)
	h := newHub(cfg)
	h.store = newStore("", h.cfg.MaxStored, nil)
	var err error
	if h.state, err = openState(path); err != nil {
		t.Fatal(err)
	}
	if h.registry, err = openRegistry(h.state, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.restore(); err != nil {
		t.Fatal(err)
	}
	go h.watchClock(t.Context())
	return &pipeHub{Hub: h, log: log}
}

// pipeClient is the client's end of a session over a pipe.
type pipeClient struct {
	t    *testing.T
	conn net.Conn
	over chan struct{} // the session has ended
}

func (h *pipeHub) dial(t *testing.T) *pipeClient {
	t.Helper()
	return h.dialAs(t)
}

// dialAs is a client with certificates.
func (h *pipeHub) dialAs(t *testing.T, chain ...*x509.Certificate) *pipeClient {
	t.Helper()
	client, server := net.Pipe()
	c := &pipeClient{t: t, conn: client, over: make(chan struct{})}
	go func() {
		s := h.newSession(server, server.Close)
		s.chain = chain
		s.run(t.Context())
		close(c.over)
	}()
	t.Cleanup(func() { _ = client.Close() })
	return c
}

// connectPacket is a good CONNECT of a device with a token that holds for life.
func (h *pipeHub) connectPacket(t *testing.T, device string, life time.Duration) *packets.ConnectPacket {
	t.Helper()
	key, err := h.Register(device, "")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	sr, se := url.QueryEscape(h.cfg.HostName+"/devices/"+device), fmt.Sprint(time.Now().Add(life).Unix())
	mac := hmac.New(sha256.New, raw)
	mac.Write([]byte(sr + "\n" + se))
	token := "SharedAccessSignature sr=" + sr + "&se=" + se + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.CleanSession, p.ClientIdentifier = "MQTT", 4, true, device
	p.UsernameFlag, p.Username = true, h.cfg.HostName+"/"+device+"/?api-version=2021-04-12"
	p.PasswordFlag, p.Password = true, []byte(token)
	return p
}

// connect connects device with a keep-alive and expects to be let in.
func (h *pipeHub) connect(t *testing.T, device string, keepAlive uint16) *pipeClient {
	t.Helper()
	c := h.dial(t)
	p := h.connectPacket(t, device, 24*time.Hour)
	p.Keepalive = keepAlive
	c.send(encode(p))
	c.expect([]byte{0x20, 2, 0, 0})
	return c
}

func (c *pipeClient) send(packet []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(packet); err != nil {
		c.t.Fatal(err)
	}
}

func (c *pipeClient) expect(want []byte) {
	c.t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c.conn, got); err != nil || !bytes.Equal(got, want) {
		c.t.Fatalf("got %x (%v), want %x", got, err, want)
	}
}

// expectEnd waits until the hub hangs up and returns how long that took.
func (c *pipeClient) expectEnd() time.Duration {
	c.t.Helper()
	start := time.Now()
	if n, err := c.conn.Read(make([]byte, 1)); err == nil || n > 0 {
		c.t.Fatalf("the hub sent something")
	}
	after := time.Since(start)
	<-c.over
	return after
}

func publishPacket(topic string, qos byte, id uint16, body string) []byte {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Qos, p.MessageID, p.Payload = topic, qos, id, []byte(body)
	return encode(p)
}

// pass lets the bubble's clock run.
func pass(d time.Duration) { <-time.After(d) }

var pingreq, disconnect = []byte{0xc0, 0}, []byte{0xe0, 0}

func TestAClientThatSaysNothingIsCutAfterHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		if after := h.dial(t).expectEnd(); after != 30*time.Second {
			t.Errorf("cut after %v", after)
		}
		slow := h.dial(t)
		slow.send([]byte{0x10, 0x40})
		if after := slow.expectEnd(); after != 30*time.Second {
			t.Errorf("a client that began its CONNECT was cut after %v", after)
		}
		if !strings.Contains(h.log.String(), "no CONNECT within 30 s") {
			t.Errorf("the log says %s", h.log)
		}
	})
}

func TestOneAndAHalfKeepAlivesWithoutAPacketEndAConnection(t *testing.T) {
	for keepAlive, want := range map[uint16]time.Duration{
		10: 15 * time.Second, 1: 1500 * time.Millisecond, 1177: 1765500 * time.Millisecond, 1178: 1767 * time.Second, 65535: 1767 * time.Second, 0: 1767 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{})
			c := h.connect(t, "dev1", keepAlive)
			if !h.Connected("dev1") {
				t.Error("not connected")
			}
			if after := c.expectEnd(); after != want {
				t.Errorf("keep-alive %d: cut after %v, want %v", keepAlive, after, want)
			}
			if h.Connected("dev1") {
				t.Error("still connected")
			}
		})
	}
}

func TestAnyPacketRestartsTheKeepAliveAndAByteDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.connect(t, "dev1", 10)
		for range 3 {
			pass(14 * time.Second)
			c.send(publishPacket("devices/dev1/messages/events/", 0, 0, "x"))
			pass(14 * time.Second)
			c.send(pingreq)
			c.expect([]byte{0xd0, 0})
		}
		start := time.Now()
		for _, b := range publishPacket("devices/dev1/messages/events/", 0, 0, "x") {
			pass(4 * time.Second)
			if _, err := c.conn.Write([]byte{b}); err != nil {
				break
			}
		}
		if after := time.Since(start); after != 16*time.Second {
			t.Errorf("a client that trickles bytes was cut after %v", after)
		}
		<-c.over
	})
}

func TestAConnectionOutlivesItsTokenByTheGraceOnly(t *testing.T) {
	for grace, want := range map[time.Duration]time.Duration{0: 11 * time.Minute, -1: time.Minute, time.Second: 61 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{ExpiryGrace: grace})
			c := h.dial(t)
			p := h.connectPacket(t, "dev1", time.Minute)
			p.Keepalive = 60
			start := time.Now()
			c.send(encode(p))
			c.expect([]byte{0x20, 2, 0, 0})
			for {
				pass(700 * time.Millisecond)
				if _, err := c.conn.Write(pingreq); err != nil {
					break
				}
				if _, err := io.ReadFull(c.conn, make([]byte, 2)); err != nil {
					break
				}
			}
			<-c.over
			if after := time.Since(start).Truncate(time.Second); after != want {
				t.Errorf("grace %v: cut after %v, want %v", grace, after, want)
			}
			if !strings.Contains(h.log.String(), "token expired") {
				t.Errorf("the log says %s", h.log)
			}
		})
	}
}

func TestTheHubReadsAheadOfItsAcknowledgementsOnlySoFar(t *testing.T) {
	for _, readAhead := range []int{0, 3} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{ReadAhead: readAhead})
			want := uint64(readAhead)
			if readAhead == 0 {
				want = 16
			}
			h.DelayAcks("dev1", time.Minute)
			c := h.connect(t, "dev1", 600)
			var all []byte
			for i := range 40 {
				all = append(all, publishPacket("devices/dev1/messages/events/", 1, uint16(i+1), "x")...)
			}
			c.send(all)
			synctest.Wait()
			if got := h.Received(); got != want {
				t.Errorf("%d messages taken while none is acknowledged, want %d", got, want)
			}
			for i := range 40 {
				if id := readAck(t, c.conn); id != uint16(i+1) {
					t.Fatalf("PUBACK %d, want %d", id, i+1)
				}
			}
			if got := h.Received(); got != 40 {
				t.Errorf("%d messages in the end", got)
			}
		})
	}
}

// A PUBACK that is due goes out before the hub hangs up.
func TestAViolationDoesNotSwallowEarlierAcknowledgements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.connect(t, "dev1", 60)
		c.send(append(publishPacket("devices/dev1/messages/events/", 1, 7, "x"), publishPacket("devices/dev1/messages/events/", 2, 8, "x")...))
		if id := readAck(t, c.conn); id != 7 {
			t.Errorf("PUBACK %d", id)
		}
		c.expectEnd()
	})
}

func TestATakeOverEndsTheOldConnectionBeforeTheNewOneIsLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		first := h.dial(t)
		p := h.connectPacket(t, "dev1", time.Hour)
		p.WillFlag, p.WillTopic = true, "devices/dev1/messages/events/"
		first.send(encode(p))
		first.expect([]byte{0x20, 2, 0, 0})
		second := h.connect(t, "dev1", 60)
		if h.Received() != 1 {
			t.Error("the Will of the old connection was not there when the new one was let in (CON-47)")
		}
		if after := first.expectEnd(); after != 0 {
			t.Errorf("the old connection was closed after %v", after)
		}
		second.send(pingreq)
		second.expect([]byte{0xd0, 0})
		if !strings.Contains(h.log.String(), "took over") {
			t.Errorf("the log says %s", h.log)
		}
	})
}

// The disk may have the message before the reader has noted that it waits: the PUBACK still goes out.
func TestAnAcknowledgementIsNotMissedWhenTheDiskIsQuicker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		h.store = newStore(t.TempDir(), 1<<20, nil) // nobody commits, nobody is told
		c := h.connect(t, "dev1", 60)
		c.send(publishPacket("devices/dev1/messages/events/", 1, 1, "x"))
		if silence(c.conn) != "" {
			t.Error("a PUBACK came before the message was on disk")
		}
		h.store.durable.Store(2)
		c.send(publishPacket("devices/dev1/messages/events/", 1, 2, "x"))
		if got := []uint16{readAck(t, c.conn), readAck(t, c.conn)}; got[0] != 1 || got[1] != 2 {
			t.Errorf("PUBACKs %v", got)
		}
	})
}
