package modbus

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"

	gateway "iothub-gateway"
)

// encode is decode's inverse: the registers (of a coil: one byte, 0 or 1) that hold v. Its error
// wraps ErrRange if they cannot hold exactly v, but for a float, which takes the nearest (MB-70). A
// bit of a register has no registers of its own: see bitMask.
func (c codec) encode(v gateway.Value) ([]byte, error) {
	if c.p.Type == String {
		return c.encodeText(v)
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
	return scatterBits(c.order, bits), nil
}

// oneBit tells whether the point is one bit of a register.
func (c codec) oneBit() bool { return !c.p.Table.Bits() && c.p.Type == Bool && c.p.Bit >= 0 }

// bitMask is what a write of v to one bit of a register does: the bit as it stands on the wire, and
// whether it is set.
func (c codec) bitMask(v gateway.Value) (bit uint16, on bool, err error) {
	bits, err := c.bits(v)
	raw := scatterBits(c.order, 1<<c.p.Bit)
	return uint16(raw[0])<<8 | uint16(raw[1]), bits != 0, err
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
	case c.p.Type == Float32:
		f, _ := raw.Float32()
		return uint64(math.Float32bits(f)), c.tooBig(v, float64(f))
	case c.p.Type == Float64:
		f, _ := raw.Float64()
		return math.Float64bits(f), c.tooBig(v, f)
	}
	return c.integerBits(v, raw)
}

func (c codec) tooBig(v gateway.Value, f float64) error {
	if finite(f) {
		return nil
	}
	return fmt.Errorf("%w: %s is too big for %s", gateway.ErrRange, v, c.p.Type)
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

// fit is n in the type's width.
func (c codec) fit(v gateway.Value, n *big.Int) (uint64, error) {
	low, high := bounds(c.p.Type)
	if n.Cmp(low) < 0 || n.Cmp(high) > 0 {
		return 0, fmt.Errorf("%w: %s does not fit %s (raw %s, %s to %s)", gateway.ErrRange, v, c.p.Type, n, low, high)
	}
	if n.Sign() < 0 {
		return uint64(n.Int64()) & mask(2*c.p.Type.Registers()), nil
	}
	return n.Uint64(), nil
}

// bounds are the least and the greatest raw number of an integer type.
func bounds(t Type) (low, high *big.Int) {
	one := big.NewInt(1)
	power := func(n int) *big.Int { return new(big.Int).Lsh(one, uint(n)) }
	width := 16 * t.Registers()
	switch t {
	case Bool:
		return new(big.Int), one
	case Int16, Int32, Int64:
		return new(big.Int).Neg(power(width - 1)), new(big.Int).Sub(power(width-1), one)
	default:
		return new(big.Int), new(big.Int).Sub(power(width), one)
	}
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

func (c codec) encodeText(v gateway.Value) ([]byte, error) {
	s, ok := v.Text()
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: need a text, not %s", gateway.ErrRange, v)
	case len(s) > c.p.Length:
		return nil, fmt.Errorf("%w: the text has %d bytes, the device takes %d", gateway.ErrRange, len(s), c.p.Length)
	case strings.ContainsRune(s, 0):
		return nil, fmt.Errorf("%w: a text cannot contain NUL, which ends it", gateway.ErrRange)
	}
	raw := make([]byte, c.size())
	copy(raw, s)
	return swapPairs(raw, swapped(c.p.Order)), nil
}
