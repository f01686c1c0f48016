//go:build proof

package modbus_test

import (
	"testing"
	"time"

	"iothub-gateway/devsim"
	"iothub-gateway/internal/testkit"
)

// SEED= chooses the faults, READS= how many reads there are on TCP; a tenth of them is read by RTU over TCP, and a
// fiftieth on pseudo-terminals at 115 200 bit/s.
func TestProofNoWrongValues(t *testing.T) {
	reads, seed := int(testkit.Number(t, "READS", 1_000_000)), testkit.Seed(t)
	t.Logf("SEED=%d", seed)
	for _, c := range []struct {
		name string
		tr   *trial
	}{
		{"TCP", &trial{wire: tcp(), links: 64, reads: reads}},
		{"RTU over TCP", &trial{wire: rtuOverTCP(), links: 64, reads: reads / 10}},
		{"RTU on a pty", &trial{wire: rtuOnPTY(), links: 8, reads: reads / 50}},
	} {
		began := time.Now()
		c.tr.seed, c.tr.units, c.tr.width, c.tr.faults = seed, 4, 3, misdeeds(c.tr.wire, 0.002, c.tr.wire.Timeout/10)
		c.tr.run(t)
		t.Logf("%s, in %s: %v", c.name, time.Since(began).Round(time.Second), c.tr)
		if c.tr.wrong.Load() > 0 {
			t.Errorf("%s: %s", c.name, c.tr.first)
		}
		if c.tr.asked.Load() < int64(c.tr.reads) || c.tr.stats.StaleFrames == 0 {
			t.Errorf("%s: too little was tried", c.name)
		}
	}
}

// Without ids and behind the quarantine nothing tells a late answer to the same unit, function and size from the right
// one. How often that happens is printed, not judged: it depends on how often the unit is asked.
func TestProofBeyondTheQuarantine(t *testing.T) {
	reads, seed := int(testkit.Number(t, "READS", 1_000_000))/50, testkit.Seed(t)
	wire := rtuOverTCP()
	tr := &trial{wire: wire, links: 32, units: 4, width: 3, reads: reads, seed: seed}
	tr.faults = []devsim.Fault{{Do: devsim.Late, Chance: 0.01, After: 2 * wire.Timeout, Until: 10 * wire.Timeout}}
	tr.run(t)
	t.Logf("SEED=%d, answers 2 to 10 times the timeout late: %d of %d values wrong, %.2f for each of %d late answers; %v",
		seed, tr.wrong.Load(), tr.right.Load()+tr.wrong.Load(), float64(tr.wrong.Load())/float64(max(tr.fired[0], 1)), tr.fired[0], tr)
}
