package main

import (
	"testing"
	"time"
)

func TestAReloadDoesNotHideAnIdentityThatWasApartBefore(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what          string
		since, loaded time.Time
		want          bool
	}{
		{"it has not tried yet, just after the start", time.Time{}, now.Add(-time.Second), false},
		{"it has not tried yet, long after the start", time.Time{}, now.Add(-time.Hour), true},
		{"it failed just after the start", now.Add(-20 * time.Second), now.Add(-21 * time.Second), false},
		{"it renews its token", now.Add(-renewGrace), now.Add(-time.Hour), false},
		{"it lost its connection", now.Add(-renewGrace - time.Second), now.Add(-time.Hour), true},
		{"it was apart for an hour when the mapping was loaded again", now.Add(-time.Hour), now.Add(-time.Second), true},
	} {
		if got := overdue(c.since, c.loaded, now); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
