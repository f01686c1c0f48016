package buffer_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

func TestNextAndPutReturnWhenTheirContextEnds(t *testing.T) {
	q := openQueue(t, queuePath(t)) // nobody runs it: Put has to wait
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := q.Lane("a").Next(ctx, 0, 1); err != context.DeadlineExceeded {
		t.Errorf("Next: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for range 2 { // the second time ctx has ended before
		if err := q.Put(ctx, message("a", 1)); err != context.DeadlineExceeded {
			t.Errorf("Put: %v", err)
		}
	}
	runQueue(t, q) // the first Put's entry may still become durable, and here it does
	if e := next(t, q.Lane("a"), 0, 1); e[0].Seq != 1 {
		t.Errorf("got %d", e[0].Seq)
	}
}

func TestPutWaitsForRun(t *testing.T) {
	q := openQueue(t, queuePath(t))
	put := make(chan error)
	go func() { put <- q.Put(context.Background(), message("a", 1)) }()
	select {
	case err := <-put:
		t.Fatalf("returned before Run: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	runQueue(t, q)
	if err := <-put; err != nil {
		t.Error(err)
	}
}

func TestAClosedQueueSaysSo(t *testing.T) {
	q := openQueue(t, queuePath(t))
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := q.Put(t.Context(), message("a", 1)); !errors.Is(err, buffer.ErrClosed) {
		t.Errorf("Put: %v", err)
	}
	if _, err := q.Lane("a").Next(t.Context(), 0, 1); !errors.Is(err, buffer.ErrClosed) {
		t.Errorf("Next: %v", err)
	}
	if err := q.Run(t.Context()); !errors.Is(err, buffer.ErrClosed) {
		t.Errorf("Run: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

func TestCloseReleasesThoseWhoWaitForAQueueThatNeverRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := openQueue(t, queuePath(t))
		errs := make(chan error)
		go func() { errs <- q.Put(context.Background(), message("a", 1)) }()
		go func() { _, err := q.Lane("a").Next(context.Background(), 0, 1); errs <- err }()
		synctest.Wait()
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-errs; !errors.Is(err, buffer.ErrClosed) {
				t.Error(err)
			}
		}
	})
}

func TestAClosedQueueReturnsNothingNotEvenFromMemory(t *testing.T) {
	q, stop := start(t, queuePath(t))
	put(t, q, message("a", 1))
	stop()
	if _, err := q.Lane("a").Next(t.Context(), 0, 1); !errors.Is(err, buffer.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestCloseWhileRunIsWorkingIsRefused(t *testing.T) {
	q, _ := start(t, queuePath(t))
	put(t, q, message("a", 1)) // Run is working for certain now
	if err := q.Close(); err == nil {
		t.Fatal("it was closed")
	}
	if err := q.Run(t.Context()); err == nil {
		t.Fatal("a second Run worked")
	}
	put(t, q, message("a", 2))
	expect(t, q, "a", 1, 2)
}

func TestAfterRunNextReturnsWhatIsThereAndThenErrClosed(t *testing.T) {
	q := openQueue(t, queuePath(t))
	defer func() { _ = q.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- q.Run(ctx) }()
	put(t, q, message("a", 1))
	waiting := make(chan error)
	go func() { _, err := q.Lane("a").Next(context.Background(), 1, 1); waiting <- err }()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, buffer.ErrClosed) {
		t.Errorf("the one that waited: %v", err)
	}
	next(t, q.Lane("a"), 0, 1)
	if _, err := q.Lane("a").Next(t.Context(), 1, 1); !errors.Is(err, buffer.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// Every Put returns, and what it returned is the truth: nil is stored, ErrClosed is not.
func TestAPutThatRacesWithTheEndOfRunIsEitherStoredOrRefused(t *testing.T) {
	for range 20 {
		path := queuePath(t)
		q, stop := start(t, path)
		var stored atomic.Int64
		var producers sync.WaitGroup
		for p := range 20 {
			producers.Go(func() {
				for {
					err := q.Put(context.Background(), gateway.Telemetry{Identity: laneID(p % 3), Body: []byte(`{}`)})
					if err != nil {
						if !errors.Is(err, buffer.ErrClosed) {
							t.Error(err)
						}
						return
					}
					stored.Add(1)
				}
			})
		}
		testkit.Eventually(t, "thirty are stored", func() bool { return stored.Load() > 30 })
		stop()
		producers.Wait()
		q, stop = start(t, path)
		if s := q.Stats(); int64(s.Entries) != stored.Load() {
			t.Fatalf("%d entries, %d Puts returned nil", s.Entries, stored.Load())
		}
		stop()
	}
}
