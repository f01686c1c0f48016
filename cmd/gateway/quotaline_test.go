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
		if line := quotaLine(c.quota); !strings.Contains(line, c.has) || strings.Contains(line, c.lack) {
			t.Errorf("%+v: %s", c.quota, line)
		}
	}
}
