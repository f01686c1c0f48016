package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

// faultTimeout is long enough for a machine that has much else to do, and atOnce are the tests that wait at
// the same time.
const (
	faultTimeout = 500 * time.Millisecond
	atOnce       = 12
)

// faulty starts a device by TCP whose commanded reads of one register are answered by a trick until
// it was used n times.
func faulty(t *testing.T, n int32, trick func(c *peer, r call)) *rig {
	t.Helper()
	f := newField()
	var used atomic.Int32
	f.trick = func(c *peer, r call) bool {
		if r.quantity != 1 || used.Add(1) > n {
			return false
		}
		trick(c, r)
		return true
	}
	return run(t, Config{Address: f.listen(t), Timeout: faultTimeout, Devices: []Device{{
		Name: "d", Unit: 7, Points: points("d", Holding, time.Hour, span2(100, 20)...),
	}}}, f)
}

// readOne is the value or the error of one register read now.
func readOne(t *testing.T, r *rig, id gateway.PointID) (uint64, error) {
	t.Helper()
	s, err := r.Read(t.Context(), []gateway.PointID{id})
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	u, _ := s[0].Value.Uint()
	return u, s[0].Err
}

// The rows of MB-118 that concern TCP. Whatever the first answer is, the value read is right or there
// is none, and all that is read afterwards is right.
func TestABadAnswerCostsAtMostTheRequestItHits(t *testing.T) {
	good := func(r call, value uint16) []byte {
		return r.reply(3, 2, byte(value>>8), byte(value))
	}
	send := func(pdu ...byte) func(*peer, call) { return func(c *peer, r call) { c.send(r.reply(pdu...)) } }
	length := func(n uint16) func(*peer, call) {
		return func(c *peer, r call) {
			b := good(r, 100)
			binary.BigEndian.PutUint16(b[4:], n)
			c.send(b)
		}
	}
	change := func(at int, to byte) func(*peer, call) {
		return func(c *peer, r call) { b := good(r, 100); b[at] = to; c.send(b) }
	}
	rows := []struct {
		name  string
		trick func(*peer, call)
		ok    bool // the first read succeeds
		conns int
		stale uint64
	}{
		{"late", func(c *peer, r call) {
			time.AfterFunc(faultTimeout+150*time.Millisecond, func() { _, _ = c.Write(good(r, 999)) })
		}, false, 1, 1},
		{"twice", func(c *peer, r call) { c.send(good(r, 100)); c.send(good(r, 100)) }, true, 1, 1},
		{"wrong id", change(1, 0xEE), false, 1, 1},
		{"id 0", func(c *peer, r call) { b := good(r, 999); b[0], b[1] = 0, 0; c.send(b) }, false, 1, 1},
		{"wrong id, then right", func(c *peer, r call) {
			b := good(r, 999)
			b[0] ^= 0x55
			c.send(append(b, good(r, 100)...))
		}, true, 1, 1},
		{"no answer", func(*peer, call) {}, false, 1, 0},
		{"another unit", change(6, 8), false, 2, 0},
		{"protocol id 1", change(3, 1), false, 2, 0},
		{"empty payload", send(3, 0), false, 2, 0},
		{"odd payload", send(3, 1, 0), false, 2, 0},
		{"two registers for one", send(3, 4, 0, 100, 0, 101), false, 2, 0},
		{"wrong byte count", send(3, 9, 0, 100), false, 2, 0},
		{"only a function code", send(3), false, 2, 0},
		{"function 4", send(4, 2, 0, 100), false, 2, 0},
		{"exception of function 4", send(0x84, 2), false, 2, 0},
		{"exception without code", send(0x83), false, 2, 0},
		{"length 0", length(0), false, 2, 0},
		{"length 1", length(1), false, 2, 0},
		{"length 255", length(255), false, 2, 0},
		{"length 65535", length(65535), false, 2, 0},
		{"more than it has", length(200), false, 2, 0},
		{"a web server", func(c *peer, _ call) { c.send([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")) }, false, 2, 0},
		{"three stray bytes", func(c *peer, _ call) { c.send([]byte{1, 2, 3}) }, false, 2, 0},
		{"reset in mid-frame", func(c *peer, r call) {
			_, _ = c.Write(good(r, 100)[:5])
			_ = c.ReadWriteCloser.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}, false, 2, 0},
		{"closed in mid-frame", func(c *peer, r call) { _, _ = c.Write(good(r, 100)[:8]); _ = c.Close() }, false, 2, 0},
		{"closed instead of an answer", func(c *peer, _ call) { _ = c.Close() }, true, 2, 0},
		{"closed after the answer", func(c *peer, r call) { _, _ = c.Write(good(r, 100)); _ = c.Close() }, true, 2, 0},
		{"in single bytes", func(c *peer, r call) {
			for _, b := range good(r, 100) {
				c.send([]byte{b})
			}
		}, true, 1, 0},
		{"dripping beyond the deadline", func(c *peer, r call) {
			for _, b := range good(r, 100) {
				<-time.After(faultTimeout / 6) // the script: a slow device
				_, _ = c.Write([]byte{b})
			}
		}, false, 2, 0},
	}
	var running errgroup.Group // a test waits most of the time
	running.SetLimit(atOnce)
	defer running.Wait()
	for _, c := range rows {
		running.Go(func() error {
			t.Run(c.name, func(t *testing.T) {
				r := faulty(t, 1, c.trick)
				if _, err := readOneOf(t, r, 2); err != nil { // not the first of the connection
					t.Fatal(err)
				}
				tricked(t, r, c.ok)
				testkit.Eventually(t, "the stale frames to be counted", func() bool {
					v, err := readOne(t, r, "d/119")
					return v == 119 && err == nil && r.Stats().Link.StaleFrames == c.stale
				})
				if r.field.conns() != c.conns {
					t.Errorf("%d connections, want %d (%s)", r.field.conns(), c.conns, r.Stats().Link.LastError)
				}
			})
			return nil
		})
	}
}

// readOneOf reads n registers in one request, which a trick leaves alone.
func readOneOf(t *testing.T, r *rig, n int) (gateway.Value, error) {
	t.Helper()
	var ids []gateway.PointID
	for _, p := range r.cfg.Devices[0].Points[:n] {
		ids = append(ids, p.ID)
	}
	s, err := r.Read(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	return s[0].Value, s[0].Err
}

func TestASilentPeerIsLeftAfterThreeRequests(t *testing.T) {
	t.Parallel()
	r := faulty(t, 0, nil)
	testkit.Eventually(t, "the only poll", func() bool { return r.Stats().Devices[0].Polls == 1 })
	r.field.set(func(f *field) { f.mute[7] = true })
	for n := range 3 {
		if r.field.conns() != 1 {
			t.Errorf("the connection was left after %d requests", n)
		}
		if v, err := readOne(t, r, "d/100"); !errors.Is(err, gateway.ErrNoAnswer) {
			t.Errorf("read %d, %v", v, err)
		}
	}
	r.field.set(func(f *field) { f.mute[7] = false })
	if v, err := readOne(t, r, "d/101"); err != nil || v != 101 {
		t.Errorf("then %d, %v", v, err)
	}
	if s := r.Stats(); r.field.conns() != 2 || s.Link.Timeouts < 3 || s.Devices[0].TimeLost < 3*faultTimeout {
		t.Errorf("%d connections; %+v", r.field.conns(), s)
	}
}

func TestExceptionsAreNamedAndDoNotEndTheConnection(t *testing.T) {
	t.Parallel()
	codes := []byte{1, 4, 5, 6, 7, 8, 99}
	var n atomic.Int32
	r := faulty(t, int32(len(codes)), func(c *peer, r call) {
		b := r.exception(codes[n.Add(1)-1])
		c.send(b[:6]) // in two pieces (MB-105)
		c.send(b[6:])
	})
	for _, code := range codes {
		_, err := readOne(t, r, "d/110")
		var no *gateway.Refusal
		if !errors.As(err, &no) || no.Protocol != "modbus" || no.Name != exceptionName(code) || no.Name == "" {
			t.Errorf("exception %d: %v", code, err)
		}
	}
	if r.field.conns() != 1 {
		t.Errorf("%d connections", r.field.conns())
	}
	_, err := readOne(t, r, "d/110")
	if err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAnErrorNamesThePlaceAndTheReason(t *testing.T) {
	t.Parallel()
	r := faulty(t, 1, func(c *peer, r call) { c.send(r.exception(2)) })
	_, err := readOne(t, r, "d/110")
	want := "modbus: " + r.cfg.Address + " unit 7 holding 110: exception 2 (illegal data address)"
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func TestACancelledReadReturnsAtOnceAndDoesNoHarm(t *testing.T) {
	t.Parallel()
	r := faulty(t, 1, func(*peer, call) {})
	if _, err := readOneOf(t, r, 2); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), faultTimeout/6)
	defer cancel()
	began := time.Now()
	s, err := r.Read(ctx, []gateway.PointID{"d/100"})
	if !errors.Is(err, context.DeadlineExceeded) || s != nil || time.Since(began) > faultTimeout*3/4 {
		t.Errorf("%v %v after %v", s, err, time.Since(began))
	}
	if v, err := readOne(t, r, "d/101"); err != nil || v != 101 {
		t.Errorf("then %d, %v", v, err)
	}
}

func TestRunEndsAtOnceEvenDuringARequest(t *testing.T) {
	t.Parallel()
	f := newField()
	f.mute[7] = true
	r := run(t, Config{Address: f.listen(t), Timeout: 30 * time.Second, Devices: []Device{{
		Name: "d", Unit: 7, Points: points("d", Holding, time.Millisecond, 100),
	}}}, f)
	testkit.Eventually(t, "a request", func() bool { return len(f.calls()) > 0 })
	writing := make(chan error)
	go func() { writing <- r.Write(t.Context(), "d/100", gateway.UintValue(1), gateway.Confirm{}) }()
	began := time.Now()
	r.stop()
	if d := time.Since(began); d > time.Second {
		t.Errorf("Run took %v to end", d)
	}
	if err := <-writing; !errors.Is(err, gateway.ErrNoAnswer) {
		t.Errorf("the write that waited: %v", err)
	}
}

func TestAnUnreachableLinkIsToldApartAndNotHammered(t *testing.T) {
	t.Parallel()
	r := run(t, Config{Address: freeAddress(t), Timeout: faultTimeout, Devices: []Device{{
		Name: "d", Unit: 7, Offline: offline(2, time.Second, time.Second), Points: points("d", Holding, 20*time.Millisecond, 100),
	}}}, newField())
	testkit.Eventually(t, "the bad reading", func() bool { return len(r.got.of("d/100")) > 0 })
	s := r.got.of("d/100")[0]
	if !errors.Is(s.Err, gateway.ErrNoAnswer) || !strings.Contains(s.Err.Error(), "refused") {
		t.Errorf("%v", s.Err)
	}
	err := r.Write(t.Context(), "d/100", gateway.UintValue(1), gateway.Confirm{})
	if !errors.Is(err, gateway.ErrNoAnswer) || errors.Is(err, gateway.ErrUncertain) {
		t.Errorf("a write to nobody: %v", err)
	}
}

// tricked reads the point whose answer a trick is done to, which ok says whether it survives, and then others, which
// have their values.
func tricked(t *testing.T, r *rig, ok bool) {
	t.Helper()
	v, err := readOne(t, r, "d/100")
	if ok && (err != nil || v != 100) || !ok && !errors.Is(err, gateway.ErrNoAnswer) {
		t.Errorf("read %d, %v", v, err)
	}
	for a := range 12 {
		id := r.cfg.Devices[0].Points[a].ID
		if v, err := readOne(t, r, id); err != nil || v != uint64(100+a) {
			t.Errorf("then %s was %d, %v", id, v, err)
		}
	}
}
