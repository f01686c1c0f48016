package buffer

import (
	"encoding/binary"
	"slices"
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
	n = min(n, x.n-pos)
	if n <= 0 {
		return dst
	}
	at := x.gone + pos
	skip := at % chunkLen
	for _, c := range x.chunks[at/chunkLen:] {
		global, rest := c.first, c.deltas
		for {
			if skip > 0 {
				skip--
			} else {
				dst = append(dst, global)
				if n--; n == 0 {
					return dst
				}
			}
			if len(rest) == 0 {
				break
			}
			delta, used := binary.Uvarint(rest)
			global, rest = global+delta, rest[used:]
		}
	}
	return dst
}
