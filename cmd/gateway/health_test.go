package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/internal/control"
)

func TestADevicesHealthIsReportedWhenItChangesAndNotTooOften(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	up := control.DeviceStatus{State: "up", LastGood: now}
	down := control.DeviceStatus{State: "down", LastGood: now, Error: "no answer"}
	before := func(age time.Duration, d control.DeviceStatus) reportedHealth {
		return reportedHealth{d.State, d.Error, now.Add(-age), now.Add(-age)}
	}
	for _, c := range []struct {
		what string
		was  reportedHealth
		d    control.DeviceStatus
		want bool
	}{
		{"the first time", reportedHealth{}, up, true},
		{"nothing has changed", before(10*time.Minute, up), up, false},
		{"it is down", before(10*time.Minute, up), down, true},
		{"it flaps", before(10*time.Second, up), down, false},
		{"another error", before(10*time.Minute, down), control.DeviceStatus{State: "down", Error: "exception 6"}, true},
		{"an hour has passed", before(time.Hour, up), up, true},
		{"an hour without a good reading", before(time.Hour, down), control.DeviceStatus{State: "down", Error: "no answer", LastGood: now.Add(-time.Hour)}, false},
	} {
		if got := c.was.due(c.d, now); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
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
