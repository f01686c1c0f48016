package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

func TestWhatWasPutIsThereAfterARestart(t *testing.T) {
	path := queuePath(t)
	q, stop := start(t, path)
	id := q.ID()
	put(t, q, messages("a", 1, 300)...)
	put(t, q, append(messages("b/m", 1, 2), message("a", 301))...)
	expect(t, q, "a", 1, 301)
	stop()
	q, _ = start(t, path)
	if q.ID() != id || len(id) != 16 {
		t.Errorf("the id was %q and is %q", id, q.ID())
	}
	expect(t, q, "a", 1, 301)
	expect(t, q, "b/m", 1, 2)
}

func TestPropertiesAndLargeBodiesComeBackFromMemoryAndFromTheFile(t *testing.T) {
	path := queuePath(t)
	q, stop := start(t, path)
	in := gateway.Telemetry{
		Identity:   "a",
		Body:       bytes.Repeat([]byte("x"), 20_000),
		Properties: []gateway.Property{{Name: "site", Value: "north"}, {Name: "empty"}},
		Created:    time.Date(2026, 5, 1, 0, 0, 0, 5, time.UTC),
	}
	want := []buffer.Entry{{Seq: 1, Telemetry: in}}
	put(t, q, in)
	if diff := cmp.Diff(want, next(t, q.Lane("a"), 0, 1)); diff != "" {
		t.Error(diff)
	}
	stop()
	q, _ = start(t, path)
	if diff := cmp.Diff(want, next(t, q.Lane("a"), 0, 1)); diff != "" {
		t.Error(diff)
	}
}

// More than the memory for recent records: the oldest come from the file, the newest do not.
func TestABacklogLargerThanMemoryIsReadInOrder(t *testing.T) {
	q, _ := start(t, queuePath(t))
	const n = 120
	body := bytes.Repeat([]byte("x"), 200_000)
	for i := range n {
		body[0] = byte(i)
		put(t, q, gateway.Telemetry{Identity: "a", Body: body})
	}
	after := uint64(0)
	for after < n {
		entries, err := q.Lane("a").Next(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, e := range entries {
			size += len(e.Telemetry.Body)
			if after++; e.Seq != after || e.Telemetry.Body[0] != byte(after-1) {
				t.Fatalf("entry %d stands where %d belongs", e.Seq, after)
			}
		}
		if after < 30 && size > 2<<20 {
			t.Fatalf("one read of the file returned %d bytes", size)
		}
	}
}

func TestALaneIsTheSameForTheSameIdentity(t *testing.T) {
	q, _ := start(t, queuePath(t))
	if q.Lane("a") != q.Lane("a") || q.Lane("a") == q.Lane("b") {
		t.Error("lanes are mixed up")
	}
}

func TestASequenceIsNeverUsedTwiceEvenIfTheQueueWasDrained(t *testing.T) {
	path := queuePath(t)
	put3 := func(from int) {
		q, stop := start(t, path)
		defer stop()
		put(t, q, messages("a", from, from+2)...)
		put(t, q, message("b", from/3+1))
		expect(t, q, "a", from, from+2)
		q.Lane("a").Ack(uint64(from + 2))
		next(t, q.Lane("b"), 0, 1)
		q.Lane("b").Ack(uint64(from/3 + 1))
	}
	for round := range 4 {
		put3(1 + 3*round)
	}
	q, _ := start(t, path)
	if s := q.Stats(); s.Entries != 0 || s.Bytes != 0 || s.Put != 16 || s.Acked != 16 {
		t.Errorf("after draining: %+v", s)
	}
}

func TestAnEntryLeavesOnlyAfterItsAck(t *testing.T) {
	path := queuePath(t)
	q, stop := start(t, path)
	put(t, q, messages("a", 1, 10)...)
	next(t, q.Lane("a"), 0, 7)
	q.Lane("a").Ack(4)
	stop() // commits the ack
	q, stop = start(t, path)
	expect(t, q, "a", 5, 10)
	stop()
	q, _ = start(t, path)
	expect(t, q, "a", 5, 10)
}

func TestAcknowledgedEntriesAreNotReturnedAgain(t *testing.T) {
	q, _ := start(t, queuePath(t))
	put(t, q, messages("a", 1, 5)...)
	l := q.Lane("a")
	next(t, l, 0, 5)
	l.Ack(3)
	if e := next(t, l, 0, 2); e[0].Seq != 4 || e[1].Seq != 5 {
		t.Errorf("got %d and %d", e[0].Seq, e[1].Seq)
	}
}

func TestAnAckOfWhatWasNeverReadIsIgnored(t *testing.T) {
	path := queuePath(t)
	q, stop := start(t, path)
	put(t, q, messages("a", 1, 5)...)
	next(t, q.Lane("a"), 0, 2)
	q.Lane("a").Ack(3)
	q.Lane("b").Ack(1)
	stop()
	q, stop = start(t, path)
	expect(t, q, "a", 1, 5)
	stop()
	q, stop = start(t, path) // nothing was read since Open
	q.Lane("a").Ack(5)
	stop()
	q, _ = start(t, path)
	expect(t, q, "a", 1, 5)
}

func TestTooLargeAMessageIsRefusedAndNothingOfItsPutIsStored(t *testing.T) {
	q, _ := start(t, queuePath(t))
	large := gateway.Telemetry{Identity: "a", Body: make([]byte, buffer.MaxMessage+1)}
	err := q.Put(t.Context(), message("a", 1), large)
	if !errors.Is(err, buffer.ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
	if err := q.Put(t.Context(), gateway.Telemetry{Body: []byte(`{}`)}); err == nil {
		t.Error("an entry without identity was stored")
	}
	if err := q.Put(t.Context()); err != nil {
		t.Errorf("nothing to put: %v", err)
	}
	put(t, q, message("a", 1))
	expect(t, q, "a", 1, 1)
}

func TestNextWakesForAPutThatComesWhileItLooks(t *testing.T) {
	q, _ := start(t, queuePath(t))
	l := q.Lane("a")
	const n = 500
	var producer sync.WaitGroup
	producer.Go(func() {
		for i := range n {
			if err := q.Put(context.Background(), message("a", i+1)); err != nil {
				t.Error(err)
			}
		}
	})
	for i, e := range next(t, l, 0, n) { // fails if a wake-up is lost: the last has no Put behind it
		if int(e.Seq) != i+1 {
			t.Fatalf("got %d, want %d", e.Seq, i+1)
		}
	}
	producer.Wait()
}

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
	q := openQueue(t, queuePath(t))
	errs := make(chan error)
	go func() { errs <- q.Put(context.Background(), message("a", 1)) }()
	go func() { _, err := q.Lane("a").Next(context.Background(), 0, 1); errs <- err }()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-errs; !errors.Is(err, buffer.ErrClosed) {
			t.Error(err)
		}
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
		eventually(t, func() bool { return stored.Load() > 30 })
		stop()
		producers.Wait()
		q, stop = start(t, path)
		if s := q.Stats(); int64(s.Entries) != stored.Load() {
			t.Fatalf("%d entries, %d Puts returned nil", s.Entries, stored.Load())
		}
		stop()
	}
}

func TestAcksShareCommitsAndWaitAtMost20Milliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, stop := start(t, queuePath(t))
		defer stop()
		put(t, q, messages("a", 1, 1000)...)
		l := q.Lane("a")
		next(t, l, 0, 1000)
		before := q.Stats().Commits
		for seq := range uint64(1000) {
			l.Ack(seq + 1)
			pass(time.Millisecond / 10) // a hub that acknowledges 10,000 a second
		}
		pass(21 * time.Millisecond)
		s := q.Stats()
		if s.Entries != 0 {
			t.Errorf("%d entries are still there after 20 ms", s.Entries)
		}
		if commits := s.Commits - before; commits < 4 || commits > 7 {
			t.Errorf("%d commits for 1000 acks in 100 ms, want one every 20 ms", commits)
		}
	})
}

func TestAnAckGoesWithThePutThatComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, stop := start(t, queuePath(t))
		defer stop()
		put(t, q, message("a", 1))
		next(t, q.Lane("a"), 0, 1)
		before := q.Stats().Commits
		q.Lane("a").Ack(1)
		put(t, q, message("a", 2))
		if s := q.Stats(); s.Commits != before+1 || s.Entries != 1 || s.Acked != 1 {
			t.Errorf("%d commits, %d entries", s.Commits-before, s.Entries)
		}
	})
}

func TestManyAcksAtOnceLeaveInPortionsUntilAllAreGone(t *testing.T) {
	path := queuePath(t)
	q, stop := start(t, path)
	const n = 20_000
	put(t, q, append(messages("a", 1, n), messages("b", 1, n)...)...)
	for _, id := range []gateway.IdentityID{"a", "b"} {
		next(t, q.Lane(id), 0, n)
		q.Lane(id).Ack(n)
	}
	stop()
	q, _ = start(t, path)
	if s := q.Stats(); s.Entries != 0 || s.Acked != 2*n {
		t.Errorf("%d entries, %d acked", s.Entries, s.Acked)
	}
}

// Many producers, one reader and acknowledger a lane: every lane is 1..n, and the file is empty at
// the end.
func TestManyProducersAndReadersAtOnce(t *testing.T) {
	path := queuePath(t)
	q, stop := start(t, path)
	const lanes, perLane = 8, 400
	var all sync.WaitGroup
	for l := range lanes {
		var mine sync.Mutex // numbers the messages in the order of the lane
		n := 0
		for range 4 {
			all.Go(func() {
				for {
					mine.Lock()
					if n == perLane {
						mine.Unlock()
						return
					}
					n++
					err := q.Put(context.Background(), message(laneID(l), n))
					mine.Unlock()
					if err != nil {
						t.Error(err)
						return
					}
					_ = q.Stats()
				}
			})
		}
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(l), 0))
			lane, after := q.Lane(laneID(l)), uint64(0)
			for after < perLane {
				entries, err := lane.Next(context.Background(), after, 1+rng.IntN(20))
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range entries {
					if after++; e.Seq != after || string(e.Telemetry.Body) != fmt.Sprintf(`{"n":%d}`, after) {
						t.Errorf("%s: %d %s stands where %d belongs", laneID(l), e.Seq, e.Telemetry.Body, after)
						return
					}
				}
				if rng.IntN(2) == 0 {
					lane.Ack(after)
				}
			}
			lane.Ack(after)
		})
	}
	all.Wait()
	stop()
	q, _ = start(t, path)
	if s := q.Stats(); s.Entries != 0 || s.Put != lanes*perLane {
		t.Errorf("%d entries are left of %d", s.Entries, s.Put)
	}
}

func TestStatsCountWithoutTheEntriesBeingRead(t *testing.T) {
	path := queuePath(t)
	q, stop := start(t, path)
	put(t, q, append(messages("a", 1, 30), messages("b", 5, 9)...)...)
	next(t, q.Lane("a"), 0, 10)
	q.Lane("a").Ack(10)
	stop()
	check := func(when string) {
		t.Helper()
		s := q.Stats()
		a, b := s.Lanes["a"], s.Lanes["b"]
		if a.Entries != 20 || a.Put != 30 || a.Acked != 10 || !a.Oldest.Equal(message("a", 11).Created) {
			t.Errorf("%s: a: %+v", when, a)
		}
		if b.Entries != 5 || b.Put != 5 || b.Acked != 0 || !b.Oldest.Equal(message("b", 5).Created) {
			t.Errorf("%s: b: %+v", when, b)
		}
		if s.Entries != 25 || s.Put != 35 || s.Acked != 10 || s.Bytes != a.Bytes+b.Bytes || !s.Oldest.Equal(b.Oldest) {
			t.Errorf("%s: all: %+v", when, s.Counts)
		}
		// key, fixed part, number of properties, body of 8 bytes, CRC
		if b.Bytes != 5*(12+22+1+7+4) {
			t.Errorf("%s: b takes %d bytes", when, b.Bytes)
		}
	}
	check("while open")
	q, _ = start(t, path)
	check("after a restart")
}
