package buffer

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestAnIndexMadeDownwardIsTheOneMadeUpward(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 5))
	var d downward
	for _, n := range []int{1, 2, 127, 128, 129, 256, 300, 1000} {
		var up index
		var numbers []uint64
		g := uint64(0)
		for range n {
			g += 1 + rng.Uint64N(300)
			up.push(g)
			numbers = append(numbers, g)
		}
		for _, g := range slices.Backward(numbers) {
			d.push(g)
		}
		down := d.index()
		for range 200 { // and it goes on as one
			g += 1 + rng.Uint64N(300)
			up.push(g)
			down.push(g)
			numbers = append(numbers, g)
			drop := min(rng.IntN(3), up.len()-1)
			up.drop(drop)
			down.drop(drop)
			numbers = numbers[drop:]
			if got := down.appendTo(nil, 0, down.len()); !slices.Equal(got, numbers) || !slices.Equal(up.appendTo(nil, 0, up.len()), got) {
				t.Fatalf("of %d: %v, want %v", n, got, numbers)
			}
			probe := numbers[0] + rng.Uint64N(g-numbers[0]+2)
			if down.holds(probe) != slices.Contains(numbers, probe) || !down.holds(numbers[len(numbers)/2]) {
				t.Fatalf("of %d: holds %d is wrong", n, probe)
			}
		}
	}
}

func TestAChainBehavesAsAListOfElements(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var c chain
		var model []element
		seq, global, gone := uint64(0), uint64(0), uint64(0)
		for range 2000 {
			switch p := rng.IntN(10); {
			case p < 5:
				for range rng.IntN(20) {
					seq++
					global += 1 + rng.Uint64N(50)
					c.push(seq, global)
					model = append(model, element{seq, seq, global, nil})
				}
			case p < 7 && len(model) > 0:
				n := rng.IntN(min(len(model), 40)) + 1
				if rng.IntN(20) == 0 {
					n = len(model)
				}
				gone = model[n-1].last
				c.drop(gone)
				model = slices.Clone(model[n:])
			case p < 9 && len(model) > 0:
				from := rng.IntN(len(model))
				to := min(from+rng.IntN(10), len(model)-1)
				e := element{model[from].first, model[to].last, model[to].global, &gapPlace{}}
				c.replace(e)
				model = slices.Replace(model, from, to+1, e)
			}
			checkChain(t, rng, &c, model, gone)
		}
	}
}

func checkChain(t *testing.T, rng *rand.Rand, c *chain, model []element, gone uint64) {
	t.Helper()
	if c.len() != len(model) {
		t.Fatalf("%d elements, want %d", c.len(), len(model))
	}
	if len(model) == 0 {
		return
	}
	from := rng.IntN(len(model))
	after := gone
	if from > 0 {
		after = model[from-1].last
	}
	n := rng.IntN(300)
	if got, want := c.appendTo(nil, after, n), model[from:min(from+n, len(model))]; !slices.Equal(got, want) {
		t.Fatalf("behind %d: %v, want %v", after, got, want)
	}
	to := from + rng.IntN(len(model)-from)
	if got := c.count(after, model[to].last); got != to-from+1 {
		t.Fatalf("%d elements from %d to %d, want %d", got, from, to, to-from+1)
	}
	if gap, ok := c.holds(model[to].global); !ok || gap != model[to].gap {
		t.Fatalf("%+v is not found", model[to])
	}
	if c.last() != model[len(model)-1].last {
		t.Fatalf("the last is %d", c.last())
	}
}
