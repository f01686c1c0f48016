//go:build proof

package upstream

import (
	"testing"
	"time"

	"iothub-gateway/internal/testkit"
)

func TestProofAllIdentitiesAreBackAfterTheHub(t *testing.T) {
	outage{identities: int(testkit.Number(t, "IDENTITIES", 2000)), rate: 100, kills: 3, down: 30 * time.Second, perSecond: 0.1}.play(t)
}

func TestProofTheTroubleOfSomeIsNotFeltByTheRest(t *testing.T) {
	isolation(t, 500, 5, 10*time.Second, 5*time.Millisecond, testkit.Seed(t))
}

func TestProofEveryMessageCarriesItsTrueSource(t *testing.T) {
	sources(t, 500, int(testkit.Number(t, "FLEET_MESSAGES", 1_000_000)), testkit.Seed(t))
}

func TestProofAPoolInAStormLosesNothing(t *testing.T) {
	n := testkit.Seed(t)
	t.Logf("seed %d", n)
	newStorm(t, 20, n).play(time.Duration(testkit.Number(t, "STORM", 5)) * time.Minute)
}
