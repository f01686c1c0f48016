package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

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
	want := []buffer.Entry{{Queue: q.ID(), First: 1, Seq: 1, Telemetry: in}}
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
		fromFile := after < 30
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
		if fromFile && size > 2<<20 {
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

// A hub that acknowledges 10,000 a second: the reader must not be held up either, so that commits come
// before what a restart protects is used up.
func TestManyAcksDoNotWaitForTheirPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, stop := start(t, queuePath(t))
		defer stop()
		put(t, q, messages("a", 1, 1000)...)
		l := q.Lane("a")
		next(t, l, 0, 1000)
		before := q.Stats().Commits
		for seq := range uint64(1000) {
			l.Ack(seq + 1)
			pass(time.Millisecond / 10)
		}
		if s := q.Stats(); s.Commits-before < 6 || s.Commits-before > 8 {
			t.Errorf("%d commits for 1000 acks in 100 ms", s.Commits-before)
		}
		pass(buffer.AckPatience)
		if s := q.Stats(); s.Entries != 0 {
			t.Errorf("%d entries are still there", s.Entries)
		}
	})
}

func TestAnAckGoesWithThePutThatComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, stop := start(t, queuePath(t))
		defer stop()
		put(t, q, message("a", 1))
		next(t, q.Lane("a"), 0, 1)
		before, began := q.Stats().Commits, time.Now()
		q.Lane("a").Ack(1)
		synctest.Wait() // the committer waits for more
		put(t, q, message("a", 2))
		if waited := time.Since(began); waited != 0 {
			t.Errorf("the Put waited %v for the ack", waited)
		}
		if s := q.Stats(); s.Commits != before+1 || s.Entries != 1 || s.Acked != 1 {
			t.Errorf("%d commits, %d entries", s.Commits-before, s.Entries)
		}
	})
}

func TestManyAcksAtOnceLeaveInPortionsUntilAllAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := queuePath(t)
		q := openQueue(t, path)
		const n = 20_000
		lanes := []*buffer.Lane{q.Lane("a"), q.Lane("b")}
		q.OnCommit(func(tx *bbolt.Tx) error { // more acknowledgements come while a portion is written
			for _, l := range lanes {
				if q.Stats().Put == 2*n {
					l.Ack(n)
				}
			}
			return tx.Commit()
		})
		stop := runQueue(t, q)
		put(t, q, append(messages("a", 1, n), messages("b", 1, n)...)...)
		before := q.Stats().Commits
		for _, l := range lanes {
			next(t, l, 0, n)
			l.Ack(n - 100)
		}
		pass(buffer.AckPatience + time.Millisecond) // the portions do not wait for each other
		s := q.Stats()
		if s.Entries != 0 || s.Bytes != 0 || s.Acked != 2*n {
			t.Errorf("%+v", s.Counts)
		}
		if commits := s.Commits - before; commits < 3 {
			t.Errorf("%d commits: no portions", commits)
		}
		stop()
		q, _ = start(t, path)
		if s := q.Stats(); s.Entries != 0 || s.Acked != 2*n {
			t.Errorf("after a restart: %+v", s.Counts)
		}
	})
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
		produceOne := func() bool {
			mine.Lock()
			defer mine.Unlock()
			if n == perLane {
				return false
			}
			n++
			if err := q.Put(context.Background(), message(laneID(l), n)); err != nil {
				t.Error(err)
				return false
			}
			return true
		}
		for range 4 {
			all.Go(func() {
				for produceOne() {
					_ = q.Stats()
				}
			})
		}
		all.Go(func() { readAndAck(t, q.Lane(laneID(l)), perLane, rand.New(rand.NewPCG(uint64(l), 0))) })
	}
	all.Wait()
	stop()
	q, _ = start(t, path)
	if s := q.Stats(); s.Entries != 0 || s.Put != lanes*perLane {
		t.Errorf("%d entries are left of %d", s.Entries, s.Put)
	}
}

// readAndAck reads the messages 1..n of a lane in portions of random size and acknowledges them now
// and then.
func readAndAck(t *testing.T, l *buffer.Lane, n uint64, rng *rand.Rand) {
	for after := uint64(0); after < n; {
		entries, err := l.Next(context.Background(), after, 1+rng.IntN(20))
		if err != nil {
			t.Error(err)
			return
		}
		for _, e := range entries {
			if after++; e.Seq != after || string(e.Telemetry.Body) != fmt.Sprintf(`{"n":%d}`, after) {
				t.Errorf("%d %s stands where %d belongs", e.Seq, e.Telemetry.Body, after)
				return
			}
		}
		if after == n || rng.IntN(2) == 0 {
			l.Ack(after)
		}
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
		// key, fixed part, time of acceptance, number of properties, body of 8 bytes, CRC
		if b.Bytes != 5*(12+27+8+1+7+4) {
			t.Errorf("%s: b takes %d bytes", when, b.Bytes)
		}
	}
	check("while open")
	q, _ = start(t, path)
	check("after a restart")
}
