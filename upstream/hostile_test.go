package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
	"iothub-gateway/internal/testkit"
)

// hostile is a hub that accepts a connection and then says what it likes, until the device hangs up.
type hostile struct{ random *rand.Rand }

// packet is something that begins like a packet of any type, and often goes on like one.
func (h hostile) packet() []byte {
	n := h.random.IntN(12)
	if h.random.IntN(4) == 0 {
		n = h.random.IntN(300)
	}
	body := make([]byte, n)
	for i := range body {
		body[i] = byte(h.random.IntN(256))
		if h.random.IntN(2) == 0 {
			body[i] = byte(h.random.IntN(4))
		}
	}
	topics := []string{
		methodPrefix + "set" + ridMark + "1", methodPrefix + "\xff\x00" + ridMark + "\xc3\x28", methodPrefix, methodPrefix + ridMark,
		twinAnswers + "200" + ridMark + "1", twinAnswers + "200" + ridMark + "2&$version=x", twinAnswers + "-1" + ridMark + "1", twinAnswers,
		desiredTopic + "?$version=2", "devices/d/messages/devicebound/", "devices/d/messages/devicebound/%24.mid=%zz", "devices/d/messages/devicebound/%24.mid=m&%24.exp=x", "#", "",
	}
	bodies := []string{"", "{", "null", "[]", `{"$version":2,"a":{"b":[null,{}]}}`, `{"$version":"x"}`, `{"$version":3,"a":null}`, `{"desired":{"$version":1e99},"reported":[]}`, `{"desired":{"$version":5,"a":1}}`, string(body)}
	switch h.random.IntN(3) {
	case 0:
		topic, text := topics[h.random.IntN(len(topics))], bodies[h.random.IntN(len(bodies))]
		qos := byte(h.random.IntN(4))
		b := []byte{byte(len(topic) >> 8), byte(len(topic))}
		b = append(b, topic...)
		if qos > 0 {
			b = append(b, 0, byte(h.random.IntN(3)))
		}
		b = append(b, text...)
		return append(appendLength([]byte{0x30 | qos<<1 | byte(h.random.IntN(2))<<3}, len(b)), b...)
	case 1:
		return []byte{byte(4+h.random.IntN(8)) << 4, 2, byte(h.random.IntN(2)) << 7, byte(h.random.IntN(4))}
	}
	return append(appendLength([]byte{byte(h.random.IntN(256))}, n), body...)
}

func (h hostile) serve(conn net.Conn) {
	defer conn.Close()
	go func() {
		for {
			if _, err := packets.ReadPacket(conn); err != nil {
				return
			}
		}
	}()
	if _, err := conn.Write([]byte{0x20, 2, 0, 0}); err != nil {
		return
	}
	for i := range 5 {
		if h.random.IntN(5) > 0 {
			_, _ = conn.Write([]byte{0x90, 3, 0x80, byte(i), 0})
		}
	}
	for {
		if _, err := conn.Write(h.packet()); err != nil {
			return
		}
	}
}

func TestWhatAHostileHubSaysEndsConnectionsAndNothingElse(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		random, good := rand.New(rand.NewPCG(seed, 0)), &pipeHub{}
		begun := time.Now()
		cfg := Config{
			Log: zerolog.Nop(), State: &testkit.Notes{}, RetryMost: time.Second,
			Dial: func(ctx context.Context, to identity.Login) (*dial.Conn, error) {
				if time.Since(begun) > 5*time.Minute {
					return good.dial(ctx, to)
				}
				near, far := net.Pipe()
				go hostile{rand.New(rand.NewPCG(random.Uint64(), 0))}.serve(far)
				return dial.Guard(near, time.Second, 1<<16), nil
			},
			Message: func(context.Context, gateway.CloudMessage) gateway.Reply {
				return gateway.Reply{Status: 200, Body: []byte("{}")}
			},
			Desired: func(context.Context, gateway.IdentityID, string, []byte) gateway.Ack { return gateway.Ack{Status: 200} },
		}
		m := member("d", holdsFor("d", time.Hour))
		lane := m.Lane.(*shelf)
		m.Messages, m.Desired = true, []gateway.Desired{rule("a.b"), rule("a")}
		pool := NewPool(cfg, []Member{m}, func(context.Context, gateway.Command) gateway.Reply {
			return gateway.Reply{Status: 200, Body: []byte("{}")}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- pool.Run(ctx) }()
		later(4 * time.Minute)
		if s := pool.Stats()[0]; s.Connects < 10 {
			t.Errorf("the hub had no chance: %+v", s)
		}
		later(2 * time.Minute)
		lane.put(100)
		later(time.Second)
		if s := pool.Stats()[0]; !s.Connected || lane.delivered() != 100 {
			t.Errorf("%d of 100 delivered to a hub that is sane again: %+v", lane.delivered(), s)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		later(time.Second)
	})
}

func TestAHubThatFloodsAndDoesNotListenIsCutOffBeforeItFillsTheMemory(t *testing.T) {
	flood := make(chan int, 1)
	dials := 0
	cfg := Config{Log: zerolog.Nop(), WriteTimeout: 10 * time.Second, RetryMost: time.Hour, Dial: func(context.Context, identity.Login) (*dial.Conn, error) {
		if dials++; dials > 1 {
			return nil, errors.New("enough")
		}
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			if _, err := packets.ReadPacket(far); err != nil { // and nothing more
				return
			}
			_, _ = far.Write([]byte{0x20, 2, 0, 0})
			topic := methodPrefix + "set" + ridMark + "1"
			body := append([]byte{0, byte(len(topic))}, topic...)
			body = append(append(body, 0, 1), make([]byte, 10<<10)...)
			packet := append(appendLength([]byte{0x32}, len(body)), body...)
			n := 0
			for ; n < 1_000_000; n++ {
				if _, err := far.Write(packet); err != nil {
					break
				}
			}
			flood <- n
		}()
		return dial.Guard(near, 10*time.Second, 1<<20), nil
	}}
	pool := NewPool(cfg, []Member{member("d", holdsFor("d", time.Hour))}, func(ctx context.Context, _ gateway.Command) gateway.Reply {
		<-ctx.Done()
		return gateway.Reply{Status: 503, Body: []byte("{}")}
	})
	testkit.Background(t, pool.Run)
	if n := <-flood; n > 10*mostInbox {
		t.Errorf("%d messages of 10 KB were taken in", n)
	}
}
