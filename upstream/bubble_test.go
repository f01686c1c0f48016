package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
)

// pipeHub is the little of a hub that tests in a bubble need: it stands at the other end of net.Pipe.

type pipeHub struct {
	mu sync.Mutex // guards what follows
	pipeState
}

// pipeState is what a pipeHub does and what it has seen.

type pipeState struct {
	code     byte          // CONNACK
	deaf     bool          // answers nothing but CONNECT and subscriptions
	silent   bool          // answers no PUBLISH, but everything else
	unsuback time.Duration // how long it takes to an UNSUBACK, and goes on sending what was subscribed
	methods  bool          // are subscribed
	left     []time.Time   // when the methods no longer were
	rate     int           // bytes a second that it takes from a connection made from now on; 0: all at once
	connects []time.Time
	pings    []time.Time
	twins    []time.Time // when they were asked for
	users    []string
	got      []string // bodies of telemetry
	answers  []string // topics of answers to methods
	acks     []acked  // of what the hub sent at QoS 1
	present  net.Conn
	ended    []string             // how connections ended: "DISCONNECT" or "lost"
	closed   bool                 // takes no new connections
	gone     map[string]time.Time // when each user said DISCONNECT
	away     []time.Duration      // how long after that they connected again
}

// acked is an acknowledgement of the device.

type acked struct {
	packet uint16
	at     time.Time
}

func (h *pipeHub) dial(context.Context, identity.Login) (*dial.Conn, error) {
	if h.now().closed {
		return nil, errors.New("the hub takes no new connections")
	}
	near, far := net.Pipe()
	if rate := h.now().rate; rate > 0 {
		far = slowConn{far, rate}
	}
	go h.serve(far)
	return dial.Guard(near, DefaultWriteTimeout, 1<<20), nil
}

// slowConn is read from at so many bytes a second.

type slowConn struct {
	net.Conn
	rate int
}

func (c slowConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), 512)])
	<-time.After(time.Duration(n) * time.Second / time.Duration(c.rate))
	return n, err
}

func (h *pipeHub) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// now is a copy of what the hub has seen. Its slices only grow.

func (h *pipeHub) now() pipeState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pipeState
}

func (h *pipeHub) serve(conn net.Conn) {
	defer conn.Close()
	user := ""
	for {
		packet, err := packets.ReadPacket(conn)
		if err != nil {
			h.set(func() { h.ended = append(h.ended, "lost") })
			return
		}
		if _, over := packet.(*packets.DisconnectPacket); over {
			h.set(func() {
				if h.gone == nil {
					h.gone = map[string]time.Time{}
				}
				h.ended, h.gone[user] = append(h.ended, "DISCONNECT"), time.Now()
			})
			return
		}
		if p, is := packet.(*packets.ConnectPacket); is {
			user = p.Username
		}
		for _, answer := range h.answer(conn, packet) {
			if answer.Write(conn) != nil {
				return
			}
		}
	}
}

// answer is what the hub says to one packet.

func (h *pipeHub) answer(conn net.Conn, packet packets.ControlPacket) []packets.ControlPacket {
	h.mu.Lock()
	defer h.mu.Unlock()
	reply := func(kind byte) packets.ControlPacket { return packets.NewControlPacket(kind) }
	switch p := packet.(type) {
	case *packets.ConnectPacket:
		h.connects, h.users, h.present, h.methods = append(h.connects, time.Now()), append(h.users, p.Username), conn, false
		if gone, again := h.gone[p.Username]; again {
			h.away = append(h.away, time.Since(gone))
		}
		ack := reply(packets.Connack).(*packets.ConnackPacket)
		ack.ReturnCode = h.code
		return []packets.ControlPacket{ack}
	case *packets.SubscribePacket:
		ack := reply(packets.Suback).(*packets.SubackPacket)
		ack.MessageID, ack.ReturnCodes = p.MessageID, []byte{0}
		h.methods = h.methods || slices.Contains(p.Topics, methodFilter)
		return []packets.ControlPacket{ack}
	case *packets.UnsubscribePacket:
		ack := reply(packets.Unsuback).(*packets.UnsubackPacket)
		ack.MessageID = p.MessageID
		time.AfterFunc(h.unsuback, func() {
			h.set(func() {
				if h.present == conn {
					h.methods, h.left = false, append(h.left, time.Now())
				}
			})
			_ = ack.Write(conn) // the connection may have ended by then
		})
	case *packets.PubackPacket:
		h.acks = append(h.acks, acked{p.MessageID, time.Now()})
	case *packets.PingreqPacket:
		h.pings = append(h.pings, time.Now())
		if !h.deaf {
			return []packets.ControlPacket{reply(packets.Pingresp)}
		}
	case *packets.PublishPacket:
		switch {
		case strings.HasPrefix(p.TopicName, "$iothub/twin/GET/"):
			h.twins = append(h.twins, time.Now())
			_, rid, _ := strings.Cut(p.TopicName, ridMark)
			twin := reply(packets.Publish).(*packets.PublishPacket)
			twin.TopicName, twin.Payload = "$iothub/twin/res/200"+ridMark+rid, []byte(`{"desired":{"$version":1},"reported":{"$version":1}}`)
			return []packets.ControlPacket{twin}
		case strings.HasPrefix(p.TopicName, methodReply):
			h.answers = append(h.answers, p.TopicName)
		case !h.deaf && !h.silent && p.Qos == 1:
			h.got = append(h.got, string(p.Payload))
			ack := reply(packets.Puback).(*packets.PubackPacket)
			ack.MessageID = p.MessageID
			return []packets.ControlPacket{ack}
		}
	}
	return nil
}

// call sends a direct method to the device; false if it is away.

func (h *pipeHub) call(rid string) bool {
	h.mu.Lock() // until it is written: an UNSUBACK comes after it
	defer h.mu.Unlock()
	return h.methods && h.callLate(rid)
}

// callLate sends one although nobody subscribed. It needs mu.

func (h *pipeHub) callLate(rid string) bool {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName = methodPrefix + "set" + ridMark + rid
	return p.Write(h.present) == nil
}

// push sends a cloud-to-device message to the device d.

func (h *pipeHub) push(t *testing.T, packet uint16) {
	t.Helper()
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Qos, p.MessageID = fmt.Sprintf("devices/d/messages/devicebound/%%24.mid=m%d", packet), 1, packet
	if err := p.Write(h.now().present); err != nil {
		t.Fatal(err)
	}
}

// shelf is a lane in memory.

type shelf struct {
	size  int        // of each message at least, bytes
	mu    sync.Mutex // guards the fields below
	n     uint64
	acked uint64
	wake  chan struct{}
}

func (s *shelf) put(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n += n
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

func (s *shelf) Next(ctx context.Context, after uint64, most int) ([]buffer.Entry, error) {
	for {
		s.mu.Lock()
		if s.wake == nil { // made where it is waited for: in the bubble
			s.wake = make(chan struct{})
		}
		wake, n := s.wake, s.n
		s.mu.Unlock()
		var list []buffer.Entry
		for seq := after + 1; seq <= n && len(list) < most; seq++ {
			list = append(list, buffer.Entry{Queue: "q", First: seq, Seq: seq, Telemetry: gateway.Telemetry{Body: fmt.Appendf(nil, "%*d", s.size, seq)}})
		}
		if len(list) > 0 {
			return list, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *shelf) Ack(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = seq
}

// delivered is the newest sequence that was acknowledged.

func (s *shelf) delivered() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

func (s *shelf) Dead(context.Context, uint64, string) error {
	return errors.New("nothing here is poison")
}

// bubble runs a pool of members in a bubble until f returns.

func bubble(t *testing.T, cfg Config, members []Member, handle func(context.Context, gateway.Command) gateway.Reply, f func(*pipeHub, *Pool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		hub := &pipeHub{}
		cfg.Dial, cfg.Log = hub.dial, zerolog.Nop()
		pool := NewPool(cfg, members, handle)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- pool.Run(ctx) }()
		synctest.Wait()
		f(hub, pool)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		later(time.Second) // the hub hears of it
	})
}

// later lets time pass in the bubble.

func later(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// member is one with a credential that a test makes.

func member(id gateway.IdentityID, c Credential) Member {
	return Member{ID: id, Credential: c, Lane: &shelf{}}
}

// proofs makes logins as a test says.

type proofs func(identity.Attempt) (identity.Login, error)

func (proofs) Hub(context.Context, identity.Attempt) (string, error) { return "h", nil }

func (p proofs) Login(_ context.Context, a identity.Attempt) (identity.Login, error) { return p(a) }

// holdsFor makes logins that hold for life.

func holdsFor(id gateway.IdentityID, life time.Duration) proofs {
	return func(a identity.Attempt) (identity.Login, error) {
		return identity.Login{Hub: "h", ClientID: string(id), Username: "h/" + string(id), Expires: a.Now.Add(life), Signed: true}, nil
	}
}

// lose ends the connection of a link as the network does.
