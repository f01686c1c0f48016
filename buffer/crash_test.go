package buffer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

// crashLanes: the first half is read and acknowledged, the other half piles up.
const crashLanes = 4

// ledger is what a child said before it was killed: the highest entry of each lane whose Put had
// returned, and the highest that it was about to acknowledge.
type ledger struct {
	lines      int
	put, acked map[gateway.IdentityID]int
}

func TestEveryPutThatReturnedSurvivesKill9(t *testing.T) {
	path := queuePath(t)
	rng := rand.New(rand.NewPCG(1, 2))
	total := 0
	sum := ledger{put: map[gateway.IdentityID]int{}, acked: map[gateway.IdentityID]int{}}
	for cycle := range 20 {
		killed := runAndKill(t, path, 1+rng.IntN(400))
		total += killed.lines
		for id, n := range killed.put {
			sum.put[id] = max(sum.put[id], n)
		}
		for id, n := range killed.acked {
			sum.acked[id] = max(sum.acked[id], n)
		}
		q := openQueue(t, path)
		for l := range crashLanes {
			verifyLane(t, q, laneID(l), sum)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("in cycle %d", cycle)
		}
	}
	if total < 1000 {
		t.Errorf("only %d operations in all cycles: the test tests nothing", total)
	}
}

// verifyLane checks that the lane holds every number from the newest acknowledged one to the last
// accepted one, each in its place.
func verifyLane(t *testing.T, q *buffer.Queue, id gateway.IdentityID, sum ledger) {
	t.Helper()
	c := q.Stats().Lanes[id]
	if int(c.Put) < sum.put[id] {
		t.Errorf("%s: entry %d was accepted, %d is the newest there", id, sum.put[id], c.Put)
	}
	if int(c.Acked) > sum.acked[id] {
		t.Errorf("%s: entry %d is gone, nobody acknowledged more than %d", id, c.Acked, sum.acked[id])
	}
	if c.Entries > 0 {
		expect(t, q, id, int(c.Acked)+1, int(c.Put))
	}
}

// runAndKill runs a child until it has said that many lines, and kills it.
func runAndKill(t *testing.T, path string, lines int) ledger {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BUFFER_TEST_ROLE=crash", "BUFFER_TEST_PATH="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := ledger{put: map[gateway.IdentityID]int{}, acked: map[gateway.IdentityID]int{}}
	for s := bufio.NewScanner(out); s.Scan(); said.lines++ { // also what it said before it died
		var id gateway.IdentityID
		var verb string
		var n int
		if _, err := fmt.Sscan(s.Text(), &verb, &id, &n); err != nil {
			t.Fatalf("%q: %v", s.Text(), err)
		}
		if verb == "put" {
			said.put[id] = n
		} else {
			said.acked[id] = n
		}
		if said.lines == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the child ended by itself: %v", err)
	}
	return said
}

// crashChild puts, reads and acknowledges until it is killed. The lines are written before and after
// the fact so that a kill in between is on the safe side.
func crashChild(path string) error {
	q, err := buffer.Open(buffer.Config{Dir: path})
	if err != nil {
		return err
	}
	failed := make(chan error)
	ctx := context.Background()
	for l := range crashLanes {
		id := laneID(l)
		go func() {
			for n := int(q.Stats().Lanes[id].Put) + 1; ; n++ {
				if err := q.Put(ctx, message(id, n)); err != nil {
					failed <- err
				}
				fmt.Printf("put %s %d\n", id, n)
			}
		}()
		if l < crashLanes/2 {
			go func() {
				for after := uint64(0); ; {
					entries, err := q.Lane(id).Next(ctx, after, 3)
					if err != nil {
						failed <- err
						return
					}
					after = entries[len(entries)-1].Seq
					fmt.Printf("acked %s %d\n", id, after)
					q.Lane(id).Ack(after)
				}
			}()
		}
	}
	go func() { failed <- q.Run(ctx) }()
	return <-failed
}
