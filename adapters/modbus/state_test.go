package modbus

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
)

func TestTheLogTellsTransitionsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.holes[spot{1, Holding, 12}] = true
		var log bytes.Buffer
		cfg := Config{Name: "line-a", Address: "plc:502", Timeout: time.Second, Devices: []Device{{
			Name: "d", Unit: 1, Offline: offline(3, time.Second, time.Minute), Points: points("d", Holding, time.Second, span2(10, 10)...),
		}}}
		a := New(cfg, f.dial, zerolog.New(&log).Level(zerolog.InfoLevel))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = a.Run(ctx, (&sink{}).accept) })
		pass(10 * time.Minute)
		f.set(func(f *field) { f.mute[1] = true })
		pass(10 * time.Minute)
		f.set(func(f *field) { f.mute[1] = false })
		pass(10 * time.Minute)
		cancel()
		running.Wait()
		f.serving.Wait()
		text := log.String()
		for what, want := range map[string][2]int{
			`"message":"connected"`: {2, 12}, `device answers`: {2, 2}, `device is offline`: {1, 1}, `refuses points`: {2, 2},
		} {
			if n := strings.Count(text, what); n < want[0] || n > want[1] {
				t.Errorf("%s: %d lines", what, n)
			}
		}
		if n := strings.Count(text, "\n"); n > 35 {
			t.Errorf("%d lines:\n%s", n, text)
		}
		for line := range strings.Lines(text) {
			if !strings.Contains(line, `"link":"line-a"`) {
				t.Errorf("a line without its link: %s", line)
			}
		}
	})
}

func TestAMistakeInDecodingCostsItsBlockOnly(t *testing.T) {
	cfg := Config{Address: "plc:502", Devices: []Device{{Name: "d", Unit: 3, Points: points("d", Holding, time.Second, 10, 11)}}}
	d := newDevice(cfg, 0, &unit{})
	b := Block{Table: Holding, Start: 10, Quantity: 2, Points: []int{0, 1}}
	at := time.Unix(1000, 0)
	for _, raw := range [][]byte{nil, {1}, {0, 10, 0}} { // shorter than the block: a mistake of ours
		samples := d.decode(b, raw, at)
		if len(samples) != 2 || samples[0].Err == nil || samples[1].Err == nil || samples[1].Point != "d/11" || !samples[1].Time.Equal(at) {
			t.Errorf("% X: %v", raw, samples)
		}
	}
	if s := d.decode(b, []byte{0, 10, 0, 11}, at); s[0].Err != nil || s[1].Value != gateway.UintValue(11) {
		t.Errorf("%v", s)
	}
}

func TestAPartOfARefusedRequestThatGoesUnansweredIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.holes[spot{1, Holding, 17}] = true
		var n atomic.Int32
		f.trick = func(_ *peer, r call) bool { return r.quantity == 4 && n.Add(1) == 1 }
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Offline: offline(3, time.Second, time.Minute), Points: points("d", Holding, time.Second, span2(10, 8)...)}}}, f)
		pass(10 * time.Second)
		for _, p := range r.cfg.Devices[0].Points {
			got := r.got.of(p.ID)
			if hole := p.Address == 17; hole && (len(got) != 1 || !errors.Is(got[0].Err, gateway.ErrRefused)) || !hole && (goods(got) < 7 || goods(got) != len(got)) {
				t.Errorf("%s: %v", p.ID, got)
			}
		}
	})
}

func TestDevicesOfOneUnitShareItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		cfg := Config{Devices: []Device{
			{Name: "a", Unit: 1, Points: points("a", Holding, 100*time.Millisecond, 10)},
			{Name: "b", Unit: 1, Points: points("b", Holding, 100*time.Millisecond, 20)},
			{Name: "c", Unit: 2, Points: points("c", Holding, 100*time.Millisecond, 30)},
		}}
		r := run(t, cfg, f)
		if d := r.wires[0].devices; d[0].unit != d[1].unit || d[0].unit == d[2].unit {
			t.Error("units and devices do not match")
		}
		f.set(func(f *field) {
			f.trick = func(c *peer, r call) bool {
				if r.fc != 6 {
					return false
				}
				c.send(r.exception(1))
				return true
			}
		})
		for _, id := range []gateway.PointID{"a/10", "b/20"} {
			if err := r.Write(t.Context(), id, gateway.UintValue(1), gateway.Confirm{}); err != nil {
				t.Error(err)
			}
		}
		if got := f.writes(); string(got) != string([]byte{6, 16, 16}) {
			t.Errorf("function codes %v: what is learned about a unit holds for all its devices", got)
		}
	})
}

func TestAWriteThatCertainlyDidNotLeaveIsSentOnANewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := rest(t, f)
		if _, err := r.Read(t.Context(), []gateway.PointID{"d/10"}); err != nil {
			t.Fatal(err)
		}
		f.set(func(f *field) { _ = f.peers[0].Close() }) // noticed only when the write is sent
		if err := r.Write(t.Context(), "d/10", gateway.UintValue(7), gateway.Confirm{}); err != nil || f.register(1, 10) != 7 {
			t.Errorf("%v, register %d", err, f.register(1, 10))
		}
		if got := f.writes(); len(got) != 1 {
			t.Errorf("sent %v", got)
		}
	})
}

func TestStatsAreASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.holes[spot{1, Holding, 10}] = true
		r := run(t, Config{Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Second, 10, 11)}}}, f)
		if s := r.Stats(); s.Link.Name != "line" || s.Link.Address != "plc:502" || s.Devices[0].State != Unknown || s.Devices[0].Unit != 1 {
			t.Errorf("%+v", s)
		}
		pass(5 * time.Second)
		s := r.Stats()
		s.Devices[0].Name, s.Devices[0].Refused[0] = "x", "x"
		again := r.Stats().Devices[0]
		if again.Name != "d" || again.Refused[0] != "d/10" || again.State.String() != "up" || again.Exceptions == 0 {
			t.Errorf("%+v", again)
		}
	})
}

func TestWordsOfTheStatus(t *testing.T) {
	for s, want := range map[State]string{Unknown: "unknown", Up: "up", Down: "down"} {
		if s.String() != want {
			t.Errorf("%d is %q", s, s)
		}
	}
	for table, want := range map[Table]string{Coil: "coil", Discrete: "discrete", Holding: "holding", Input: "input", 9: "unknown table"} {
		if table.String() != want {
			t.Errorf("%d is %q", table, table)
		}
	}
}
