package modbus

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"

	gateway "iothub-gateway"
)

// Holds tells whether the point can hold v: nil, or an error that wraps ErrRange. A point whose scale
// factor the device knows can hold anything.
func (p Point) Holds(v gateway.Value) error {
	c := newCodec(p)
	switch {
	case p.Factor != nil:
		return nil
	case c.inPart():
		_, _, err := c.change(v)
		return err
	}
	_, err := c.encode(v)
	return err
}

// encode is decode's inverse: the registers (of a coil: one byte, 0 or 1) that hold v. Its error
// wraps ErrRange if they cannot hold exactly v, but for a float, which takes the nearest (MB-70). A
// part of a register has no registers of its own: see change.
func (c codec) encode(v gateway.Value) ([]byte, error) {
	if c.p.Type.Text() {
		whole, err := c.encodeText(v)
		if err != nil {
			return nil, err
		}
		return placed(c.order, whole), nil
	}
	bits, err := c.bits(v)
	if err != nil {
		return nil, err
	}
	if c.p.Table.Bits() {
		return []byte{byte(bits)}, nil
	}
	if slices.Contains(c.na, bits) {
		return nil, fmt.Errorf("%w: to the device %s means \"no value\"", gateway.ErrRange, v)
	}
	if c.p.Type == Int24 && bits>>23 != 0 {
		bits |= 0xFF << 24
	}
	return scatterBits(c.order, bits), nil
}

// inPart tells whether the point is a part of one register: a bit or a byte.
func (c codec) inPart() bool {
	return !c.p.Table.Bits() && (c.p.Type == Bool && c.p.Bit >= 0 || c.p.Type.Half())
}

// change is what a write of v to a part of a register does to it, as it stands on the wire: the bits that
// it concerns, and their new values.
func (c codec) change(v gateway.Value) (mask, value uint16, err error) {
	bits, err := c.bits(v)
	shift := max(c.p.Bit, 0)
	if c.p.Type.High() {
		shift = 8
	}
	if err == nil && slices.Contains(c.na, bits) {
		err = fmt.Errorf("%w: to the device %s means \"no value\"", gateway.ErrRange, v)
	}
	width := 1
	if c.p.Type.Half() {
		width = 8
	}
	onWire := func(bits uint64) uint16 { return binary.BigEndian.Uint16(scatterBits(c.order, bits<<shift)) }
	return onWire(lowest(width)), onWire(bits), err
}

// bits is the raw number that stands for v, before it is put in order.
func (c codec) bits(v gateway.Value) (uint64, error) {
	switch {
	case len(c.p.Enum) > 0:
		return c.enumBits(v)
	case len(c.p.Flags) > 0:
		return 0, fmt.Errorf("%w: the flags are written one by one, each as a bit", gateway.ErrRange)
	case c.p.Type == Bool:
		b, ok := v.Bool()
		if !ok {
			return 0, fmt.Errorf("%w: need true or false, not %s", gateway.ErrRange, v)
		}
		if b {
			return 1, nil
		}
		return 0, nil
	}
	r, err := rational(v)
	if err != nil {
		return 0, err
	}
	raw := c.line.inverse(r)
	switch {
	case raw == nil:
		return 0, fmt.Errorf("%w: every raw value means the same", gateway.ErrRange)
	case c.p.Type.Floating():
		bits, ok := c.p.Type.FloatPattern(raw)
		if !ok {
			return 0, fmt.Errorf("%w: %s is too big for %s", gateway.ErrRange, v, c.p.Type)
		}
		return bits, nil
	}
	return c.integerBits(v, raw)
}

func (c codec) enumBits(v gateway.Value) (uint64, error) {
	word, ok := v.Text()
	if !ok {
		return 0, fmt.Errorf("%w: need one of the words %s, not %s", gateway.ErrRange, c.words(), v)
	}
	for _, w := range c.p.Enum {
		if w.Word == word {
			return c.fit(v, big.NewInt(w.Raw))
		}
	}
	return 0, fmt.Errorf("%w: %q is not one of the words %s", gateway.ErrRange, word, c.words())
}

func (c codec) words() string {
	words := make([]string, len(c.p.Enum))
	for i, w := range c.p.Enum {
		words[i] = w.Word
	}
	return strings.Join(words, ", ")
}

// integerBits accepts a raw number that is an integer, or whose nearest integer reads back as v: a
// line such as 1/3 has no exact decimals. A Linear point is an analog value, of which everybody
// expects the nearest step.
func (c codec) integerBits(v gateway.Value, raw *big.Rat) (uint64, error) {
	n := nearest(raw)
	if !raw.IsInt() && c.p.Linear == nil {
		back := c.line.of(new(big.Rat).SetInt(n))
		if f, _ := v.Number(); f != back {
			return 0, fmt.Errorf("%w: the register cannot hold %s, the nearest is %s", gateway.ErrRange, v, gateway.FloatValue(back))
		}
	}
	return c.fit(v, n)
}

// fit is n in the type's bits.
func (c codec) fit(v gateway.Value, n *big.Int) (uint64, error) {
	bits, ok := c.p.Type.Pattern(n)
	if !ok {
		low, high := c.p.Type.Bounds()
		return 0, fmt.Errorf("%w: %s does not fit %s (raw %s, %s to %s)", gateway.ErrRange, v, c.p.Type, n, low, high)
	}
	return bits, nil
}

// rational is the exact content of a number, as a person wrote it.
func rational(v gateway.Value) (*big.Rat, error) {
	switch v.Kind() {
	case gateway.Int:
		i, _ := v.Int()
		return new(big.Rat).SetInt64(i), nil
	case gateway.Uint:
		u, _ := v.Uint()
		return new(big.Rat).SetInt(new(big.Int).SetUint64(u)), nil
	case gateway.Float:
		if f, _ := v.Number(); finite(f) {
			return decimal(f), nil
		}
	}
	return nil, fmt.Errorf("%w: need a number, not %s", gateway.ErrRange, v)
}

// encodeText is the bytes of a value that is a Text, in their own order.
func (c codec) encodeText(v gateway.Value) ([]byte, error) {
	if c.facts.form == calendar {
		return encodeTime(c.p.Type, v)
	}
	s, ok := v.Text()
	content := []byte(s)
	if c.facts.form == octets {
		var err error
		if content, err = hex.DecodeString(s); err != nil || len(content) != c.p.Length {
			return nil, fmt.Errorf("%w: need %d hexadecimal digits, not %s", gateway.ErrRange, 2*c.p.Length, v)
		}
	}
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: need a text, not %s", gateway.ErrRange, v)
	case len(content) > c.p.Length:
		return nil, fmt.Errorf("%w: the text has %d bytes, the device takes %d", gateway.ErrRange, len(content), c.p.Length)
	case c.facts.form == characters && strings.ContainsRune(s, 0):
		return nil, fmt.Errorf("%w: a text cannot contain NUL, which ends it", gateway.ErrRange)
	}
	raw := bytes.Repeat([]byte{c.p.Pad}, c.size())
	copy(raw, content)
	clear(raw[c.p.Length:])
	return raw, nil
}
