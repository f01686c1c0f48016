package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	limits "golang.org/x/time/rate"

	"iothub-gateway/internal/control"
)

func TestADevicesHealthIsReportedWhenItChangesAndNotTooOften(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	up := control.DeviceStatus{State: "up", LastGood: now}
	down := control.DeviceStatus{State: "down", LastGood: now, Error: "no answer"}
	unknown := control.DeviceStatus{State: "unknown"}
	before := func(age time.Duration, d control.DeviceStatus) reportedHealth {
		return reportedHealth{d.State, d.Error, now.Add(-age), now.Add(-age), place{}}
	}
	for _, c := range []struct {
		what string
		was  reportedHealth
		d    control.DeviceStatus
		up   time.Duration
		want bool
	}{
		{"the first time", reportedHealth{}, up, time.Second, true},
		{"nothing is known yet", reportedHealth{}, unknown, time.Second, false},
		{"nothing is known for long", reportedHealth{}, unknown, time.Minute, true},
		{"nothing has changed", before(10*time.Minute, up), up, time.Hour, false},
		{"it is down", before(time.Second, up), down, time.Hour, true},
		{"another error", before(time.Second, down), control.DeviceStatus{State: "down", Error: "exception 6"}, time.Hour, true},
		{"an hour has passed", before(time.Hour, up), up, time.Hour, true},
		{"an hour without a good reading", before(time.Hour, down), control.DeviceStatus{State: "down", Error: "no answer", LastGood: now.Add(-time.Hour)}, time.Hour, false},
	} {
		if got := c.was.differs(c.d, now, c.up); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	h := &health{pace: map[string]*limits.Limiter{}}
	reports := 0
	for second := range 60 { // it flaps
		if h.may("boiler", now.Add(time.Duration(second)*time.Second)) {
			reports++
		}
	}
	if reports < healthBurst || reports > healthBurst+4 || !h.may("burner", now) {
		t.Errorf("%d reports of a device that flaps for a minute", reports)
	}
	if got := string(healthText(up)); got != `{"state":"up","lastGood":"2026-11-26T12:00:00Z"}` {
		t.Error(got)
	}
	if got := string(healthText(control.DeviceStatus{State: "unknown"})); got != `{"state":"unknown"}` {
		t.Error(got)
	}
	if got := shortened(strings.Repeat("ä", 1000)); len(got) > longestReason+3 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestTheFleetIsCounted(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 11, 26, 12, minute, 0, 0, time.UTC) }
	got := fleetOf(control.Status{
		Started: at(0), Queue: control.QueueStatus{Entries: 7, Bytes: 700, Dropped: 3, State: "working"},
		Identities: []control.IdentityStatus{{Connected: true}, {Oldest: at(5)}, {Connected: true, Oldest: at(3)}},
		Devices:    []control.DeviceStatus{{State: "up"}, {State: "down"}, {State: "unknown"}},
	})
	want := fleet{Identities: 3, Connected: 2, Devices: 3, Offline: 1, Waiting: 7, Bytes: 700, Dropped: 3, Queue: "working", Oldest: at(3), Started: at(0)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestATwinThatIsFullSaysLessOfADeviceButNeverWhatWas(t *testing.T) {
	d := control.DeviceStatus{Device: "hall-1.boiler", State: "down", LastGood: time.Unix(0, 0), Error: strings.Repeat("x", 400)}
	for most, want := range map[int]string{
		1000: `{"state":"down","lastGood":"1970-01-01T00:00:00Z","error":"` + d.Error + `"}`,
		100:  `{"state":"down","lastGood":"1970-01-01T00:00:00Z"}`,
		10:   `null`,
		1:    `{"state":"up"}`,
	} {
		says := `{"state":"up"}`
		err := tellHealth(func(name string, value []byte) error {
			if name != "gateway.devices.hall-1-boiler" || len(value) > most {
				return errors.New("too much")
			}
			says = string(value)
			return nil
		}, d)
		if says != want || (err == nil) != (most > 10) {
			t.Errorf("%d bytes: it says %s, and the error is %v", most, says, err)
		}
	}
}
