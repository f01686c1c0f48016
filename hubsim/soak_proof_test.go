//go:build proof

package hubsim_test

import (
	"testing"
	"time"

	"iothub-gateway/internal/testkit"
)

func TestProofRandomPackets(t *testing.T) {
	soak(t, time.Duration(testkit.Number(t, "MINUTES", 10))*time.Minute, testkit.Seed(t))
}
