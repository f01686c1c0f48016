//go:build proof

package e2e

import (
	"testing"
	"time"

	"iothub-gateway/internal/testkit"
)

func TestProofKillUnderLoad(t *testing.T) {
	killUnderLoad(t, cyclesOf(int(testkit.Number(t, "CYCLES", 100))), testkit.Seed(t))
}

// The same load for hours: each run of the gateway takes up to ten minutes.
func TestSoakUnderLoad(t *testing.T) {
	end := time.Now().Add(time.Duration(testkit.Number(t, "HOURS", 24)) * time.Hour)
	killUnderLoad(t, killing{
		again: func(int) bool { return time.Now().Before(end) }, spell: 1, most: 10 * time.Minute, outage: time.Minute,
	}, testkit.Seed(t))
}
