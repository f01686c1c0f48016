package mapping

import (
	"regexp"
	"strconv"
	"strings"

	"iothub-gateway/adapters/modbus"
)

var lengthText = regexp.MustCompile(`^(string|hex)\(([0-9]{1,6})\)$`)

// readType reads type. Bits are bool without it; a register has no type by itself.
func (p *point) readType() {
	n, given := p.get("type")
	understood := given && p.typeOf(n)
	switch {
	case p.bits():
		if understood && p.south.Type != modbus.Bool {
			what := "a bit of a register"
			if p.south.Table.Bits() {
				what = "a " + tableName(p.south.Table)
			}
			n.complain("E123", "%s is true or false; drop type: %s", what, n.yaml.Value)
		}
		p.south.Type, p.south.Length = modbus.Bool, 0
		p.typed = true
	case given:
		p.typed = understood
	case p.placed && !p.has("bit") && !p.misspelt["bit"]:
		p.lacks("type", "E128", "point %s has no type; add type: int16, uint16, int32, uint32, float32 ..., or bit: 0 to 15 for one bit of the register", quote(p.name))
	}
}

// typeOf reads the word of a type.
func (p *point) typeOf(n node) bool {
	text, ok := n.text()
	if !ok {
		return false
	}
	var words []string
	found := lengthText.FindStringSubmatch(text)
	for _, t := range modbus.Types() {
		switch {
		case found != nil && found[1] == t.String():
			length, err := strconv.Atoi(found[2])
			if err == nil && length > 0 {
				p.south.Type, p.south.Length = t, length
				return true
			}
		case text == t.String() && t.Registers() > 0:
			p.south.Type = t
			return true
		case t.Registers() > 0:
			words = append(words, t.String())
		}
	}
	for _, word := range []string{"string", "hex"} {
		if strings.HasPrefix(text, word) {
			n.complain("E127", "%s: %s has its length in bytes: %s(16) takes 8 registers", quote(text), word, word)
			return false
		}
	}
	hint := didYouMean(text, words)
	if word := otherName(text); word != "" {
		hint = " (did you mean " + word + "?)"
	}
	n.complain("E127", "unknown type %s; use %s, string(N) or hex(N)%s", quote(text), strings.Join(words, ", "), hint)
	return false
}

// otherName is our word for a type that manuals and other programs call differently.
func otherName(text string) string {
	switch strings.ToLower(text) {
	case "bit", "boolean":
		return "bool"
	case "i16", "s16", "int", "short", "sint16":
		return "int16"
	case "u16", "uint", "word", "ushort":
		return "uint16"
	case "i32", "s32", "dint", "long", "sint32":
		return "int32"
	case "u32", "udint", "dword", "ulong":
		return "uint32"
	case "i64", "s64", "lint":
		return "int64"
	case "u64", "ulint", "qword":
		return "uint64"
	case "f32", "float", "real", "single":
		return "float32"
	case "f64", "double", "lreal":
		return "float64"
	case "f16", "half":
		return "float16"
	case "u8h", "uint8_h", "hibyte":
		return "uint8h"
	case "u8", "u8l", "byte", "uint8", "uint8_l", "lobyte":
		return "uint8l"
	case "i8h", "s8h":
		return "int8h"
	case "i8", "i8l", "s8", "s8l", "int8", "sint8":
		return "int8l"
	case "u24":
		return "uint24"
	case "i24":
		return "int24"
	case "u48":
		return "uint48"
	case "i48":
		return "int48"
	case "bcd":
		return "bcd16"
	case "signmag", "signmag16":
		return "sm16"
	case "time", "timestamp", "unix", "unix32", "epoch", "time_t":
		return "time(unix32)"
	case "datetime", "iec870":
		return "time(iec870)"
	}
	return ""
}

// readOrder reads order; a point without it has the device's.
func (p *point) readOrder() {
	p.south.Order = p.device.protocol.order
	n, ok := p.get("order")
	if !ok || !p.suits("order") {
		return
	}
	if order, ok := n.order(p.bytes()); ok {
		p.south.Order = order
	}
}

// bytes is how many bytes the value has that an order may permute; 0 if that is not known, or none.
func (p *point) bytes() int {
	if !p.typed || !p.number() && !strings.HasPrefix(p.south.Type.String(), "time(unix") {
		return 0
	}
	return 2 * p.south.Registers()
}

// integer tells whether the registers hold a whole number.
func (p *point) integer() bool {
	return p.typed && p.south.Type.Integer()
}

// number tells whether the registers hold a number.
func (p *point) number() bool {
	return p.typed && p.south.Type.Number()
}

// measures tells whether the value is a number too, rather than a word or flags.
func (p *point) measures() bool { return p.number() && !p.has("enum") && !p.has("flags") }

// suits tells whether a key has a meaning for what the point is, and reports it if not. While that is
// not known, every key is taken to suit.
func (p *point) suits(key string) bool {
	if !p.typed {
		return true
	}
	code, fits := "E120", true
	switch key {
	case "scale", "offset", "linear", "range", "wrap":
		fits = p.measures()
	case "deadband":
		code, fits = "E181", p.measures()
	case "enum":
		fits = p.integer() || p.south.Type == modbus.Bool
	case "flags":
		fits = p.integer()
	case "not_available":
		fits = p.number()
	case "padding":
		fits = p.south.Type == modbus.String
	case "order":
		fits = !p.placed || !p.south.Table.Bits()
	}
	if n, ok := p.get(key); ok && !fits {
		n.refuse(code, "%s has no meaning for %s; drop it", key, p.shape(key))
	}
	return fits
}

// shape is what the point is, in a sentence about one of its keys.
func (p *point) shape(key string) string {
	switch {
	case p.number() && key != "enum" && p.has("enum"):
		return "a word of enum"
	case p.number() && key != "flags" && p.has("flags"):
		return "flags"
	case p.south.Type.Text():
		return "a text"
	case p.south.Type == modbus.Bool:
		return "a bool"
	}
	return p.south.Type.String()
}

// checkFit checks the point as a whole: that its registers exist and can be asked for at once.
func (p *point) checkFit() {
	if !p.placed || !p.typed {
		return
	}
	at, _ := p.get("at")
	size, start := p.south.Registers(), int(p.south.Address)
	if p.decided && start+size > 65536 {
		at.complain("E115", "%s at %d ends past register 65535", p.typeName(), start)
	}
	if p.south.Table.Bits() {
		return
	}
	n, ok := p.get("type")
	if !ok {
		n = at
	}
	limits := p.device.protocol
	switch {
	case size > *limits.maxRead:
		n.complain("E151", "%s needs %d registers; one request reads %d at most", p.typeName(), size, *limits.maxRead)
	case p.north.Write != nil && size > *limits.maxWrite:
		n.complain("E151", "%s needs %d registers; one request writes %d at most", p.typeName(), size, *limits.maxWrite)
	}
	if *limits.even && start%2 != 0 && p.decided {
		at.complain("E152", "the device needs even addresses (even: true) but %s starts at %d on the wire", p.name, start)
	}
}

// typeName is the type as the file spells it.
func (p *point) typeName() string {
	if p.south.Length > 0 {
		return p.south.Type.String() + "(" + strconv.Itoa(p.south.Length) + ")"
	}
	return p.south.Type.String()
}
