package mapping

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"

	yaml "go.yaml.in/yaml/v4"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// readMeaning reads what turns registers into a value.
func (p *point) readMeaning() {
	p.readScale()
	if n, ok := p.get("enum"); ok && p.suits("enum") {
		if p.has("flags") {
			n.refuse("E121", "enum and flags exclude each other; keep one")
		}
		p.south.Enum = p.enum(n)
	}
	if n, ok := p.get("flags"); ok && p.suits("flags") {
		p.south.Flags = p.flags(n)
	}
	if n, ok := p.get("padding"); ok && p.suits("padding") {
		if word, _ := n.word("nul", "space"); word == "space" {
			p.south.Pad = ' '
		}
	}
	if n, ok := p.get("not_available"); ok && p.suits("not_available") {
		p.south.NotAvailable = p.notAvailable(n)
	}
	p.readWrap()
}

func (p *point) readWrap() {
	if n, ok := p.get("wrap"); ok && p.suits("wrap") {
		if wrap, ok := n.number(); ok && wrap <= 0 {
			n.complain("E009", "wrap is the count at which the counter starts again at 0, such as 4294967296")
		} else {
			p.north.Wrap = wrap
		}
	}
}

// readScale reads scale and offset, or linear.
func (p *point) readScale() {
	linear, byLine := p.get("linear")
	for _, key := range []string{"scale", "offset"} {
		n, ok := p.get(key)
		if !ok || !p.suits(key) {
			continue
		}
		if name, ok := n.factorName(); ok && key == "scale" {
			p.factor = n
			p.factorName = name
			continue
		}
		value, ok := n.number()
		switch {
		case byLine:
			n.refuse("E121", "linear says it already; keep linear, or scale and offset")
		case ok && key == "scale" && value == 0:
			n.complain("E009", "scale: 0 makes every value 0; write a factor such as 0.1")
		case ok && key == "scale":
			p.south.Scale = value
		case ok:
			p.south.Offset = value
		}
	}
	if p.factor.yaml != nil {
		for _, key := range []string{"offset", "linear"} {
			if n, ok := p.get(key); ok {
				n.refuse("E121", "%s and a scale factor of the device exclude each other; keep one", key)
			}
		}
		return
	}
	if !byLine || !p.suits("linear") {
		return
	}
	s := linear.section(inLinear)
	var line modbus.Linear
	line.From = s.ends("raw")
	line.To = s.ends("to")
	p.south.Linear = &line
}

// ends are the two ends of a line. They may fall, but not be equal.
func (s section) ends(key string) [2]float64 {
	n, ok := s.get(key)
	if !ok {
		s.lacks(key, "E008", "linear has no %s; write linear: { raw: 0..27648, to: 0..100 }", key)
		return [2]float64{0, 1}
	}
	a, b, ok := n.between()
	if ok && a == b {
		n.complain("E124", "%s: %s is a single number; write two different ones", key, quote(n.yaml.Value))
	}
	return [2]float64{a, b}
}

// enum reads number: word.
func (p *point) enum(n node) []modbus.EnumWord {
	n.label = "enum"
	var words []modbus.EnumWord
	first := map[int64]node{}
	for _, f := range n.fields("E002") {
		key := node{reader: f.reader, at: f.key, label: "enum"}
		word, ok := f.text()
		if key.zeroes(f.name) {
			continue
		}
		raw, whole := parseWhole(f.name)
		switch same, again := first[raw]; {
		case !whole || p.typed && !p.holds(new(big.Rat).SetInt64(raw)):
			key.complain("E132", "enum: %s is no value of %s; write number: word, such as { 0: standby, 1: auto }", quote(f.name), p.typeName())
		case again:
			key.complain("E132", "enum: %d has a word already on line %d", raw, same.at.line)
		case ok:
			first[raw] = key
			words = append(words, modbus.EnumWord{Raw: raw, Word: word})
		}
	}
	if len(words) == 0 && n.yaml.Kind == yaml.MappingNode && len(n.yaml.Content) == 0 {
		n.complain("E132", "enum has no words; write number: word, such as { 0: standby, 1: auto }")
	}
	return words
}

// flags reads bit: name.
func (p *point) flags(n node) []modbus.Flag {
	n.label = "flags"
	var flags []modbus.Flag
	highest := max(p.south.Type.Bits(), 16) - 1
	if p.south.Type.Half() {
		highest = 7
	}
	names, bits := map[string]bool{}, map[int64]bool{}
	for _, f := range n.fields("E002") {
		key := node{reader: f.reader, at: f.key, label: "flags"}
		name, ok := f.text()
		if key.zeroes(f.name) {
			continue
		}
		bit, whole := parseWhole(f.name)
		switch {
		case !whole || bit < 0 || p.typed && bit > int64(highest):
			key.complain("E112", "flags: bit %s: a %s has bits 0 to %d (bit 0 is the least significant)", quote(f.name), p.typeName(), highest)
		case bits[bit]:
			key.complain("E132", "flags: bit %d has a name already", bit)
		case ok && names[name]:
			f.complain("E132", "flags: %s names another bit already", quote(name))
		case ok:
			bits[bit], names[name] = true, true
			flags = append(flags, modbus.Flag{Bit: int(bit), Name: name})
		}
	}
	if len(flags) == 0 && n.yaml.Kind == yaml.MappingNode && len(n.yaml.Content) == 0 {
		n.complain("E132", "flags has no names; write bit: name, such as { 0: running, 3: fault }")
	}
	return flags
}

// notAvailable reads the raw values that mean "no value": one or a list (MB-40).
func (p *point) notAvailable(n node) []uint64 {
	items := []node{n}
	if n.yaml.Kind == yaml.SequenceNode {
		items, _ = n.items()
	}
	var values []uint64
	for _, item := range items {
		text, ok := item.text()
		if !ok || item.zeroes(text) {
			continue
		}
		bits, ok := p.rawBits(text)
		if !ok && p.typed {
			item.complain("E132", "not_available: %s is no value of %s; write the raw number, such as 0x8000 or -32768", quote(text), p.typeName())
		}
		values = append(values, bits)
	}
	return values
}

// rawBits are the bits of the registers that text stands for: hexadecimal the bits themselves, decimal
// the number in the point's type.
func (p *point) rawBits(text string) (uint64, bool) {
	if hexText.MatchString(text) {
		bits, err := strconv.ParseUint(text[2:], 16, 64)
		return bits, err == nil && bits <= math.MaxUint64>>(64-max(p.south.Type.Bits(), 1))
	}
	if _, isNumber := parseNumber(text); isNumber && p.south.Type.Floating() {
		return p.south.Type.FloatPattern(exactText(text))
	}
	exact, ok := new(big.Int).SetString(text, 10)
	if !ok || len(text) > longestNumber {
		return 0, false
	}
	return p.south.Type.Pattern(exact)
}

// deadband is a number, or a percentage of the last reported value.
func (n node) deadband() gateway.Deadband {
	text, ok := n.text()
	if !ok || n.zeroes(text) {
		return gateway.Deadband{}
	}
	number, percent := strings.CutSuffix(text, "%")
	value, ok := parseNumber(number)
	switch {
	case !ok || value <= 0:
		n.complain("E009", "deadband: %s is not possible; write a number above 0, such as 0.5, or a percentage such as 1%%", quote(text))
	case percent:
		return gateway.Deadband{Percent: value}
	}
	return gateway.Deadband{Absolute: value}
}

// goodRange is range: a..b, or { clamp: a..b } or { drop: a..b }.
func (n node) goodRange() *gateway.Range {
	mode := gateway.RangeMark
	if n.yaml.Kind == yaml.MappingNode {
		s := n.section(inRange)
		clamp, clamped := s.get("clamp")
		drop, dropped := s.get("drop")
		switch {
		case clamped && dropped:
			drop.refuse("E121", "clamp and drop exclude each other; keep one")
			return nil
		case clamped:
			n, mode = clamp, gateway.RangeClamp
		case dropped:
			n, mode = drop, gateway.RangeDrop
		default:
			s.lacks("clamp", "E008", "range says nothing; write range: 0..100, { clamp: 0..100 } or { drop: 0..100 }")
			return nil
		}
	}
	low, high, ok := n.ascending()
	if !ok {
		return nil
	}
	return &gateway.Range{Min: low, Max: high, Mode: mode}
}

// checkField wants a field that a JSON body can carry beside the bridge's own (_quality).
func (p *point) checkField() {
	const longest = 128
	n := node{reader: p.reader, at: p.key}
	if name, ok := p.get("name"); ok {
		n = name
	}
	field := p.north.Field
	switch {
	case strings.HasPrefix(field, "_"):
		n.complain("E103", "the field %s begins with _, which is reserved for the gateway's own fields; choose another name", quote(field))
	case len(field) > longest || strings.ContainsFunc(field, unicode.IsControl):
		n.complain("E103", "a field is one line of up to %d characters", longest)
	}
}
