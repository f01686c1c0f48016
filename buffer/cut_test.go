package buffer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

// packed reads all packs of lane a behind after and checks that they hold from..to without a hole and in
// order. It returns the messages.
func packed(t *testing.T, q *buffer.Queue, after uint64, from, to int) (messages []buffer.Entry) {
	t.Helper()
	for at := after; at < uint64(to); {
		got := next(t, q.Lane("a"), at, 1)
		messages = append(messages, got...)
		at = got[len(got)-1].Seq
	}
	n := from
	for i := range messages {
		e := &messages[i]
		if e.Gap != nil {
			n = int(e.Seq) + 1
			continue
		}
		var objects []struct {
			N    int
			Time time.Time
		}
		if err := json.Unmarshal(e.Telemetry.Body, &objects); err != nil {
			t.Fatalf("%.80s: %v", e.Telemetry.Body, err)
		}
		if len(objects) != e.Packed || int(e.First) != n || int(e.Seq) != n+e.Packed-1 {
			t.Fatalf("%s holds %d objects, %d belongs first", e.ID(), len(objects), n)
		}
		for _, o := range objects {
			if o.N != n || !o.Time.Equal(message("a", n).Created) {
				t.Fatalf("%+v stands where %d belongs", o, n)
			}
			n++
		}
	}
	if n != to+1 {
		t.Fatalf("they end at %d, not at %d", n-1, to)
	}
	return messages
}

// same checks that messages are those of before, byte for byte.
func same(t *testing.T, before, after []buffer.Entry) {
	t.Helper()
	for i := range before {
		if i >= len(after) || before[i].ID() != after[i].ID() || string(before[i].Telemetry.Body) != string(after[i].Telemetry.Body) {
			t.Fatalf("message %d, %s, did not come again as it was", i, before[i].ID())
		}
	}
}

func TestABacklogLeavesInPacks(t *testing.T) {
	q, _ := startWith(t, buffer.Config{Dir: queuePath(t), Batch: buffer.Batch{MaxBytes: 4096, MaxWait: time.Hour}})
	put(t, q, messages("a", 1, 2000)...)
	if n := len(packed(t, q, 0, 1, 2000)); n > 2000/20 {
		t.Errorf("2000 entries left in %d messages", n)
	}
	q.Lane("a").Ack(2000)
	testkit.Eventually(t, "the lane is empty", func() bool { return q.Stats().Lanes["a"].Entries == 0 })
}

func TestAPackComesAgainAsItWasWhateverChangesInTheMeantime(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t), Batch: buffer.Batch{MaxBytes: 2048, MaxWait: time.Hour}, GenerationBytes: 1 << 16}
	q, stop := startWith(t, cfg)
	put(t, q, messages("a", 1, 300)...)
	before := packed(t, q, 0, 1, 300)
	q.Lane("a").Ack(before[0].Seq)
	testkit.Eventually(t, "the first is acknowledged", func() bool { return q.Stats().Lanes["a"].Acked == before[0].Seq })
	for n := 301; n <= 2000; n++ { // enough for another generation
		put(t, q, message("a", n))
	}
	same(t, before[1:], packed(t, q, 0, int(before[1].First), 2000))
	stop()
	for _, batch := range []buffer.Batch{{MaxBytes: 60_000}, {MaxBytes: 300}} {
		cfg.Batch = batch
		q, stop = startWith(t, cfg)
		same(t, before[1:], packed(t, q, 0, int(before[1].First), 2000))
		stop()
	}
}

func TestWhatWasPackedStaysSoWhenPacksAreSwitchedOff(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t), Batch: buffer.Batch{MaxBytes: 2048, MaxWait: time.Hour}}
	q, stop := startWith(t, cfg)
	put(t, q, messages("a", 1, 100)...)
	before := packed(t, q, 0, 1, 100)
	stop()
	cfg.Batch = buffer.Batch{}
	q, _ = startWith(t, cfg)
	put(t, q, messages("a", 101, 110)...)
	after := next(t, q.Lane("a"), 0, len(before)+10)
	same(t, before, after)
	for i, e := range after[len(before):] {
		if e.ID() != fmt.Sprintf("%s-%d", q.ID(), 101+i) || string(e.Telemetry.Body) != string(message("a", 101+i).Body) {
			t.Errorf("%s %s", e.ID(), e.Telemetry.Body)
		}
	}
}

func TestLookingAtAQueueOfPacksDoesNotChangeThem(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t), Batch: buffer.Batch{MaxBytes: 2048, MaxWait: time.Hour}}
	q, stop := startWith(t, cfg)
	put(t, q, messages("a", 1, 100)...)
	stop()
	_, stop = startWith(t, buffer.Config{Dir: cfg.Dir, Inspect: true})
	stop()
	q, _ = startWith(t, cfg)
	if first := packed(t, q, 0, 1, 100)[0]; first.Packed < 2 {
		t.Errorf("the first message is %s %s", first.ID(), first.Telemetry.Body)
	}
}

func TestAnEntryWaitsForOthersButNotForLong(t *testing.T) {
	q, _ := startWith(t, buffer.Config{Dir: queuePath(t), Batch: buffer.Batch{MaxBytes: 1 << 16, MaxWait: 300 * time.Millisecond}})
	first := message("a", 1)
	first.Created = time.Now()
	began := time.Now()
	put(t, q, first)
	go func() {
		second := message("a", 2)
		second.Created = first.Created
		<-time.After(50 * time.Millisecond)
		_ = q.Put(context.Background(), second)
	}()
	got := next(t, q.Lane("a"), 0, 1)
	if took := time.Since(began); got[0].Packed != 2 || took < 250*time.Millisecond {
		t.Errorf("%s after %v", got[0].ID(), took)
	}
}

func TestAGapBetweenPacksIsAMessageOfItsOwn(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t), LaneMaxBytes: 20_000, Batch: buffer.Batch{MaxBytes: 2048, MaxWait: time.Hour}}
	q, stop := startWith(t, cfg)
	put(t, q, messages("a", 1, 100)...)
	put(t, q, messages("a", 101, 900)...)
	stop()
	q, _ = startWith(t, cfg)
	got := packed(t, q, 0, 1, 900)
	gaps := 0
	for _, e := range got {
		if e.Gap != nil {
			gaps++
			if e.Telemetry.Body[0] != '[' {
				t.Errorf("the gap's body is %s", e.Telemetry.Body)
			}
		}
	}
	if gaps != 1 {
		t.Errorf("%d gaps", gaps)
	}
	same(t, got, packed(t, q, 0, 1, 900))
}

func TestAPackThatCannotBeCutIsNotHandedOut(t *testing.T) {
	q, err := buffer.Open(buffer.Config{Dir: queuePath(t), Batch: buffer.Batch{MaxBytes: 2048}})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk is gone")
	fail := make(chan bool, 1)
	fail <- false
	q.OnCommit(func(tx *bbolt.Tx) error {
		now := <-fail
		fail <- now
		if now {
			return errors.Join(broken, tx.Rollback())
		}
		return tx.Commit()
	})
	runQueue(t, q)
	put(t, q, messages("a", 1, 10)...)
	<-fail
	fail <- true
	if got, err := q.Lane("a").Next(context.Background(), 0, 1); !errors.Is(err, broken) {
		t.Fatalf("%v, %v", got, err)
	}
	<-fail
	fail <- false
	testkit.Eventually(t, "the entry is read", func() bool {
		_, err := q.Lane("a").Next(context.Background(), 0, 1)
		return err == nil
	})
	packed(t, q, 0, 1, 10)
}

func TestADeadPackIsHalvedUntilTheOneEntryIsAlone(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t), Batch: buffer.Batch{MaxBytes: 64 << 10}}
	q, stop := startWith(t, cfg)
	for n := 1; n <= 8; n++ {
		put(t, q, sized("a", n, 100))
	}
	l := q.Lane("a")
	whole := next(t, l, 0, 1)[0]
	for _, size := range []int{8, 4, 2, 1} { // the third entry is the one
		e := next(t, l, 0, 1)[0]
		if e.Packed != size {
			t.Fatalf("%d of %d: %+v", e.Packed, size, e)
		}
		if size == 2 { // its first half is good
			l.Ack(e.Seq)
			testkit.Eventually(t, "it is acknowledged", func() bool { return q.Stats().Acked == e.Seq })
			e = next(t, l, e.Seq, 1)[0]
		}
		if err := l.Dead(t.Context(), e.Seq, "poison"); err != nil {
			t.Fatal(err)
		}
	}
	letters, err := q.DeadLetters()
	if err != nil || len(letters) != 1 || letters[0].ID != whole.Queue+"-3-3" {
		t.Fatalf("%+v %v", letters, err)
	}
	stop()
	q, _ = startWith(t, cfg)
	var got []string
	for after := uint64(2); after < 8; {
		e := next(t, q.Lane("a"), after, 1)[0]
		got = append(got, e.ID())
		after = e.Seq
	}
	want := []string{"-3-3", "-4-4", "-5-8"}
	for i := range want {
		want[i] = whole.Queue + want[i]
	}
	if !slices.Equal(got, want) {
		t.Errorf("then %v, want %v", got, want)
	}
}

func TestWhatMayHaveBeenSentBeforePacksWereOnStaysAsItWas(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t)}
	q, stop := startWith(t, cfg)
	for n := 1; n <= 4; n++ {
		put(t, q, sized("a", n, 100))
	}
	plain := next(t, q.Lane("a"), 0, 4)
	stop()
	cfg.Batch = buffer.Batch{MaxBytes: 64 << 10}
	for range 2 {
		q, stop = startWith(t, cfg)
		for i, e := range next(t, q.Lane("a"), 0, 4) {
			if e.ID() != plain[i].ID() || string(e.Telemetry.Body) != string(plain[i].Telemetry.Body) {
				t.Errorf("%s came again as %s", plain[i].ID(), e.ID())
			}
		}
		stop()
	}
	q, _ = startWith(t, cfg)
	put(t, q, sized("a", 5, 100), sized("a", 6, 100))
	if e := next(t, q.Lane("a"), 4, 1)[0]; e.Packed != 2 || e.ID() != q.ID()+"-5-6" {
		t.Errorf("%+v", e)
	}
}

// An identity that never comes back: what an earlier run may have sent goes too, packs included, and one
// gap says so. What somebody reads now stays whatever is asked.
func TestAnOperatorDropsAllOfALaneThatNobodyReads(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t), Batch: buffer.Batch{MaxBytes: 2048, MaxWait: time.Hour}}
	q, stop := startWith(t, cfg)
	put(t, q, messages("gone", 1, 300)...)
	put(t, q, messages("here", 1, buffer.MaxInFlight+200)...)
	next(t, q.Lane("gone"), 0, 2) // packs whose ends are on disk
	stop()
	q, _ = startWith(t, cfg)
	next(t, q.Lane("here"), 0, 1)
	for id, want := range map[gateway.IdentityID]int64{"gone": 300, "here": 200} {
		if n, err := q.Drop(t.Context(), id, true); n != want || err != nil {
			t.Errorf("%s: %d dropped, want %d: %v", id, n, want, err)
		}
	}
	if e := next(t, q.Lane("gone"), 0, 1); e[0].Gap == nil || e[0].First != 1 || e[0].Seq != 300 {
		t.Errorf("got %+v", e[0])
	}
}
