package buffer_test

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"iothub-gateway/buffer"
)

func TestABeatSaysWhetherTheQueueCanWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, disk, stop := startFaulty(t, queuePath(t))
		if err := q.Beat(t.Context()); err != nil {
			t.Fatal(err)
		}
		disk.next(lost(syscall.EIO))
		if err := q.Put(t.Context(), message("a", 1)); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		if err := q.Beat(t.Context()); !errors.Is(err, syscall.EIO) {
			t.Errorf("while the disk fails: %v", err)
		}
		pass(time.Second)
		put(t, q, message("a", 1))
		if err := q.Beat(t.Context()); err != nil {
			t.Errorf("after the disk has recovered: %v", err)
		}
		stop()
		if err := q.Beat(context.Background()); !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestABeatOfAQueueThatDoesNotRunEndsWithItsContext(t *testing.T) {
	q := openQueue(t, queuePath(t))
	defer q.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := q.Beat(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestABeatThatRacesWithTheEndOfRunReturns(t *testing.T) {
	for range 20 {
		q, stop := start(t, queuePath(t))
		var beats sync.WaitGroup
		for range 8 {
			beats.Go(func() {
				for {
					if err := q.Beat(context.Background()); err != nil {
						if !errors.Is(err, buffer.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		put(t, q, message("a", 1))
		stop()
		beats.Wait()
	}
}
