package modbus

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	gateway "iothub-gateway"
)

// codec turns the bytes of one point into its value and back. It is pure and never changes.
type codec struct {
	p     Point
	facts facts
	order []int
	line  line
	na    []uint64 // only the type's bits
}

func newCodec(p Point) codec {
	c := codec{p: p, facts: p.Type.facts(), line: lineOf(p)}
	if p.Table.Bits() {
		return c
	}
	switch p.Type {
	case String, Hex, TimeYMDHMS, TimeIEC870: // each register stands for itself
		for i := range c.size() {
			c.order = append(c.order, i)
			if swapped(p.Order) {
				c.order[i] ^= 1
			}
		}
		return c
	}
	c.order = wireOrder(p.Order, c.size())
	for _, na := range p.NotAvailable {
		c.na = append(c.na, na&lowest(c.facts.bits))
	}
	return c
}

// times10 is the codec of a point whose values are 10^n times as great (MB-41).
func (c codec) times10(n int) codec {
	c.line = c.line.times10(n)
	return c
}

// lowest is a mask of the lowest n bits, 1..64.
func lowest(n int) uint64 { return math.MaxUint64 >> (64 - n) }

// size is how many bytes decode takes: 1 for a bit table, else 2 a register.
func (c codec) size() int {
	if c.p.Table.Bits() {
		return 1
	}
	return 2 * c.p.Registers()
}

// decode is the value of raw, the point's registers as they came (of a bit table: one byte, 0 or 1).
// The error wraps ErrNotAvailable if the device says that it has no value (MB-40), or sends what is none.
func (c codec) decode(raw []byte) (gateway.Value, error) {
	if len(raw) != c.size() {
		return gateway.Value{}, fmt.Errorf("%s takes %d bytes, not %d", c.p.Type, c.size(), len(raw))
	}
	if c.p.Table.Bits() {
		return c.word(int64(raw[0]&1), gateway.BoolValue(raw[0]&1 != 0)), nil
	}
	switch c.facts.form {
	case characters:
		return gateway.TextValue(text(arranged(c.order, raw)[:c.p.Length])), nil
	case octets:
		return gateway.TextValue(hex.EncodeToString(arranged(c.order, raw)[:c.p.Length])), nil
	case calendar:
		return decodeTime(c.p.Type, arranged(c.order, raw))
	}
	bits := c.ofType(gather(c.order, raw))
	if slices.Contains(c.na, bits) {
		return gateway.Value{}, fmt.Errorf("%w: it sent %#0*x", gateway.ErrNotAvailable, c.facts.bits/4+2, bits)
	}
	return c.value(bits)
}

// ofType are the type's bits among all of its registers.
func (c codec) ofType(bits uint64) uint64 {
	if c.p.Type.High() {
		bits >>= 8
	}
	return bits & lowest(c.facts.bits)
}

// value is what the type's bits mean.
func (c codec) value(bits uint64) (gateway.Value, error) {
	switch c.p.Type {
	case Bool:
		if c.p.Bit >= 0 {
			bits = bits >> c.p.Bit & 1
		}
		return c.word(int64(min(bits, 1)), gateway.BoolValue(bits != 0)), nil
	case Float16:
		f := halfFloat(uint16(bits))
		return c.float(f, halfText(f))
	case Float32:
		f := math.Float32frombits(uint32(bits))
		return c.float(float64(f), strconv.FormatFloat(float64(f), 'g', -1, 32))
	case Float64:
		f := math.Float64frombits(bits)
		return c.float(f, strconv.FormatFloat(f, 'g', -1, 64))
	case Uint64:
		return c.unsigned(bits)
	}
	raw, ok := c.facts.number(bits)
	if !ok {
		return gateway.Value{}, fmt.Errorf("%w: it sent %#0*x, which is no %s", gateway.ErrNotAvailable, c.facts.bits/4+2, bits, c.p.Type)
	}
	return c.integer(raw, bits)
}

// word is the enum's word for raw, or the number as a text if it has none; plain without an enum.
func (c codec) word(raw int64, plain gateway.Value) gateway.Value {
	if len(c.p.Enum) == 0 {
		return plain
	}
	for _, w := range c.p.Enum {
		if w.Raw == raw {
			return gateway.TextValue(w.Word)
		}
	}
	return gateway.TextValue(strconv.FormatInt(raw, 10))
}

func (c codec) integer(raw int64, bits uint64) (gateway.Value, error) {
	switch {
	case len(c.p.Enum) > 0:
		return c.word(raw, gateway.Value{}), nil
	case len(c.p.Flags) > 0:
		return flags(c.p.Flags, bits), nil
	case !c.line.unit:
		return number(c.line.shown(c.line.ofInt(raw)))
	case c.facts.form == unsigned || c.facts.form == decimalDigits:
		return gateway.UintValue(uint64(raw)), nil
	}
	return gateway.IntValue(raw), nil
}

func (c codec) unsigned(bits uint64) (gateway.Value, error) {
	switch {
	case bits <= math.MaxInt64 && len(c.p.Enum) > 0 || len(c.p.Flags) > 0:
		return c.integer(int64(bits), bits)
	case len(c.p.Enum) > 0:
		return gateway.TextValue(strconv.FormatUint(bits, 10)), nil
	case c.line.unit:
		return gateway.UintValue(bits), nil
	case bits <= math.MaxInt64:
		return number(c.line.shown(c.line.ofInt(int64(bits))))
	}
	return number(c.line.shown(c.line.of(new(big.Rat).SetInt(new(big.Int).SetUint64(bits)))))
}

// float is the value of a raw number whose shortest decimal is text: what the device means by a
// float32 is 21.7, not 21.700000762939453 (MB-42).
func (c codec) float(f float64, text string) (gateway.Value, error) {
	if !finite(f) {
		return gateway.Value{}, fmt.Errorf("%w: it sent %s", gateway.ErrNotAvailable, text)
	}
	if !c.line.unit {
		return number(c.line.of(decimalText(text)))
	}
	short, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return gateway.Value{}, err
	}
	return number(short)
}

func number(f float64) (gateway.Value, error) {
	if !finite(f) {
		return gateway.Value{}, fmt.Errorf("%w: it is too big once scaled", gateway.ErrNotAvailable)
	}
	if f == 0 {
		f = 0 // never -0
	}
	return gateway.FloatValue(f), nil
}

func flags(names []Flag, bits uint64) gateway.Value {
	b := []byte{'{'}
	for i, f := range names {
		if i > 0 {
			b = append(b, ',')
		}
		key, err := json.Marshal(f.Name)
		if err != nil { // a string always marshals
			continue
		}
		b = append(append(b, key...), ':')
		b = strconv.AppendBool(b, bits>>f.Bit&1 != 0)
	}
	return gateway.ObjectValue(string(append(b, '}')))
}

// swapped tells whether an order swaps the two characters of a register.
func swapped(order string) bool { return order == "badc" || order == "dcba" }

// text is the string in b (MB-39): up to the first NUL, without spaces at the end; what is not UTF-8
// is Latin-1.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	b = bytes.TrimRight(b, " ")
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	for _, c := range b {
		s.WriteRune(rune(c))
	}
	return s.String()
}

// placed is arranged's inverse.
func placed(order []int, value []byte) []byte {
	raw := make([]byte, len(value))
	for i, at := range order {
		raw[i] = value[at]
	}
	return raw
}

// arranged are the bytes of raw in the order of the value, byte 0 first. Order is a permutation.
func arranged(order []int, raw []byte) []byte {
	b := make([]byte, len(raw))
	for i, at := range order {
		b[at] = raw[i]
	}
	return b
}
