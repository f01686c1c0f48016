package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
)

// inFlight is how many messages are on their way whenever a renewal comes.
const inFlight = 1000

// renewals are the renewals of one identity under load: the hub acknowledges late, so that a window of a
// thousand messages is always full, and direct methods are called without a pause.
type renewals struct {
	*rig
	shelf *shelf

	next    uint64 // number of the message that arrives next
	after   uint64 // the hub's sequence of the one before
	fullest uint64

	mu       sync.Mutex     // guards the fields below
	executed map[string]int // by call
	answered map[string]bool
	away     int         // calls that got 404103
	patient  []time.Time // when calls began that would have waited for the device
	gaps     []gap       // in which the first caller heard that the device is away
}

// gap is from the beginning of the first call that got 404103 to the answer of the next that did not.
type gap struct{ from, to time.Time }

func newRenewals(t *testing.T, life time.Duration) *renewals {
	t.Helper()
	v := &renewals{shelf: &shelf{}, next: 1, executed: map[string]int{}, answered: map[string]bool{}}
	v.rig = newRigAt(t, hubsim.Config{ReadAhead: 2 * inFlight})
	v.life, v.cfg.Window, v.cfg.Log = life, inFlight, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	v.lane = func(gateway.IdentityID) Lane { return v.shelf }
	v.handle = func(ctx context.Context, c gateway.Command) gateway.Reply {
		wait(ctx, time.Duration(rand.IntN(3))*time.Millisecond)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.executed[string(c.Payload)]++
		return gateway.Reply{Status: 200, Body: []byte("{}")}
	}
	v.hub.DelayAcks("d1", 100*time.Millisecond)
	return v
}

// call calls methods one after the other until ctx ends; with patience the hub waits for a device that is
// away, and without it a pause is made before it is called again.
func (v *renewals) call(ctx context.Context, caller int, patience time.Duration) {
	var gone time.Time // when the device was found to be away; zero while it is there
	for n := 0; ctx.Err() == nil; n++ {
		payload := fmt.Sprintf("%q", fmt.Sprintf("%d/%d", caller, n))
		begun := time.Now()
		got, err := v.hub.CallMethod(context.WithoutCancel(ctx), hubsim.MethodCall{
			Device: "d1", Name: "set", Payload: json.RawMessage(payload), ConnectTimeout: patience, ResponseTimeout: 20 * time.Second,
		})
		var no *hubsim.Error
		switch {
		case err == nil && got.Status == 200:
			v.took(payload, gap{gone, time.Now()}, caller == 0)
			gone = time.Time{}
			if patience > 0 {
				v.waited(begun)
			}
		case errors.As(err, &no) && no.Code == 404103 && patience == 0:
			if gone.IsZero() {
				gone = begun
			}
			v.refused()
			wait(ctx, time.Millisecond)
		default:
			v.t.Errorf("call %s with patience %v: %+v, %v", payload, patience, got, err)
		}
	}
}

// took notes a call that was answered, and the gap before it if there was one and it is the watcher's.
func (v *renewals) took(call string, before gap, watcher bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answered[call] = true
	if watcher && !before.from.IsZero() {
		v.gaps = append(v.gaps, before)
	}
}

func (v *renewals) waited(begun time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.patient = append(v.patient, begun)
}

func (v *renewals) refused() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.away++
}

// renew lets the identity renew so many times, and checks that nothing was lost, repeated, reordered, or
// executed without an answer, that no call was refused by the identity, and that each connection ended with
// DISCONNECT.
func (v *renewals) renew(times uint64) {
	stop := v.run("d1")
	ctx, cancel := context.WithCancel(v.t.Context())
	var callers sync.WaitGroup
	for caller, patience := range []time.Duration{0, 0, 20 * time.Second, 20 * time.Second} {
		callers.Go(func() { v.call(ctx, caller, patience) })
	}
	var put uint64
	begun := time.Now()
	for v.pool.Stats()[0].Connects <= times {
		s := v.pool.Stats()[0]
		v.fullest = max(v.fullest, s.Sent-s.Acked)
		if put < s.Acked+2*inFlight {
			v.shelf.put(inFlight)
			put += inFlight
		}
		if time.Since(begun) > 3*time.Duration(times)*v.life+time.Minute {
			v.t.Fatalf("only %d connections", s.Connects)
		}
		v.arrivals()
		wait(ctx, 5*time.Millisecond)
	}
	v.eventually("everything has arrived", func() bool { return v.shelf.delivered() == put })
	cancel()
	callers.Wait()
	stop()
	v.judge(put)
}

// arrivals judges what has come to the hub since the last call: the hub keeps no more than a million.
func (v *renewals) arrivals() {
	v.t.Helper()
	for {
		list := v.hub.Messages(v.after, 1000)
		if len(list) == 0 {
			return
		}
		for _, m := range list {
			if want := fmt.Sprintf("q-%d", v.next); m.System["message-id"] != want {
				v.t.Fatalf("message %s arrived, and %s should have", m.System["message-id"], want)
			}
			v.next++
			v.after = m.Sequence
		}
	}
}

// judge looks at what came of it.
func (v *renewals) judge(put uint64) {
	v.t.Helper()
	v.arrivals()
	if v.next != put+1 {
		v.t.Errorf("%d of %d messages arrived", v.next-1, put)
	}
	if s := v.pool.Stats()[0]; s.Repeated != 0 || v.fullest < inFlight {
		v.t.Errorf("%d messages were repeated; at most %d were in flight", s.Repeated, v.fullest)
	}
	for _, e := range v.hub.ConnectionEvents(0) {
		if e.Status != 0 {
			v.t.Errorf("a connection was not ended by DISCONNECT: %+v", e)
		}
	}
	for call, n := range v.executed {
		if n != 1 || !v.answered[call] {
			v.t.Errorf("call %s was executed %d times, answered: %t", call, n, v.answered[call])
		}
	}
	for call := range v.answered {
		if v.executed[call] == 0 {
			v.t.Errorf("call %s was answered and not executed", call)
		}
	}
	if len(v.answered) == 0 || len(v.gaps) == 0 {
		v.t.Errorf("%d calls were answered, %d gaps were noticed", len(v.answered), len(v.gaps))
	}
}

// report says how it went, on one line.
func (v *renewals) report() string {
	waited := 0
	var gaps []time.Duration
	for _, g := range v.gaps {
		gaps = append(gaps, g.to.Sub(g.from))
		for _, begun := range v.patient {
			if begun.After(g.from) && begun.Before(g.to) {
				waited++
			}
		}
	}
	slices.Sort(gaps)
	at := func(part float64) time.Duration {
		return gaps[min(len(gaps)-1, int(part*float64(len(gaps))))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("%d renewals with up to %d messages in flight, %d messages: 0 lost, 0 repeated, 0 out of order; %d calls executed and answered, 0 refused by the identity, 0 executed without an answer; in the gaps %d got 404103 and %d waited; gap for methods median %v, p99 %v, longest %v",
		v.pool.Stats()[0].Connects-1, v.fullest, v.next-1, len(v.answered), v.away, waited, at(0.5), at(0.99), at(1))
}

func TestARenewalWithAThousandMessagesInFlightLosesNothingAndAnswersEveryCommand(t *testing.T) {
	v := newRenewals(t, 1500*time.Millisecond)
	v.renew(3)
	t.Log(v.report())
}
