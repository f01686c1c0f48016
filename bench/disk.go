package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

// fixed is a limit that does not depend on the machine.
func fixed(limit float64) measurement {
	return plain(func(context.Context) (float64, error) { return limit, nil })
}

// diskFigures are about what the queue writes and takes on disk.
func diskFigures() []figure {
	return []figure{
		{
			name: "write_cycle_100", unit: "bytes/byte", target: "at most 1.0",
			what:    "bytes that the process writes to disk for a byte of message body, acknowledgements included: 100 identities, each with one 200-byte message a second, put by one poll cycle, delivered at once",
			limitIs: "6",
			value:   plain(func(ctx context.Context) (float64, error) { return writtenPerByte(ctx, 1, 0) }),
			limit:   fixed(6),
		},
		{
			name: "write_links_100", unit: "bytes/byte", target: "at most 1.0",
			what:    "the same, with the 100 messages of a second put one by one, as 100 links that are polled every second hand them in: with the patience of half a second",
			limitIs: "6",
			value:   plain(func(ctx context.Context) (float64, error) { return writtenPerByte(ctx, 100, time.Second/2) }),
			limit:   fixed(6),
		},
		{
			name: "write_spread_100", unit: "bytes/byte", target: "lower is better",
			what:    "the same, with the 100 messages of a second put one by one, as sensors report: each is on disk before its answer",
			limitIs: "a plain file to which they are appended one by one, each followed by fdatasync, in whole blocks of 4 KiB",
			value:   plain(func(ctx context.Context) (float64, error) { return writtenPerByte(ctx, 100, 0) }),
			limit:   fixed(4096.0 / bodySize),
		},
		{
			name: "commit_after_drain", unit: "bytes", target: "at most 1.0",
			what:    "bytes that one Put writes after a million messages of 100 identities were queued and delivered; the median of 50",
			limitIs: "64 KiB",
			value:   plain(commitAfterDrain), limit: fixed(64 << 10), once: true,
		},
		{
			name: "disk_per_record", unit: "bytes", target: "at most 1.0",
			what:    "bytes of disk that the queue's files take for each of a million queued 200-byte messages of 100 identities",
			limitIs: "300",
			value:   plain(diskPerRecord), limit: fixed(300), once: true,
		},
	}
}

// writtenBytes is what the process has made the kernel write to disks so far.
func writtenBytes() (int64, error) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if number, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			return strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		}
	}
	return 0, errors.New("/proc/self/io has no write_bytes")
}

// lanes are the identities of a bare queue.
func lanes(n int) []gateway.IdentityID {
	ids := make([]gateway.IdentityID, n)
	for i := range ids {
		ids[i] = gateway.IdentityID(fmt.Sprintf("dev%04d", i))
	}
	return ids
}

// store is a queue without a hub, in a directory of its own.
type store struct {
	dir   string
	queue *buffer.Queue
	stop  func() error
}

func openStore(dir string) (*store, error) {
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(dir, "queue")})
	if err != nil {
		return nil, err
	}
	return &store{dir: dir, queue: queue, stop: background(queue.Run)}, nil
}

func newStore() (*store, error) {
	dir, err := os.MkdirTemp(".", "bench-queue-")
	if err != nil {
		return nil, err
	}
	s, err := openStore(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *store) close() error { return errors.Join(s.stop(), s.queue.Close()) }

func (s *store) discard() error { return errors.Join(s.close(), os.RemoveAll(s.dir)) }

// take acknowledges everything of all ids as it comes, until ctx ends, and checks the order. seen is
// told how many there were.
func (s *store) take(ctx context.Context, ids []gateway.IdentityID, seen func(n int)) error {
	var group sync.WaitGroup
	errs := make([]error, len(ids))
	for i, id := range ids {
		group.Go(func() { errs[i] = takeLane(ctx, s.queue.Lane(id), seen) })
	}
	group.Wait()
	return errors.Join(errs...)
}

func takeLane(ctx context.Context, lane *buffer.Lane, seen func(n int)) error {
	for after := uint64(0); ; {
		entries, err := lane.Next(ctx, after, 16)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if after != 0 && e.First != after+1 {
				return fmt.Errorf("after sequence %d came %d", after, e.First)
			}
			after = e.Seq
		}
		lane.Ack(after)
		seen(len(entries))
	}
}

// fill puts n messages of ids, 1000 a call or as many as there are.
func fill(ctx context.Context, queue *buffer.Queue, ids []gateway.IdentityID, n int) error {
	const perCall = 1000
	content := body()
	messages := make([]gateway.Telemetry, 0, min(n, perCall))
	for i := range n {
		messages = append(messages, gateway.Telemetry{Identity: ids[i%len(ids)], Body: content, Created: time.Now()})
		if len(messages) < perCall && i < n-1 {
			continue
		}
		if err := queue.Put(ctx, messages...); err != nil {
			return err
		}
		messages = messages[:0]
	}
	return nil
}

// empty waits until nothing is queued.
func (s *store) empty(ctx context.Context) error {
	return poll(ctx, func() bool { return s.queue.Stats().Entries == 0 })
}

// writtenPerByte is what is written for a byte of body at 100 messages a second, put in so many calls a
// second, with everything delivered at once.
func writtenPerByte(ctx context.Context, calls int, patience time.Duration) (ratio float64, err error) {
	const perSecond, seconds, settle = 100, 15, 2
	s, err := newStore()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.discard()) }()
	ids := lanes(perSecond)
	stop := background(func(ctx context.Context) error { return s.take(ctx, ids, func(int) {}) })
	defer func() { err = errors.Join(err, stop()) }()
	tick := time.NewTicker(time.Second / time.Duration(calls))
	defer tick.Stop()
	var before int64
	var puts errgroup.Group
	for i := range (settle + seconds) * calls {
		if i == settle*calls {
			if before, err = writtenBytes(); err != nil {
				return 0, err
			}
		}
		group := ids[i*perSecond/calls%perSecond:][:perSecond/calls]
		puts.Go(func() error {
			content := body()
			messages := make([]gateway.Telemetry, 0, len(group))
			for _, id := range group {
				messages = append(messages, gateway.Telemetry{Identity: id, Body: content, Created: time.Now()})
			}
			return s.queue.PutWithin(ctx, patience, messages...)
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err := puts.Wait(); err != nil {
		return 0, err
	}
	after, err := writtenBytes()
	return float64(after-before) / (perSecond * seconds * bodySize), err
}

const million = 1_000_000

// commitAfterDrain is what a Put writes when a million entries have come and gone.
func commitAfterDrain(ctx context.Context) (bytes float64, err error) {
	s, err := newStore()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.discard()) }()
	ids := lanes(100)
	if err := fill(ctx, s.queue, ids, million); err != nil {
		return 0, err
	}
	stop := background(func(ctx context.Context) error { return s.take(ctx, ids, func(int) {}) })
	if err := errors.Join(s.empty(ctx), stop()); err != nil {
		return 0, err
	}
	var commits []float64
	for range 50 {
		before, err := writtenBytes()
		if err != nil {
			return 0, err
		}
		if err := fill(ctx, s.queue, ids, 1); err != nil {
			return 0, err
		}
		after, err := writtenBytes()
		if err != nil {
			return 0, err
		}
		commits = append(commits, float64(after-before))
	}
	return median(commits), nil
}

// diskPerRecord is what a queued record takes on disk.
func diskPerRecord(ctx context.Context) (bytes float64, err error) {
	s, err := newStore()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.discard()) }()
	if err := fill(ctx, s.queue, lanes(100), million); err != nil {
		return 0, err
	}
	size, err := sizeOf(s.dir)
	return float64(size) / million, err
}

// sizeOf is what the files below dir take on the disk; holes in them take nothing.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("%s: its blocks are not known", d.Name())
		}
		size += stat.Blocks * 512 // stat(2)
		return nil
	})
	return size, err
}
