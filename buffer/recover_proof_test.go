//go:build proof

package buffer_test

import (
	"testing"
	"time"
)

// SEED= and FLIPS= choose the bits and how many of them, one to a queue each.
func TestProofFlippedBits(t *testing.T) {
	flips(t, int(number(t, "FLIPS", 1000)), number(t, "SEED", uint64(time.Now().UnixNano())))
}
