package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

func TestEachIdentityRenewsInItsOwnTimeAndBefore85PercentOfItsProof(t *testing.T) {
	const identities, life, span = 20, time.Hour, 8 * time.Hour
	var members []Member
	for i := range identities {
		id := gateway.IdentityID(fmt.Sprintf("d%d", i))
		members = append(members, member(id, holdsFor(id, life)))
	}
	bubble(t, Config{ConnectRate: 1000}, members, nil, func(hub *pipeHub, pool *Pool) {
		later(span)
		last, gaps, busiest := map[string]time.Time{}, 0, map[int64]int{}
		for i, at := range hub.now().connects {
			user := hub.now().users[i]
			if before, again := last[user]; again {
				gaps++
				if held := at.Sub(before); held < 75*life/100 || held > 85*life/100+time.Second {
					t.Errorf("%s renewed after %v", user, held)
				}
				busiest[at.Unix()/60]++
			}
			last[user] = at
		}
		if want := identities * int(span.Minutes()) / 51; gaps < want-identities {
			t.Errorf("%d renewals, want about %d", gaps, want)
		}
		for minute, n := range busiest {
			if n > identities/2 {
				t.Errorf("%d of %d renew in minute %d", n, identities, minute)
			}
		}
		for _, end := range hub.now().ended {
			if end != "DISCONNECT" {
				t.Fatal("a connection was not ended by DISCONNECT")
			}
		}
	})
}

func TestAnIdleConnectionIsKeptAliveAndADeadOneIsFound(t *testing.T) {
	bubble(t, Config{}, []Member{member("d", holdsFor("d", 100*time.Hour))}, nil, func(hub *pipeHub, pool *Pool) {
		begin := time.Now()
		later(2 * time.Hour)
		if n := len(hub.now().pings); n < 28 || n > 31 || len(hub.now().connects) != 1 {
			t.Errorf("%d pings in two hours, %d connections", n, len(hub.now().connects))
		}
		for i, at := range hub.now().pings {
			if gap := at.Sub(begin); gap > keepAlive+10*time.Second {
				t.Errorf("ping %d comes after %v", i, gap)
			}
			begin = at
		}
		hub.set(func() { hub.deaf = true })
		later(keepAlive + pingTimeout + 15*time.Second)
		if len(hub.now().ended) != 1 || hub.now().ended[0] != "lost" {
			t.Errorf("a hub that answers no ping is not given up: %v", hub.now().ended)
		}
		hub.set(func() { hub.deaf = false })
		later(DefaultRetryMost)
		if s := pool.Stats()[0]; !s.Connected || s.Connects < 2 {
			t.Errorf("not connected again: %+v", s)
		}
	})
}

func TestAPeerThatVanishesUnderLoadIsFoundWithin30Seconds(t *testing.T) {
	m := member("d", holdsFor("d", time.Hour))
	lane := m.Lane.(*shelf)
	bubble(t, Config{}, []Member{m}, nil, func(hub *pipeHub, pool *Pool) {
		lane.put(1000)
		later(time.Second)
		if lane.delivered() != 1000 {
			t.Fatalf("%d of 1000 delivered", lane.delivered())
		}
		hub.set(func() { hub.deaf = true })
		lane.put(100)
		gone := time.Now()
		for len(hub.now().ended) == 0 && time.Since(gone) < time.Minute {
			later(100 * time.Millisecond)
		}
		if took := time.Since(gone); took > 30*time.Second || took < silentAfter {
			t.Errorf("found after %v", took)
		}
		hub.set(func() { hub.deaf = false })
		later(time.Minute)
		if lane.delivered() != 1100 {
			t.Errorf("%d of 1100 delivered", lane.delivered())
		}
	})
}

func TestAHubThatOnlyTakesItsTimeIsNotGivenUp(t *testing.T) {
	m := member("d", holdsFor("d", time.Hour))
	bubble(t, Config{}, []Member{m}, nil, func(hub *pipeHub, pool *Pool) {
		hub.set(func() { hub.silent = true }) // it acknowledges nothing, and answers pings
		m.Lane.(*shelf).put(1)
		later(DefaultAckTimeout - 2*time.Second)
		if len(hub.now().ended) != 0 || len(hub.now().pings) < 3 {
			t.Errorf("after %d pings: %v", len(hub.now().pings), hub.now().ended)
		}
		later(4 * time.Second)
		if len(hub.now().ended) != 1 {
			t.Error("a message that is never acknowledged holds the connection for ever")
		}
	})
}

func TestRefusedCredentialsAreTriedMoreAndMoreSlowlyAndForEver(t *testing.T) {
	bubble(t, Config{}, []Member{member("d", holdsFor("d", time.Hour))}, nil, func(hub *pipeHub, pool *Pool) {
		hub.set(func() { hub.code = packets.ErrRefusedNotAuthorised; hub.present.Close() })
		later(48 * time.Hour)
		attempts := hub.now().connects[1:]
		longest := time.Duration(0)
		for i := 1; i < len(attempts); i++ {
			longest = max(longest, attempts[i].Sub(attempts[i-1]))
		}
		if limit := refusalFactor * DefaultRetryMost; longest > limit+time.Second || longest < limit/2 {
			t.Errorf("the longest of %d pauses is %v, want up to %v", len(attempts), longest, limit)
		}
		if n := len(attempts); n < 48*4 || n > 48*4*4 {
			t.Errorf("%d attempts in two days", n)
		}
		if s := pool.Stats()[0]; s.State != StateRefused || s.Connected {
			t.Errorf("%+v", s)
		}
		hub.set(func() { hub.code = packets.Accepted })
		later(refusalFactor * DefaultRetryMost)
		if s := pool.Stats()[0]; !s.Connected || s.LastError != "" {
			t.Errorf("the credentials are good again: %+v", s)
		}
	})
}

func TestAttemptsTellTheCredentialHowOftenTheHubRefused(t *testing.T) {
	var mu sync.Mutex
	var seen []identity.Attempt
	attempts := func() []identity.Attempt {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
	good := holdsFor("d", time.Hour)
	c := proofs(func(a identity.Attempt) (identity.Login, error) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, a)
		if a.Refused == 2 && a.Failed == 2 {
			return identity.Login{}, errors.New("the service is away")
		}
		return good(a)
	})
	bubble(t, Config{RetryMost: time.Second}, []Member{member("d", c)}, nil, func(hub *pipeHub, pool *Pool) {
		hub.set(func() { hub.code = packets.ErrRefusedNotAuthorised; hub.present.Close() })
		for len(attempts()) < 6 {
			later(time.Second)
		}
		hub.set(func() { hub.code = packets.Accepted })
		later(time.Minute)
		hub.set(func() { hub.present.Close() })
		later(time.Minute)
		seen := attempts()
		for i, want := range [][2]int{{0, 0}, {0, 0}, {1, 1}, {2, 2}, {2, 3}, {3, 4}} {
			if got := [2]int{seen[i].Refused, seen[i].Failed}; got != want {
				t.Errorf("attempt %d: %v, want %v", i, got, want)
			}
		}
		if last := seen[len(seen)-1]; last.Refused != 0 || last.Failed != 0 {
			t.Errorf("after a connection: %+v", last)
		}
	})
}

func TestAProofThatIsReplacedIsTakenUpWithinAMinuteAndNoOtherReconnects(t *testing.T) {
	ends := time.Now().Add(1000 * time.Hour)
	var broken error
	var mu sync.Mutex // guards both
	set := func(e time.Time, err error) {
		mu.Lock()
		defer mu.Unlock()
		ends, broken = e, err
	}
	c := proofs(func(identity.Attempt) (identity.Login, error) {
		mu.Lock()
		defer mu.Unlock()
		return identity.Login{Hub: "h", ClientID: "d", Username: "h/d", Expires: ends, Watch: true}, broken
	})
	bubble(t, Config{}, []Member{member("d", c)}, nil, func(hub *pipeHub, pool *Pool) {
		later(24 * time.Hour)
		if n := len(hub.now().connects); n != 1 {
			t.Errorf("%d connections although nothing was replaced", n)
		}
		set(ends, errors.New("half written"))
		later(time.Hour)
		set(ends, nil)
		if n := len(hub.now().connects); n != 1 {
			t.Errorf("%d connections although the next proof is not good", n)
		}
		set(ends.Add(time.Hour), nil)
		later(watchEvery + replacedLook)
		if n := len(hub.now().connects); n != 2 || hub.now().ended[0] != "DISCONNECT" {
			t.Errorf("%d connections after the proof was replaced", n)
		}
		if s := pool.Stats()[0]; !s.Expires.Equal(ends) || s.Hub != "h" || s.Account != "d" {
			t.Errorf("%+v", s)
		}
	})
}

func TestAWrongClockIsSaidAndHealsWithoutARestart(t *testing.T) {
	for name, off := range map[string]time.Duration{"behind": 2 * time.Hour, "ahead": -3 * time.Hour} {
		var mu sync.Mutex
		wrong := off
		var asked atomic.Int32
		cfg := Config{
			Now: func() time.Time {
				mu.Lock()
				defer mu.Unlock()
				return time.Now().Add(-wrong)
			},
			ServerTime: func(_ context.Context, of identity.Login) (time.Time, error) {
				mu.Lock()
				defer mu.Unlock()
				asked.Add(1)
				if of.Hub != "h" {
					return time.Time{}, errors.New("another hub was asked")
				}
				return time.Now().Round(time.Second), nil
			},
		}
		members := []Member{member("a", holdsFor("a", time.Hour)), member("b", holdsFor("b", time.Hour))}
		bubble(t, cfg, members, nil, func(hub *pipeHub, pool *Pool) {
			hub.set(func() { hub.code = packets.ErrRefusedNotAuthorised; hub.present.Close() })
			pool.links[0].lose(t)
			pool.links[1].lose(t)
			later(30 * time.Minute)
			for _, s := range pool.Stats() {
				if !strings.Contains(s.LastError, "this machine's clock is "+off.Abs().String()+" "+name) {
					t.Errorf("%s: %+v", name, s)
				}
			}
			if n := len(hub.now().connects); asked.Load() == 0 || asked.Load() > 35 || n > 300 {
				t.Errorf("%s: the time was asked for %d times, %d attempts", name, asked.Load(), n)
			}
			mu.Lock()
			wrong = 0 // somebody sets the clock
			mu.Unlock()
			hub.set(func() { hub.code = packets.Accepted })
			later(2 * clockLook)
			for _, s := range pool.Stats() {
				if !s.Connected || s.LastError != "" {
					t.Errorf("%s: not connected soon after the clock was set: %+v", name, s)
				}
			}
		})
	}
}

// lose ends the connection of a link as the network does.
func (l *link) lose(t *testing.T) {
	t.Helper()
	if s := l.current.Load(); s != nil {
		s.lose(errors.New("the test ends it"))
	}
}

func TestWithoutEvidenceTheClockIsNotBlamed(t *testing.T) {
	refused := &refusedError{code: packets.ErrRefusedNotAuthorised}
	for name, ask := range map[string]func(context.Context, identity.Login) (time.Time, error){
		"nobody to ask": nil,
		"no answer":     func(context.Context, identity.Login) (time.Time, error) { return time.Time{}, errors.New("away") },
		"no difference": func(context.Context, identity.Login) (time.Time, error) { return time.Now().Add(clockSlack / 2), nil },
	} {
		clocks := newHubClocks(Config{ServerTime: ask, Now: time.Now})
		if err := clocks.explain(t.Context(), identity.Login{}, refused); err != refused || aboutClock(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, err := range []error{dial.ErrClock, identity.ErrNotYetValid} {
		if !aboutClock(fmt.Errorf("x: %w", err)) {
			t.Errorf("%v is not about the clock", err)
		}
	}
}

func TestProgressIsJudgedByWhatWasHeardAndWhatWasAcknowledged(t *testing.T) {
	cfg := Config{AckTimeout: DefaultAckTimeout}
	now := time.Now()
	for _, c := range []struct {
		moved, heard time.Duration // ago
		size         int
		ping         bool
		next         time.Duration
		err          error
	}{
		{0, 0, 0, false, silentAfter, nil},
		{3 * time.Second, time.Hour, 0, false, 7 * time.Second, nil},
		{silentAfter, silentAfter, usualSize, true, 15 * time.Second, nil},
		{silentMost, silentMost, usualSize, false, 0, errSilent},
		{silentMost, silentMost, usualSize + 10*leastRate, true, 10 * time.Second, nil},
		{silentMost + 10*time.Second, time.Hour, usualSize + 10*leastRate, false, 0, errSilent},
		{silentMost, time.Second, 0, false, 9 * time.Second, nil},
		{silentMost, silentAfter, 0, true, 15 * time.Second, nil},
		{58 * time.Second, time.Second, 0, false, 2 * time.Second, nil},
		{60 * time.Second, time.Second, 0, false, 0, errAckTimeout},
		{60 * time.Second, time.Second, usualSize + 5*leastRate, false, 5 * time.Second, nil},
	} {
		ping, next, err := cfg.judge(now, now.Add(-c.moved), now.Add(-c.heard), patience(c.size))
		if ping != c.ping || next != c.next || !errors.Is(err, c.err) {
			t.Errorf("%+v: %v %v %v", c, ping, next, err)
		}
	}
}
