package buffer

import (
	"encoding/binary"
	"slices"
	"sort"
)

// chunkLen is how many entries a chunk of an index holds: few enough that decoding one is cheap,
// enough that its own 32 bytes do not count.
const chunkLen = 128

// chunk is up to chunkLen ascending numbers.
type chunk struct {
	first  uint64
	deltas []byte // uvarint distance of each later number to the one before
}

// index is the global sequences of one lane's entries, ascending: a queue that also reads at any
// position. It takes 1 byte an entry while fewer than 128 others come in between, 2 below 16,384.
type index struct {
	chunks []chunk // all full, except the last
	gone   int     // numbers at the beginning of chunks[0] that were dropped; < chunkLen
	n      int
	last   uint64
}

func (x *index) len() int { return x.n }

// push appends a number greater than all others.
func (x *index) push(global uint64) {
	if (x.gone+x.n)%chunkLen == 0 {
		x.grow(global)
	} else {
		c := &x.chunks[len(x.chunks)-1]
		c.deltas = binary.AppendUvarint(c.deltas, global-x.last)
	}
	x.last = global
	x.n++
}

// grow begins a chunk. The one before is complete now and gives back what it does not need.
func (x *index) grow(first uint64) {
	if len(x.chunks) > 0 {
		c := &x.chunks[len(x.chunks)-1]
		if cap(c.deltas)-len(c.deltas) > len(c.deltas)/8 {
			c.deltas = slices.Clone(c.deltas)
		}
	}
	if len(x.chunks) < cap(x.chunks) { // drop may have left a chunk to reuse
		x.chunks = x.chunks[:len(x.chunks)+1]
		c := &x.chunks[len(x.chunks)-1]
		c.first, c.deltas = first, c.deltas[:0]
		return
	}
	x.chunks = append(x.chunks, chunk{first: first})
}

// drop removes the n oldest numbers.
func (x *index) drop(n int) {
	x.n -= n
	if x.n == 0 { // keep one chunk's memory: a lane that keeps up comes here all the time
		clear(x.chunks[min(1, len(x.chunks)):])
		x.chunks, x.gone = x.chunks[:0], 0
		return
	}
	x.gone += n
	full := x.gone / chunkLen
	clear(x.chunks[:full])
	x.chunks = x.chunks[full:]
	x.gone %= chunkLen
}

// appendTo appends up to n numbers to dst, beginning with the one at position pos.
func (x *index) appendTo(dst []uint64, pos, n int) []uint64 {
	x.each(pos, n, func(global uint64) { dst = append(dst, global) })
	return dst
}

// each visits up to n numbers, beginning with the one at position pos.
func (x *index) each(pos, n int, visit func(uint64)) {
	n = min(n, x.n-pos)
	if n <= 0 {
		return
	}
	at := x.gone + pos
	skip := at % chunkLen
	for _, c := range x.chunks[at/chunkLen:] {
		global, rest := c.first, c.deltas
		for {
			if skip > 0 {
				skip--
			} else {
				visit(global)
				if n--; n == 0 {
					return
				}
			}
			if len(rest) == 0 {
				break
			}
			delta, used := binary.Uvarint(rest)
			global, rest = global+delta, rest[used:]
		}
	}
}

// holds tells whether global is one of the numbers.
func (x *index) holds(global uint64) (found bool) {
	i := sort.Search(len(x.chunks), func(i int) bool { return x.chunks[i].first > global }) - 1
	if i < 0 || x.n == 0 {
		return false
	}
	pos := max(i*chunkLen-x.gone, 0)
	x.each(pos, min((i+1)*chunkLen-x.gone, x.n)-pos, func(g uint64) { found = found || g == global })
	return found
}

// downward makes an index of numbers that come in descending order.
type downward struct {
	chunks []chunk  // complete ones, descending
	part   []uint64 // of the next, descending
	n      int
	last   uint64 // the greatest
}

func (d *downward) push(global uint64) {
	if d.n == 0 {
		d.last = global
	}
	d.part = append(d.part, global)
	d.n++
	if len(d.part) == chunkLen {
		d.chunks = append(d.chunks, packChunk(d.part, 0))
		d.part = d.part[:0]
	}
}

// packChunk makes a chunk of descending numbers, with the smallest one missing times more in front.
func packChunk(part []uint64, missing int) chunk {
	at := len(part) - 1
	deltas := make([]byte, missing, 2*chunkLen)
	first := part[at]
	for last := first; at > 0; at-- {
		deltas = binary.AppendUvarint(deltas, part[at-1]-last)
		last = part[at-1]
	}
	return chunk{first: first, deltas: slices.Clone(deltas)}
}

// index is what was pushed; d may be used again.
func (d *downward) index() index {
	x := index{n: d.n, last: d.last}
	if len(d.part) > 0 {
		if len(d.chunks) > 0 { // only the last chunk may be short
			x.gone = chunkLen - len(d.part)
		}
		d.chunks = append(d.chunks, packChunk(d.part, x.gone))
	}
	slices.Reverse(d.chunks)
	x.chunks = slices.Clone(d.chunks)
	clear(d.chunks)
	d.chunks, d.part, d.n = d.chunks[:0], d.part[:0], 0
	return x
}
