//go:build proof

package e2e

import (
	"os"
	"strconv"
	"testing"
	"time"
)

func TestProofKillUnderLoad(t *testing.T) {
	killUnderLoad(t, int(fromEnvironment(t, "CYCLES", 100)), fromEnvironment(t, "SEED", uint64(time.Now().UnixNano())))
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
