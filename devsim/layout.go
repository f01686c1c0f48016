package devsim

import (
	"math"
	"strings"
	"unicode/utf8"

	"iothub-gateway/adapters/modbus"
)

// wireOrder lists for each of the n bytes on the wire which byte of the value it is, 0 being the
// most significant (MB-36). An order of n letters says so itself; a four-letter name for another
// width means: c and d in front send the low word first, b and d the low byte of each word.
func wireOrder(order string, n int) []uint8 {
	wire := make([]uint8, n)
	for i := range wire {
		if len(order) == n {
			wire[i] = order[i] - 'a'
			continue
		}
		at := i
		if len(order) == 4 && (order[0] == 'c' || order[0] == 'd') {
			at = n - 2 - i&^1 + i&1
		}
		if bytesSwapped(order) {
			at ^= 1
		}
		wire[i] = uint8(at)
	}
	return wire
}

// bytesSwapped tells whether each register carries its low byte first.
func bytesSwapped(order string) bool {
	return len(order) == 4 && (order[0] == 'b' || order[0] == 'd')
}

// layout is how one point's raw value lies in its cells.
type layout struct {
	order []uint8 // of whole registers; nil for a part of one cell
	shift int     // of the part in its cell, as the wire has it
	width int     // of the part: 1 bit or a byte
}

func layoutOf(at modbus.Point) layout {
	swapped := bytesSwapped(at.Order)
	switch {
	case at.Table.Bits():
		return layout{width: 1}
	case at.Bit != modbus.WholeRegister:
		l := layout{shift: at.Bit, width: 1}
		if swapped {
			l.shift ^= 8
		}
		return l
	case at.Type.Half():
		l := layout{width: 8}
		if at.Type.High() != swapped {
			l.shift = 8
		}
		return l
	case byRegister(at.Type) && swapped:
		return layout{order: wireOrder("badc", 2*at.Registers())}
	case byRegister(at.Type):
		return layout{order: wireOrder("abcd", 2*at.Registers())}
	}
	return layout{order: wireOrder(at.Order, 2*at.Registers())}
}

// byRegister tells whether the registers of a type have an order of their own; only the two bytes of one can
// swap (MB-39).
func byRegister(t modbus.Type) bool {
	return t == modbus.String || t == modbus.Hex || t == modbus.TimeYMDHMS || t == modbus.TimeIEC870
}

// part tells whether the point is a part of a cell, and single whether that is one bit.
func (l layout) part() bool   { return l.order == nil }
func (l layout) single() bool { return l.part() && l.width == 1 }

// mask has the bits of a cell that belong to the point.
func (l layout) mask() uint16 {
	if l.part() {
		return (1<<l.width - 1) << l.shift
	}
	return math.MaxUint16
}

// pack lays a raw value of up to 64 bits into words, one a cell.
func (l layout) pack(raw uint64, words []uint16) {
	if l.part() {
		words[0] = uint16(raw<<l.shift) & l.mask()
		return
	}
	last := uint8(len(l.order) - 1)
	for i := range words {
		high := byte(raw >> (8 * (last - l.order[2*i])))
		low := byte(raw >> (8 * (last - l.order[2*i+1])))
		words[i] = uint16(high)<<8 | uint16(low)
	}
}

// unpack is the inverse of pack.
func (l layout) unpack(words []uint16) (raw uint64) {
	if l.part() {
		return uint64(words[0]&l.mask()) >> l.shift
	}
	last := uint8(len(l.order) - 1)
	for i, w := range words {
		raw |= uint64(w>>8) << (8 * (last - l.order[2*i]))
		raw |= uint64(w&0xff) << (8 * (last - l.order[2*i+1]))
	}
	return raw
}

// packBytes lays bytes into words, filled up with NUL.
func (l layout) packBytes(b []byte, words []uint16) {
	all := make([]byte, len(l.order))
	copy(all, b)
	for i := range words {
		words[i] = uint16(all[l.order[2*i]])<<8 | uint16(all[l.order[2*i+1]])
	}
}

// unpackBytes is the inverse of packBytes.
func (l layout) unpackBytes(words []uint16) []byte {
	b := make([]byte, len(l.order))
	for i, w := range words {
		b[l.order[2*i]], b[l.order[2*i+1]] = byte(w>>8), byte(w)
	}
	return b
}

// textIn reads a text up to its first NUL without the spaces behind it; what is no UTF-8 is taken for
// Latin-1 (MB-39).
func textIn(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	s = strings.TrimRight(s, " ")
	if utf8.ValidString(s) {
		return s
	}
	runes := make([]rune, 0, len(s))
	for i := range len(s) {
		runes = append(runes, rune(s[i]))
	}
	return string(runes)
}
