package buffer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"iothub-gateway/buffer"
)

// flips flips one bit of one file, n times on a fresh copy, before a start after a crash: no wrong
// entry, none missing without a mark, nothing that takes long.
func flips(t *testing.T, n int, seed uint64) {
	good := makePlant(t)
	files := generations(good.dir)
	random := rand.New(rand.NewPCG(seed, 1))
	aside, died := 0, 0
	for i := range n {
		p := good.copy(t)
		path := filepath.Join(p.dir, filepath.Base(files[random.IntN(len(files))]))
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bit := random.IntN(8 * len(content))
		content[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 { // after a clean stop the file is opened unchecked: that may end one process
			first := look(t, p.dir)
			if first != nil {
				died++
			}
			if second := look(t, p.dir); first != nil && second != nil {
				t.Errorf("seed %d: bit %d of %s ended two processes: %v, then %v", seed, bit, filepath.Base(path), first, second)
			}
		}
		if err := os.WriteFile(filepath.Join(p.dir, "running"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		// To start a process takes longer than all the rest: one in ten is enough.
		check := buffer.CheckFile
		if i%10 == 0 {
			check = func(ctx context.Context, file string) (buffer.Report, error) {
				if file == path {
					return childCheck()(ctx, file)
				}
				return buffer.CheckFile(ctx, file)
			}
		}
		result, health := p.deliver(t, check)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("seed %d: bit %d of %s: it took %v", seed, bit, filepath.Base(path), took)
		}
		if lost := p.waiting() - result.entries; lost > 0 && (result.marked == 0 || len(health.Aside) == 0) || lost > result.marked && !result.newID {
			t.Errorf("seed %d: bit %d of %s: %d of %d entries came, %d are marked, aside: %v", seed, bit, filepath.Base(path),
				result.entries, p.waiting(), result.marked, health.Aside)
		}
		aside += len(health.Aside)
	}
	t.Logf("seed %d: %d flipped bits, %d files were set aside, %d processes of %d without a check died, none twice, no wrong entry, none missing without a mark",
		seed, n, aside, died, (n+9)/10)
	if aside == 0 {
		t.Error("no file was set aside: the test proves nothing")
	}
}

// look opens the queue in a process of its own, reads everything and closes it.
func look(t *testing.T, dir string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "BUFFER_TEST_ROLE=look", "BUFFER_TEST_PATH="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %.200s", err, out)
	}
	return nil
}

func lookChild(dir string) error {
	q, err := buffer.Open(buffer.Config{Dir: dir, Check: childCheck()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	if q.Health().State == "unavailable" {
		return errors.New(q.Health().Reason)
	}
	for id, c := range q.Stats().Lanes {
		for after := c.Acked; after < c.Put; {
			entries, err := q.Lane(id).Next(ctx, after, 100)
			if err != nil {
				return err
			}
			after = entries[len(entries)-1].Seq
		}
	}
	cancel()
	return errors.Join(<-ended, q.Close())
}

func TestFlippedBitsNeverBecomeAWrongEntry(t *testing.T) {
	flips(t, 50, uint64(time.Now().UnixNano()))
}
