package coap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/options"
	"github.com/plgd-dev/go-coap/v3/pkg/runner/periodic"
	"github.com/plgd-dev/go-coap/v3/udp"
	"github.com/plgd-dev/go-coap/v3/udp/client"

	gateway "iothub-gateway"
)

func TestADeviceIsAnsweredOnlyWhenItsReportIsDurable(t *testing.T) {
	s := &sink{gate: make(chan struct{})}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	w.write(encoded(t, post(1, temp21)))
	eventually(t, "accept is called", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.busy == 1 })
	w.silent()
	s.gate <- struct{}{}
	m := w.read()
	equal(t, "answer", dotted(m.Code), "2.04")
	equal(t, "type", m.Type, message.Acknowledgement)
	equal(t, "stored", strings.Join(s.values("d/temp"), " "), "21")
}

func TestAllReadingsOfAReportReachAcceptTogether(t *testing.T) {
	s := &sink{}
	a, _ := run(t, plainConfig(), s)
	dial(t, a.Addr()).ask(post(1, `[{"n":"temp","v":21.5},{"n":"hum","v":40},{"n":"temp","t":-60,"v":20}]`), codes.Changed)
	calls := s.taken()
	if len(calls) != 1 || len(calls[0]) != 3 {
		t.Fatalf("calls: %v", calls)
	}
	if age := calls[0][0].Time.Sub(calls[0][2].Time); age != time.Minute {
		t.Errorf("the reading of a minute ago is %v older", age)
	}
}

func TestASlowDiskIsAnnouncedAndTheAnswerFollowsAsAMessageOfItsOwn(t *testing.T) {
	s := &sink{gate: make(chan struct{})}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	began := time.Now()
	w.write(encoded(t, post(7, temp21)))
	ack := w.read()
	if ack.Type != message.Acknowledgement || ack.Code != codes.Empty || ack.MessageID != 7 {
		t.Fatalf("first came %s", show(ack))
	}
	if after := time.Since(began); after < time.Second || after > 2*time.Second {
		t.Errorf("the empty acknowledgement took %v", after)
	}
	w.write(encoded(t, post(7, temp21))) // the device did not hear it
	equal(t, "again", w.read().Code, codes.Empty)
	s.gate <- struct{}{}
	m := w.read()
	if m.Type != message.Confirmable || m.Code != codes.Changed || string(m.Token) != "\x07\x01" {
		t.Fatalf("then came %s", show(m))
	}
	repeat := w.read() // it was not acknowledged
	equal(t, "repeated message id", repeat.MessageID, m.MessageID)
	w.write(header(message.Acknowledgement, uint16(m.MessageID)))
	eventually(t, "nobody waits for an acknowledgement", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.exchanges.separate) == 0
	})
	equal(t, "stored", len(s.taken()), 1)
}

func TestWhatCannotBeStoredIsRefusedWithATimeToWait(t *testing.T) {
	s := &sink{fail: func([]gateway.Sample) error { return errDisk }}
	a, _ := run(t, plainConfig(), s)
	m := dial(t, a.Addr()).ask(post(1, temp21), codes.ServiceUnavailable)
	if wait, err := m.Options.GetUint32(message.MaxAge); err != nil || wait < 5 || wait > 300 {
		t.Errorf("Max-Age %d, %v", wait, err)
	}
	equal(t, "failed", a.Stats().Failed, 1)
}

func TestOneReportThatCannotBeStoredDoesNotTakeOthersWithIt(t *testing.T) {
	s := &sink{gate: make(chan struct{}), fail: func(samples []gateway.Sample) error {
		if slices.ContainsFunc(samples, func(s gateway.Sample) bool { return s.Value.String() == "666" }) {
			return errDisk
		}
		return nil
	}}
	a, _ := run(t, plainConfig(), s)
	first, good, bad := dial(t, a.Addr()), dial(t, a.Addr()), dial(t, a.Addr())
	first.write(encoded(t, post(1, temp21)))
	eventually(t, "the first is with accept", func() bool { return len(a.reports) == 0 && a.waitingReports() == 1 })
	good.write(encoded(t, post(1, `[{"n":"temp","v":22}]`)))
	bad.write(encoded(t, post(1, `[{"n":"temp","v":666}]`)))
	eventually(t, "two are waiting", func() bool { return a.waitingReports() == 3 })
	close(s.gate)
	equal(t, "first", dotted(first.read().Code), "2.04")
	equal(t, "good", dotted(good.read().Code), "2.04")
	equal(t, "bad", dotted(bad.read().Code), "5.03")
	equal(t, "stored", strings.Join(s.values("d/temp"), " "), "21 22")
}

func (a *Adapter) waitingReports() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiting
}

func TestARetransmissionIsAnsweredAgainAndStoredOnce(t *testing.T) {
	s := &sink{}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	for range 3 {
		w.ask(post(9, temp21), codes.Changed)
	}
	equal(t, "stored", len(s.taken()), 1)
	equal(t, "repeated", a.Stats().Repeated, 2)
}

func TestANonConfirmableDuplicateIsIgnored(t *testing.T) {
	s := &sink{}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	m := post(9, temp21)
	m.Type = message.NonConfirmable
	w.write(encoded(t, m))
	w.write(encoded(t, m))
	w.silent()
	eventually(t, "stored", func() bool { return len(s.taken()) > 0 })
	equal(t, "stored", len(s.taken()), 1)
}

// Devices start over with their message ids after a reboot, or never change them (COAP-56).
func TestADifferentReportWithAnOldMessageIDIsNotLost(t *testing.T) {
	s := &sink{}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	for i := range 3 {
		w.ask(post(0, fmt.Sprintf(`[{"n":"temp","v":%d}]`, i)), codes.Changed)
	}
	equal(t, "stored", strings.Join(s.values("d/temp"), " "), "0 1 2")
}

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
	eventually(t, "both are counted", func() bool { return a.Stats().Denied == 2 })
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
	answers := 0
	for range 3 * refusalsASecond {
		if _, ok := w.poll(50 * time.Millisecond); ok {
			answers++
		}
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
			eventually(t, "it is taken", func() bool { return a.waitingReports() == int(i)+1 })
		}
	}
	eventually(t, "all are on their way", func() bool { return a.waitingReports() == maxReports })
	m := dial(t, a.Addr()).ask(post(1, temp21), codes.ServiceUnavailable)
	if !m.Options.HasOption(message.MaxAge) {
		t.Error("no Max-Age")
	}
	close(s.gate)
	eventually(t, "all are stored", func() bool { return len(s.values("d/temp")) == maxReports })
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

func TestTheLastRequestsAreAnsweredWhenTheListenerCloses(t *testing.T) {
	s := &sink{gate: make(chan struct{})}
	a, stop := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	w.write(encoded(t, post(1, temp21)))
	eventually(t, "it is with accept", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.busy == 1 })
	w.write(encoded(t, post(2, temp21)))
	eventually(t, "one more waits", func() bool { return a.waitingReports() == 2 })
	stop()
	for range 2 {
		m := w.read()
		wait, err := m.Options.GetUint32(message.MaxAge)
		if m.Code != codes.ServiceUnavailable || err != nil || wait != waitIfClosing {
			t.Errorf("got %s", show(m))
		}
	}
	equal(t, "address", a.Addr(), "")
}

func TestASilentDeviceGoesBadOnceUntilItReports(t *testing.T) {
	cfg := plainConfig()
	cfg.Devices[0].ExpectEvery = 150 * time.Millisecond
	cfg.Devices = append(cfg.Devices, Device{Name: "quiet", From: netip.MustParsePrefix("10.1.1.1/32"), Path: "/", Points: points("quiet")})
	s := &sink{}
	a, _ := run(t, cfg, s)
	bad := func() (n int) {
		for _, call := range s.taken() {
			for _, sample := range call {
				if sample.Err == nil {
					continue
				}
				if n++; gateway.Reason(sample.Err) != "comm" || sample.Value.Kind() != gateway.Absent {
					t.Errorf("bad reading: %+v", sample)
				}
			}
		}
		return n
	}
	eventually(t, "every point is bad", func() bool { return bad() == 4 })
	equal(t, "silent devices", a.Stats().Silent, 1)
	later := time.Now().Add(time.Hour)
	equal(t, "messages due", len(a.tick(later)), 0)
	equal(t, "bad readings, still", bad(), 4)
	dial(t, a.Addr()).ask(post(1, temp21), codes.Changed)
	equal(t, "silent devices", a.Stats().Silent, 0)
	eventually(t, "every point is bad again", func() bool { return bad() == 8 })
	equal(t, "silences", a.Stats().Silences, 2)
}

func TestASilenceThatCannotBeStoredIsReportedAgain(t *testing.T) {
	cfg := plainConfig()
	cfg.Devices[0].ExpectEvery = time.Millisecond
	s := &sink{fail: func([]gateway.Sample) error { return errDisk }}
	a, _ := run(t, cfg, s)
	eventually(t, "it failed", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return !a.roster.all[0].quiet.IsZero()
	})
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	a.tick(time.Now().Add(silenceAgain))
	eventually(t, "it is stored", func() bool { return len(s.taken()) == 1 })
}

func TestReadAndWriteSayThatTheDeviceReportsByItself(t *testing.T) {
	a, _ := run(t, plainConfig(), &sink{})
	ctx := context.Background()
	samples, err := a.Read(ctx, []gateway.PointID{"d/hum", "d/temp"})
	if err != nil || len(samples) != 2 || samples[0].Point != "d/hum" {
		t.Fatalf("%v, %v", samples, err)
	}
	for _, sample := range samples {
		if !errors.Is(sample.Err, gateway.ErrNoAnswer) || sample.Time.IsZero() {
			t.Errorf("%+v", sample)
		}
	}
	if _, err := a.Read(ctx, []gateway.PointID{"d/temp", "d/nothing"}); !errors.Is(err, gateway.ErrUnknownPoint) {
		t.Errorf("Read: %v", err)
	}
	if err := a.Write(ctx, "d/temp", gateway.IntValue(1)); !errors.Is(err, gateway.ErrReadOnly) {
		t.Errorf("Write: %v", err)
	}
	if err := a.Write(ctx, "d/nothing", gateway.IntValue(1)); !errors.Is(err, gateway.ErrUnknownPoint) {
		t.Errorf("Write: %v", err)
	}
}

func TestAnAddressInUseIsKnownBeforeRun(t *testing.T) {
	first, _ := run(t, plainConfig(), &sink{})
	cfg := plainConfig()
	cfg.Listen = first.Addr()
	second := New(cfg, first.log)
	err := second.Bind()
	if err == nil || !strings.Contains(err.Error(), "coap: listener vlan4: "+cfg.Listen) {
		t.Errorf("Bind: %v", err)
	}
	if err := second.Run(context.Background(), (&sink{}).accept); err == nil {
		t.Error("Run works on an address in use")
	}
}

func TestAListenerRunsAgainAfterItHasStopped(t *testing.T) {
	s := &sink{}
	a, stop := run(t, plainConfig(), s)
	stop()
	if err := a.Bind(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, s.accept) }()
	dial(t, a.Addr()).ask(post(1, temp21), codes.Changed)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAWildcardListenerAnswersFromTheAddressItWasAsked(t *testing.T) {
	for _, c := range []struct{ listen, dial string }{
		{"0.0.0.0:0", "127.0.0.3"}, {"[::]:0", "127.0.0.3"}, {"[::]:0", "::1"}, {"[::1]:0", "::1"},
	} {
		t.Run(c.listen+" from "+c.dial, func(t *testing.T) {
			cfg := plainConfig()
			cfg.Listen = c.listen
			cfg.Allow = append(loopback(), netip.MustParsePrefix("::1/128"))
			cfg.Devices = append(cfg.Devices, Device{Name: "six", From: netip.MustParsePrefix("::1/128"), Path: "/v1/t", Points: points("six")})
			a, _ := run(t, cfg, &sink{})
			port := netip.MustParseAddrPort(a.Addr()).Port()
			// A connected socket hears nothing from another address.
			w := dial(t, netip.AddrPortFrom(netip.MustParseAddr(c.dial), port).String())
			w.ask(post(1, temp21), codes.Changed)
		})
	}
}

// libraryClient is go-coap's own client.
func libraryClient(t *testing.T, address string) *client.Conn {
	t.Helper()
	stop := make(chan struct{})
	conn, err := udp.Dial(address, options.WithPeriodicRunner(periodic.New(stop, 10*time.Millisecond)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(stop)
		_ = conn.Close()
		<-conn.Done()
	})
	return conn
}

func TestALibraryClientSendsInBlocks(t *testing.T) {
	s := &sink{}
	a, _ := run(t, plainConfig(), s)
	conn := libraryClient(t, a.Addr())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, c := range []struct {
		size int
		want string
	}{{60 << 10, "2.04"}, {64 << 10, "2.04"}, {100 << 10, "4.13"}} {
		m, err := conn.Post(ctx, "/v1/t", message.TextPlain, bytes.NewReader(bytes.Repeat([]byte("x"), c.size)))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, fmt.Sprint(c.size, " bytes"), dotted(m.Code()), c.want)
		conn.ReleaseMessage(m)
	}
	got := s.values("d/body")
	if len(got) != 2 || len(got[0]) != 60<<10 || len(got[1]) != 64<<10 {
		t.Errorf("%d bodies", len(got))
	}
}
