package coap

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

// byHand is a DTLS listener whose clock is the test's.
func byHand(t *testing.T, cfg Config, s *sink) (*secure, string) {
	t.Helper()
	a := New(cfg, zerolog.Nop())
	socket, err := listen(cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	f, ok := a.front(socket).(*secure)
	if !ok {
		t.Fatal("no DTLS")
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { socket.serve(ctx, a.guarded(f)) })
	running.Go(func() { a.deliver(ctx, s.accept) })
	t.Cleanup(func() {
		cancel()
		f.close()
		socket.close()
		running.Wait()
	})
	return f, socket.addr()
}

func identities(f *secure) string {
	var all []string
	for _, s := range f.door.established() {
		all = append(all, fmt.Sprint(s.identity, "@", s.addr.Port()))
	}
	return strings.Join(all, " ")
}

func (f *secure) live() int {
	f.adapter.mu.Lock()
	defer f.adapter.mu.Unlock()
	return f.adapter.stats.Sessions
}

func TestASessionEndsWithItsKey(t *testing.T) {
	v := newVault("env-17", "env-18", "env-19")
	f, address := byHand(t, secureConfig(v, "env-17", "env-18", "env-19"), &sink{})
	for _, identity := range []string{"env-17", "env-18", "env-19"} {
		deviceAt(t, newRoaming(t, 0), address, identity)
	}
	testkit.Eventually(t, "all are in", func() bool { return f.live() == 3 })
	f.sweep(time.Now())
	equal(t, "sessions with good keys", f.live(), 3)
	v.set("env-17", "")
	v.set("env-18", "the new one")
	f.sweep(time.Now().Add(keysEvery))
	testkit.Eventually(t, "two have ended", func() bool { return f.live() == 1 })
	if got := identities(f); !strings.HasPrefix(got, "env-19") {
		t.Errorf("left: %s", got)
	}
}

func TestAnIdleSessionEnds(t *testing.T) {
	cfg := secureConfig(newVault("env-17"), "env-17")
	f, address := byHand(t, cfg, &sink{})
	deviceAt(t, newRoaming(t, 0), address, "env-17")
	testkit.Eventually(t, "it is in", func() bool { return f.live() == 1 })
	f.sweep(time.Now().Add(59 * time.Minute))
	equal(t, "sessions after 59 minutes", f.live(), 1)
	f.sweep(time.Now().Add(61 * time.Minute))
	testkit.Eventually(t, "it has ended", func() bool { return f.live() == 0 })
}

func TestTheNewestSessionOfAnIdentityWins(t *testing.T) {
	f, address := byHand(t, secureConfig(newVault("env-17"), "env-17"), &sink{})
	var networks []*roaming
	for range 4 {
		network := newRoaming(t, 0)
		networks = append(networks, network)
		deviceAt(t, network, address, "env-17")
		testkit.Eventually(t, "it is in", func() bool { return f.live() == len(networks) })
	}
	deviceAt(t, newRoaming(t, 0), address, "env-17")
	testkit.Eventually(t, "the fifth ended the first", func() bool {
		return f.adapter.Stats().Handshakes == 5 && f.live() == 4
	})
	if got := identities(f); strings.Contains(got, fmt.Sprint("@", networks[0].port())) {
		t.Errorf("left: %s", got)
	}
	f.sweep(time.Now().Add(59 * time.Second))
	equal(t, "sessions that overlap", f.live(), 4)
	f.sweep(time.Now().Add(61 * time.Second))
	testkit.Eventually(t, "only the newest is left", func() bool { return f.live() == 1 })
}

func TestTheSessionThatWasSilentForLongestMakesRoom(t *testing.T) {
	v := newVault("a", "b", "c")
	cfg := secureConfig(v, "a", "b", "c")
	cfg.Limits.Sessions = 2
	f, address := byHand(t, cfg, &sink{})
	a := deviceAt(t, newRoaming(t, 0), address, "a")
	deviceAt(t, newRoaming(t, 0), address, "b")
	testkit.Eventually(t, "two are in", func() bool { return f.live() == 2 })
	a.ask(to("a", 1, temp21), codes.Changed) // so b is silent for longer
	deviceAt(t, newRoaming(t, 0), address, "c").ask(to("c", 1, temp21), codes.Changed)
	a.ask(to("a", 2, temp21), codes.Changed)
	testkit.Eventually(t, "two are left", func() bool { return f.live() == 2 })
	if got := identities(f); strings.Contains(got, "b@") {
		t.Errorf("left: %s", got)
	}
}

func TestADTLSListenerHonoursItsAllowList(t *testing.T) {
	cfg := secureConfig(newVault("env-17"), "env-17")
	cfg.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	a, _ := run(t, cfg, &sink{})
	if _, err := connect(t, newRoaming(t, 0), a.Addr(), "env-17", envKey, 100*time.Millisecond); err == nil {
		t.Error("it got in")
	}
	equal(t, "handshakes", a.Stats().Handshakes+a.Stats().Rejected, 0)
	if a.Stats().Denied == 0 {
		t.Error("nothing was denied")
	}
}

func TestHandshakesThatAreNeverFinishedTakeABoundedRoom(t *testing.T) {
	socket, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.close()
	var opened []*session
	d := newDoor(10, func(a arrival, h hello) *session {
		s, err := newSession(socket, a, newVault().find)
		if err != nil {
			t.Fatal(err)
		}
		s.hello, s.began = h, time.Now().Add(time.Duration(len(opened))*time.Millisecond)
		opened = append(opened, s)
		return s
	})
	defer func() {
		for _, s := range opened {
			s.close()
		}
	}()
	first, now := firstHello(t), time.Now()
	second := bytes.Clone(first)
	second[recordHeader+5] = 1 // its message sequence number: the one that returns the cookie
	for i := range 3 * maxOpening {
		at := arrival{from: netipPort(uint16(1 + i))}
		now = now.Add(10 * time.Millisecond)
		for range 3 {
			d.route(at, first, now)
		}
		if i == 0 {
			d.route(at, second, now) // a peer that is really there
		}
	}
	equal(t, "opened", len(opened), 3*maxOpening)
	equal(t, "handshakes", len(d.opening), maxOpening)
	equal(t, "sessions", len(d.byCID), maxOpening)
	if d.opening[netipPort(1)] == nil {
		t.Error("the peer that answered had to go for those that did not")
	}
	for range 2 * openingBytes / len(first) {
		d.route(arrival{from: netipPort(1)}, second, now)
	}
	if taken := d.opening[netipPort(1)]; len(taken.pipe.in) > pipeDepth || taken.taken < openingBytes {
		t.Errorf("%d datagrams, %d bytes", len(taken.pipe.in), taken.taken)
	}
	begun := len(opened)
	for i := range 10 * openingsASecond {
		d.route(arrival{from: netipPort(uint16(10000 + i))}, first, now)
	}
	if n := len(opened) - begun; n > openingsASecond {
		t.Errorf("%d handshakes began at once", n)
	}
}

func TestAllReadingsOfASessionCarryItsDevice(t *testing.T) {
	s := &sink{}
	a, _ := run(t, secureConfig(newVault("x", "y"), "x", "y"), s)
	for _, identity := range []string{"x", "y"} {
		deviceAt(t, newRoaming(t, 0), a.Addr(), identity).ask(to(identity, 1, temp21), codes.Changed)
	}
	for _, call := range s.taken() {
		for _, sample := range call {
			if sample.Point != "x/temp" && sample.Point != "y/temp" || sample.Value != gateway.IntValue(21) {
				t.Errorf("%+v", sample)
			}
		}
	}
}
