package powerfs

import "math/rand/v2"

// What one image keeps of the operations that were not on disk.
type keep uint8

const (
	nothing keep = iota
	everything
	earlier // those before a moment
	writes  // some writes, each whole
	pages   // some pages of 4 KiB of each write
	sectors // some sectors of 512 bytes of each write
	ways    // how many ways there are
)

// choice decides what one image keeps.
type choice struct {
	random  *rand.Rand
	way     keep
	moment  int     // of earlier
	share   float64 // of those that are kept
	ordered bool    // names are kept as by a journal: those before moment
}

func newChoice(random *rand.Rand, oldest, now int) *choice {
	return &choice{
		random:  random,
		way:     keep(random.IntN(int(ways))),
		moment:  oldest + random.IntN(now-oldest+1),
		share:   []float64{0.1, 0.5, 0.9}[random.IntN(3)],
		ordered: random.IntN(2) == 0,
	}
}

func (c *choice) some() bool { return c.random.Float64() < c.share }

// whole decides about an operation that cannot be torn.
func (c *choice) whole(at int) bool {
	switch c.way {
	case nothing:
		return false
	case everything:
		return true
	case earlier:
		return at < c.moment
	}
	return c.some()
}

// name decides about a change of a directory.
func (c *choice) name(at int) bool {
	if c.way > earlier && c.ordered {
		return at < c.moment
	}
	return c.whole(at)
}

// pieces hands the pieces of a write that are kept to write.
func (c *choice) pieces(w *waiting, write func(from, to int)) {
	size := map[keep]int{pages: 4096, sectors: 512}[c.way]
	if size == 0 {
		if c.whole(w.at) {
			write(0, len(w.op.Data))
		}
		return
	}
	for from := 0; from < len(w.op.Data); {
		// A piece ends where the disk's does, wherever the write begins.
		to := min(len(w.op.Data), from+size-int(w.op.Offset+int64(from))%size)
		if c.some() {
			write(from, to)
		}
		from = to
	}
}
