package buffer_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

// sized is entry n of an identity, with a record of about that many bytes.
func sized(id gateway.IdentityID, n, bytes int) gateway.Telemetry {
	t := message(id, n)
	t.Body = fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, n, strings.Repeat("x", max(0, bytes-70)))
	return t
}

func openWith(t testing.TB, cfg buffer.Config) *buffer.Queue {
	t.Helper()
	q, err := buffer.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func startWith(t testing.TB, cfg buffer.Config) (q *buffer.Queue, stop func()) {
	t.Helper()
	q = openWith(t, cfg)
	return q, runQueue(t, q)
}

// all reads what a lane holds without acknowledging it.
func all(t testing.TB, q *buffer.Queue, id gateway.IdentityID) (entries []buffer.Entry) {
	t.Helper()
	c := q.Stats().Lanes[id]
	after := c.Acked
	for after < c.Put {
		got := next(t, q.Lane(id), after, 1)
		entries = append(entries, got...)
		after = got[len(got)-1].Seq
	}
	return entries
}

// gapless checks that the entries are from..to without a hole, and returns how many are marked.
func gapless(t testing.TB, entries []buffer.Entry, from, to uint64) (marked uint64) {
	t.Helper()
	for _, e := range entries {
		if e.First != from || e.Seq < e.First {
			t.Fatalf("%d..%d stands where %d belongs", e.First, e.Seq, from)
		}
		if e.Gap != nil {
			n := uint64(0)
			for _, count := range e.Gap.Reasons {
				n += count
			}
			if n != e.Seq-e.First+1 || n != e.Gap.Count {
				t.Fatalf("a gap of %d..%d gives reasons for %d", e.First, e.Seq, n)
			}
			marked += n
		} else if !strings.HasPrefix(string(e.Telemetry.Body), fmt.Sprintf(`{"n":%d,`, e.Seq)) {
			t.Fatalf("entry %d: %.40s", e.Seq, e.Telemetry.Body)
		}
		from = e.Seq + 1
	}
	if from != to+1 {
		t.Fatalf("they end at %d, not at %d", from-1, to)
	}
	return marked
}

func TestAFullLaneDropsItsOldestAndSaysSoInTheirPlace(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t), LaneMaxBytes: 10_000}
	q, stop := startWith(t, cfg)
	for n := 1; n <= 100; n++ {
		put(t, q, sized("a", n, 300))
		if c := q.Stats().Lanes["a"]; c.Bytes > cfg.LaneMaxBytes {
			t.Fatalf("%d bytes", c.Bytes)
		}
	}
	put(t, q, sized("b", 1, 300))
	entries := all(t, q, "a")
	marked := gapless(t, entries, 1, 100)
	if marked < 65 || marked > 75 || entries[0].Gap == nil || len(entries) != int(100-marked)+1 {
		t.Fatalf("%d of %d are marked", marked, len(entries))
	}
	g := entries[0]
	want := fmt.Sprintf(`{"gap":{"first":1,"last":%d,"count":%d,"from":"2023-11-14T22:13:21.000Z","to":"%s","reasons":{"size":%d}}}`,
		marked, marked, message("a", int(marked)).Created.Format("2006-01-02T15:04:05.000Z"), marked)
	if string(g.Telemetry.Body) != want || g.ID() != fmt.Sprintf("%s-1-%d", q.ID(), marked) {
		t.Errorf("the gap is %s %s, want %s", g.ID(), g.Telemetry.Body, want)
	}
	if p := g.Telemetry.Properties; len(p) != 1 || p[0] != (gateway.Property{Name: "gateway-kind", Value: "gap"}) {
		t.Errorf("its properties are %v", p)
	}
	if h := q.Health(); h.State != "full" {
		t.Errorf("%+v", h)
	}
	before := q.Stats().Lanes["a"]
	stop()
	q, _ = startWith(t, cfg)
	if after := q.Stats().Lanes["a"]; after.Bytes != before.Bytes || after.Entries != before.Entries || after.Put != 100 {
		t.Errorf("before %+v, after a restart %+v", before, after)
	}
	again := all(t, q, "a")
	for i := range again {
		if again[i].ID() != entries[i].ID() || string(again[i].Telemetry.Body) != string(entries[i].Telemetry.Body) {
			t.Fatalf("%s came again as %s", entries[i].ID(), again[i].ID())
		}
	}
}

func TestWhatIsInFlightIsNeverDroppedNorChanged(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t), LaneMaxBytes: 10_000}
	q, stop := startWith(t, cfg)
	for n := 1; n <= 20; n++ {
		put(t, q, sized("a", n, 300))
	}
	sent := next(t, q.Lane("a"), 0, 5)
	for n := 21; n <= 60; n++ {
		put(t, q, sized("a", n, 300))
	}
	sent = append(sent, next(t, q.Lane("a"), 5, 2)...) // a gap among them
	if sent[5].Gap == nil || sent[6].Gap != nil {
		t.Fatalf("%+v", sent[5:])
	}
	for n := 61; n <= 100; n++ {
		put(t, q, sized("a", n, 300))
	}
	check := func() {
		t.Helper()
		entries := all(t, q, "a")
		gapless(t, entries, 1, 100)
		for i, e := range sent {
			if entries[i].ID() != e.ID() || string(entries[i].Telemetry.Body) != string(e.Telemetry.Body) {
				t.Fatalf("%s came again as %s %s", e.ID(), entries[i].ID(), entries[i].Telemetry.Body)
			}
		}
	}
	check()
	stop()
	q, stop = startWith(t, cfg)
	for n := 101; n <= 200; n++ { // nobody has read: they may have been sent before
		put(t, q, sized("a", n, 300))
	}
	if got := all(t, q, "a"); got[0].ID() != sent[0].ID() || got[6].ID() != sent[6].ID() {
		t.Error("what may have been sent was dropped")
	}
	stop()
}

func TestIfAllIsInFlightTheNewEntryBecomesTheGap(t *testing.T) {
	q, _ := startWith(t, buffer.Config{Dir: queuePath(t), LaneMaxBytes: 3000})
	for n := 1; n <= 9; n++ {
		put(t, q, sized("a", n, 300))
	}
	entries := all(t, q, "a") // all in flight now
	for n := 10; n <= 30; n++ {
		put(t, q, sized("a", n, 300))
	}
	after := next(t, q.Lane("a"), 9, 1)
	if len(after) != 1 || after[0].Gap == nil || after[0].First != 10 || after[0].Seq != 30 {
		t.Fatalf("%+v", after)
	}
	gapless(t, append(entries, after...), 1, 30)
	if c := q.Stats().Lanes["a"]; c.Dropped != 21 || c.Entries != 10 || c.Put != 30 {
		t.Errorf("%+v", c)
	}
}

func TestAtTheLimitOfTheQueueTheLargestLanePays(t *testing.T) {
	q, _ := startWith(t, buffer.Config{Dir: queuePath(t), MaxBytes: 13_000})
	for n := 1; n <= 10; n++ {
		put(t, q, sized("small", n, 300), sized("large", 3*n-2, 300), sized("large", 3*n-1, 300), sized("large", 3*n, 300))
	}
	for n := 11; n <= 20; n++ {
		put(t, q, sized("small", n, 300))
	}
	s := q.Stats()
	if s.Lanes["small"].Dropped != 0 || s.Lanes["large"].Dropped == 0 || s.Bytes > 13_000 {
		t.Errorf("%+v", s)
	}
	gapless(t, all(t, q, "small"), 1, 20)
	gapless(t, all(t, q, "large"), 1, 30)
}

func TestAFullQueueThatRefusesNamesTheIdentitiesAndStoresTheOthers(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t), LaneMaxBytes: 1000, WhenFull: buffer.RefuseNew}
	q, _ := startWith(t, cfg)
	put(t, q, sized("a", 1, 400), sized("a", 2, 400))
	err := q.Put(t.Context(), sized("b", 1, 100), sized("a", 3, 50), sized("c", 1, 100), sized("a", 4, 400), sized("a", 5, 50))
	var full *gateway.FullError
	if !errors.As(err, &full) || !slices.Equal(full.Identities, []gateway.IdentityID{"a"}) || !errors.Is(err, gateway.ErrFull) {
		t.Fatalf("got %v", err)
	}
	gapless(t, all(t, q, "a"), 1, 2)
	gapless(t, all(t, q, "b"), 1, 1)
	gapless(t, all(t, q, "c"), 1, 1)
	q.Lane("a").Ack(1)
	testkit.Eventually(t, "one is acknowledged", func() bool { return q.Stats().Acked == 1 })
	put(t, q, sized("a", 3, 400)) // the sequence goes on
	gapless(t, all(t, q, "a"), 2, 3)
	if s := q.Stats(); s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAnEntryThatIsTooOldIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var good atomic.Bool
		good.Store(true)
		cfg := buffer.Config{Dir: queuePath(t), MaxAge: time.Minute, Clock: func() (time.Time, bool) { return time.Now(), good.Load() }}
		q, stop := startWith(t, cfg)
		old := sized("a", 1, 100)
		old.Created = time.Now().Add(-time.Hour) // the device says so; it has just come
		put(t, q, old)
		pass(30 * time.Second)
		put(t, q, sized("a", 2, 100))
		if s := q.Stats(); s.Entries != 2 {
			t.Fatalf("%+v", s)
		}
		good.Store(false)
		pass(40 * time.Second)
		if s := q.Stats(); s.Dropped != 0 {
			t.Fatal("dropped by a clock that is not to be believed")
		}
		stop()
		good.Store(true)
		q, stop = startWith(t, cfg)
		defer stop()
		// What may have been sent stays.
		pass(2 * time.Second)
		if s := q.Stats(); s.Dropped != 0 {
			t.Fatal("in flight")
		}
		for n := 3; n <= 100; n++ {
			put(t, q, sized("a", n, 100))
		}
		pass(70 * time.Second)
		entries := all(t, q, "a")
		gapless(t, entries, 1, 100)
		if last := entries[len(entries)-1]; last.Gap == nil || last.First != 3 || last.Gap.Reasons[buffer.ReasonAge] != 98 {
			t.Errorf("%+v", last)
		}
	})
}

func TestAnOperatorDropsALane(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t)}
	q, stop := startWith(t, cfg)
	for n := 1; n <= 20; n++ {
		put(t, q, sized("a", n, 100), sized("b", n, 100))
	}
	sent := next(t, q.Lane("a"), 0, 3)
	if n, err := q.Drop(t.Context(), "a", false); n != 17 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if n, err := q.Drop(t.Context(), "nobody", false); n != 0 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	put(t, q, sized("a", 21, 100))
	check := func() {
		t.Helper()
		entries := all(t, q, "a")
		if gapless(t, entries, 1, 21) != 17 || entries[3].Gap.Reasons[buffer.ReasonOperator] != 17 || entries[0].ID() != sent[0].ID() {
			t.Errorf("%+v", entries)
		}
		gapless(t, all(t, q, "b"), 1, 20)
	}
	check()
	stop()
	q, _ = startWith(t, cfg)
	check()
}

func TestADeadEntryIsKeptAndAGapGoesOn(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t)}
	q, stop := startWith(t, cfg)
	for n := 1; n <= 5; n++ {
		put(t, q, sized("a", n, 100))
	}
	l := q.Lane("a")
	sent := next(t, l, 0, 3)
	l.Ack(1)
	if err := l.Dead(t.Context(), 3, "too early"); err == nil {
		t.Fatal("an entry that is not the oldest is dead")
	}
	if err := l.Dead(t.Context(), 2, "the hub closes the connection"); err != nil {
		t.Fatal(err)
	}
	gap := next(t, l, 1, 1)[0]
	if gap.Gap == nil || gap.First != 2 || gap.Seq != 2 || gap.Gap.Reasons[buffer.ReasonDeadLetter] != 1 {
		t.Fatalf("%+v", gap)
	}
	letters, err := q.DeadLetters()
	if err != nil || len(letters) != 1 || letters[0].ID != sent[1].ID() || string(letters[0].Telemetry.Body) != string(sent[1].Telemetry.Body) {
		t.Fatalf("%+v %v", letters, err)
	}
	if err := q.Replay(t.Context(), letters[0].ID); err != nil {
		t.Fatal(err)
	}
	if letters, err := q.DeadLetters(); err != nil || len(letters) != 0 {
		t.Errorf("%v %v", letters, err)
	}
	stop()
	q, _ = startWith(t, cfg)
	entries := all(t, q, "a")
	if len(entries) != 5 || entries[0].ID() != gap.ID() || string(entries[4].Telemetry.Body) != string(sent[1].Telemetry.Body) || entries[4].Seq != 6 {
		t.Errorf("%+v", entries)
	}
}
