package buffer

import (
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

// memory is what the index holds on the heap, counted.
func (x *index) memory() int {
	n := cap(x.chunks) * int(unsafe.Sizeof(chunk{}))
	for _, c := range x.chunks[:cap(x.chunks)] {
		n += cap(c.deltas)
	}
	return n
}

func TestTheIndexBehavesAsAListOfNumbers(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var x index
		var model []uint64
		next := uint64(1)
		for range 3000 {
			switch rng.IntN(4) {
			case 0, 1:
				for range rng.IntN(40) {
					next += 1 + rng.Uint64N(1<<rng.UintN(30))
					x.push(next)
					model = append(model, next)
				}
			case 2:
				n := rng.IntN(min(len(model), 60) + 1)
				if rng.IntN(50) == 0 {
					n = len(model)
				}
				x.drop(n)
				model = model[n:]
			case 3:
				pos := rng.IntN(len(model) + 1)
				n := rng.IntN(400)
				want := model[pos:min(len(model), pos+n)]
				if got := x.appendTo(nil, pos, n); !slices.Equal(got, want) {
					t.Fatalf("seed %d: %d numbers at %d: got %v, want %v", seed, n, pos, got, want)
				}
			}
			if x.len() != len(model) {
				t.Fatalf("seed %d: %d numbers, want %d", seed, x.len(), len(model))
			}
		}
		if got := x.appendTo([]uint64{0}, 0, len(model)); !slices.Equal(got[1:], model) {
			t.Fatalf("seed %d: the whole differs", seed)
		}
	}
}

// Ten million entries are to cost less than 40 MB, however they are spread.
func TestTheIndexTakesThreeBytesAnEntry(t *testing.T) {
	const entries = 1_000_000
	spread := map[string]func(lanes []index){
		"one lane": func(lanes []index) {
			for i := range entries {
				lanes[0].push(uint64(i))
			}
		},
		"1000 lanes in turn": func(lanes []index) {
			for i := range entries {
				lanes[i%1000].push(uint64(i))
			}
		},
		"1000 lanes at random": func(lanes []index) {
			rng := rand.New(rand.NewPCG(1, 1))
			for i := range entries {
				lanes[rng.IntN(1000)].push(uint64(i))
			}
		},
		"one lane among ten thousand": func(lanes []index) {
			for i := range entries {
				lanes[0].push(uint64(i) * 10_000)
			}
		},
	}
	for name, fill := range spread {
		t.Run(name, func(t *testing.T) {
			lanes := make([]index, 1000)
			fill(lanes)
			memory := len(lanes) * int(unsafe.Sizeof(index{}))
			for i := range lanes {
				memory += lanes[i].memory()
			}
			if per := float64(memory) / entries; per > 3.5 {
				t.Errorf("%.2f bytes an entry", per)
			}
		})
	}
}

// A lane that keeps up, and one that stays a little behind for ever, must not grow.
func TestTheIndexGivesBackWhatWasDropped(t *testing.T) {
	for _, behind := range []int{0, 1, 130, 1000} {
		var x index
		for i := range uint64(300_000) {
			x.push(i * 1000)
			if x.len() > behind {
				x.drop(1)
			}
		}
		if limit := 8*behind + 3000; x.memory() > limit {
			t.Errorf("%d entries take %d bytes, want at most %d", behind, x.memory(), limit)
		}
	}
}
