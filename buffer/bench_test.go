package buffer_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

// The body of 200 bytes that the project's figures are measured with.
var benchBody = []byte(`{"temperature":21.5,"text":"` + strings.Repeat("x", 170) + `"}`)

func benchQueue(b *testing.B) *buffer.Queue {
	q, _ := start(b, queuePath(b))
	return q
}

func laneID(i int) gateway.IdentityID { return gateway.IdentityID(fmt.Sprintf("device-%04d", i)) }

// produce puts b.N entries of the benchmark's body from many goroutines over the lanes.
func produce(b *testing.B, q *buffer.Queue, producers, lanes int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for p := range producers {
		all.Go(func() {
			t := gateway.Telemetry{Identity: laneID(p % lanes), Body: benchBody, Created: time.Now()}
			for left.Add(-1) >= 0 {
				if err := q.Put(context.Background(), t); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// reportRates reports what was done since the queue had made before commits.
func reportRates(b *testing.B, q *buffer.Queue, before uint64) {
	commits := q.Stats().Commits - before
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(float64(commits), "commits")
	b.ReportMetric(float64(b.N)/float64(max(commits, 1)), "msg/commit")
}

// BenchmarkPut is how fast entries become durable; nobody reads, the backlog grows.
func BenchmarkPut(b *testing.B) {
	for _, producers := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			q := benchQueue(b)
			b.ReportAllocs()
			b.ResetTimer()
			produce(b, q, producers, min(producers, 100))
			b.StopTimer()
			reportRates(b, q, 0)
		})
	}
}

// BenchmarkPutNextAck is the whole way of an entry: 1000 producers, one reader a lane.
func BenchmarkPutNextAck(b *testing.B) {
	for _, lanes := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("lanes=%d", lanes), func(b *testing.B) {
			q := benchQueue(b)
			b.ReportAllocs()
			b.ResetTimer()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var got atomic.Int64
			delivered := make(chan struct{})
			var readers sync.WaitGroup
			for l := range lanes {
				readers.Go(func() {
					consume(ctx, q.Lane(laneID(l)), func(n int) {
						if got.Add(int64(n)) == int64(b.N) {
							close(delivered)
						}
					})
				})
			}
			produce(b, q, 1000, lanes)
			<-delivered
			b.StopTimer()
			cancel()
			readers.Wait()
			reportRates(b, q, 0)
		})
	}
}

func consume(ctx context.Context, l *buffer.Lane, count func(int)) {
	for after := uint64(0); ; {
		entries, err := l.Next(ctx, after, 100)
		if err != nil {
			return
		}
		after = entries[len(entries)-1].Seq
		l.Ack(after)
		count(len(entries))
	}
}

// BenchmarkDrain is how fast a backlog of 100 lanes leaves the file.
func BenchmarkDrain(b *testing.B) {
	q := benchQueue(b)
	batch := make([]gateway.Telemetry, 1000)
	for i := range batch {
		batch[i] = gateway.Telemetry{Identity: laneID(i % 100), Body: benchBody}
	}
	for left := b.N; left > 0; left -= len(batch) {
		if err := q.Put(context.Background(), batch[:min(left, len(batch))]...); err != nil {
			b.Fatal(err)
		}
	}
	filled, written := q.Stats().Commits, writtenBytes(b)
	b.ReportAllocs()
	b.ResetTimer()
	var readers sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	for l := range 100 {
		readers.Go(func() { consume(ctx, q.Lane(laneID(l)), func(int) {}) })
	}
	testkit.Eventually(b, "everything has left", func() bool { return q.Stats().Entries == 0 })
	b.StopTimer()
	cancel()
	readers.Wait()
	reportRates(b, q, filled)
	b.ReportMetric(float64(writtenBytes(b)-written)/float64(b.N), "B-written/msg")
}

// BenchmarkOpen is how long a queue with a backlog of b.N entries over 100 lanes takes to open, beside
// what bbolt itself takes to open the same files and visit their keys.
func BenchmarkOpen(b *testing.B) {
	path := queuePath(b)
	q, stop := start(b, path)
	batch := make([]gateway.Telemetry, 1000)
	for i := range batch {
		batch[i] = gateway.Telemetry{Identity: laneID(i % 100), Body: benchBody}
	}
	for left := b.N; left > 0; left -= len(batch) {
		if err := q.Put(context.Background(), batch[:min(left, len(batch))]...); err != nil {
			b.Fatal(err)
		}
	}
	stop()
	b.ResetTimer()
	began := time.Now()
	keys := 0
	names := files(b, path)
	for i, name := range names {
		keys += scanKeys(b, filepath.Join(path, name), i < len(names)-1)
	}
	bare := time.Since(began)
	if keys != b.N {
		b.Fatalf("%d keys", keys)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began = time.Now()
	q = openQueue(b, path)
	took := time.Since(began)
	b.StopTimer()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(took.Seconds()/bare.Seconds(), "x-bbolt")
	b.ReportMetric(float64(b.N)/took.Seconds(), "msg/s")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(b.N), "B-heap/msg")
}

// scanKeys opens a file as the queue does and reads its keys.
func scanKeys(b *testing.B, path string, sealed bool) (n int) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: sealed, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		b.Fatal(err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte("log")).Cursor()
		last := uint64(0)
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			global := binary.BigEndian.Uint64(k)
			if global <= last {
				return errors.New("out of order")
			}
			last = global
			n++
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkSteady is a plant of 100 identities with a message a second each that the hub takes at once:
// an iteration is a second.
func BenchmarkSteady(b *testing.B) {
	q := benchQueue(b)
	batch := make([]gateway.Telemetry, 100)
	for i := range batch {
		batch[i] = gateway.Telemetry{Identity: laneID(i), Body: benchBody}
	}
	written := writtenBytes(b)
	b.ResetTimer()
	for i := range b.N {
		for l := range batch {
			batch[l].Created = time.Now()
		}
		put(b, q, batch...)
		for l := range batch {
			next(b, q.Lane(laneID(l)), uint64(i), 1)
			q.Lane(laneID(l)).Ack(uint64(i + 1))
		}
		testkit.Eventually(b, "everything has left", func() bool { return q.Stats().Entries == 0 })
	}
	b.StopTimer()
	b.ReportMetric(float64(writtenBytes(b)-written)/float64(b.N*len(batch)*len(benchBody)), "x-payload")
}
