package buffer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

func (r *recent) held() (entries, memory int) {
	for _, s := range r.slots {
		if s != nil {
			entries++
			memory += len(s)
		}
	}
	return entries, memory
}

func TestTheMemoryForRecentRecordsIsBoundedAndNeverWrong(t *testing.T) {
	const entries, maxBytes = 64, 2000
	rng := rand.New(rand.NewPCG(3, 3))
	r := newRecent(entries, maxBytes, 1000)
	record := func(global uint64, size int) []byte {
		return append(fmt.Appendf(nil, "%d:", global), make([]byte, size)...)
	}
	acked := map[uint64]bool{}
	high := uint64(1000)
	for range 5000 {
		var puts []pending
		for range rng.IntN(20) {
			puts = append(puts, pending{record: record(high+uint64(len(puts)), rng.IntN(150))})
		}
		r.add(high, puts)
		high += uint64(len(puts))
		var drop []uint64
		for range rng.IntN(20) {
			g := high - 1 - rng.Uint64N(min(high-999, 100))
			if !acked[g] {
				acked[g] = true
				drop = append(drop, g)
			}
		}
		r.drop(at(drop...))
		n, memory := r.held()
		if n > entries || memory > maxBytes || memory != r.memory {
			t.Fatalf("%d entries, %d bytes, counted %d", n, memory, r.memory)
		}
		for g := max(1000, high-200); g < high+5; g++ {
			got := r.appendTo(nil, at(g))
			if len(got) == 1 && (acked[g] || g >= high || !bytes.HasPrefix(got[0], fmt.Appendf(nil, "%d:", g))) {
				t.Fatalf("at %d: %q", g, got[0])
			}
		}
	}
	if n, _ := r.held(); n == 0 {
		t.Error("nothing was kept at all")
	}
}

func TestTheNewestRecordsAreTheOnesInMemory(t *testing.T) {
	r := newRecent(4, 1000, 1)
	for i := range 10 {
		r.add(uint64(i+1), []pending{{record: []byte{byte(i + 1)}}})
	}
	if got := r.appendTo(nil, at(7, 8, 9, 10, 11)); len(got) != 4 || got[0][0] != 7 || got[3][0] != 10 {
		t.Errorf("got %v", got)
	}
	if got := r.appendTo(nil, at(6, 7)); len(got) != 0 {
		t.Errorf("a list that begins with an older one got %v", got)
	}
	r.add(11, []pending{{record: make([]byte, 2000)}})
	if n, memory := r.held(); n != 0 || memory != 0 {
		t.Errorf("a record larger than the bound leaves %d entries, %d bytes", n, memory)
	}
}

// at is the entries at globals.
func at(globals ...uint64) (elements []element) {
	for _, g := range globals {
		elements = append(elements, element{global: g})
	}
	return elements
}

func TestGlobalSequencesThatAFailedCommitUsedAreLeftOut(t *testing.T) {
	r := newRecent(4, 1000, 1)
	r.add(1, []pending{{record: []byte{1}}})
	r.add(4, []pending{{record: []byte{4}}, {record: []byte{5}, dropped: true}, {record: []byte{6}}})
	for g, want := range []int{0, 0, 0, 0, 1, 0, 1} {
		if got := r.appendTo(nil, at(uint64(g))); len(got) != want || want == 1 && int(got[0][0]) != g {
			t.Errorf("at %d: %v", g, got)
		}
	}
}
