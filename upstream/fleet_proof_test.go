//go:build proof

package upstream

import (
	"os"
	"strconv"
	"testing"
	"time"
)

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

func seed(t *testing.T) uint64 { return number(t, "SEED", uint64(time.Now().UnixNano())) }

func TestProofAllIdentitiesAreBackAfterTheHub(t *testing.T) {
	outage{identities: int(number(t, "IDENTITIES", 2000)), rate: 100, kills: 3, down: 30 * time.Second, perSecond: 0.1}.play(t)
}

func TestProofTheTroubleOfSomeIsNotFeltByTheRest(t *testing.T) {
	isolation(t, 500, 5, 10*time.Second, 5*time.Millisecond, seed(t))
}

func TestProofEveryMessageCarriesItsTrueSource(t *testing.T) {
	sources(t, 500, int(number(t, "FLEET_MESSAGES", 1_000_000)), seed(t))
}

func TestProofAPoolInAStormLosesNothing(t *testing.T) {
	n := seed(t)
	t.Logf("seed %d", n)
	newStorm(t, 20, n).play(time.Duration(number(t, "STORM", 5)) * time.Minute)
}
