//go:build proof

package hubsim_test

import (
	"os"
	"strconv"
	"testing"
	"time"
)

func TestProofRandomPackets(t *testing.T) {
	soak(t, time.Duration(number(t, "MINUTES", 10))*time.Minute, number(t, "SEED", uint64(time.Now().UnixNano())))
}

// number is what the variable name of the environment holds, or otherwise.
func number(t *testing.T, name string, otherwise uint64) uint64 {
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
