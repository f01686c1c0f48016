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
		r.add(puts)
		high += uint64(len(puts))
		var drop []uint64
		for range rng.IntN(20) {
			g := high - 1 - rng.Uint64N(min(high-999, 100))
			if !acked[g] {
				acked[g] = true
				drop = append(drop, g)
			}
		}
		r.drop(drop)
		n, memory := r.held()
		if n > entries || memory > maxBytes || memory != r.memory {
			t.Fatalf("%d entries, %d bytes, counted %d", n, memory, r.memory)
		}
		for g := max(1000, high-200); g < high+5; g++ {
			got := r.appendTo(nil, []uint64{g})
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
		r.add([]pending{{record: []byte{byte(i + 1)}}})
	}
	if got := r.appendTo(nil, []uint64{7, 8, 9, 10, 11}); len(got) != 4 || got[0][0] != 7 || got[3][0] != 10 {
		t.Errorf("got %v", got)
	}
	if got := r.appendTo(nil, []uint64{6, 7}); len(got) != 0 {
		t.Errorf("a list that begins with an older one got %v", got)
	}
	r.add([]pending{{record: make([]byte, 2000)}})
	if n, memory := r.held(); n != 0 || memory != 0 {
		t.Errorf("a record larger than the bound leaves %d entries, %d bytes", n, memory)
	}
}
