package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

	mu       sync.Mutex     // guards the fields below
	executed map[string]int // by call
	answered map[string]bool
	away     int // calls that got 404103
	late     int // calls that were refused with 503 because the connection was about to end
	fullest  uint64
}

func newRenewals(t *testing.T, life time.Duration) *renewals {
	t.Helper()
	v := &renewals{shelf: &shelf{}, executed: map[string]int{}, answered: map[string]bool{}}
	v.rig = newRigAt(t, hubsim.Config{ReadAhead: 2 * inFlight})
	v.life, v.cfg.Window = life, inFlight
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
// away.
func (v *renewals) call(ctx context.Context, caller int, patience time.Duration) {
	for n := 0; ctx.Err() == nil; n++ {
		payload := fmt.Sprintf("%q", fmt.Sprintf("%d/%d", caller, n))
		got, err := v.hub.CallMethod(context.WithoutCancel(ctx), hubsim.MethodCall{
			Device: "d1", Name: "set", Payload: json.RawMessage(payload), ConnectTimeout: patience, ResponseTimeout: 20 * time.Second,
		})
		var no *hubsim.Error
		v.mu.Lock()
		switch {
		case err == nil && got.Status == 200:
			v.answered[payload] = true
		case err == nil && got.Status == 503:
			v.late++
		case errors.As(err, &no) && no.Code == 404103 && patience == 0:
			v.away++
		default:
			v.t.Errorf("call %s with patience %v: %+v, %v", payload, patience, got, err)
		}
		v.mu.Unlock()
	}
}

// run lets the identity renew so many times, and checks that nothing was lost, repeated, reordered, or
// executed without an answer. It returns how long each gap between two connections was.
func (v *renewals) renew(times uint64) (gaps []time.Duration) {
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
		wait(ctx, 5*time.Millisecond)
	}
	v.eventually("everything has arrived", func() bool { return v.shelf.delivered() == put })
	cancel()
	callers.Wait()
	stop()
	v.judge(put)
	return v.gaps()
}

// judge looks at what came of it.
func (v *renewals) judge(put uint64) {
	v.t.Helper()
	next := uint64(1)
	for from := uint64(0); ; {
		list := v.hub.Messages(from, 1000)
		if len(list) == 0 {
			break
		}
		for _, m := range list {
			if want := fmt.Sprintf("q-%d", next); m.System["message-id"] != want {
				v.t.Fatalf("message %s arrived, and %s should have", m.System["message-id"], want)
			}
			next++
			from = m.Sequence
		}
	}
	if next != put+1 {
		v.t.Errorf("%d of %d messages arrived", next-1, put)
	}
	if s := v.pool.Stats()[0]; s.Repeated != 0 || v.fullest < inFlight {
		v.t.Errorf("%d messages were repeated; at most %d were in flight", s.Repeated, v.fullest)
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
	if len(v.answered) == 0 {
		v.t.Error("no call was answered")
	}
}

// gaps are the times in which the hub had no connection, in ascending order.
func (v *renewals) gaps() (all []time.Duration) {
	var gone time.Time
	for _, e := range v.hub.ConnectionEvents(0) {
		switch {
		case strings.HasPrefix(e.Operation, "deviceDisconnect"):
			gone = e.Time
		case !gone.IsZero():
			all = append(all, e.Time.Sub(gone))
		}
	}
	slices.Sort(all)
	return all
}

// report says how it went, on one line.
func (v *renewals) report(gaps []time.Duration) string {
	at := func(part float64) time.Duration {
		return gaps[min(len(gaps)-1, int(part*float64(len(gaps))))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("%d renewals with up to %d messages in flight, %d messages: 0 lost, 0 repeated, 0 out of order; %d calls executed and answered, %d got 404103, %d were refused as too late, 0 executed without an answer; gap median %v, p99 %v, longest %v",
		len(gaps), v.fullest, v.shelf.delivered(), len(v.answered), v.away, v.late, at(0.5), at(0.99), gaps[len(gaps)-1].Round(100*time.Microsecond))
}

func TestARenewalWithAThousandMessagesInFlightLosesNothingAndAnswersEveryCommand(t *testing.T) {
	v := newRenewals(t, 1500*time.Millisecond)
	t.Log(v.report(v.renew(3)))
}
