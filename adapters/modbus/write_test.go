package modbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

// writes are the function codes that changed something or tried to, in order.
func (f *field) writes() []byte {
	var out []byte
	for _, c := range f.calls() {
		if c.fc > 4 {
			out = append(out, c.fc)
		}
	}
	return out
}

// writable is a device with a point of each kind that can be written. Its one poll comes within a
// second and not again for an hour.
func writable() Device {
	p := points("d", Holding, time.Hour, 10, 11)
	add := func(id gateway.PointID, q Point) {
		q.ID, q.Poll = id, time.Hour
		p = append(p, q)
	}
	add("d/coil", reg(Bool, in(Coil), func(p *Point) { p.Address = 3 }))
	add("d/bit", reg(Bool, bit(3), func(p *Point) { p.Address = 20 }))
	add("d/swapped bit", reg(Bool, bit(3), ordered("badc"), func(p *Point) { p.Address = 21 }))
	add("d/temp", reg(Int16, scaled(0.1, 0), func(p *Point) { p.Address = 12 }))
	add("d/wide", reg(Uint32, ordered("cdab"), func(p *Point) { p.Address = 30 }))
	add("d/text", reg(String, length(8), func(p *Point) { p.Address = 40 }))
	add("d/long", reg(String, length(20), func(p *Point) { p.Address = 50 }))
	add("d/high", reg(Int8High, func(p *Point) { p.Address = 22 }))
	add("d/low", reg(Uint8Low, ordered("badc"), func(p *Point) { p.Address = 23 }))
	factor := uint16(1) // where the field has 1: times 10
	add("d/factored", reg(Uint16, func(p *Point) { p.Address, p.Factor = 6, &factor }))
	add("d/input", reg(Uint16, in(Input)))
	add("d/fixed", reg(Uint16, func(p *Point) { p.Writable = false }))
	return Device{Name: "d", Unit: 1, MaxWrite: 8, Points: p}
}

func rest(t *testing.T, f *field) *rig {
	t.Helper()
	r := run(t, Config{Devices: []Device{writable()}}, f)
	pass(2 * time.Second)
	f.set(func(f *field) { f.log = nil })
	return r
}

func TestAWriteUsesTheSmallestRequestAndChangesNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := rest(t, f)
		for _, c := range []struct {
			point gateway.PointID
			v     gateway.Value
			fc    byte
			table Table
			first int
			want  []uint16
		}{
			{"d/10", gateway.UintValue(4711), 6, Holding, 9, []uint16{9, 4711, 11}},
			{"d/temp", gateway.FloatValue(-21.5), 6, Holding, 11, []uint16{11, 0xFF29, 13}},
			{"d/wide", gateway.UintValue(0x00010002), 16, Holding, 29, []uint16{29, 2, 1, 32}},
			{"d/text", gateway.TextValue("pump"), 16, Holding, 39, []uint16{39, 0x7075, 0x6d70, 0, 0, 44}},
			{"d/coil", gateway.BoolValue(false), 5, Coil, 2, []uint16{0, 0, 0}},
			{"d/coil", gateway.BoolValue(true), 5, Coil, 2, []uint16{0, 1, 0}},
			{"d/bit", gateway.BoolValue(true), 22, Holding, 20, []uint16{20 | 8, 21}},
			{"d/bit", gateway.BoolValue(false), 22, Holding, 20, []uint16{20 &^ 8, 21}},
			{"d/swapped bit", gateway.BoolValue(true), 22, Holding, 20, []uint16{20, 21 | 0x0800}},
			{"d/high", gateway.IntValue(-2), 22, Holding, 22, []uint16{0xFE00 | 22, 23}},
			{"d/low", gateway.UintValue(7), 22, Holding, 22, []uint16{0xFE00 | 22, 0x0700 | 23}},
			{"d/factored", gateway.FloatValue(750), 6, Holding, 5, []uint16{5, 75, 7}},
		} {
			f.set(func(f *field) { f.log = nil })
			if err := r.Write(t.Context(), c.point, c.v, gateway.Confirm{}); err != nil {
				t.Errorf("%s: %v", c.point, err)
			}
			if got := f.writes(); !slices.Equal(got, []byte{c.fc}) {
				t.Errorf("%s: function codes %v", c.point, got)
			}
			for i, want := range c.want {
				f.mu.Lock()
				got := f.value(spot{1, c.table, c.first + i})
				f.mu.Unlock()
				if got != want {
					t.Errorf("%s: %v %d is %#x, want %#x", c.point, c.table, c.first+i, got, want)
				}
			}
			s, err := r.Read(t.Context(), []gateway.PointID{c.point})
			if err != nil || s[0].Err != nil || s[0].Value.String() != c.v.String() {
				t.Errorf("%s reads back %v %v", c.point, s, err)
			}
		}
	})
}

func TestADeviceWithoutAFunctionIsWrittenByTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := rest(t, f)
		f.trick = func(c *peer, r call) bool {
			if r.fc != 5 && r.fc != 6 && r.fc != 22 {
				return false
			}
			c.send(r.exception(1))
			return true
		}
		for _, c := range []struct {
			point gateway.PointID
			v     gateway.Value
			want  []byte
		}{
			{"d/10", gateway.UintValue(1), []byte{6, 16}},
			{"d/11", gateway.UintValue(2), []byte{16}},
			{"d/coil", gateway.BoolValue(true), []byte{5, 15}},
			{"d/coil", gateway.BoolValue(false), []byte{15}},
			{"d/bit", gateway.BoolValue(true), []byte{22, 16}},
			{"d/swapped bit", gateway.BoolValue(true), []byte{16}},
			{"d/high", gateway.IntValue(5), []byte{16}},
		} {
			f.set(func(f *field) { f.log = nil })
			if err := r.Write(t.Context(), c.point, c.v, gateway.Confirm{}); err != nil {
				t.Errorf("%s: %v", c.point, err)
			}
			if got := f.writes(); !slices.Equal(got, c.want) {
				t.Errorf("%s: function codes %v, want %v", c.point, got, c.want)
			}
		}
		if f.register(1, 10) != 1 || f.register(1, 11) != 2 || f.register(1, 20) != 20|8 || f.register(1, 21) != 21|0x0800 || f.register(1, 22) != 0x0500|22 {
			t.Errorf("registers %d %d %#x %#x", f.register(1, 10), f.register(1, 11), f.register(1, 20), f.register(1, 21))
		}
	})
}

func TestAWriteThatIsNotAllowedSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := rest(t, f)
		for _, c := range []struct {
			point gateway.PointID
			v     gateway.Value
			want  error
		}{
			{"d/none", gateway.UintValue(1), gateway.ErrUnknownPoint},
			{"d/fixed", gateway.UintValue(1), gateway.ErrReadOnly},
			{"d/input", gateway.UintValue(1), gateway.ErrReadOnly},
			{"d/10", gateway.UintValue(65536), gateway.ErrRange},
			{"d/10", gateway.TextValue("1"), gateway.ErrRange},
			{"d/coil", gateway.UintValue(1), gateway.ErrRange},
			{"d/bit", gateway.UintValue(1), gateway.ErrRange},
			{"d/temp", gateway.FloatValue(12.34), gateway.ErrRange},
			{"d/high", gateway.UintValue(128), gateway.ErrRange},
			{"d/long", gateway.TextValue("x"), gateway.ErrRange}, // 10 registers, the device takes 8 in one write
		} {
			if err := r.Write(t.Context(), c.point, c.v, gateway.Confirm{}); !errors.Is(err, c.want) {
				t.Errorf("%s = %v: %v", c.point, c.v, err)
			}
		}
		if n := len(f.calls()); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestTheOutcomeOfAWriteIsWhatTheDeviceSaid(t *testing.T) {
	answer := func(code byte) func(*peer, call) bool {
		return func(c *peer, r call) bool { c.send(r.exception(code)); return true }
	}
	for _, c := range []struct {
		name  string
		trick func(*peer, call) bool
		want  error
		sent  int
	}{
		{"refused", answer(3), gateway.ErrRefused, 1},
		{"failed", answer(4), gateway.ErrRefused, 1}, // perhaps done: never repeated
		{"accepted, not done yet", answer(5), gateway.ErrUncertain, 1},
		{"busy", answer(6), gateway.ErrRefused, 4},
		{"no path", answer(10), gateway.ErrNoAnswer, 1},
		{"target silent", answer(11), gateway.ErrUncertain, 1},
		{"neither function", answer(1), gateway.ErrRefused, 2},
		{"silent", func(*peer, call) bool { return true }, gateway.ErrUncertain, 1},
		{"closed", func(c *peer, _ call) bool { _ = c.Close(); return true }, gateway.ErrUncertain, 1},
		{"another echo", func(c *peer, r call) bool { c.send(r.reply(6, 0, 10, 0, 9)); return true }, gateway.ErrUncertain, 1},
		{"another address", func(c *peer, r call) bool { c.send(r.reply(6, 0, 11, 0, 7)); return true }, gateway.ErrUncertain, 1},
		{"half an echo", func(c *peer, r call) bool { c.send(r.reply(6, 0, 10)); return true }, gateway.ErrUncertain, 1},
		{"another unit", func(c *peer, r call) bool {
			b := r.reply(6, 0, 10, 0, 7)
			b[6] = 9
			c.send(b)
			return true
		}, gateway.ErrUncertain, 1},
		{"no Modbus", func(c *peer, _ call) bool { c.send([]byte("HTTP/1.1 400 Bad Request")); return true }, gateway.ErrUncertain, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newField()
				r := rest(t, f)
				f.trick = c.trick
				err := r.Write(t.Context(), "d/10", gateway.UintValue(7), gateway.Confirm{})
				for _, kind := range []error{gateway.ErrRefused, gateway.ErrUncertain, gateway.ErrNoAnswer} {
					if errors.Is(err, kind) != (kind == c.want) {
						t.Errorf("%v", err)
					}
				}
				if err == nil || !strings.HasPrefix(err.Error(), "modbus: plc:502 unit 1 holding 10: write: ") {
					t.Errorf("%v", err)
				}
				pass(time.Minute)
				if got := f.writes(); len(got) != c.sent {
					t.Errorf("sent %v", got)
				}
			})
		})
	}
}

func TestABusyDeviceIsWrittenOnceItIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := rest(t, f)
		var n atomic.Int32
		f.trick = func(c *peer, r call) bool {
			if n.Add(1) > 2 {
				return false
			}
			c.send(r.exception(6))
			return true
		}
		if err := r.Write(t.Context(), "d/10", gateway.UintValue(7), gateway.Confirm{}); err != nil || f.register(1, 10) != 7 {
			t.Errorf("%v, register %d", err, f.register(1, 10))
		}
	})
}

// By TCP, where a write to a connection that the peer has closed succeeds at first.
func TestAConnectionThatThePeerEndedAtRestCostsAWriteNothing(t *testing.T) {
	t.Parallel()
	f := newField()
	r := run(t, Config{Address: f.listen(t), Devices: []Device{writable()}}, f)
	for n := range uint64(4) {
		if err := r.Write(t.Context(), "d/10", gateway.UintValue(n), gateway.Confirm{}); err != nil || f.register(1, 10) != uint16(n) {
			t.Errorf("write %d: %v, register %d", n, err, f.register(1, 10))
		}
		f.set(func(f *field) { _ = f.peers[len(f.peers)-1].Close() })
		closed := time.Now()
		testkit.Eventually(t, "the connection to rest", func() bool { return time.Since(closed) > 2*idleCheck })
	}
}

func TestAWriteWhoseCallerGaveUpInTimeIsNeverSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := rest(t, f)
		f.set(func(f *field) { f.delay = 900 * time.Millisecond })
		go func() { _, _ = r.Read(t.Context(), []gateway.PointID{"d/11"}) }() // keeps the wire busy
		pass(2 * time.Millisecond)
		for _, limit := range []time.Duration{0, 100 * time.Millisecond, 800 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), limit-time.Since(r.field.calls()[0].at))
			err := r.Write(ctx, "d/10", gateway.UintValue(7), gateway.Confirm{})
			cancel()
			if !errors.Is(err, gateway.ErrNoAnswer) || errors.Is(err, gateway.ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %v: %v", limit, err)
			}
		}
		pass(time.Minute)
		if got := f.writes(); len(got) != 0 {
			t.Errorf("sent %v", got)
		}
	})
}

func TestACallerWhoGivesUpAfterTheWriteLeftIsToldThatNobodyKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := rest(t, f)
		f.set(func(f *field) { f.delay = 900 * time.Millisecond })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := r.Write(ctx, "d/10", gateway.UintValue(7), gateway.Confirm{})
		if !errors.Is(err, gateway.ErrUncertain) || time.Since(began) > 110*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		f.set(func(f *field) { f.delay = 0 })
		pass(time.Second)
		if got := f.writes(); len(got) != 1 || f.conns() != 1 {
			t.Errorf("sent %v on %d connections", got, f.conns())
		}
	})
}

func TestAReadModifyWriteStopsWhenItsCallerIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := rest(t, f)
		f.trick = func(c *peer, r call) bool {
			if r.fc == 22 {
				c.send(r.exception(1))
			} else {
				time.AfterFunc(500*time.Millisecond, func() { c.send(f.answer(r)) })
			}
			return true
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := r.Write(ctx, "d/bit", gateway.BoolValue(true), gateway.Confirm{}); !errors.Is(err, gateway.ErrNoAnswer) {
			t.Errorf("%v", err)
		}
		pass(time.Minute)
		if got := f.writes(); !slices.Equal(got, []byte{22}) || f.register(1, 20) != 20 {
			t.Errorf("sent %v, register %#x", got, f.register(1, 20))
		}
	})
}

func TestWritesGoAheadOfPollsAndPollsStillHappen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.delay = 50 * time.Millisecond
		p := append(points("d", Holding, 10*time.Millisecond, span2(100, 30)...), points("d", Holding, time.Hour, 10)...)
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, MaxRead: 1, Points: p}}}, f) // 30 requests, 1.5 s a cycle: always one due
		pass(5 * time.Second)
		began := time.Now()
		if err := r.Write(t.Context(), "d/10", gateway.UintValue(7), gateway.Confirm{}); err != nil || time.Since(began) > 110*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for range 4 { // a storm
			go func() {
				for ctx.Err() == nil {
					_ = r.Write(ctx, "d/10", gateway.UintValue(8), gateway.Confirm{})
				}
			}()
		}
		f.set(func(f *field) { f.log = nil })
		pass(20 * time.Second)
		row, polls := 0, 0
		for _, c := range f.calls() {
			if row++; c.fc == 3 {
				row, polls = 0, polls+1
			}
			if row > commandsMax+1 { // one more while no poll is due, at the end of a cycle
				t.Errorf("%d commands in a row", row)
			}
		}
		if polls < 35 {
			t.Errorf("%d polls in 20 s", polls)
		}
	})
}

func TestManyCallersGetTheirOwnAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		cfg := Config{}
		for u := range 4 {
			name := fmt.Sprintf("d%d", u)
			cfg.Devices = append(cfg.Devices, Device{Name: name, Unit: uint8(u), Points: points(name, Holding, 10*time.Millisecond, span2(100*u, 20)...)})
		}
		r := run(t, cfg, f)
		done := make(chan error)
		for g := range 40 {
			go func() {
				for n := range 25 {
					d := cfg.Devices[(g+n)%4]
					p := d.Points[(g*7+n)%20]
					s, err := r.Read(t.Context(), []gateway.PointID{p.ID})
					if u, _ := s[0].Value.Uint(); err != nil || s[0].Err != nil || u != uint64(p.Address) {
						done <- fmt.Errorf("%s: %v %v", p.ID, s, err)
						return
					}
				}
				done <- nil
			}()
		}
		for range 40 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
