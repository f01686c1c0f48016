package buffer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

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

// load is the child of recordPower.
type load struct {
	q     *buffer.Queue
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
	q, err := buffer.Open(powerConfig(at))
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
	l := &load{q: q, notes: notes, seed: seed}
	if err := notes.Note("born " + q.ID()); err != nil {
		return err
	}
	err = l.run(ctx)
	if seed%2 == 0 {
		return err // as after kill -9
	}
	cancel()
	return errors.Join(err, <-ended, q.Close())
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
// are whole or not there.
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
	}
	return nil
}

// read reads a lane and acknowledges what it read, in steps.
func (l *load) read(ctx context.Context, lane int) error {
	random := rand.New(rand.NewPCG(l.seed, uint64(lane)+100))
	for after := uint64(0); ; {
		entries, err := l.q.Lane(laneID(lane)).Next(ctx, after, 1+random.IntN(8))
		if err != nil {
			return err
		}
		after = entries[len(entries)-1].Seq
		if err := l.notes.Note(fmt.Sprintf("ack %d %d", lane, after)); err != nil {
			return err
		}
		l.q.Lane(laneID(lane)).Ack(after)
	}
}

func powerConfig(at string) buffer.Config {
	return buffer.Config{Dir: filepath.Join(at, "queue")}
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
