package coap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/options"
	"github.com/plgd-dev/go-coap/v3/pkg/runner/periodic"
	"github.com/plgd-dev/go-coap/v3/udp"
	"github.com/plgd-dev/go-coap/v3/udp/client"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

func TestADeviceIsAnsweredOnlyWhenItsReportIsDurable(t *testing.T) {
	s := &sink{gate: make(chan struct{})}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	w.write(encoded(t, post(1, temp21)))
	testkit.Eventually(t, "accept is called", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.busy == 1 })
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
	testkit.Eventually(t, "nobody waits for an acknowledgement", func() bool {
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

// There are devices that repeat themselves to the bit until they hear 2.04 (COAP-56).
func TestARepetitionOfWhatCouldNotBeStoredIsTriedAgain(t *testing.T) {
	s := &sink{fail: func([]gateway.Sample) error { return errDisk }}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	w.ask(post(1, temp21), codes.ServiceUnavailable)
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	w.ask(post(1, temp21), codes.Changed)
	w.ask(post(1, temp21), codes.Changed)
	equal(t, "stored", len(s.taken()), 1)
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
	testkit.Eventually(t, "the first is with accept", func() bool { return len(a.reports) == 0 && a.waitingReports() == 1 })
	good.write(encoded(t, post(1, `[{"n":"temp","v":22}]`)))
	bad.write(encoded(t, post(1, `[{"n":"temp","v":666}]`)))
	testkit.Eventually(t, "two are waiting", func() bool { return a.waitingReports() == 3 })
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
	testkit.Eventually(t, "stored", func() bool { return len(s.taken()) > 0 })
	equal(t, "stored", len(s.taken()), 1)
}

// Every device sends each of its reports several times, all at once, over a disk that now and then
// fails: each is stored once, in the device's order.
func TestEveryReportOfManyDevicesIsStoredOnce(t *testing.T) {
	const devices, reports = 16, 40
	var calls atomic.Int32
	s := &sink{fail: func([]gateway.Sample) error {
		if calls.Add(1)%7 == 0 {
			return errDisk
		}
		return nil
	}}
	cfg := plainConfig()
	cfg.Devices = nil
	for i := range devices {
		name := fmt.Sprint("d", i)
		cfg.Devices = append(cfg.Devices, Device{Name: name, From: loopback()[0], Path: "/" + name, Points: points(name)})
	}
	a, _ := run(t, cfg, s)
	var sending sync.WaitGroup
	for i := range devices {
		w := dial(t, a.Addr())
		sending.Go(func() {
			for n := range int32(reports) {
				datagram := encoded(t, request110(fmt.Sprint("d", i), n, fmt.Sprintf(`[{"n":"temp","v":%d}]`, n)))
				for stored := false; !stored; {
					for range 3 {
						w.write(datagram)
					}
					m := w.read()
					for m.MessageID != n { // of the report before
						m = w.read()
					}
					stored = m.Code == codes.Changed
				}
			}
		})
	}
	sending.Wait()
	for i := range devices {
		got := s.values(gateway.PointID(fmt.Sprint("d", i, "/temp")))
		equal(t, fmt.Sprint("reports of device ", i), len(got), reports)
		for n, v := range got {
			equal(t, fmt.Sprint("device ", i, " report ", n), v, fmt.Sprint(n))
		}
	}
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

func TestTheLastRequestsAreAnsweredWhenTheListenerCloses(t *testing.T) {
	s := &sink{gate: make(chan struct{})}
	a, stop := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	w.write(encoded(t, post(1, temp21)))
	testkit.Eventually(t, "it is with accept", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.busy == 1 })
	w.write(encoded(t, post(2, temp21)))
	testkit.Eventually(t, "one more waits", func() bool { return a.waitingReports() == 2 })
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
	testkit.Eventually(t, "every point is bad", func() bool { return bad() == 4 })
	equal(t, "silent devices", a.Stats().Silent, 1)
	later := time.Now().Add(time.Hour)
	equal(t, "messages due", len(a.tick(later)), 0)
	equal(t, "bad readings, still", bad(), 4)
	dial(t, a.Addr()).ask(post(1, temp21), codes.Changed)
	equal(t, "silent devices", a.Stats().Silent, 0)
	testkit.Eventually(t, "every point is bad again", func() bool { return bad() == 8 })
	equal(t, "silences", a.Stats().Silences, 2)
}

func TestASilenceThatCannotBeStoredIsReportedAgain(t *testing.T) {
	cfg := plainConfig()
	cfg.Devices[0].ExpectEvery = time.Millisecond
	s := &sink{fail: func([]gateway.Sample) error { return errDisk }}
	a, _ := run(t, cfg, s)
	testkit.Eventually(t, "it failed", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return !a.roster.all[0].quiet.IsZero()
	})
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	a.tick(time.Now().Add(silenceAgain))
	testkit.Eventually(t, "it is stored", func() bool { return len(s.taken()) == 1 })
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
	if err := a.Write(ctx, "d/temp", gateway.IntValue(1), gateway.Confirm{}); !errors.Is(err, gateway.ErrReadOnly) {
		t.Errorf("Write: %v", err)
	}
	if err := a.Write(ctx, "d/nothing", gateway.IntValue(1), gateway.Confirm{}); !errors.Is(err, gateway.ErrUnknownPoint) {
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
