package buffer_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

// modelLane is what a lane must be.
type modelLane struct {
	puts   []gateway.Telemetry  // [i] was put as sequence i+1
	out    map[int]buffer.Entry // what Next returned, by its first sequence: a repeat must be the same
	lost   map[int]bool         // sequences that a gap stood for
	handed int                  // up to here nothing may be dropped
	acked  int
	read   int // up to here Next returned entries since the queue was opened
}

// next checks that e is the element behind after, and returns where it ends.
func (l *modelLane) next(e buffer.Entry, after int) (int, error) {
	first, last := int(e.First), int(e.Seq)
	if first != after+1 || last < first || last > len(l.puts) {
		return 0, fmt.Errorf("%d..%d came behind %d, %d were put", first, last, after, len(l.puts))
	}
	if was, again := l.out[first]; again && (was.Seq != e.Seq || was.ID() != e.ID() || string(was.Telemetry.Body) != string(e.Telemetry.Body)) {
		return 0, fmt.Errorf("the repeat of %s %s is %s %s", was.ID(), was.Telemetry.Body, e.ID(), e.Telemetry.Body)
	}
	var parts []gateway.Telemetry
	for n := first; n <= last; n++ {
		if _, sent := l.out[n]; e.Gap != nil && sent && l.out[n].Gap == nil || e.Gap == nil && l.lost[n] {
			return 0, fmt.Errorf("%d is in the gap %v and was delivered: %v", n, e.Gap, e.Gap != nil)
		}
		l.lost[n] = e.Gap != nil
		parts = append(parts, l.puts[n-1])
	}
	switch {
	case e.Gap != nil && e.Gap.Count != uint64(last-first+1):
		return 0, fmt.Errorf("the gap %+v counts wrong", e.Gap)
	case e.Gap == nil && e.Packed > 0 && string(e.Telemetry.Body) != pack(parts):
		return 0, fmt.Errorf("the pack %s should be %s", e.Telemetry.Body, pack(parts))
	case e.Gap == nil && e.Packed == 0 && (first != last || string(e.Telemetry.Body) != string(parts[0].Body)):
		return 0, fmt.Errorf("%d..%d is %.40q, should be %.40q", first, last, e.Telemetry.Body, parts[0].Body)
	}
	return last, nil
}

// pack is the body of a pack.
func pack(ts []gateway.Telemetry) string {
	var parts []string
	for _, t := range ts {
		parts = append(parts, fmt.Sprintf(`{"time":"%s",%s`, t.Created.UTC().Format("2006-01-02T15:04:05.000Z"), t.Body[1:]))
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// model drives a queue and a model of it with the same random operations.
type model struct {
	*rapid.T
	cfg   buffer.Config
	copy  int // of the directory, made by crashes
	root  string
	q     *buffer.Queue
	disk  *faulty
	stop  func()
	lanes []*modelLane
	n     int
}

// TestTheQueueBehavesAsItsModel runs 600 cases, or as many as -rapid.checks says.
func TestTheQueueBehavesAsItsModel(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set("600"); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.MkdirTemp(fastDir(), "buffer-model-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) { runModel(t, root) })
	})
	if left, _ := os.ReadDir(root); len(left) > 0 && !t.Failed() {
		t.Errorf("%d directories are left", len(left))
	}
}

func runModel(t *rapid.T, root string) {
	dir, err := os.MkdirTemp(root, "")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	m := &model{T: t, root: dir}
	m.cfg.Dir = filepath.Join(dir, "0")
	for range rapid.IntRange(1, 4).Draw(t, "lanes") {
		m.lanes = append(m.lanes, &modelLane{out: map[int]buffer.Entry{}, lost: map[int]bool{}})
	}
	m.open()
	defer func() { m.stop() }()
	t.Repeat(map[string]func(*rapid.T){
		"":       m.compare,
		"put":    m.put,
		"put 2":  m.put, // twice as often
		"next":   m.next,
		"next 2": m.next,
		"ack":    m.ack,
		"pass":   func(t *rapid.T) { pass(time.Duration(rapid.IntRange(0, 30).Draw(t, "ms")) * time.Millisecond) },
		"fail":   m.fail,
		"reopen": m.reopen,
		"crash":  m.crash,
		"drop":   m.drop,
		"dead":   m.dead,
		"minute": func(*rapid.T) { pass(time.Minute) },
	})
	m.reopen(t)
}

// open opens the queue with limits of its own, and finds everything that the model has.
func (m *model) open() {
	m.cfg.GenerationBytes = rapid.SampledFrom([]int64{0, 32 << 10}).Draw(m.T, "generation")
	m.cfg.MaxBytes = rapid.SampledFrom([]int64{0, 0, 40_000}).Draw(m.T, "size")
	m.cfg.LaneMaxBytes = rapid.SampledFrom([]int64{0, 0, 15_000}).Draw(m.T, "lane size")
	m.cfg.WhenFull = rapid.SampledFrom([]buffer.WhenFull{buffer.DropOldest, buffer.RefuseNew}).Draw(m.T, "when full")
	m.cfg.MaxAge = rapid.SampledFrom([]time.Duration{0, 90 * time.Second}).Draw(m.T, "age")
	m.cfg.Batch.MaxBytes = rapid.SampledFrom([]int{0, 4096}).Draw(m.T, "batch")
	q, err := buffer.Open(m.cfg)
	if err != nil {
		m.Fatal(err)
	}
	m.q, m.disk = q, &faulty{}
	q.OnCommit(m.disk.commit)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	m.stop = func() {
		cancel()
		if err := errors.Join(<-ended, q.Close()); err != nil {
			m.Errorf("stop: %v", err)
		}
	}
	counts := q.Stats().Lanes
	for i, l := range m.lanes {
		c := counts[laneID(i)]
		if int(c.Acked) > l.acked {
			m.Fatalf("lane %d: %d have left, %d were acknowledged", i, c.Acked, l.acked)
		}
		l.read = 0
		l.acked = int(c.Acked) // acknowledgements may have been lost
		m.readAll(i, l, 0, func(seen, last int, _ buffer.Entry) {
			if seen < buffer.MaxInFlight {
				l.handed = max(l.handed, last)
			}
		})
	}
}

// readAll checks the lane from behind after, or behind what was acknowledged, to its end.
func (m *model) readAll(i int, l *modelLane, after int, see func(seen, last int, e buffer.Entry)) {
	after = max(after, l.acked)
	for seen := 0; after < len(l.puts); {
		entries, err := m.q.Lane(laneID(i)).Peek(context.Background(), uint64(after), 64)
		if err != nil || len(entries) == 0 {
			m.Fatalf("lane %d ends after %d of %d: %v", i, after, len(l.puts), err)
		}
		for _, e := range entries {
			if after, err = l.next(e, after); err != nil {
				m.Fatalf("lane %d: %v", i, err)
			}
			see(seen, after, e)
			seen += max(1, e.Packed)
		}
	}
}

func (m *model) some(t *rapid.T) (int, *modelLane) {
	i := rapid.IntRange(0, len(m.lanes)-1).Draw(t, "lane")
	return i, m.lanes[i]
}

// entries makes up to 5 entries over random lanes; accept adds them to the
// model, but for those of some lanes.
func (m *model) entries(t *rapid.T) (ts []gateway.Telemetry, accept func(refused ...gateway.IdentityID)) {
	var to []int
	for range rapid.IntRange(1, 5).Draw(t, "entries") {
		m.n++
		i, _ := m.some(t)
		body := fmt.Sprintf(`{"n":%d,"pad":"%s"}`, m.n, strings.Repeat("x", rapid.IntRange(0, 3000).Draw(t, "size")))
		ts = append(ts, gateway.Telemetry{Identity: laneID(i), Body: []byte(body), Created: time.Now()})
		to = append(to, i)
	}
	return ts, func(refused ...gateway.IdentityID) {
		for i, t := range ts {
			if slices.Contains(refused, t.Identity) {
				continue
			}
			m.lanes[to[i]].puts = append(m.lanes[to[i]].puts, t)
		}
	}
}

func (m *model) put(t *rapid.T) {
	ts, accept := m.entries(t)
	err := m.q.Put(context.Background(), ts...)
	var full *gateway.FullError
	if errors.As(err, &full) && m.cfg.WhenFull == buffer.RefuseNew && m.cfg.MaxBytes+m.cfg.LaneMaxBytes > 0 {
		accept(full.Identities...)
	} else if err != nil {
		t.Fatal(err)
	} else {
		accept()
	}
	m.withinLimits(t)
}

// withinLimits checks that a limit is exceeded only by what may not be dropped, and by gaps.
func (m *model) withinLimits(t *rapid.T) {
	s := m.q.Stats()
	left := 0
	for i, l := range m.lanes {
		droppable := 0
		m.readAll(i, l, l.handed, func(_, _ int, e buffer.Entry) {
			if e.Gap == nil {
				droppable++
			}
		})
		left += droppable
		if c := s.Lanes[laneID(i)]; m.cfg.LaneMaxBytes > 0 && c.Bytes > m.cfg.LaneMaxBytes && droppable > 0 && m.cfg.WhenFull == buffer.DropOldest {
			t.Fatalf("lane %d holds %d bytes, %d entries could be dropped", i, c.Bytes, droppable)
		}
	}
	if m.cfg.MaxBytes > 0 && s.Bytes > m.cfg.MaxBytes && left > 0 && m.cfg.WhenFull == buffer.DropOldest {
		t.Fatalf("the queue holds %d bytes, %d entries could be dropped", s.Bytes, left)
	}
}

// drop is an operator's: all that is not in flight becomes a gap.
func (m *model) drop(t *rapid.T) {
	i, l := m.some(t)
	want, got := int64(0), []buffer.Entry{}
	m.readAll(i, l, l.handed, func(_, _ int, e buffer.Entry) {
		if e.Gap == nil {
			want += int64(e.Seq - e.First + 1)
		}
	})
	n, err := m.q.Drop(context.Background(), laneID(i), false)
	if err != nil || n != want {
		t.Fatalf("lane %d: %d dropped of %d: %v", i, n, want, err)
	}
	m.readAll(i, l, l.handed, func(_, _ int, e buffer.Entry) { got = append(got, e) })
	if want > 0 && (len(got) != 1 || got[0].Gap == nil) {
		t.Fatalf("lane %d: after the drop there is %v", i, got)
	}
}

// dead makes a dead letter of the oldest entry.
func (m *model) dead(t *rapid.T) {
	i, l := m.some(t)
	e, found := l.out[l.acked+1]
	if !found || e.Gap != nil || e.Packed > 0 {
		return
	}
	if err := m.q.Lane(laneID(i)).Dead(context.Background(), e.Seq, "no"); err != nil {
		t.Fatal(err)
	}
	delete(l.out, l.acked+1)
}

// fail puts while the commit fails, in one of the ways there are. What was not accepted may be stored
// all the same, but whole.
func (m *model) fail(t *rapid.T) {
	ts, accept := m.entries(t)
	way := rapid.SampledFrom([][]func(*bbolt.Tx) error{
		{lost(syscall.EIO)}, {kept(syscall.EIO)}, {kept(syscall.EIO), lost(syscall.EIO)}, {lost(syscall.EIO), kept(syscall.EIO)},
	}).Draw(t, "way")
	m.disk.next(way...)
	err := m.q.Put(context.Background(), ts...)
	m.disk.next()
	pass(1100 * time.Millisecond)
	counts, stored := m.q.Stats().Lanes, 0
	var missing []gateway.IdentityID
	for i, l := range m.lanes {
		if int(counts[laneID(i)].Put) == len(l.puts) {
			missing = append(missing, laneID(i))
		} else {
			stored++
		}
	}
	accept(missing...)
	var full *gateway.FullError
	for _, put := range ts {
		gone := slices.Contains(missing, put.Identity)
		if gone && (err == nil || stored > 0 && m.cfg.WhenFull == buffer.DropOldest) ||
			errors.As(err, &full) && gone != slices.Contains(full.Identities, put.Identity) {
			t.Fatalf("of %v, %v is missing: %v", ts, missing, err)
		}
	}
}

// next reads from the end of something that was handed out.
func (m *model) next(t *rapid.T) {
	i, l := m.some(t)
	after := l.acked
	for range rapid.IntRange(0, 10).Draw(t, "elements") {
		if e, found := l.out[after+1]; found {
			after = int(e.Seq)
		}
	}
	if after == len(l.puts) {
		return // Next would wait
	}
	entries, err := m.q.Lane(laneID(i)).Next(context.Background(), uint64(after), rapid.IntRange(1, 10).Draw(t, "max"))
	if err != nil || len(entries) == 0 {
		t.Fatalf("lane %d behind %d: %d entries, %v", i, after, len(entries), err)
	}
	for _, e := range entries {
		if after, err = l.next(e, after); err != nil {
			t.Fatalf("lane %d: %v", i, err)
		}
		l.out[int(e.First)] = e
	}
	l.handed, l.read = max(l.handed, after), max(l.read, after)
}

// ack acknowledges some of what was handed out since the queue was opened.
func (m *model) ack(t *rapid.T) {
	i, l := m.some(t)
	for range rapid.IntRange(0, 10).Draw(t, "elements") {
		if e, found := l.out[l.acked+1]; found && int(e.Seq) <= l.read {
			l.acked = int(e.Seq)
		}
	}
	m.q.Lane(laneID(i)).Ack(uint64(l.acked))
}

// compare checks what can be seen at any time.
func (m *model) compare(t *rapid.T) {
	s := m.q.Stats()
	for i, l := range m.lanes {
		c := s.Lanes[laneID(i)]
		if int(c.Put) != len(l.puts) || int(c.Acked) > l.acked || (c.Entries == 0) != (c.Bytes == 0) {
			t.Fatalf("lane %d: %+v, want %d put and at most %d acked", i, c, len(l.puts), l.acked)
		}
	}
}

// reopen ends the queue and opens it again: nothing is there that was acknowledged.
func (m *model) reopen(t *rapid.T) {
	m.stop()
	acked := make([]int, len(m.lanes))
	for i, l := range m.lanes {
		acked[i] = l.acked
	}
	m.open()
	for i, l := range m.lanes {
		if l.acked != acked[i] {
			t.Fatalf("lane %d: %d have left, %d were acknowledged", i, l.acked, acked[i])
		}
	}
}

// crash goes on with what the files hold now, as after kill -9.
func (m *model) crash(t *rapid.T) {
	synctest.Wait() // no commit is half done, but acknowledgements may wait for theirs
	m.copy++
	dir := filepath.Join(m.root, fmt.Sprint(m.copy))
	if err := os.CopyFS(dir, os.DirFS(m.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	m.stop()
	if err := os.RemoveAll(m.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	m.cfg.Dir = dir
	m.open()
}
