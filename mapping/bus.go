package mapping

import (
	"slices"
	"strings"

	"iothub-gateway/adapters/modbus"
)

// counting says how a list of points counts registers. It has no default (MB-32).
type counting uint8

const (
	undecided counting = iota
	fromZero           // the first register is 0, as on the wire
	fromOne            // the first register is 1
	byModicon          // 40001 is the first holding register
)

// protocol is how a device wants to be spoken to, as far as a place says so; nil is not said.
type protocol struct {
	counting               counting
	counted                bool   // addressing is given, rightly or wrongly
	order                  string // "" is not said
	gap, maxRead, maxWrite *int
	even                   *bool
}

// protocol reads the protocol's keys of a modbus section.
func (s section) protocol() protocol {
	p := protocol{counted: s.has("addressing") || s.misspelt["addressing"]}
	if n, ok := s.get("addressing"); ok {
		switch word, _ := n.word("zero", "one", "modicon"); word {
		case "zero":
			p.counting = fromZero
		case "one":
			p.counting = fromOne
		case "modicon":
			p.counting = byModicon
		}
	}
	if n, ok := s.get("order"); ok {
		p.order, _ = n.order(0)
	}
	p.gap = s.limit("gap", 0, modbus.MaxReadRegisters)
	p.maxRead = s.limit("max_read", 1, modbus.MaxReadRegisters)
	p.maxWrite = s.limit("max_write", 1, modbus.MaxWriteRegisters)
	if n, ok := s.get("even"); ok {
		if even, ok := n.yes(); ok {
			p.even = &even
		}
	}
	return p
}

// limit is a number of registers.
func (s section) limit(key string, low, high int) *int {
	n, ok := s.get(key)
	if !ok {
		return nil
	}
	if i, ok := n.whole(low, high, "E150"); ok {
		return &i
	}
	return nil
}

// order is the order of a value's bytes (MB-36): one of the four names, or for a value of more than one
// register also a permutation of as many letters as it has bytes.
func (n node) order(bytes int) (string, bool) {
	text, ok := n.text()
	if !ok {
		return "", false
	}
	const all = "abcdefgh"
	letters := []byte(text)
	slices.Sort(letters)
	permuted := len(text) >= 4 && len(text) <= len(all) && string(letters) == all[:len(text)]
	names := []string{"abcd", "cdab", "badc", "dcba"}
	switch {
	case slices.Contains(names, text) || permuted && len(text) == bytes:
		return text, true
	case permuted && len(text)%2 == 0:
		n.complain("E125", "order %s is for values of %d bytes; write it at points of that size", text, len(text))
	default:
		n.complain("E125", "unknown order %s; use abcd (big endian), cdab (words swapped), badc (bytes swapped) or dcba (little endian)%s",
			quote(text), didYouMean(text, names))
	}
	return "", false
}

func (p protocol) over(below protocol) protocol {
	if p.counting == undecided {
		p.counting = below.counting
	}
	p.counted = p.counted || below.counted
	if p.order == "" {
		p.order = below.order
	}
	if p.gap == nil {
		p.gap = below.gap
	}
	if p.maxRead == nil {
		p.maxRead = below.maxRead
	}
	if p.maxWrite == nil {
		p.maxWrite = below.maxWrite
	}
	if p.even == nil {
		p.even = below.even
	}
	return p
}

// builtInProtocol is what holds where the file says nothing; counting stays undecided. The gap is what
// pays: on TCP, where a request costs much more than a register, more than on a line (MB-21, MB-45).
func builtInProtocol(l *link) protocol {
	gap, maxRead, maxWrite, even := 32, modbus.MaxReadRegisters, modbus.MaxWriteRegisters, false
	if l != nil && l.config.Framing != modbus.MBAP {
		gap = 16
	}
	return protocol{order: "abcd", gap: &gap, maxRead: &maxRead, maxWrite: &maxWrite, even: &even}
}

// unit is the unit id of a device (MB-11). It has no default, because vendors differ.
func (s section) unit() (uint8, bool) {
	n, ok := s.get("unit")
	if !ok {
		s.lacks("unit", "E020", "the unit is missing; write unit: 1 to 247, or 255 or 0 for a device that is addressed by its IP")
		return 0, false
	}
	text, ok := n.text()
	if !ok || n.zeroes(text) {
		return 0, false
	}
	unit, ok := parseWhole(text)
	if !ok || unit < 0 || unit > 247 && unit != 255 {
		n.complain("E020", "unit %s is not possible; write 1 to 247, or 255 or 0 for a device that is addressed by its IP", quote(strings.TrimSpace(text)))
		return 0, false
	}
	return uint8(unit), true
}

// onLine checks that the unit of a device on a serial line is one that answers (MB-12, MB-20).
func (n node) onLine(dev *device) {
	if dev.link.config.Framing == modbus.MBAP || dev.unit >= 1 && dev.unit <= 247 {
		return
	}
	n.complain("E021", "unit %d does not answer on a serial line: 0 is for all devices at once, 255 for none; write 1 to 247", dev.unit)
}
