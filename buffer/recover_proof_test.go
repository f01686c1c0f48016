//go:build proof

package buffer_test

import (
	"testing"

	"iothub-gateway/internal/testkit"
)

// SEED= and FLIPS= choose the bits and how many of them, one to a queue each.
func TestProofFlippedBits(t *testing.T) {
	flips(t, int(testkit.Number(t, "FLIPS", 1000)), testkit.Seed(t))
}
