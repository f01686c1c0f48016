package devsim

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// point is one point of the mapping inside its simulated unit. The unit's lock guards what the cells
// hold; all else is fixed once the unit has settled.
type point struct {
	at     modbus.Point
	north  gateway.Point
	unit   *unit
	layout layout
	cells  []*cell // one a register or bit, in the order of the addresses
	signal signal
	factor *cell // holds the point's scale factor; nil: it has none
	// still points do not move: writable ones, texts, and those that others make (share).
	still bool
}

func newPoint(at modbus.Point, north gateway.Point, seed int64) *point {
	p := &point{at: at, north: north, layout: layoutOf(at), signal: newSignal(seedOf(seed, string(at.ID)))}
	p.still = at.Writable || at.Type == modbus.String || at.Type == modbus.Hex
	if at.Type.Number() {
		p.signal.move(north, carrierOf(at))
	}
	return p
}

// end is the address behind the point's last cell.
func (p *point) end() int { return int(p.at.Address) + p.at.Registers() }

// start gives a point that does not move its first value: the middle of what may be written, the
// first word, a text. Bits start at 0.
func (p *point) start() {
	switch {
	case p.at.Type.Text():
		p.storeBytes(p.fixedBytes())
	case len(p.at.Enum) > 0:
		p.storeWord(p.firstWord())
	case p.at.Type == modbus.Bool || len(p.at.Flags) > 0:
		p.storeRaw(0)
	default:
		at, _ := p.scaledNow()
		p.storeNumber(naturalSpan(p.north, carrierOf(at)).middle())
	}
}

// firstWord is the raw value of the first word that may be written, else of the first word.
func (p *point) firstWord() int64 {
	if w := p.north.Write; w != nil && len(w.Words) > 0 {
		if raw, ok := p.wordRaw(w.Words[0]); ok {
			return raw
		}
	}
	return p.at.Enum[0].Raw
}

func (p *point) wordRaw(word string) (int64, bool) {
	i := slices.IndexFunc(p.at.Enum, func(e modbus.EnumWord) bool { return e.Word == word })
	if i < 0 {
		return 0, false
	}
	return p.at.Enum[i].Raw, true
}

// move brings the cells to where the point stands at t.
func (p *point) move(t tick) {
	switch {
	case p.still:
	case isTime(p.at.Type):
		p.storeBytes(timeBytes(p.at.Type, t.time()))
	case len(p.at.Enum) > 0:
		p.storeWord(p.at.Enum[p.signal.choice(len(p.at.Enum), t)].Raw)
	case len(p.at.Flags) > 0:
		var raw uint64
		for _, f := range p.at.Flags {
			if p.signal.flag(f.Bit, t) {
				raw |= 1 << f.Bit
			}
		}
		p.storeRaw(raw)
	case p.at.Type == modbus.Bool:
		var raw uint64
		if p.signal.on(t) {
			raw = 1
		}
		p.storeRaw(raw)
	default:
		p.storeNumber(p.signal.number(t))
	}
}

// storeNumber stores an engineering value; one that the registers cannot carry is left out.
func (p *point) storeNumber(v float64) {
	at, _ := p.scaledNow()
	if raw, ok := numberBits(at, v); ok {
		p.storeRaw(raw)
	}
}

// storeWord stores the integer that stands for a word.
func (p *point) storeWord(n int64) {
	if raw, ok := wholeBits(p.at, n); ok {
		p.storeRaw(raw)
	}
}

// storeRaw stores a raw value, one below it for each value that would mean "not available".
func (p *point) storeRaw(raw uint64) {
	for range p.at.NotAvailable {
		if p.absent(raw) {
			raw = below(p.at, raw)
		}
	}
	var words [4]uint16
	p.layout.pack(raw, words[:len(p.cells)])
	p.store(words[:len(p.cells)])
}

// store puts words into the bits that are not held by another point.
func (p *point) store(words []uint16) {
	mask := p.layout.mask()
	for i, c := range p.cells {
		free := mask &^ c.held
		c.word = c.word&^free | words[i]&free
	}
}

// hold puts words into the cells whoever holds them, and keeps them there.
func (p *point) hold(words []uint16) {
	mask := p.layout.mask()
	for i, c := range p.cells {
		c.word = c.word&^mask | words[i]&mask
		c.held |= mask
	}
}

// words are the cells as they stand.
func (p *point) words() []uint16 {
	words := make([]uint16, len(p.cells))
	for i, c := range p.cells {
		words[i] = c.word
	}
	return words
}

// absent tells whether raw is one of the device's "no value" values (MB-40).
func (p *point) absent(raw uint64) bool {
	for _, na := range p.at.NotAvailable {
		if truncate(na, p.at) == truncate(raw, p.at) {
			return true
		}
	}
	if isDecimal(p.at.Type) {
		_, ok := digitsIn(raw, width(p.at))
		return !ok
	}
	return p.at.Type.Floating() && math.IsNaN(floatOf(p.at, raw))
}

func (p *point) unavailable(why string) error {
	return fmt.Errorf("devsim: %s: %s: %w", p.at.ID, why, gateway.ErrNotAvailable)
}

// value reads words as the mapping says. Its error wraps gateway.ErrNotAvailable.
func (p *point) value(words []uint16) (gateway.Value, error) {
	if p.at.Type.Text() {
		return p.text(words)
	}
	raw := truncate(p.layout.unpack(words), p.at)
	switch {
	case p.absent(raw):
		return gateway.Value{}, p.unavailable(fmt.Sprintf("raw %#x", raw))
	case len(p.at.Enum) > 0:
		return gateway.TextValue(p.word(raw)), nil
	case len(p.at.Flags) > 0:
		return gateway.ObjectValue(p.flags(raw)), nil
	case p.at.Type == modbus.Bool:
		return gateway.BoolValue(raw != 0), nil
	}
	return p.number(raw)
}

// word is the enum's word for raw, or the number as text where there is none (MB-43).
func (p *point) word(raw uint64) string {
	n := whole(p.at, raw)
	for _, e := range p.at.Enum {
		if e.Raw == n {
			return e.Word
		}
	}
	return strconv.FormatInt(n, 10)
}

// flags is a JSON object of the named bits, in the mapping's order.
func (p *point) flags(raw uint64) string {
	object := []byte{'{'}
	for i, f := range p.at.Flags {
		if i > 0 {
			object = append(object, ',')
		}
		object = gateway.TextValue(f.Name).AppendJSON(object)
		object = append(object, ':')
		object = strconv.AppendBool(object, raw>>f.Bit&1 != 0)
	}
	return string(append(object, '}'))
}

// encode is the inverse of value. A number is rounded to the nearest raw value. The absent value is
// the first of the mapping's "no value" values, or NaN; an enum and flags also take the raw number.
// Its error wraps gateway.ErrRange.
func (p *point) encode(v gateway.Value) ([]uint16, error) {
	words := make([]uint16, len(p.cells))
	if p.at.Type.Text() {
		b, err := p.textBytes(v)
		if err != nil {
			return nil, err
		}
		p.layout.packBytes(b, words)
		return words, nil
	}
	raw, err := p.encodeRaw(v)
	if err != nil {
		return nil, err
	}
	p.layout.pack(raw, words)
	return words, nil
}

func (p *point) encodeRaw(v gateway.Value) (uint64, error) {
	switch {
	case v.Kind() == gateway.Absent && len(p.at.NotAvailable) > 0:
		return truncate(p.at.NotAvailable[0], p.at), nil
	case v.Kind() == gateway.Absent && p.at.Type.Floating():
		raw, _ := numberBits(p.at, math.NaN())
		return raw, nil
	case len(p.at.Enum) > 0 && v.Kind() == gateway.Text:
		word, _ := v.Text()
		if n, ok := p.wordRaw(word); ok {
			if raw, ok := wholeBits(p.at, n); ok {
				return raw, nil
			}
		}
		return 0, p.refuse(v, "not a word of the enum")
	case len(p.at.Flags) > 0 && v.Kind() == gateway.Object:
		return p.encodeFlags(v)
	case p.at.Type == modbus.Bool && len(p.at.Enum) == 0:
		b, ok := v.Bool()
		if !ok {
			return 0, p.refuse(v, "needs true or false")
		}
		if b {
			return 1, nil
		}
		return 0, nil
	}
	return p.encodeNumber(v)
}

func (p *point) encodeNumber(v gateway.Value) (uint64, error) {
	at, ok := p.scaled()
	if !ok {
		return 0, p.refuse(v, "its scale factor is none")
	}
	rawGiven := plain(at) || len(p.at.Enum) > 0 || len(p.at.Flags) > 0
	if raw, ok := integerBits(p.at, v); ok && rawGiven && !p.at.Type.Floating() {
		return raw, nil
	}
	x, ok := v.Number()
	if !ok {
		return 0, p.refuse(v, "needs a number")
	}
	raw, ok := numberBits(at, x)
	if !ok {
		limits := carried(at)
		return 0, p.refuse(v, fmt.Sprintf("%s carries %g to %g", p.at.Type, limits.lo, limits.hi))
	}
	return raw, nil
}

// encodeFlags sets the bits that are named true and clears all others.
func (p *point) encodeFlags(v gateway.Value) (raw uint64, err error) {
	var set map[string]bool
	if err := json.Unmarshal(v.AppendJSON(nil), &set); err != nil {
		return 0, p.refuse(v, "needs an object of true and false")
	}
	for name, on := range set {
		i := slices.IndexFunc(p.at.Flags, func(f modbus.Flag) bool { return f.Name == name })
		switch {
		case i < 0:
			return 0, p.refuse(v, fmt.Sprintf("no flag is called %q", name))
		case on:
			raw |= 1 << p.at.Flags[i].Bit
		}
	}
	return raw, nil
}

func (p *point) refuse(v gateway.Value, why string) error {
	return fmt.Errorf("devsim: %s: %s: %w: %s", p.at.ID, v, gateway.ErrRange, why)
}
