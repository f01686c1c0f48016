package coap

import (
	"fmt"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

// refuseTemp makes a sink refuse the temperature of a device as a full queue does.
func refuseTemp(point gateway.PointID) func([]gateway.Sample) error {
	return func(samples []gateway.Sample) error {
		full := &gateway.FullError{}
		for _, s := range samples {
			if s.Point == point {
				full.Points = append(full.Points, s.Point)
			}
		}
		if full.Points == nil {
			return nil
		}
		return fmt.Errorf("bridge: %w", full)
	}
}

func TestAFullQueueRefusesItsDeviceAloneAndNothingIsStoredTwice(t *testing.T) {
	cfg := plainConfig()
	cfg.Devices = append(cfg.Devices, Device{Name: "e", From: loopback()[0], Path: "/v1/e", Points: points("e")})
	var calls [][]gateway.Sample
	s := &sink{gate: make(chan struct{}), fail: func(samples []gateway.Sample) error {
		calls = append(calls, samples)
		return refuseTemp("e/temp")(samples)
	}}
	a, stop := run(t, cfg, s)
	first, good, full := dial(t, a.Addr()), dial(t, a.Addr()), dial(t, a.Addr())
	first.write(encoded(t, post(1, temp21)))
	testkit.Eventually(t, "the first is with accept", func() bool { return len(a.reports) == 0 && a.waitingReports() == 1 })
	good.write(encoded(t, post(1, `[{"n":"temp","v":22}]`)))
	full.write(encoded(t, request110("/v1/e", 1, `[{"n":"temp","v":23}]`)))
	testkit.Eventually(t, "two are waiting", func() bool { return a.waitingReports() == 3 })
	close(s.gate)
	equal(t, "first", dotted(first.read().Code), "2.04")
	equal(t, "good", dotted(good.read().Code), "2.04")
	m := full.read()
	equal(t, "full", dotted(m.Code), "5.03")
	if wait, err := m.Options.GetUint32(message.MaxAge); err != nil || wait < 5 || wait > 300 {
		t.Errorf("Max-Age %d, %v", wait, err)
	}
	stop()
	equal(t, "calls of accept", len(calls), 2) // together they are offered once
	equal(t, "failed", a.Stats().Failed, 1)
}

func TestADeviceWhoseLaneIsFullForLongIsAskedToWaitLonger(t *testing.T) {
	s := &sink{fail: refuseTemp("d/temp")}
	a, _ := run(t, plainConfig(), s)
	w := dial(t, a.Addr())
	w.ask(post(1, temp21), codes.ServiceUnavailable)
	a.mu.Lock()
	disk := a.failing
	a.roster.all[0].full = time.Now().Add(-time.Minute)
	a.mu.Unlock()
	if !disk.IsZero() {
		t.Error("a full queue passes for a failing disk")
	}
	m := w.ask(post(2, temp21), codes.ServiceUnavailable)
	if wait, err := m.Options.GetUint32(message.MaxAge); err != nil || wait < 25 {
		t.Errorf("Max-Age %d, %v", wait, err)
	}
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	w.ask(post(3, temp21), codes.Changed)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.roster.all[0].full.IsZero() {
		t.Error("the lane has room again, and nobody noticed")
	}
}

func TestASilenceThatCannotBeStoredIsCountedOnce(t *testing.T) {
	a := New(plainConfig(), zerolog.Nop())
	a.start(time.Now())
	d := a.roster.all[0]
	d.ExpectEvery = time.Minute
	full := &gateway.FullError{}
	now := time.Now()
	for range 10 {
		now = now.Add(10 * time.Minute)
		a.tick(now)
		a.outcome(<-a.reports, full, false, now)
	}
	equal(t, "silences", a.Stats().Silences, 1)
	a.mu.Lock()
	a.heard(d, now)
	a.mu.Unlock()
	a.tick(now.Add(time.Hour))
	equal(t, "silences after a report", a.Stats().Silences, 2)
}
