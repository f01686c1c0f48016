//go:build proof

package buffer_test

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"iothub-gateway/internal/testkit"
)

// The cases are shared out to as many processes as this machine has to spare.
func TestProofTheQueueBehavesAsItsModel(t *testing.T) {
	const processes = 2
	cases, seed := testkit.Number(t, "CASES", 200_000), testkit.Seed(t)
	t.Logf("seed %d, %d cases", seed, cases)
	began := time.Now()
	var running sync.WaitGroup
	for i := range uint64(processes) {
		running.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestTheQueueBehavesAsItsModel$", "-test.timeout=2h",
				fmt.Sprintf("-rapid.checks=%d", cases/processes), fmt.Sprintf("-rapid.seed=%d", seed+i))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("seed %d: %v\n%s", seed+i, err, out)
			}
		})
	}
	running.Wait()
	if !t.Failed() {
		t.Logf("proof: model of the queue: seed %d, %d cases, 0 wrong, in %v", seed, cases, time.Since(began).Round(time.Second))
	}
}
