package buffer_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

func TestPutsThatCanWaitShareOneCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, stop := start(t, queuePath(t))
		defer stop()
		put(t, q, message("a", 1))
		before, began := q.Stats().Commits, time.Now()
		var links sync.WaitGroup
		for i := range 20 {
			links.Go(func() {
				if err := q.PutWithin(t.Context(), 250*time.Millisecond, message(gateway.IdentityID(fmt.Sprint("link", i)), 1)); err != nil {
					t.Error(err)
				}
			})
			pass(10 * time.Millisecond)
		}
		links.Wait()
		if took := time.Since(began); took != 250*time.Millisecond || q.Stats().Commits != before+1 {
			t.Errorf("%v and %d commits", took, q.Stats().Commits-before)
		}
	})
}

// One that has less patience, none, or whoever calls Hurry takes all others along.
func TestTheLeastPatientSaysWhenTheCommitComes(t *testing.T) {
	for name, c := range map[string]struct {
		want time.Duration
		act  func(q *buffer.Queue)
	}{
		"less patience": {50 * time.Millisecond, func(q *buffer.Queue) { _ = q.PutWithin(context.Background(), 50*time.Millisecond, message("b", 1)) }},
		"more patience": {250 * time.Millisecond, func(q *buffer.Queue) { _ = q.PutWithin(context.Background(), time.Second, message("b", 1)) }},
		"a plain put":   {20 * time.Millisecond, func(q *buffer.Queue) { _ = q.Put(context.Background(), message("b", 1)) }},
		"hurry":         {20 * time.Millisecond, func(q *buffer.Queue) { q.Hurry() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, stop := start(t, queuePath(t))
				defer stop()
				put(t, q, message("a", 1))
				began := time.Now()
				var other sync.WaitGroup
				other.Go(func() { pass(20 * time.Millisecond); c.act(q) })
				if err := q.PutWithin(t.Context(), 250*time.Millisecond, message("a", 2)); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != c.want {
					t.Errorf("took %v, want %v", took, c.want)
				}
				other.Wait()
			})
		})
	}
}

func TestAcknowledgementsShareACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, stop := start(t, queuePath(t))
		defer stop()
		put(t, q, messages("a", 1, 20)...)
		lane := q.Lane("a")
		next(t, lane, 0, 20)
		before := q.Stats().Commits
		for seq := range uint64(20) {
			lane.Ack(seq + 1)
			pass(10 * time.Millisecond)
		}
		pass(buffer.AckPatience)
		if s := q.Stats(); s.Commits != before+1 || s.Entries != 0 {
			t.Errorf("%d commits, %d entries left", s.Commits-before, s.Entries)
		}
	})
}

func TestWhatComesRarelyDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, stop := start(t, queuePath(t))
		defer stop()
		for n := range 5 {
			began := time.Now()
			if err := q.PutWithin(t.Context(), 500*time.Millisecond, message("a", n+1)); err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(began); waited != 0 {
				t.Errorf("Put %d waited %v", n, waited)
			}
			next(t, q.Lane("a"), uint64(n), 1)
			q.Lane("a").Ack(uint64(n) + 1) // its commit is over in time, too
			pass(time.Second)
		}
	})
}
