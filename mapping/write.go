package mapping

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"

	yaml "go.yaml.in/yaml/v4"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// readWrite reads who may write the point: nobody without write.
func (p *point) readWrite() {
	n, ok := p.get("write")
	if !ok {
		return
	}
	rule := &gateway.WriteRule{Confirm: gateway.Confirm{By: p.south.ID}}
	limited := false
	for _, w := range p.south.Enum {
		rule.Words = append(rule.Words, w.Word)
	}
	if n.yaml.Kind == yaml.MappingNode {
		s := n.section(inWrite)
		limited = s.has("min") || s.has("max") || s.misspelt["min"] || s.misspelt["max"]
		if limited {
			p.readLimits(s, rule)
		}
		p.readWords(s, rule)
		p.readHow(s)
	} else if allowed, ok := n.yes(); !ok || !allowed {
		return
	}
	p.north.Write, p.south.Writable = rule, true
	p.checkWrite(n, limited)
}

// readWords reads enum: which of the point's words may be written.
func (p *point) readWords(s section, rule *gateway.WriteRule) {
	n, ok := s.get("enum")
	if !ok {
		return
	}
	all := rule.Words
	if p.typed && len(all) == 0 && !p.misspelt["enum"] {
		n.refuse("E120", "enum of write chooses among the words of the point's enum, and %s has none; drop it", quote(p.name))
		return
	}
	items, _ := n.items()
	rule.Words = nil
	for _, item := range items {
		word, ok := item.text()
		if ok && !slices.Contains(all, word) {
			item.complain("E132", "%s is not a word of %s; write %s%s", quote(word), quote(p.name), orList(all), didYouMean(word, all))
		}
		rule.Words = append(rule.Words, word)
	}
}

// readHow reads when a write is done, and how often there may be one.
func (p *point) readHow(s section) {
	const mostOften, persistent = 100, 1.0 / 60
	p.confirm, _ = s.get("confirm")
	rate, rated := s.get("rate")
	if rated {
		perSecond, ok := rate.number()
		if ok && (perSecond <= 0 || perSecond > mostOften) {
			rate.complain("E009", "rate: %s is not possible; write how many writes a second the point takes, above 0 and up to %d", quote(rate.yaml.Value), mostOften)
		}
		p.south.WriteRate = perSecond
	}
	if n, ok := s.get("persist"); ok {
		if kept, _ := n.yes(); kept && rated {
			n.refuse("E121", "persist allows one write a minute, and rate says otherwise; keep one")
		} else if kept {
			p.south.WriteRate = persistent
		}
	}
}

// findConfirmations finds what confirms the writes of each point.
func (dev *device) findConfirmations() {
	for _, p := range dev.points {
		if p.confirm.yaml != nil {
			p.north.Write.Confirm = p.confirm.confirming(p)
		}
	}
}

// confirming is what confirms a write of p: nothing but the device's answer, its own reading, or that of another
// point of the device.
func (n node) confirming(p *point) (c gateway.Confirm) {
	name, ok := n.text()
	switch {
	case !ok, name == "sent":
		return c
	case name == "read-back":
		c.By = p.south.ID
		return c
	}
	dev := p.device
	switch by := dev.byName[name]; {
	case by == nil && dev.partial:
	case by == nil:
		var names []string
		for _, other := range dev.points {
			names = append(names, other.name)
		}
		n.complain("E141", "confirm: %s is neither sent nor read-back, and no point of %s%s", quote(name), quote(dev.name), didYouMean(name, append(names, "sent", "read-back")))
	case by.typed && p.typed && (by.measures() != p.measures() || by.bits() != p.bits()):
		n.complain("E141", "%s (line %d) can never have the value of %s: it is %s", quote(name), by.key.line, quote(p.name), by.shape("confirm"))
	default:
		c.By, c.Tolerance = by.south.ID, by.north.Publish.Deadband
	}
	return c
}

// checkWrite wants a table that can be written, and limits for what can hurt.
func (p *point) checkWrite(n node, limited bool) {
	if p.placed && p.south.Table != modbus.Holding && p.south.Table != modbus.Coil {
		n.complain("E126", "the Modbus protocol cannot write an input register or a discrete input; use holding or coil, or drop write")
		return
	}
	if !p.typed {
		return
	}
	words := map[string]bool{}
	for _, w := range p.south.Enum {
		if words[w.Word] {
			n.complain("E132", "the word %s stands for two values, so it cannot be written; make the words of enum differ", quote(w.Word))
		}
		words[w.Word] = true
	}
	switch {
	case p.has("flags"):
		n.complain("E126", "flags cannot be written together; map each bit that may be written as a point of its own with bit:")
	case limited && !p.measures():
		n.complain("E120", "limits have no meaning for %s; write: true allows all of its values", p.shape("write"))
	case p.measures() && !limited:
		n.complain("E129", "point %s may be written but has no limits; write { min: 0, max: 100 }, or give it an enum", quote(p.name))
	}
	if part := p.part(); part != "" && p.placed {
		n.complain("W231", "writing %s of %s %d may need to read and rewrite the whole register; another master may lose a change", part, p.south.Table, p.south.Address)
	}
}

// part names the part of a register that the point is; "" if it is none.
func (p *point) part() string {
	switch {
	case p.bits() && !p.south.Table.Bits():
		return fmt.Sprintf("bit %d", p.south.Bit)
	case p.south.Type.Half():
		return "one byte"
	}
	return ""
}

// readLimits reads min and max, which belong together: a limit on one side alone leaves the other to
// the width of the register.
func (p *point) readLimits(s section, rule *gateway.WriteRule) {
	for _, side := range []struct {
		key  string
		into **float64
	}{{"min", &rule.Min}, {"max", &rule.Max}} {
		n, ok := s.get(side.key)
		if !ok {
			s.lacks(side.key, "E129", "write has no %s; both limits are needed, such as { min: 0, max: 100 }", side.key)
			continue
		}
		limit, ok := n.number()
		if !ok {
			continue
		}
		*side.into = &limit
		if p.measures() && p.factor.yaml == nil && !p.carries(exactText(n.yaml.Value)) {
			n.complain("E131", "%s: %s is more than %s can hold once it is scaled back", side.key, quote(n.yaml.Value), p.typeName())
		}
	}
	if rule.Min != nil && rule.Max != nil && *rule.Min > *rule.Max {
		n, _ := s.get("min")
		n.complain("E124", "min: %s is above max; the lower limit comes first", quote(n.yaml.Value))
	}
}

// exactly is the decimal number that a person wrote to get f.
func exactly(f float64) *big.Rat { return exactText(strconv.FormatFloat(f, 'g', -1, 64)) }

// exactText is the number that a decimal text stands for.
func exactText(text string) *big.Rat {
	r, ok := new(big.Rat).SetString(text)
	if !ok { // not finite; numbers of the file are
		return new(big.Rat)
	}
	return r
}

// raw is the number in the registers that stands for an engineering value.
func (p *point) raw(value *big.Rat) *big.Rat {
	scale, offset := exactly(p.south.Scale), exactly(p.south.Offset)
	if l := p.south.Linear; l != nil && l.From[0] != l.From[1] && l.To[0] != l.To[1] {
		rise := new(big.Rat).Sub(exactly(l.To[1]), exactly(l.To[0]))
		run := new(big.Rat).Sub(exactly(l.From[1]), exactly(l.From[0]))
		scale = rise.Quo(rise, run)
		offset = new(big.Rat).Sub(exactly(l.To[0]), new(big.Rat).Mul(scale, exactly(l.From[0])))
	}
	raw := new(big.Rat).Sub(value, offset)
	return raw.Quo(raw, scale)
}

// carries tells whether an engineering value lies within what the registers hold, rounded.
func (p *point) carries(value *big.Rat) bool {
	low, high := bounds(p.south.Type)
	raw := p.raw(value)
	return raw.Cmp(low) >= 0 && raw.Cmp(high) <= 0
}

// holds tells whether a raw number is a value of the point's type.
func (p *point) holds(raw *big.Rat) bool {
	low, high := bounds(p.south.Type)
	return raw.Cmp(low) >= 0 && raw.Cmp(high) <= 0 && (raw.IsInt() || !p.south.Type.Integer() && p.south.Type != modbus.Bool)
}

// bounds are the least and the greatest raw number of a type.
func bounds(t modbus.Type) (low, high *big.Rat) {
	if low, high := t.Bounds(); low != nil {
		return new(big.Rat).SetInt(low), new(big.Rat).SetInt(high)
	}
	greatest := math.MaxFloat64
	switch t {
	case modbus.Float16:
		greatest = 65504
	case modbus.Float32:
		greatest = math.MaxFloat32
	}
	return exactly(-greatest), exactly(greatest)
}
