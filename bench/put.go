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

// load is how long each call of a few producers took that made the next one when the last was done.
type load struct {
	took   []time.Duration
	lasted time.Duration
}

func latency(l load, err error) (p50, p99 time.Duration, _ error) {
	if err != nil {
		return 0, 0, err
	}
	p50, p99 = percentiles(l.took)
	return p50, p99, nil
}

func throughput(l load, err error) (perSecond float64, _ error) {
	return float64(len(l.took)) / max(1e-9, l.lasted.Seconds()), err
}

// putLoad is n producers that each put the next message when the last is durable. Nobody reads the
// queue.
func putLoad(ctx context.Context, n int) (l load, err error) {
	dir, err := os.MkdirTemp(".", "bench-put-")
	if err != nil {
		return load{}, err
	}
	defer os.RemoveAll(dir)
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(dir, "queue")})
	if err != nil {
		return load{}, err
	}
	stop := background(queue.Run)
	l, err = produceFrom(ctx, n, func(ctx context.Context) error {
		return queue.Put(ctx, gateway.Telemetry{Identity: "dev", Body: body(), Created: time.Now()})
	})
	return l, errors.Join(err, stop(), queue.Close())
}

// produceFrom calls f from n goroutines for a while.
func produceFrom(ctx context.Context, n int, f func(context.Context) error) (load, error) {
	var mu sync.Mutex
	var all []time.Duration
	var errs []error
	begin := time.Now()
	end := begin.Add(measured)
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
		return load{}, errors.Join(errs...)
	}
	return load{all, time.Since(begin)}, nil
}

// rawLoad is the limit of putLoad: n producers whose records go to a plain file, all that wait
// in one write followed by one fdatasync.
func rawLoad(ctx context.Context, n int) (l load, err error) {
	file, err := os.CreateTemp(".", "bench-raw-")
	if err != nil {
		return load{}, err
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
	l, err = produceFrom(ctx, n, func(context.Context) error {
		p := put{make(chan error, 1)}
		puts <- p
		return <-p.done
	})
	return l, errors.Join(err, stop())
}
