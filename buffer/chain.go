package buffer

import (
	"slices"
	"sort"
)

// element is one message of a lane as it stands in a log: an entry or a gap.
type element struct {
	first, last uint64 // sequences; equal for an entry
	global      uint64
	gap         *gapPlace // nil for an entry
}

// gapPlace is where the record of a gap stands. Unlike an entry it may stand in a newer file than its
// neighbours.
type gapPlace struct {
	gen  *generation
	size int64 // key and record
}

// run is consecutive sequences: entries with a global sequence each, or one gap.
type run struct {
	first, last uint64
	index       index     // of entries
	gap         *gapPlace // of a gap, with
	global      uint64
}

func (r *run) len() int {
	if r.gap != nil {
		return 1
	}
	return r.index.len()
}

// chain is the elements of a lane in order, without a hole. Entries take 1 to 3 bytes each; there is a
// run for each gap and for what lies between two.
type chain struct {
	runs []run
	n    int
}

func (c *chain) len() int { return c.n }

// last is the highest sequence; 0 if there is none.
func (c *chain) last() uint64 {
	if len(c.runs) == 0 {
		return 0
	}
	return c.runs[len(c.runs)-1].last
}

// find is the position of the run that holds seq, or else of the first behind it.
func (c *chain) find(seq uint64) int {
	return sort.Search(len(c.runs), func(i int) bool { return c.runs[i].last >= seq })
}

// push appends the entry seq, which follows the last element.
func (c *chain) push(seq, global uint64) {
	if n := len(c.runs); n == 0 || c.runs[n-1].gap != nil {
		c.runs = append(c.runs, run{first: seq})
	}
	r := &c.runs[len(c.runs)-1]
	r.index.push(global)
	r.last = seq
	c.n++
}

// appendTo appends up to most elements behind the sequence after to dst.
func (c *chain) appendTo(dst []element, after uint64, most int) []element {
	for i := c.find(after + 1); i < len(c.runs) && most > 0; i++ {
		r := &c.runs[i]
		if r.gap != nil {
			dst = append(dst, element{r.first, r.last, r.global, r.gap})
			most--
			continue
		}
		skip := 0
		if after >= r.first {
			skip = int(after - r.first + 1)
		}
		n := max(0, min(most, r.index.len()-skip))
		dst = slices.Grow(dst, n)
		seq := r.first + uint64(skip)
		r.index.each(skip, n, func(global uint64) {
			dst = append(dst, element{seq, seq, global, nil})
			seq++
		})
		most -= n
	}
	return dst
}

// count is how many elements lie between the sequence after and last, both ends of elements.
func (c *chain) count(after, last uint64) (n int) {
	for i := c.find(after + 1); i < len(c.runs) && c.runs[i].first <= last; i++ {
		if r := &c.runs[i]; r.gap != nil {
			n++
		} else {
			n += int(min(r.last, last) - max(r.first, after+1) + 1)
		}
	}
	return n
}

// drop removes the elements up to the sequence last.
func (c *chain) drop(last uint64) {
	whole := c.find(last + 1)
	for i := range c.runs[:whole] {
		c.n -= c.runs[i].len()
	}
	if whole == len(c.runs) && whole > 0 && c.runs[whole-1].gap == nil {
		// Keep the last run's memory: a lane that keeps up comes here all the time.
		keep := c.runs[whole-1]
		keep.index.drop(keep.index.len())
		c.runs = append(c.runs[:0], keep)
		c.runs[0].first = keep.last + 1
		return
	}
	c.runs = slices.Delete(c.runs, 0, whole)
	if len(c.runs) > 0 && c.runs[0].gap == nil && c.runs[0].first <= last {
		n := int(last - c.runs[0].first + 1)
		c.runs[0].index.drop(n)
		c.runs[0].first = last + 1
		c.n -= n
	}
}

// replace puts a gap in the place of the elements from the sequence first to last.
func (c *chain) replace(e element) {
	from, to := c.find(e.first), c.find(e.last)
	var parts []run
	if r := &c.runs[from]; r.first < e.first {
		parts = append(parts, r.head(e.first-1))
	}
	parts = append(parts, run{first: e.first, last: e.last, gap: e.gap, global: e.global})
	if r := &c.runs[to]; r.last > e.last {
		rest := *r
		rest.index.drop(int(e.last - r.first + 1))
		rest.first = e.last + 1
		parts = append(parts, rest)
	}
	c.runs = slices.Replace(c.runs, from, to+1, parts...)
	c.n = 0
	for i := range c.runs {
		c.n += c.runs[i].len()
	}
}

// head is a copy of the entries up to the sequence last.
func (r *run) head(last uint64) run {
	h := run{first: r.first, last: last}
	r.index.each(0, int(last-r.first+1), h.index.push)
	return h
}

// holds tells whether there is an element at global, and its place if it is a gap.
func (c *chain) holds(global uint64) (gap *gapPlace, ok bool) {
	i := sort.Search(len(c.runs), func(i int) bool { return c.runs[i].end() >= global })
	if i == len(c.runs) {
		return nil, false
	}
	if r := &c.runs[i]; r.gap != nil {
		return r.gap, r.global == global
	}
	return nil, c.runs[i].index.holds(global)
}

// relocate says where the gap at global is now.
func (c *chain) relocate(global uint64, place *gapPlace) {
	i := sort.Search(len(c.runs), func(i int) bool { return c.runs[i].end() >= global })
	if i < len(c.runs) && c.runs[i].gap != nil && c.runs[i].global == global {
		c.runs[i].gap = place
	}
}

// end is the highest global sequence of the run.
func (r *run) end() uint64 {
	if r.gap != nil {
		return r.global
	}
	return r.index.last
}
