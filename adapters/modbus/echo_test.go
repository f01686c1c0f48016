package modbus

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
)

// On a two-wire line the sender hears itself. That is never an answer, not even to a write, whose answer
// looks the same.
func TestAWriteIsNotConfirmedByItsOwnEcho(t *testing.T) {
	for _, tr := range lines() {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			f := newField()
			var deaf atomic.Bool
			f.trick = func(c *peer, r call) bool {
				c.send(r.request())
				if !deaf.Load() || r.fc <= 4 {
					c.send(f.answer(r))
				}
				return true
			}
			p := points("d", Holding, time.Hour, 100)
			lamp := points("d", Coil, time.Hour, 5)
			r := tr.start(t, f, Config{Timeout: lineTimeout, Devices: []Device{{Name: "d", Unit: 7, Points: append(p, lamp...)}}})
			if err := r.Write(t.Context(), "d/100", gateway.UintValue(3), gateway.Confirm{}); err != nil || f.register(7, 100) != 3 {
				t.Errorf("%v, %d", err, f.register(7, 100))
			}
			if err := r.Write(t.Context(), "d/5", gateway.BoolValue(true), gateway.Confirm{}); err != nil {
				t.Error(err)
			}
			deaf.Store(true)
			for id, v := range map[gateway.PointID]gateway.Value{"d/100": gateway.UintValue(4), "d/5": gateway.BoolValue(false)} {
				if err := r.Write(t.Context(), id, v, gateway.Confirm{}); !errors.Is(err, gateway.ErrUncertain) {
					t.Errorf("a write of %s that nobody heard: %v", id, err)
				}
			}
		})
	}
}

// The very first request of a connection may be a write: whether the line echoes is found out first.
func TestTheFirstWriteOfALineIsNotConfirmedByItsEchoEither(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		f.framing = RTU
		f.trick = func(c *peer, r call) bool {
			c.send(r.request())
			if r.fc <= 4 {
				c.send(f.answer(r))
			}
			return true
		}
		r := run(t, Config{Framing: RTU, Devices: []Device{{Name: "d", Unit: 7, Points: points("d", Holding, 0, 100)}}}, f)
		if err := r.Write(t.Context(), "d/100", gateway.UintValue(3), gateway.Confirm{}); !errors.Is(err, gateway.ErrUncertain) {
			t.Errorf("%v", err)
		}
		f.set(func(f *field) { f.trick = nil; f.mute[7] = true; f.log = nil; _ = f.peers[0].Close() })
		pass(time.Minute)
		f.set(func(f *field) { f.log = nil })
		if err := r.Write(t.Context(), "d/100", gateway.UintValue(3), gateway.Confirm{}); !errors.Is(err, gateway.ErrNoAnswer) {
			t.Errorf("a write to a silent unit whose line is not known: %v", err)
		}
		if w := f.writes(); len(w) > 0 {
			t.Errorf("%v was sent", w)
		}
	})
}
