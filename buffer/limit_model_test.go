package buffer_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

// Random Puts, reads, acknowledgements, drops, failures and restarts under small limits and with small
// files: what was received and what is marked is what was produced.
func TestReceivedAndMarkedIsProducedUnderLimits(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { (&limitModel{t: t, rng: rand.New(rand.NewPCG(seed, 9))}).run() })
		})
	}
}

type limitModel struct {
	t    *testing.T
	rng  *rand.Rand
	cfg  buffer.Config
	q    *buffer.Queue
	disk *faulty
	stop func()
	lane map[gateway.IdentityID]*limitLane
}

type limitLane struct {
	put, acked uint64
	sent       map[uint64]string // by first sequence: id and body
	at         uint64            // the reader is behind
}

func (m *limitModel) run() {
	m.cfg = buffer.Config{
		Dir: queuePath(m.t), LaneMaxBytes: 1000 * int64(m.rng.IntN(4)), MaxBytes: 4000 * int64(m.rng.IntN(3)),
		GenerationBytes: 40_000, MaxAge: time.Duration(m.rng.IntN(3)) * 5 * time.Second,
	}
	m.lane = map[gateway.IdentityID]*limitLane{}
	for i := range 1 + m.rng.IntN(4) {
		m.lane[laneID(i)] = &limitLane{sent: map[uint64]string{}}
	}
	m.open()
	for range 300 {
		m.step()
	}
	m.reopen()
	for id, l := range m.lane {
		for l.at < l.put {
			m.read(id, l)
		}
	}
	m.stop()
}

func (m *limitModel) open() {
	m.q = openWith(m.t, m.cfg)
	m.disk = &faulty{}
	m.q.OnCommit(m.disk.commit)
	m.stop = runQueue(m.t, m.q)
}

func (m *limitModel) step() {
	ids := slices.Sorted(maps.Keys(m.lane))
	id := ids[m.rng.IntN(len(ids))]
	l := m.lane[id]
	switch p := m.rng.IntN(100); {
	case p < 50:
		var ts []gateway.Telemetry
		for i := range 1 + m.rng.IntN(6) {
			ts = append(ts, sized(id, int(l.put)+i+1, 50+m.rng.IntN(300)))
		}
		put(m.t, m.q, ts...)
		l.put += uint64(len(ts))
	case p < 75:
		if l.at < l.put {
			m.read(id, l)
		}
	case p < 90:
		if l.at > l.acked {
			m.q.Lane(id).Ack(l.at)
			l.acked = l.at
		}
	case p < 93:
		pass(time.Duration(m.rng.IntN(3000)) * time.Millisecond)
	case p < 95:
		if _, err := m.q.Drop(m.t.Context(), id, false); err != nil {
			m.t.Fatal(err)
		}
	case p < 97:
		m.disk.next([]func(error) func(*bbolt.Tx) error{lost, kept}[m.rng.IntN(2)](syscall.EIO))
		if err := m.q.Put(m.t.Context(), sized(id, int(l.put)+1, 100)); err != nil {
			pass(2 * time.Second)
			put(m.t, m.q, sized(id, int(l.put)+1, 100))
		}
		l.put++
	default:
		m.reopen()
	}
	m.compare()
}

func (m *limitModel) read(id gateway.IdentityID, l *limitLane) {
	entries, err := m.q.Lane(id).Next(m.t.Context(), l.at, 1+m.rng.IntN(8))
	if err != nil {
		m.t.Fatal(err)
	}
	gapless(m.t, entries, l.at+1, entries[len(entries)-1].Seq)
	for _, e := range entries {
		said := e.ID() + string(e.Telemetry.Body)
		if before, repeat := l.sent[e.First]; repeat && before != said {
			m.t.Fatalf("%s: %s comes again as %s", id, before, said)
		}
		l.sent[e.First] = said
		var g struct{ Gap *struct{ Count uint64 } }
		if e.Gap != nil && (json.Unmarshal(e.Telemetry.Body, &g) != nil || g.Gap.Count != e.Gap.Count) {
			m.t.Fatalf("%s", e.Telemetry.Body)
		}
		l.at = e.Seq
	}
}

func (m *limitModel) compare() {
	s := m.q.Stats()
	sum := int64(0)
	for id, l := range m.lane {
		c := s.Lanes[id]
		sum += c.Bytes
		if c.Put != l.put || c.Acked > l.acked {
			m.t.Fatalf("%s: %+v, want %d put, at most %d acked", id, c, l.put, l.acked)
		}
	}
	if sum != s.Bytes {
		m.t.Fatalf("%d bytes, together %d", s.Bytes, sum)
	}
}

// reopen opens the queue again: its figures are the same, and readers begin at what is not acknowledged.
func (m *limitModel) reopen() {
	pass(buffer.AckPatience + time.Millisecond)
	before := m.q.Stats()
	m.stop()
	m.open()
	after := m.q.Stats()
	for id, l := range m.lane {
		b, a := before.Lanes[id], after.Lanes[id]
		if b.Entries != a.Entries || b.Bytes != a.Bytes || b.Put != a.Put || b.Acked != a.Acked || !b.Oldest.Equal(a.Oldest) {
			m.t.Fatalf("%s: before %+v, after %+v", id, b, a)
		}
		l.at = l.acked
	}
	if before.Generations < after.Generations {
		m.t.Fatalf("%d files became %d", before.Generations, after.Generations)
	}
}
