//go:build proof

package upstream

import (
	"testing"
	"time"

	"iothub-gateway/internal/faultnet"
	"iothub-gateway/internal/testkit"
)

func TestProofRenewalsLoseNothingAndAnswerEveryCommand(t *testing.T) {
	v := newRenewals(t, 1500*time.Millisecond)
	v.renew(testkit.Number(t, "RENEWALS", 300))
	t.Log(v.report())
}

func TestProofAPeerThatIsGoneIsFoundWithin30Seconds(t *testing.T) {
	for name, condition := range map[string]faultnet.Condition{"half open": {HalfOpen: true}, "stalled": {Stall: true}} {
		t.Run(name, func(t *testing.T) {
			took := vanish(t, DefaultWriteTimeout, condition)
			t.Logf("found after %v", took.Round(100*time.Millisecond))
			if took > 30*time.Second {
				t.Errorf("found after %v", took)
			}
		})
	}
}
