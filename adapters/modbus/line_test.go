package modbus

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	gateway "iothub-gateway"
)

// lineTimeout is long enough for a machine that has much else to do.
const lineTimeout = 600 * time.Millisecond

// transport is one of the ways of a frame to the device.
type transport struct {
	name    string
	framing Framing
	pty     bool
}

func lines() []transport {
	return []transport{{"RTU over TCP", RTU, false}, {"ASCII over TCP", ASCII, false}, {"RTU on a pty", RTU, true}, {"ASCII on a pty", ASCII, true}}
}

// reach fills in where f is found.
func (tr transport) reach(t *testing.T, f *field, cfg Config) Config {
	t.Helper()
	f.framing, cfg.Framing = tr.framing, tr.framing
	if tr.pty {
		cfg.Address, cfg.Serial = f.line(t, tr.framing).path, serial()
		return cfg
	}
	cfg.Address = f.listen(t)
	return cfg
}

// start runs an adapter against f by the transport.
func (tr transport) start(t *testing.T, f *field, cfg Config) *rig {
	t.Helper()
	cfg = tr.reach(t, f, cfg)
	r := runWith(t, nil, cfg)
	r.field = f
	return r
}

// badLine is a device on a line whose commanded reads of one register are answered by a trick until it
// was used n times.
func badLine(t *testing.T, tr transport, n int32, trick func(c *peer, r call)) *rig {
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
	return tr.start(t, f, Config{Timeout: lineTimeout, Devices: []Device{{
		Name: "d", Unit: 7, Points: points("d", Holding, time.Hour, span2(100, 20)...),
	}}})
}

// The rows of MB-118 that concern lines without transaction ids. Whatever the first answer is, the value
// read is right or there is none, and all that is read afterwards is right.
func TestABadAnswerOnALineCostsAtMostTheRequestItHits(t *testing.T) {
	good := func(r call) []byte { return r.reply(3, 2, 0, 100) }
	wrong := func(r call) []byte { return r.reply(3, 2, 9, 9) }
	send := func(pdu ...byte) func(*peer, call) { return func(c *peer, r call) { c.send(r.reply(pdu...)) } }
	before := func(noise ...byte) func(*peer, call) {
		return func(c *peer, r call) { c.send(slices.Concat(noise, good(r))) }
	}
	rows := []struct {
		name  string
		trick func(*peer, call)
		ok    bool // the first read succeeds
		stale uint64
	}{
		{"late", func(c *peer, r call) {
			time.AfterFunc(lineTimeout+150*time.Millisecond, func() { c.send(wrong(r)) })
		}, false, 1},
		{"late in two pieces", func(c *peer, r call) {
			time.AfterFunc(lineTimeout+150*time.Millisecond, func() { c.send(wrong(r)[:4]); c.send(wrong(r)[4:]) })
		}, false, 1},
		{"twice", func(c *peer, r call) { c.send(slices.Concat(good(r), good(r))) }, true, 1},
		{"twice with another value", func(c *peer, r call) { c.send(slices.Concat(good(r), wrong(r))) }, true, 1},
		{"no answer", func(*peer, call) {}, false, 0},
		{"another unit", func(c *peer, r call) { c.send(r.replyOf(8, 3, 2, 9, 9)) }, false, 1},
		{"another unit first", func(c *peer, r call) { c.send(append(r.replyOf(8, 3, 2, 9, 9), good(r)...)) }, true, 1},
		{"an empty payload", send(3, 0), false, 1},
		{"an odd payload", send(3, 1, 0), false, 1},
		{"two registers for one", send(3, 4, 0, 100, 0, 101), false, 1},
		{"function 4", send(4, 2, 0, 100), false, 1},
		{"exception of function 4", send(0x84, 2), false, 1},
		{"a wrong checksum", func(c *peer, r call) { b := good(r); b[len(b)-3] ^= 1; c.send(b) }, false, 0},
		{"half an answer", func(c *peer, r call) { c.send(good(r)[:5]) }, false, 0},
		{"a web server", func(c *peer, _ call) { c.send([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")) }, false, 0},
		{"three stray bytes", func(c *peer, _ call) { c.send([]byte{1, 2, 3}) }, false, 0},
		{"noise in front", before(0xFF, 0), true, 0},
		{"noise like a unit in front", before(7), true, 0},
		{"noise behind", func(c *peer, r call) { c.send(append(good(r), 0xFF, 7)) }, true, 0},
		{"an echo in front", func(c *peer, r call) { c.send(append(r.request(), good(r)...)) }, true, 0},
		{"only an echo", func(c *peer, r call) { c.send(r.request()) }, false, 0},
		{"in single bytes", func(c *peer, r call) {
			for _, b := range good(r) {
				c.send([]byte{b})
			}
		}, true, 0},
		{"dripping beyond the deadline", func(c *peer, r call) {
			for _, b := range good(r) {
				<-time.After(3 * lineTimeout / 2 / time.Duration(len(good(r)))) // the script: a slow device
				c.send([]byte{b})
			}
		}, false, 0},
	}
	var running errgroup.Group // a test waits most of the time
	running.SetLimit(atOnce)
	defer running.Wait()
	for _, row := range rows {
		for _, tr := range lines()[:3] {
			running.Go(func() error {
				t.Run(row.name+"/"+tr.name, func(t *testing.T) {
					r := badLine(t, tr, 1, row.trick)
					if _, err := readOneOf(t, r, 2); err != nil {
						t.Fatal(err)
					}
					tricked(t, r, row.ok)
					if s := r.Stats().Link; s.StaleFrames != row.stale || s.Connects != 1 {
						t.Errorf("%+v, want %d stale frames", s, row.stale)
					}
				})
				return nil
			})
		}
	}
}

func TestAClosedConnectionOfASerialServerIsOpenedAgain(t *testing.T) {
	good := func(r call) []byte { return r.reply(3, 2, 0, 100) }
	for name, trick := range map[string]func(*peer, call){
		"reset in mid-frame": func(c *peer, r call) {
			_, _ = c.Write(good(r)[:3])
			_ = c.ReadWriteCloser.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		},
		"closed in mid-frame":         func(c *peer, r call) { _, _ = c.Write(good(r)[:4]); _ = c.Close() },
		"closed instead of an answer": func(c *peer, _ call) { _ = c.Close() },
		"closed after the answer":     func(c *peer, r call) { _, _ = c.Write(good(r)); _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := badLine(t, transport{framing: RTU}, 1, trick)
			if _, err := readOneOf(t, r, 2); err != nil {
				t.Fatal(err)
			}
			v, err := readOne(t, r, "d/100")
			if strings.HasSuffix(name, "after the answer") != (err == nil && v == 100) || err != nil && !errors.Is(err, gateway.ErrNoAnswer) {
				t.Errorf("%d %v", v, err)
			}
			if v, err := readOne(t, r, "d/101"); err != nil || v != 101 || r.field.conns() != 2 {
				t.Errorf("then %d, %v, %d connections", v, err, r.field.conns())
			}
		})
	}
}

func TestExceptionsOnALineAreNamedEvenInPieces(t *testing.T) {
	for _, tr := range lines() {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			r := badLine(t, tr, 3, func(c *peer, r call) { // MB-105
				b := r.exception(2)
				c.send(b[:4])
				c.send(b[4:])
			})
			for range 3 {
				var no *gateway.Refusal
				if _, err := readOne(t, r, "d/100"); !errors.As(err, &no) || no.Name != exceptionName(2) {
					t.Errorf("%v", err)
				}
			}
			if v, err := readOne(t, r, "d/101"); err != nil || v != 101 {
				t.Errorf("then %d, %v", v, err)
			}
		})
	}
}

func TestWritesAndReadsWorkOnEveryLine(t *testing.T) {
	for _, tr := range lines() {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			d := writable()
			f := newField()
			r := tr.start(t, f, Config{Devices: []Device{d}})
			for _, p := range d.Points {
				v := gateway.UintValue(1)
				switch {
				case !p.Writable || p.ID == "d/long" || p.Table == Input:
					continue
				case p.Type == Bool:
					v = gateway.BoolValue(true)
				case p.Type == String:
					v = gateway.TextValue("abc")
				case p.Factor != nil:
					v = gateway.UintValue(10)
				case p.Enum != nil:
					v = gateway.TextValue(p.Enum[0].Word)
				case p.Scale != 1 || p.Type == Float32 || p.Type == Float64 || p.Linear != nil:
					v = gateway.FloatValue(1)
				}
				if err := r.Write(t.Context(), p.ID, v, gateway.Confirm{}); err != nil {
					t.Errorf("%s: %v", p.ID, err)
				}
				if s, err := r.Read(t.Context(), []gateway.PointID{p.ID}); err != nil || s[0].Err != nil {
					t.Errorf("%s: %v %v", p.ID, s, err)
				}
			}
			if len(f.writes()) == 0 {
				t.Error("nothing was written")
			}
		})
	}
}

// Values carry their address, answers come up to a timeout too late, other units are asked meanwhile: no
// value may ever be another register's.
func TestALateAnswerOnALineIsNeverTakenForTheNext(t *testing.T) {
	for _, framing := range []Framing{RTU, ASCII} {
		synctest.Test(t, func(t *testing.T) { lateAnswers(t, Config{Framing: framing}, framing) })
	}
	synctest.Test(t, func(t *testing.T) { lateAnswers(t, Config{IgnoreTransactionID: true}, MBAP) })
}

func TestADeviceWithoutTransactionIDsIsUnderstood(t *testing.T) {
	for _, id := range []byte{0, 0x33} {
		synctest.Test(t, func(t *testing.T) {
			f := newField()
			f.trick = func(c *peer, r call) bool {
				b := f.answer(r)
				b[0], b[1] = id, id
				c.send(b)
				return true
			}
			r := run(t, Config{IgnoreTransactionID: true, Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Second, 10, 100)}}}, f)
			pass(time.Minute)
			for _, want := range []struct {
				id gateway.PointID
				v  uint64
			}{{"d/10", 10}, {"d/100", 100}} {
				got := r.got.of(want.id)
				if goods(got) < 58 || got[0].Value != gateway.UintValue(want.v) {
					t.Errorf("%s: %d readings, %v", want.id, goods(got), got[:min(len(got), 1)])
				}
			}
		})
	}
}

func TestALineThatIsNeverQuietIsNotAskedAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.framing = RTU
		ctx, cancel := context.WithCancel(t.Context())
		babble := func(p *peer) {
			for sleep(ctx, time.Millisecond) {
				p.send([]byte{0x55})
			}
		}
		f.trick = func(c *peer, r call) bool { f.serving.Go(func() { babble(c) }); return false }
		r := run(t, Config{Framing: RTU, Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Hour, 10)}}}, f)
		pass(time.Second)
		s, err := r.Read(t.Context(), []gateway.PointID{"d/10"})
		if err != nil || s[0].Err == nil || !strings.Contains(s[0].Err.Error(), "never quiet") {
			t.Errorf("%v %v", s, err)
		}
		if n := len(f.calls()); n != 1 {
			t.Errorf("%d requests", n)
		}
		cancel()
	})
}

func TestACancelledReadOfALineReturnsAtOnceAndDoesNoHarm(t *testing.T) {
	for _, tr := range lines()[:3] {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			r := badLine(t, tr, 1, func(c *peer, r call) { // late, too
				time.AfterFunc(lineTimeout+150*time.Millisecond, func() { c.send(r.reply(3, 2, 9, 9)) })
			})
			if _, err := readOneOf(t, r, 2); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := contextFor(t, lineTimeout/6)
			defer cancel()
			began := time.Now()
			s, err := r.Read(ctx, []gateway.PointID{"d/100"})
			if !errors.Is(err, context.DeadlineExceeded) || s != nil || time.Since(began) > lineTimeout*3/4 {
				t.Errorf("%v %v after %v", s, err, time.Since(began))
			}
			for range 3 {
				if v, err := readOne(t, r, "d/101"); err != nil || v != 101 {
					t.Errorf("then %d, %v", v, err)
				}
			}
		})
	}
}

// A serial server that has lost its connection is left after three silences; a port is not: opening it
// again helps nobody.
func TestASilentLineIsLeftOnlyIfThatCanHelp(t *testing.T) {
	for _, tr := range []transport{lines()[0], lines()[2]} {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			r := badLine(t, tr, 0, nil)
			if _, err := readOneOf(t, r, 2); err != nil {
				t.Fatal(err)
			}
			r.field.set(func(f *field) { f.mute[7] = true })
			for range 3 {
				if _, err := readOne(t, r, "d/100"); !errors.Is(err, gateway.ErrNoAnswer) {
					t.Errorf("%v", err)
				}
			}
			r.field.set(func(f *field) { f.mute[7] = false })
			if v, err := readOne(t, r, "d/101"); err != nil || v != 101 {
				t.Errorf("then %d, %v", v, err)
			}
			if n := r.Stats().Link.Connects; n != map[bool]uint64{false: 2, true: 1}[tr.pty] {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func TestAConnectionThatASerialServerEndedAtRestCostsNothing(t *testing.T) {
	t.Parallel()
	r := badLine(t, transport{framing: RTU}, 0, nil)
	if _, err := readOneOf(t, r, 2); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		r.field.set(func(f *field) { _ = f.peers[n].Close() })
		if err := r.Write(t.Context(), "d/100", gateway.UintValue(uint64(n)), gateway.Confirm{}); err != nil {
			t.Error(err)
		}
		if v, err := readOne(t, r, "d/100"); err != nil || v != uint64(n) || r.field.conns() != n+2 {
			t.Errorf("%d, %v, %d connections", v, err, r.field.conns())
		}
	}
}

func TestWhatALineRefusesTakesNoNeighbourWithIt(t *testing.T) {
	for _, framing := range []Framing{RTU, ASCII} {
		synctest.Test(t, func(t *testing.T) {
			f := newField()
			f.framing = framing
			f.holes[spot{1, Holding, 13}] = true
			r := run(t, Config{Framing: framing, Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Second, span2(10, 8)...)}}}, f)
			pass(20 * time.Second)
			for _, p := range r.cfg.Devices[0].Points {
				got := r.got.of(p.ID)
				if hole := p.Address == 13; hole == (goods(got) > 15) || !hole && goods(got) != len(got) {
					t.Errorf("%s: %s: %d of %d", framing, p.ID, goods(got), len(got))
				}
			}
		})
	}
}
