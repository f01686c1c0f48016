package main

import (
	"strings"
	"testing"
	"time"

	"iothub-gateway/internal/control"
)

func TestTheQuotaLineSaysWhatIsUsedAndWhenItEnds(t *testing.T) {
	end := time.Date(2026, 11, 26, 19, 40, 0, 0, time.UTC)
	for _, c := range []struct {
		quota     control.QuotaStatus
		has, lack string
	}{
		{control.QuotaStatus{Limit: 400_000, Used: 12_345}, "12,345 of the 400,000", "pace"},
		{control.QuotaStatus{Limit: 400_000, Used: 300_000, UsedUp: end}, "at 19:40 UTC", "midnight"},
		{control.QuotaStatus{Limit: 8000, Used: 8000, UsedUp: end}, "no more until midnight", "19:40"},
	} {
		if line := quotaLine("plant7.azure-devices.net", c.quota); !strings.Contains(line, "plant7.azure-devices.net") || !strings.Contains(line, c.has) || strings.Contains(line, c.lack) {
			t.Errorf("%+v: %s", c.quota, line)
		}
	}
}

func TestTheStatusSaysWhichHubIsInTroubleAndNothingOfTheOthers(t *testing.T) {
	lines := hubLines([]control.HubStatus{
		{Hub: "a.example", Reachable: true, Connects: 20},
		{Hub: "b.example", Connects: 20},
		{Hub: "c.example", Reachable: true, Busy: true, Connects: 2.5, Quota: &control.QuotaStatus{Limit: 8000, Used: 7}},
	})
	if len(lines) != 3 || !strings.Contains(lines[0], "hub b.example cannot be reached") ||
		!strings.Contains(lines[1], "hub c.example is busy: 2.5 connections a second") || !strings.Contains(lines[2], "7 of the 8,000 messages that c.example takes") {
		t.Errorf("%q", lines)
	}
}
