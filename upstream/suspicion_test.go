package upstream

import (
	"math/rand/v2"
	"testing"

	"iothub-gateway/buffer"
)

// model is a lane and a hub that ends the connection on some of its entries.
type model struct {
	t       *testing.T
	s       suspicion
	queue   [][2]uint64 // first and last of each entry
	poison  map[uint64]bool
	rejects func() bool // the hub takes nothing now
	buried  []uint64
	sent    map[uint64]int // times that an entry was sent after it had been refused for good
	losses  int
}

// connection plays one connection with a window of w; it tells whether it was lost.
func (m *model) connection(w int) bool {
	canary := false
	for len(m.queue) > 0 {
		if m.s.upTo == 0 {
			var flight []uint64
			for _, e := range m.queue[:min(w, len(m.queue))] {
				flight = append(flight, e[1])
			}
			if lost := m.deliver(flight, canary); lost {
				return true
			}
			continue
		}
		head := m.queue[0]
		e := buffer.Entry{First: head[0], Seq: head[1]}
		if n := int(head[1] - head[0] + 1); n > 1 {
			e.Packed = n
		}
		switch m.s.next(&e, canary) {
		case sendCanary:
			if m.rejects() {
				m.s.lost([]uint64{canarySeq}, false)
				return true
			}
			canary = true
		case cut:
			m.s.cutting(&e)
			middle := head[0] + (head[1]-head[0])/2
			m.queue = append([][2]uint64{{head[0], middle}, {middle + 1, head[1]}}, m.queue[1:]...)
		case bury:
			if !canary {
				m.t.Error("an entry is dead without a canary after the last loss")
			}
			m.buried = append(m.buried, head[1])
			m.queue = m.queue[1:]
			m.s.alone = 0
			m.s.acked(head[1])
		case send:
			if m.deliver([]uint64{head[1]}, canary) {
				return true
			}
		}
	}
	return false
}

// deliver sends entries; the hub takes those before the first that it does not take.
func (m *model) deliver(flight []uint64, canary bool) (lost bool) {
	rejects := m.rejects()
	for i, seq := range flight {
		head := m.queue[0]
		bad := rejects
		for n := head[0]; n <= head[1]; n++ {
			bad = bad || m.poison[n]
		}
		if bad {
			m.losses++
			m.s.lost(flight[i:], canary)
			return true
		}
		m.queue = m.queue[1:]
		m.s.acked(seq)
	}
	return false
}

func TestPoisonIsIsolatedWithinTenConnectionsAndNothingElseDies(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		m := &model{t: t, poison: map[uint64]bool{}, rejects: func() bool { return false }}
		size := []uint64{1, 1, 2, 16, 64, 270, 500}[r.IntN(7)]
		for first := uint64(1); len(m.queue) < 20; first += size {
			m.queue = append(m.queue, [2]uint64{first, first + size - 1})
		}
		bad := 1 + r.Uint64N(20*size)
		m.poison[bad] = true
		connections := 1
		for m.connection(16) {
			if connections++; connections > 10 {
				t.Fatalf("seed %d: packs of %d, entry %d: %d connections", seed, size, bad, connections)
			}
		}
		if len(m.buried) != 1 || m.buried[0] != bad {
			t.Fatalf("seed %d: packs of %d: buried %v, want %d", seed, size, m.buried, bad)
		}
	}
}

func TestAHubThatTakesNothingForAWhileKillsNoEntry(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		left := 5 + r.IntN(100)
		m := &model{t: t, poison: map[uint64]bool{}, rejects: func() bool { left--; return left > 0 }}
		for n := uint64(1); n <= 40; n++ {
			m.queue = append(m.queue, [2]uint64{n, n})
		}
		for m.connection(1 + r.IntN(16)) {
		}
		if len(m.buried) > 0 {
			t.Fatalf("seed %d: buried %v while the hub took nothing", seed, m.buried)
		}
	}
}

func TestAHubThatRejectsOneInTenHardlyKillsAnEntry(t *testing.T) {
	buried, entries := 0, 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		m := &model{t: t, poison: map[uint64]bool{}, rejects: func() bool { return r.IntN(10) == 0 }}
		for n := uint64(1); n <= 100; n++ {
			m.queue = append(m.queue, [2]uint64{n, n})
		}
		for m.connection(16) {
		}
		buried, entries = buried+len(m.buried), entries+100
	}
	if buried > entries/1000 {
		t.Errorf("%d of %d entries died although none was poison", buried, entries)
	}
}
