package buffer

import "testing"

func TestTheFileWithTheSmallestPartThatWaitsIsMoved(t *testing.T) {
	const mib = 1 << 20
	tests := map[string]struct {
		files []share
		limit int64
		want  int
	}{
		"none":                        {nil, 0, -1},
		"all wait":                    {[]share{{100, 100, mib}, {100, 100, mib}}, 0, -1},
		"one of them":                 {[]share{{100, 100, mib}, {20, 100, mib}, {40, 100, mib}}, 0, 1},
		"an empty one is unlinked":    {[]share{{0, 100, mib}, {90, 100, mib}}, 0, -1},
		"half is too much":            {[]share{{50, 100, mib}}, 0, -1},
		"unless they take too much":   {[]share{{80, 100, mib}, {70, 100, mib}}, 2 * mib, 1},
		"but not if it gives nothing": {[]share{{95, 100, mib}, {99, 100, mib}}, mib, -1},
		"within the limit":            {[]share{{80, 100, mib}}, 2 * mib, -1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := pickStraggler(test.files, mib, test.limit); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestWhatWasMovedIsFoundInItsNewPlace(t *testing.T) {
	a, b, c := &generation{number: 1}, &generation{number: 2}, &generation{number: 3}
	p := places{gens: []*generation{a, b, c}, ranges: []place{{1, a}, {100, b}, {200, c}}}
	check := func(want map[uint64]*generation) {
		t.Helper()
		for global, gen := range want {
			if got := p.of(global); got != gen {
				t.Errorf("%d is in %d, want %d", global, got.number, gen.number)
			}
		}
	}
	check(map[uint64]*generation{1: a, 99: a, 100: b, 199: b, 200: c, 1000: c})
	p.move(a, 50, c)
	check(map[uint64]*generation{1: c, 50: c, 51: a, 99: a, 100: b, 200: c})
	p.move(a, 99, c)
	check(map[uint64]*generation{50: c, 99: c, 100: b, 199: b, 200: c})
	p.end(a)
	p.move(b, 150, c)
	check(map[uint64]*generation{99: c, 150: c, 151: b, 199: b, 200: c})
	p.move(b, 199, c)
	if len(p.ranges) != 1 {
		t.Errorf("%v", p.ranges)
	}
}
