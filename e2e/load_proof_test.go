//go:build proof

package e2e

import (
	"os"
	"strconv"
	"testing"
	"time"
)

func TestProofKillUnderLoad(t *testing.T) {
	killUnderLoad(t, cyclesOf(int(fromEnvironment(t, "CYCLES", 100))), fromEnvironment(t, "SEED", uint64(time.Now().UnixNano())))
}

// The same load for hours: each run of the gateway takes up to ten minutes.
func TestSoakUnderLoad(t *testing.T) {
	end := time.Now().Add(time.Duration(fromEnvironment(t, "HOURS", 24)) * time.Hour)
	killUnderLoad(t, killing{
		again: func(int) bool { return time.Now().Before(end) }, spell: 1, most: 10 * time.Minute, outage: time.Minute,
	}, fromEnvironment(t, "SEED", uint64(time.Now().UnixNano())))
}

// fromEnvironment is the number that the variable name holds, or otherwise.
func fromEnvironment(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
