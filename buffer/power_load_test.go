package buffer_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/powerfs"
)

// powerLanes is how many lanes the load of the power-loss proof has. One producer puts into lanes 0 and
// 1, another into 2 and 3. The even ones are read and acknowledged; the odd ones pile up.
const powerLanes = 4

// paddedMessage is entry n of lane l: everything about it follows from these two, its size too.
func paddedMessage(l, n int) gateway.Telemetry {
	m := message(laneID(l), n)
	size := (n*7919 + l*104729) % 500
	if n%23 == 0 {
		size += 9000 // more than a page
	}
	m.Body = fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, n, strings.Repeat("x", size))
	m.Properties = []gateway.Property{{Name: "lane", Value: strconv.Itoa(l)}}
	return m
}

// recordPower runs the load on a file system that holds im, in a process of its own, and returns what
// it did to the disk.
func recordPower(t *testing.T, im powerfs.Image, seed uint64, env ...string) *powerfs.Log {
	t.Helper()
	at := t.TempDir()
	disk, err := powerfs.Mount(at, im)
	if err != nil {
		t.Fatal(err)
	}
	failed := runChild(t, "power", at, append(env, "BUFFER_TEST_SEED="+strconv.FormatUint(seed, 10))...)
	if err := errors.Join(failed, disk.Unmount()); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	return disk.Log(powerFormat())
}

// powerConfig is the queue of the images.
func powerConfig(at string) buffer.Config {
	return buffer.Config{Dir: filepath.Join(at, "queue"), GenerationBytes: 64 << 10}
}

// loadConfig is the queue of a load: every third has a limit for each lane, every third one for all, and
// half of them pack.
func loadConfig(at string, seed uint64) buffer.Config {
	cfg := powerConfig(at)
	switch seed % 3 {
	case 0:
		cfg.LaneMaxBytes = 20 << 10
	case 1:
		cfg.MaxBytes = 50 << 10
	}
	if seed/3%2 == 0 {
		cfg.Batch = buffer.Batch{MaxBytes: 4 << 10, MaxWait: 2 * time.Millisecond}
	}
	return cfg
}

// load is the child of recordPower.
type load struct {
	q     *buffer.Queue
	state *buffer.State
	notes *powerfs.Control
	seed  uint64
}

// powerChild runs the load until its producers are done, then stops the queue, or just ends.
func powerChild(at string) error {
	seed, err := strconv.ParseUint(os.Getenv("BUFFER_TEST_SEED"), 10, 64)
	if err != nil {
		return err
	}
	recorder := os.Getenv("BUFFER_TEST_NOTES") // where the recording file system is mounted, if not at at
	if recorder == "" {
		recorder = at
	}
	notes, err := powerfs.OpenControl(recorder)
	if err != nil {
		return err
	}
	cfg := loadConfig(at, seed)
	if cfg.MaxBytes+cfg.LaneMaxBytes > 0 {
		if err := notes.Note("limited"); err != nil {
			return err
		}
	}
	q, err := buffer.Open(cfg)
	if err != nil {
		return err
	}
	if os.Getenv("BUFFER_TEST_NOSYNC") != "" {
		q.NoSync()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	state, err := powerState(at)
	if err != nil {
		return err
	}
	l := &load{q: q, state: state, notes: notes, seed: seed}
	if err := notes.Note("born " + q.ID()); err != nil {
		return err
	}
	err = l.run(ctx)
	if seed%2 == 0 {
		return err // as after kill -9
	}
	cancel()
	return errors.Join(err, <-ended, q.Close(), state.Close())
}

func powerState(at string) (*buffer.State, error) {
	return buffer.OpenState(filepath.Join(at, "state.db"), zerolog.Nop())
}

func (l *load) run(ctx context.Context) error {
	readers, cancel := context.WithCancel(ctx)
	failures := make(chan error, 2*powerLanes)
	var reading, putting sync.WaitGroup
	for lane := 0; lane < powerLanes; lane += 2 {
		reading.Go(func() { failures <- l.read(readers, lane) })
		putting.Go(func() { failures <- l.put(ctx, lane, lane+1) })
	}
	putting.Wait()
	cancel()
	reading.Wait()
	close(failures)
	var all error
	for err := range failures {
		if !errors.Is(err, context.Canceled) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// put puts groups of entries over two lanes and notes before and after how far each lane is. Its groups
// are whole or not there. Now and then an operator drops what has piled up.
func (l *load) put(ctx context.Context, a, b int) error {
	random := rand.New(rand.NewPCG(l.seed, uint64(a)))
	counts := l.q.Stats().Lanes
	at := map[int]int{a: int(counts[laneID(a)].Put), b: int(counts[laneID(b)].Put)}
	for range 60 {
		var group []gateway.Telemetry
		for range 1 + random.IntN(6) {
			lane := a + random.IntN(2)
			at[lane]++
			group = append(group, paddedMessage(lane, at[lane]))
		}
		if err := l.notes.Note(fmt.Sprintf("start %d %d %d %d", a, at[a], b, at[b])); err != nil {
			return err
		}
		if err := l.q.Put(ctx, group...); err != nil {
			return err
		}
		if err := l.notes.Note(fmt.Sprintf("put %d %d %d %d", a, at[a], b, at[b])); err != nil {
			return err
		}
		if random.IntN(4) == 0 {
			if err := l.keep(ctx, a, at[a]); err != nil {
				return err
			}
		}
		if l.seed%5 == 0 && random.IntN(20) == 0 {
			if err := l.notes.Note(fmt.Sprintf("drop %d", b)); err != nil {
				return err
			}
			if _, err := l.q.Drop(ctx, laneID(b), false); err != nil {
				return err
			}
		}
	}
	return nil
}

// keep keeps a note beside the queue, n of the producer of lane a.
func (l *load) keep(ctx context.Context, a, n int) error {
	return errors.Join(
		l.notes.Note(fmt.Sprintf("keep %d %d", a, n)),
		l.state.Put(ctx, stateKey(a), strconv.AppendInt(nil, int64(n), 10)),
		l.notes.Note(fmt.Sprintf("kept %d %d", a, n)))
}

func stateKey(a int) string { return fmt.Sprintf("load/at/%d", a) }

// read reads a lane and acknowledges what it read, in steps. Now and then the hub never takes an entry.
func (l *load) read(ctx context.Context, lane int) error {
	random := rand.New(rand.NewPCG(l.seed, uint64(lane)+100))
	for after := uint64(0); ; {
		entries, err := l.q.Lane(laneID(lane)).Next(ctx, after, 1+random.IntN(8))
		if err != nil {
			return err
		}
		for i := range entries {
			if err := l.notes.Note(fmt.Sprintf("out %d %s", lane, sumOf(&entries[i]))); err != nil {
				return err
			}
		}
		if e := &entries[0]; e.Gap == nil && e.Packed == 0 && random.IntN(12) == 0 {
			if err := l.notes.Note(fmt.Sprintf("dead %d %d", lane, e.Seq)); err != nil {
				return err
			}
			if err := l.q.Lane(laneID(lane)).Dead(ctx, e.Seq, "the hub says no"); err != nil {
				return err
			}
			continue
		}
		after = entries[len(entries)-1].Seq
		if err := l.notes.Note(fmt.Sprintf("ack %d %d", lane, after)); err != nil {
			return err
		}
		l.q.Lane(laneID(lane)).Ack(after)
	}
}

// sumOf is which sequences an entry stands for, and a sum of what goes to the hub.
func sumOf(e *buffer.Entry) string {
	return fmt.Sprintf("%d %d %d", e.First, e.Seq, crc32.ChecksumIEEE(fmt.Append(nil, e.ID(), e.Telemetry)))
}

// powerFormat is what a record of the load must say to be of use for this program's queue.
func powerFormat() string {
	return fmt.Sprintf("queue format %d, record version %d", buffer.FormatVersion, buffer.RecordVersion)
}

// runChild runs this test's binary as a process of its own and returns why it failed, with what it said.
func runChild(t *testing.T, role, path string, env ...string) error {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "BUFFER_TEST_ROLE="+role, "BUFFER_TEST_PATH="+path), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", role, err, out)
	}
	return nil
}
