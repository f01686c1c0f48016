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
	order []uint8 // of whole registers; nil for a single bit
	bit   int     // position in the cell of a single bit, as the wire has it
}

func layoutOf(at modbus.Point) layout {
	switch {
	case at.Table.Bits():
		return layout{}
	case at.Bit != modbus.WholeRegister:
		l := layout{bit: at.Bit}
		if bytesSwapped(at.Order) {
			l.bit ^= 8
		}
		return l
	case at.Type == modbus.String && bytesSwapped(at.Order):
		// The characters of a text have an order of their own; only the two of one register swap (MB-39).
		return layout{order: wireOrder("badc", 2*at.Registers())}
	case at.Type == modbus.String:
		return layout{order: wireOrder("abcd", 2*at.Registers())}
	}
	return layout{order: wireOrder(at.Order, 2*at.Registers())}
}

// single tells whether the point is one bit.
func (l layout) single() bool { return l.order == nil }

// mask has the bits of a cell that belong to the point.
func (l layout) mask() uint16 {
	if l.single() {
		return 1 << l.bit
	}
	return math.MaxUint16
}

// pack lays a raw value of up to 64 bits into words, one a cell.
func (l layout) pack(raw uint64, words []uint16) {
	if l.single() {
		words[0] = uint16(raw&1) << l.bit
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
	if l.single() {
		return uint64(words[0]>>l.bit) & 1
	}
	last := uint8(len(l.order) - 1)
	for i, w := range words {
		raw |= uint64(w>>8) << (8 * (last - l.order[2*i]))
		raw |= uint64(w&0xff) << (8 * (last - l.order[2*i+1]))
	}
	return raw
}

// packText lays a text into words, filled up with NUL.
func (l layout) packText(s string, words []uint16) {
	text := make([]byte, len(l.order))
	copy(text, s)
	for i := range words {
		words[i] = uint16(text[l.order[2*i]])<<8 | uint16(text[l.order[2*i+1]])
	}
}

// unpackText reads a text up to its first NUL without the spaces behind it; what is no UTF-8 is
// taken for Latin-1 (MB-39).
func (l layout) unpackText(words []uint16, length int) string {
	text := make([]byte, len(l.order))
	for i, w := range words {
		text[l.order[2*i]], text[l.order[2*i+1]] = byte(w>>8), byte(w)
	}
	s, _, _ := strings.Cut(string(text[:length]), "\x00")
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
