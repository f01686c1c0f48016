package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

// percentiles sorts all and returns the 50th and the 99th.
func percentiles(all []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100]
}

// putLatency is how long Put takes with n producers that each put the next message when the last is
// durable. Nobody reads the queue.
func putLatency(ctx context.Context, n int) (p50, p99 time.Duration, err error) {
	dir, err := os.MkdirTemp(".", "bench-put-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(dir, "queue")})
	if err != nil {
		return 0, 0, err
	}
	stop := background(queue.Run)
	p50, p99, err = latency(ctx, n, func(ctx context.Context) error {
		return queue.Put(ctx, gateway.Telemetry{Identity: "dev", Body: body(), Created: time.Now()})
	})
	return p50, p99, errors.Join(err, stop(), queue.Close())
}

// latency calls f from n goroutines for a while and returns how long it took.
func latency(ctx context.Context, n int, f func(context.Context) error) (p50, p99 time.Duration, err error) {
	var mu sync.Mutex
	var all []time.Duration
	var errs []error
	end := time.Now().Add(measured)
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			var mine []time.Duration
			for time.Now().Before(end) {
				start := time.Now()
				if err := f(ctx); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					return
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	group.Wait()
	if len(errs) > 0 || len(all) == 0 {
		return 0, 0, errors.Join(errs...)
	}
	p50, p99 = percentiles(all)
	return p50, p99, nil
}

// rawLatency is the limit of putLatency: n producers whose records go to a plain file, all that wait
// in one write followed by one fdatasync.
func rawLatency(ctx context.Context, n int) (p50, p99 time.Duration, err error) {
	file, err := os.CreateTemp(".", "bench-raw-")
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	type put struct{ done chan error }
	puts := make(chan put, n)
	record := make([]byte, bodySize+64) // what a record of the queue holds beside the body
	stop := background(func(ctx context.Context) error {
		for {
			var waiting []put
			select {
			case p := <-puts:
				waiting = append(waiting, p)
			case <-ctx.Done():
				return nil
			}
			for more := true; more; {
				select {
				case p := <-puts:
					waiting = append(waiting, p)
				default:
					more = false
				}
			}
			_, err := file.Write(slices.Repeat(record, len(waiting)))
			if err == nil {
				err = syscall.Fdatasync(int(file.Fd()))
			}
			for _, p := range waiting {
				p.done <- err
			}
		}
	})
	p50, p99, err = latency(ctx, n, func(context.Context) error {
		p := put{make(chan error, 1)}
		puts <- p
		return <-p.done
	})
	return p50, p99, errors.Join(err, stop())
}
