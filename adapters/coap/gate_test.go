package coap

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"iothub-gateway/internal/testkit"
)

func TestANonConfirmableReportIsAnsweredOnlyIfItAsks(t *testing.T) {
	s := &sink{}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	m := post(1, temp21, message.Option{ID: message.NoResponse, Value: []byte{}})
	m.Type = message.NonConfirmable
	w.write(encoded(t, m))
	got := w.read()
	equal(t, "type", got.Type, message.NonConfirmable)
	equal(t, "code", dotted(got.Code), "2.04")
	m = post(2, temp21, message.Option{ID: message.NoResponse, Value: []byte{26}})
	m.Type = message.NonConfirmable
	w.write(encoded(t, m))
	w.silent()
	m = post(3, temp21, message.Option{ID: message.NoResponse, Value: []byte{2}})
	w.ask(message.Message{Type: m.Type, Code: m.Code, MessageID: 3, Options: m.Options, Payload: m.Payload}, codes.Empty)
	equal(t, "stored", len(s.taken()), 3)
}

func TestEveryRefusalHasItsCode(t *testing.T) {
	cfg := plainConfig()
	cfg.Limits.Body = 2048
	cfg.Devices = append(cfg.Devices, Device{Name: "other", From: netip.MustParsePrefix("10.9.9.9/32"), Path: "/other", Points: points("other")})
	s := &sink{}
	a, _ := run(t, cfg, s)
	with := func(m message.Message, change func(*message.Message)) message.Message {
		change(&m)
		return m
	}
	format := func(f uint32) message.Option { return uintOption(message.ContentFormat, f) }
	for _, c := range []struct {
		what string
		send message.Message
		want string
	}{
		{"no such path", request110("v1/x", 0, temp21), "4.04"},
		{"a path that only begins like it", request110("v1", 0, temp21), "4.04"},
		{"a path in one segment", with(post(0, temp21), func(m *message.Message) {
			m.Options = message.Options{{ID: message.URIPath, Value: []byte("v1/t")}, format(110)}
		}), "4.04"},
		{"another device's path", request110("other", 0, temp21), "4.03"},
		{"GET", with(post(0, ""), func(m *message.Message) { m.Code = codes.GET }), "4.05"},
		{"PUT", with(post(0, temp21), func(m *message.Message) { m.Code = codes.PUT }), "4.05"},
		{"FETCH", with(post(0, temp21), func(m *message.Message) { m.Code = 5 }), "4.05"},
		{"no format", post(0, temp21, message.Option{ID: message.ContentFormat}), "4.15"},
		{"CBOR", post(0, temp21, format(60)), "4.15"},
		{"not JSON", post(0, `[{"n":"temp"`), "4.00"},
		{"not a pack", post(0, `{"n":"temp","v":1}`), "4.00"},
		{"a field that must be understood", post(0, `[{"n":"temp","v":1,"x_":1}]`), "4.00"},
		{"nothing that is mapped", post(0, `[{"n":"pressure","v":1}]`), "4.22"},
		{"too large", post(0, strings.Repeat(" ", 2049)), "4.13"},
		{"Size1 too large", post(0, strings.Repeat(" ", 64), block1(0, true, 2), uintOption(message.Size1, 2049)), "4.13"},
		{"a block out of nowhere", post(0, "x", block1(1, false, 2)), "4.08"},
		{"a block of the reserved size", post(0, "x", block1(0, false, 7)), "4.00"},
		{"a short block", post(0, "x", block1(0, true, 2)), "4.00"},
		{"OSCORE", post(0, temp21, message.Option{ID: 9, Value: []byte{1}}), "4.02"},
		{"Block1 of four bytes", post(0, temp21, message.Option{ID: message.Block1, Value: []byte{0, 0, 0, 8}}), "4.02"},
		{"Block1 twice", with(post(0, temp21), func(m *message.Message) {
			m.Options = append(m.Options, block1(0, false, 2), block1(0, false, 2))
		}), "4.02"},
		{"proxy", post(0, temp21, message.Option{ID: message.ProxyURI, Value: []byte("coap://x")}), "5.05"},
		{"if-none-match", post(0, temp21, message.Option{ID: message.IfNoneMatch, Value: []byte{}}), "4.12"},
		{"if-match", post(0, temp21, message.Option{ID: message.IfMatch, Value: []byte{1}}), "4.12"},
		{"an unknown elective option", post(0, temp21, message.Option{ID: 2000, Value: []byte{1}}), "2.04"},
		{"if-match any", post(0, temp21, message.Option{ID: message.IfMatch, Value: []byte{}}), "2.04"},
	} {
		t.Run(c.what, func(t *testing.T) {
			a.mu.Lock()
			a.roster.all[0].faults = faults{}
			a.mu.Unlock()
			w := dial(t, a.Addr())
			c.send.MessageID = 77
			w.write(encoded(t, c.send))
			got := w.read()
			equal(t, "code", dotted(got.Code), c.want)
			if c.want == "4.13" {
				size, err := got.Options.GetUint32(message.Size1)
				if err != nil || size != 2048 {
					t.Errorf("Size1 %d, %v", size, err)
				}
			}
			c.send.Type, c.send.MessageID = message.NonConfirmable, 78
			if c.want[0] != '2' && !c.send.Options.HasOption(message.Block1) {
				w.write(encoded(t, c.send))
				w.silent()
			}
		})
	}
	equal(t, "stored", len(s.taken()), 2)
}

func TestASourceOutsideTheAllowListIsNotHeard(t *testing.T) {
	cfg := plainConfig()
	cfg.Allow = []netip.Prefix{netip.MustParsePrefix("10.7.4.0/24")}
	a, _ := run(t, cfg, &sink{})
	w := dial(t, a.Addr())
	w.write(encoded(t, post(1, temp21)))
	w.write([]byte("\x40garbage"))
	testkit.Eventually(t, "both are counted", func() bool { return a.Stats().Denied == 2 })
	if m, ok := w.poll(50 * time.Millisecond); ok {
		t.Errorf("an answer: %s", show(m))
	}
	equal(t, "parsed", a.Stats().Ignored+a.Stats().Refused, 0)
}

func TestAPermittedSourceWithoutADeviceIsUnauthorized(t *testing.T) {
	cfg := plainConfig()
	cfg.Devices[0].From = netip.MustParsePrefix("10.7.4.17/32")
	a, _ := run(t, cfg, &sink{})
	w := dial(t, a.Addr())
	w.ask(post(1, temp21), codes.Unauthorized)
	for i := range int32(3 * refusalsASecond) {
		w.write(encoded(t, post(2+i, temp21)))
	}
	testkit.Eventually(t, "all were looked at", func() bool { return a.Stats().Refused == 3*refusalsASecond+1 })
	answers := 0
	for {
		if _, ok := w.poll(20 * time.Millisecond); !ok {
			break
		}
		answers++
	}
	if answers > 2*refusalsASecond+10 {
		t.Errorf("%d answers to a stranger", answers)
	}
}

func TestAMessageThatIsNoRequestDoesNoHarm(t *testing.T) {
	s := &sink{}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	w.ask(post(1, temp21), codes.Changed)
	for _, c := range []struct {
		what  string
		send  []byte
		reset bool
	}{
		{"a stray reset", []byte{0x70, 0, 0, 1}, false},
		{"a stray acknowledgement", []byte{0x60, 0, 0, 1}, false},
		{"a stray answer, confirmable", []byte{0x41, 0x45, 0, 9, 7}, true},
		{"a stray answer, not confirmable", []byte{0x51, 0x45, 0, 9, 7}, false},
		{"a stray piggybacked answer", []byte{0x61, 0x45, 0, 9, 7}, false},
		{"an acknowledgement with a method", []byte{0x60, 2, 0, 9}, false},
		{"a ping", []byte{0x40, 0, 0, 9}, true},
		{"a code of a reserved class", []byte{0x40, 0x20, 0, 9}, true},
		{"a code of reserved class 7", []byte{0x40, 0xe1, 0, 9}, true},
		{"a token of nine bytes", append([]byte{0x49, 2, 0, 9}, make([]byte, 9)...), true},
		{"an option longer than the message", []byte{0x40, 2, 0, 9, 0xb9, 1}, true},
		{"a marker without payload", []byte{0x40, 2, 0, 9, 0xff}, true},
		{"an empty message with a token", []byte{0x41, 0, 0, 9, 1}, true},
		{"another version", []byte{0x80, 2, 0, 9}, false},
		{"three bytes", []byte{0x40, 2, 0}, false},
		{"nothing", []byte{}, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := wire{t, w.conn}
			w.write(c.send)
			if !c.reset {
				w.silent()
				return
			}
			m := w.read()
			if m.Type != message.Reset || m.Code != codes.Empty || m.MessageID != 9 {
				t.Errorf("got %s", show(m))
			}
		})
	}
	// A malformed message neither ends nor forgets what was before it (COAP-102).
	w.ask(post(1, temp21), codes.Changed)
	equal(t, "stored", len(s.taken()), 1)
}

func TestADeviceOverItsRateIsAskedToWait(t *testing.T) {
	cfg := plainConfig()
	cfg.Limits.Rate = 0.5
	s := &sink{}
	a, _ := run(t, cfg, s)
	w := dial(t, a.Addr())
	for i := range int32(5) {
		w.ask(post(i, fmt.Sprintf(`[{"n":"temp","v":%d}]`, i)), codes.Changed)
	}
	m := w.ask(post(5, temp21), codes.TooManyRequests)
	if wait, err := m.Options.GetUint32(message.MaxAge); err != nil || wait != 2 {
		t.Errorf("Max-Age %d, %v", wait, err)
	}
	w.ask(post(4, `[{"n":"temp","v":4}]`), codes.Changed) // a retransmission costs nothing
	equal(t, "limited", a.Stats().Limited, 1)
}

func TestEqualRefusalsInALoopAreSlowedDown(t *testing.T) {
	a, _ := run(t, plainConfig(), &sink{})
	w := dial(t, a.Addr())
	for i := range int32(manyFaults) {
		w.ask(post(i, "x"), codes.BadRequest)
	}
	w.ask(post(5, "x"), codes.TooManyRequests)
	w.ask(post(6, temp21), codes.Changed)
	w.ask(post(7, "x"), codes.BadRequest)
}

func TestMoreReportsThanThereIsRoomForAreRefusedAtOnce(t *testing.T) {
	s := &sink{gate: make(chan struct{})}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	for i := range int32(maxReports) {
		m := post(i, fmt.Sprintf(`[{"n":"temp","v":%d}]`, i))
		m.Type = message.NonConfirmable
		w.write(encoded(t, m))
		if i%32 == 0 {
			testkit.Eventually(t, "it is taken", func() bool { return a.waitingReports() == int(i)+1 })
		}
	}
	testkit.Eventually(t, "all are on their way", func() bool { return a.waitingReports() == maxReports })
	m := dial(t, a.Addr()).ask(post(1, temp21), codes.ServiceUnavailable)
	if !m.Options.HasOption(message.MaxAge) {
		t.Error("no Max-Age")
	}
	close(s.gate)
	testkit.Eventually(t, "all are stored", func() bool { return len(s.values("d/temp")) == maxReports })
	if calls := len(s.taken()); calls > 2 {
		t.Errorf("%d calls for reports that waited together", calls)
	}
	dial(t, a.Addr()).ask(post(1, temp21), codes.Changed)
}

func TestARefusalIsNeverMoreThanThreeTimesTheRequest(t *testing.T) {
	a, _ := run(t, plainConfig(), &sink{})
	w := dial(t, a.Addr())
	w.write([]byte{0x40, 2, 0, 1}) // four bytes: POST to "/"
	m := w.read()
	if size := len(encoded(t, m)); size > 12 {
		t.Errorf("%d bytes: %s", size, show(m))
	}
}
