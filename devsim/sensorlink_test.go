package devsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/rs/zerolog"

	"iothub-gateway/internal/testkit"
)

func TestASensorReportsAgainAndAgainInOneSession(t *testing.T) {
	field := listenSecure(t, "127.0.0.1:0", map[string]string{"env-17": sensorKey})
	s := hasty(sensorsAt(only(fieldPlant(), "env-17"), field.addr))
	stop := testkit.Background(t, s.Run)
	posts := field.wait(t, 5)
	for _, p := range posts {
		if p.random != posts[0].random {
			t.Error("a second session")
		}
	}
	testkit.Eventually(t, "they are counted", func() bool { return s.Acked()["env-17"] >= 5 })
	stop()
	n := len(field.all())
	if acked := int(s.Acked()["env-17"]); acked > n || acked < n-1 {
		t.Errorf("%d reports, %d counted", n, acked)
	}
}

func TestAReportThatIsLostIsSentAgain(t *testing.T) {
	vlan := listenPlain(t, "127.0.0.1:0")
	s := hasty(sensorsAt(only(fieldPlant(), "probe"), vlan.addr))
	s.pace.ack = 120 * time.Millisecond
	s.Mute("probe", true)
	testkit.Background(t, s.Run)
	// The last datagram gets through, and its answer comes when no further one is due.
	vlan.turn(func(l *server) { l.deaf, l.slow = maxRetransmit, 40*time.Millisecond })
	if code := reported(t, s, "probe"); code != "2.04" {
		t.Errorf("answered %s", code)
	}
	vlan.turn(func(l *server) {
		if len(l.posts) != 1 || l.unheard != maxRetransmit {
			t.Errorf("%d reports, %d datagrams lost", len(l.posts), l.unheard)
		}
	})
}

func TestASessionWithoutAnAnswerIsNotUsedAgain(t *testing.T) {
	field := listenSecure(t, "127.0.0.1:0", map[string]string{"env-17": sensorKey})
	s := hasty(sensorsAt(only(fieldPlant(), "env-17"), field.addr))
	s.Mute("env-17", true)
	testkit.Background(t, s.Run)
	reported(t, s, "env-17")
	field.turn(func(l *server) { l.deaf = 1000 })
	_, err := s.Report(context.Background(), "env-17")
	if err == nil || !strings.Contains(err.Error(), "sensor env-17: no answer from listener field at "+field.addr) {
		t.Errorf("error %v", err)
	}
	field.turn(func(l *server) { l.deaf = 0 })
	reported(t, s, "env-17")
	posts := field.all()
	if len(posts) != 2 || posts[0].random == posts[1].random {
		t.Errorf("%d reports, the same session: %v", len(posts), posts[0].random == posts[1].random)
	}
	if acked := s.Acked()["env-17"]; acked != 2 {
		t.Errorf("%d acknowledged", acked)
	}
}

func TestASessionThatTheListenerEndedCostsNoReport(t *testing.T) {
	keys := map[string]string{"env-17": sensorKey}
	before := listenSecure(t, "127.0.0.1:0", keys)
	s := hasty(sensorsAt(only(fieldPlant(), "env-17"), before.addr))
	s.Mute("env-17", true)
	testkit.Background(t, s.Run)
	reported(t, s, "env-17")
	before.stop()
	testkit.Eventually(t, "the session has ended", func() bool {
		s.clock.mu.Lock()
		defer s.clock.mu.Unlock()
		return len(s.clock.hands) == 0
	})
	after := listenSecure(t, before.addr, keys)
	if code := reported(t, s, "env-17"); code != "2.04" || len(after.all()) != 1 {
		t.Errorf("answered %s, %d reports", code, len(after.all()))
	}
}

// The listener may be bound to any of the machine's addresses.
func TestPlainReportsComeFromTheLoopback(t *testing.T) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	heard := 0
	for _, address := range addresses {
		ip := address.(*net.IPNet).IP.To4()
		if ip == nil {
			continue
		}
		vlan := listenPlain(t, net.JoinHostPort(ip.String(), "0"))
		stop := testkit.Background(t, hasty(sensorsAt(only(fieldPlant(), "probe"), vlan.addr)).Run)
		p := vlan.wait(t, 1)[0]
		stop()
		heard++
		if p.from.String() != "127.0.0.1" {
			t.Errorf("at %s they come from %s", ip, p.from)
		}
	}
	if heard == 0 {
		t.Error("no address to listen at")
	}
}

func TestSensorsComeBackWhenTheListenerDoes(t *testing.T) {
	keys := map[string]string{"env-17": sensorKey}
	for name, listen := range map[string]func(address string) *server{
		"env-17": func(address string) *server { return listenSecure(t, address, keys) },
		"probe":  func(address string) *server { return listenPlain(t, address) },
	} {
		for _, elsewhere := range []bool{false, true} {
			before := listen("127.0.0.1:0")
			where := &directory{addr: before.addr}
			s := hasty(NewSensors(SensorConfig{Plant: only(fieldPlant(), name), Addr: where.find, Key: keyOf, Log: zerolog.Nop()}))
			stop := testkit.Background(t, s.Run)
			before.wait(t, 2)
			before.stop()
			where.move("")
			asked := where.times()
			testkit.Eventually(t, "it is looked for", func() bool { return where.times() > asked })
			address := before.addr
			if elsewhere {
				address = "127.0.0.1:0"
			}
			after := listen(address)
			where.move(after.addr)
			after.wait(t, 2)
			stop()
		}
	}
}

func TestAWrongKeyIsTriedLessAndLessOften(t *testing.T) {
	field := listenSecure(t, "127.0.0.1:0", map[string]string{"env-17": "another key 16 b"})
	where := &directory{addr: field.addr}
	var log testkit.Log
	s := hasty(NewSensors(SensorConfig{Plant: only(fieldPlant(), "env-17"), Addr: where.find, Key: keyOf, Log: zerolog.New(&log)}))
	s.pace.handshake, s.pace.retry = 30*time.Millisecond, 30*time.Millisecond
	stop := testkit.Background(t, s.Run)
	// The waits alone are 30, 60, 120 and 240 ms, a quarter more or less.
	began := time.Now()
	testkit.Eventually(t, "it tries", func() bool { return where.times() == 5 })
	if took := time.Since(began); took < 330*time.Millisecond {
		t.Errorf("5 attempts within %v", took)
	}
	stop()
	if len(field.all()) != 0 || s.Acked()["env-17"] != 0 {
		t.Error("a report got in")
	}
	if text := log.String(); strings.Count(text, "not answered") != 1 || !strings.Contains(text, "handshake as") || strings.Contains(text, sensorKey) {
		t.Errorf("log: %s", text)
	}
}

func TestASensorThatIsNotAnsweredRestsLonger(t *testing.T) {
	o := still(only(fieldPlant(), "env-17")).sensors[0]
	bad := outcome{err: context.DeadlineExceeded}
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 16, 16} {
		if got := o.rest(bad); got < want*3*time.Second/4 || got > want*5*time.Second/4 {
			t.Errorf("after failure %d: %v, want about %d s", i+1, got, want)
		}
	}
	if got := o.rest(outcome{code: "5.03"}); got != 30*time.Second {
		t.Errorf("after an answer: %v", got)
	}
	if got := o.rest(bad); got > 2*time.Second {
		t.Errorf("after the next failure: %v", got)
	}
}

func TestARefusedReportIsNoReasonToHurryOrToStop(t *testing.T) {
	vlan := listenPlain(t, "127.0.0.1:0")
	vlan.turn(func(l *server) { l.answer = codes.ServiceUnavailable })
	var log testkit.Log
	s := hasty(NewSensors(SensorConfig{
		Plant: only(fieldPlant(), "probe"), Addr: func(string) string { return vlan.addr }, Key: keyOf, Log: zerolog.New(&log),
	}))
	testkit.Background(t, s.Run)
	vlan.wait(t, 3)
	if code := reported(t, s, "probe"); code != "5.03" {
		t.Errorf("answered %s", code)
	}
	if acked := s.Acked()["probe"]; acked != 0 {
		t.Errorf("%d acknowledged", acked)
	}
	vlan.turn(func(l *server) { l.answer = codes.Changed })
	testkit.Eventually(t, "reports are taken again", func() bool { return s.Acked()["probe"] > 2 })
	text := log.String()
	if strings.Count(text, "refused") != 1 || strings.Count(text, "are taken") != 1 || !strings.Contains(text, `"code":"5.03"`) {
		t.Errorf("log: %s", text)
	}
}

func TestASensorSaysWhyItCannotConnect(t *testing.T) {
	silent := silentPort(t)
	for _, test := range []struct {
		addr, key, says string
	}{
		{"", sensorKey, "listener field does not listen"},
		{"nowhere", sensorKey, `listener field at "nowhere"`},
		{silent, "", `no key for PSK identity "env-17"`},
		{silent, sensorKey, `handshake as "env-17"`},
	} {
		s := hasty(NewSensors(SensorConfig{
			Plant: only(fieldPlant(), "env-17"), Log: zerolog.Nop(),
			Addr: func(string) string { return test.addr },
			Key:  func(string) []byte { return []byte(test.key) },
		}))
		s.pace.handshake = 50 * time.Millisecond
		s.Mute("env-17", true)
		stop := testkit.Background(t, s.Run)
		code, err := s.Report(context.Background(), "env-17")
		if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "sensor env-17") || code != "" {
			t.Errorf("%q: %q, %v, want %s", test.addr, code, err, test.says)
		}
		stop()
	}
}

func TestAReportWithoutAnAnswerDoesNotKeepRunFromEnding(t *testing.T) {
	for _, device := range []string{"env-17", "probe"} {
		s := sensorsAt(only(fieldPlant(), device), silentPort(t))
		s.sensors[0].first = 0
		stop := testkit.Background(t, s.Run)
		answer := make(chan error, 1)
		go func() {
			_, err := s.Report(context.Background(), device)
			answer <- err
		}()
		stop()
		if err := <-answer; err == nil {
			t.Errorf("%s: no error", device)
		}
	}
}

func TestAPortWhereNothingListensIsNoAnswerAtOnce(t *testing.T) {
	vlan := listenPlain(t, "127.0.0.1:0")
	vlan.stop()
	s := sensorsAt(only(fieldPlant(), "probe"), vlan.addr)
	s.Mute("probe", true)
	testkit.Background(t, s.Run)
	began := time.Now()
	_, err := s.Report(context.Background(), "probe")
	if !errors.Is(err, errClosed) || errors.Is(err, context.Canceled) || time.Since(began) > time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestTheClockForgetsWhatHasEnded(t *testing.T) {
	var c clock
	var rang bytes.Buffer
	for i, life := range []int{1, 3, 2} {
		c.add(func(time.Time) bool {
			fmt.Fprint(&rang, i)
			life--
			return life > 0
		})
	}
	for range 4 {
		c.tick(time.Now())
	}
	if rang.String() != "012121" || len(c.hands) != 0 {
		t.Errorf("rang %s, %d are left", rang.String(), len(c.hands))
	}
}

func TestASocketThatListensEverywhereIsReachedHere(t *testing.T) {
	for listens, want := range map[string]string{
		"0.0.0.0:5683": "127.0.0.1:5683", "[::]:5683": "127.0.0.1:5683",
		"10.7.4.1:5683": "10.7.4.1:5683", "[::1]:5683": "[::1]:5683", "gateway:5683": "gateway:5683", "": "",
	} {
		if got := reachable(listens); got != want {
			t.Errorf("%q: %q, want %q", listens, got, want)
		}
	}
}
