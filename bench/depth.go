package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"iothub-gateway/buffer"
)

const (
	// deep is an outage of 24 hours at 100 messages a second.
	deep = 24 * 60 * 60 * 100
	// deepDir is the queue that the figures about depth share, made by the first of them.
	deepDir = "bench-deep"
	// deepRole is the child that opens it, takes new messages and delivers all of it.
	deepRole = "depth"
)

// depthFigures are about a queue of 8.64 million messages. They stand in the order in which they use
// it up.
func depthFigures() []figure {
	return []figure{
		{
			name: "start_deep", unit: "ms", target: "at most 1.2",
			what:    fmt.Sprintf("opening the queue of %d messages of 100 identities", deep),
			limitIs: "bbolt opening the same files with the same options and reading the keys of their logs in order",
			value:   plain(deepStart), limit: plain(deepScan),
		},
		{
			name: "first_put_deep", unit: "ms", target: "lower is better",
			what:    "from the start of opening that queue until a first new message is on disk",
			limitIs: "the same with an empty queue",
			value:   plain(func(ctx context.Context) (float64, error) { return firstPut(ctx, deepDir) }),
			limit:   plain(emptyFirstPut),
		},
		{
			name: "cost_deep", unit: "µs", target: "at most 1.2",
			what:    "time for a message that is put or delivered, at that depth: 8 producers that put 100 messages a call, 100 readers",
			limitIs: "the same with an empty queue",
			value:   plain(deepCost), limit: plain(emptyCost), once: true, // three would leave too little
		},
		{
			name: "memory_deep", unit: "MiB", target: "at most 1.0",
			what:    "most memory of its own (RssAnon) of a process that opens that queue, takes 100 new messages a second and delivers all of it in order",
			limitIs: "128",
			value:   plain(deepMemory), limit: fixed(128), once: true,
		},
	}
}

// makeDeep makes the deep queue unless it is there.
func makeDeep(ctx context.Context) error {
	if _, err := os.Stat(deepDir); err == nil {
		return nil
	}
	if err := os.Mkdir(deepDir, 0o700); err != nil {
		return err
	}
	s, err := openStore(deepDir)
	if err != nil {
		return err
	}
	return errors.Join(fill(ctx, s.queue, lanes(100), deep), s.close())
}

func milliseconds(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

func deepStart(ctx context.Context) (float64, error) {
	if err := makeDeep(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(deepDir, "queue")})
	if err != nil {
		return 0, err
	}
	took := milliseconds(start)
	return took, queue.Close()
}

// deepScan is what bbolt needs to open the files and see every key.
func deepScan(ctx context.Context) (float64, error) {
	if err := makeDeep(ctx); err != nil {
		return 0, err
	}
	paths, err := filepath.Glob(filepath.Join(deepDir, "queue", "*.db"))
	if err != nil {
		return 0, err
	}
	start, keys := time.Now(), 0
	for _, path := range paths {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
		if err != nil {
			return 0, err
		}
		err = db.View(func(tx *bbolt.Tx) error {
			c, last := tx.Bucket([]byte("log")).Cursor(), uint64(0)
			for k, _ := c.First(); k != nil; k, _ = c.Next() {
				keys++
				if global := binary.BigEndian.Uint64(k); global <= last { // a key that nobody reads costs nothing
					return fmt.Errorf("%s: key %x follows %d", path, k, last)
				} else {
					last = global
				}
			}
			return nil
		})
		if err = errors.Join(err, db.Close()); err != nil {
			return 0, err
		}
	}
	if keys < deep {
		return 0, fmt.Errorf("only %d keys in %v", keys, paths)
	}
	return milliseconds(start), nil
}

func firstPut(ctx context.Context, dir string) (float64, error) {
	start := time.Now()
	s, err := openStore(dir)
	if err != nil {
		return 0, err
	}
	err = fill(ctx, s.queue, lanes(1), 1)
	took := milliseconds(start)
	return took, errors.Join(err, s.close())
}

func emptyFirstPut(ctx context.Context) (took float64, err error) {
	s, err := newStore()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if err := s.close(); err != nil {
		return 0, err
	}
	return firstPut(ctx, s.dir)
}

// cost is the time for a message that comes and one that goes, with both under way at once. Neither
// side may run away from the other: producers wait once ahead messages have come more than gone. In a
// deep queue readers have more than enough, so that both are counted.
func (s *store) cost(ctx context.Context) (µs float64, err error) {
	const ahead, makers, perCall = 20_000, 8, 100
	ids := lanes(100)
	var came, went atomic.Int64
	stop := background(func(ctx context.Context) error { return s.take(ctx, ids, func(n int) { went.Add(int64(n)) }) })
	var stops []func() error
	for range makers {
		stops = append(stops, background(func(ctx context.Context) error {
			for ctx.Err() == nil {
				if came.Load()-went.Load() > ahead {
					_ = pause(ctx, 200*time.Microsecond)
					continue
				}
				if err := fill(context.WithoutCancel(ctx), s.queue, ids, perCall); err != nil {
					return err
				}
				came.Add(perCall)
			}
			return nil
		}))
	}
	if err := pause(ctx, warmup); err != nil {
		return 0, err
	}
	before, start := came.Load()+went.Load(), time.Now()
	err = pause(ctx, measured)
	µs = float64(time.Since(start).Microseconds()) / float64(came.Load()+went.Load()-before)
	for _, end := range stops {
		err = errors.Join(err, end())
	}
	return µs, errors.Join(err, stop())
}

func deepCost(ctx context.Context) (µs float64, err error) {
	if err := makeDeep(ctx); err != nil {
		return 0, err
	}
	s, err := openStore(deepDir)
	if err != nil {
		return 0, err
	}
	µs, err = s.cost(ctx)
	return µs, errors.Join(err, s.close())
}

func emptyCost(ctx context.Context) (µs float64, err error) {
	s, err := newStore()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.discard()) }()
	return s.cost(ctx)
}

// deepMemory runs the child and reads what it needed. The figures before have taken from the queue.
func deepMemory(ctx context.Context) (mib float64, err error) {
	if err := errors.Join(os.RemoveAll(deepDir), makeDeep(ctx)); err != nil {
		return 0, err
	}
	child := exec.CommandContext(ctx, os.Args[0])
	child.Env, child.Stderr = append(os.Environ(), childRole+"="+deepRole), os.Stderr
	output, err := child.Output()
	if err != nil {
		return 0, fmt.Errorf("child %s: %w", deepRole, err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(output)), 64)
}

// runDeep delivers the whole deep queue in order while new messages come, and prints how much memory
// it took at most, in MiB.
func runDeep(ctx context.Context, out io.Writer) error {
	s, err := openStore(deepDir)
	if err != nil {
		return err
	}
	ids := lanes(100)
	stop := background(func(ctx context.Context) error { return s.take(ctx, ids, func(int) {}) })
	var most int64
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for s.queue.Stats().Entries > 100 {
		if err := fill(ctx, s.queue, ids[:10], 10); err != nil {
			return err
		}
		used, err := ownMemory()
		if err != nil {
			return err
		}
		most = max(most, used)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if _, err := fmt.Fprintln(out, float64(most)/(1<<20)); err != nil {
		return err
	}
	return errors.Join(stop(), s.close())
}

// ownMemory is the resident memory of the process without files: what no other use could have.
func ownMemory() (int64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if number, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(number), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/self/status has no RssAnon")
}
