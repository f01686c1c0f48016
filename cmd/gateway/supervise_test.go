package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"iothub-gateway/internal/control"
	"iothub-gateway/internal/status"
)

// pass lets time go by inside a bubble.
func pass(d time.Duration) { <-time.After(d) }

func TestALoopThatStandsStillIsFoundAndNobodyElseIsBlamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stuck := make(chan struct{})
		hanging := &probe{name: "link a", limit: time.Minute, beat: func(ctx context.Context) error {
			select {
			case <-stuck:
			case <-ctx.Done():
			}
			return nil
		}}
		healthy := &probe{name: "link b", limit: time.Minute, beat: func(context.Context) error { return nil }}
		failing := &probe{name: "queue", limit: time.Minute, beat: func(context.Context) error { return errors.New("disk full") }}
		for _, p := range []*probe{hanging, healthy, failing} {
			p.last.Store(time.Now().UnixNano())
			go p.run(ctx)
		}
		expect := func(p *probe, state status.State, reason string) {
			t.Helper()
			if got, why := p.finding(time.Now()); got != state || !strings.Contains(why, reason) {
				t.Errorf("%s: %s %q, want %s %q", p.name, got, why, state, reason)
			}
		}
		pass(50 * time.Second)
		expect(hanging, status.Running, "")
		expect(healthy, status.Running, "")
		expect(failing, status.Degraded, "disk full")
		pass(15 * time.Second)
		expect(hanging, status.Stuck, "link a has not moved for 1m5s")
		expect(healthy, status.Running, "")
		close(stuck)
		synctest.Wait()
		expect(hanging, status.Running, "")
		cancel()
		synctest.Wait()
	})
}

func TestTheLogSaysWhenTheQueueBeginsToDropAndWhenItEnds(t *testing.T) {
	var log bytes.Buffer
	v := &supervisor{log: zerolog.New(&log)}
	full := control.QueueStatus{State: queueFull, Reason: "it drops", Entries: 7, Dropped: 3}
	for _, q := range []control.QueueStatus{{State: queueWorking}, full, full, {State: queueDegraded, Dropped: 5}, {State: queueWorking, Dropped: 5}} {
		v.tellFull(q)
	}
	want := `{"level":"warn","waiting":7,"message":"the queue is full: it drops"}
{"level":"info","dropped_since_start":5,"message":"the queue is not full any more"}
`
	if log.String() != want {
		t.Errorf("got\n%swant\n%s", log.String(), want)
	}
}
