package mapping

import (
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v4"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// longestMethod is the longest time that the hub waits for the answer to a method.
const longestMethod = 5 * time.Minute

func (d *draft) readMethods(n node, dev *device) {
	n.label = "methods"
	if dev.local {
		n.refuse("E080", "a local device has no identity that the cloud could call methods on; drop methods")
	}
	for _, f := range n.fields("E002") {
		f.methodName(dev)
		s := f.section(inMethod)
		m := gateway.Method{Identity: dev.identity, Name: f.name}
		if n, ok := s.get("timeout"); ok {
			m.Timeout, _ = n.duration(10*shortest, longestMethod)
		}
		write, writes := s.get("write")
		read, reads := s.get("read")
		switch {
		case dev.reports:
			s.silentMethod(dev)
		case writes && reads:
			read.refuse("E165", "method %s writes and reads; make it two methods", quote(f.name))
		case writes:
			s.writingMethod(write, dev, &m)
		case reads:
			s.readingMethod(read, dev, &m)
		case !s.misspelt["read"]:
			s.lacks("write", "E165", "method %s does nothing; write write: POINT with from: or value:, or read: [POINT]", quote(f.name))
		}
		dev.methods = append(dev.methods, m)
	}
}

// methodName wants a name that the hub can call (METH-7) and the identity does not have yet.
func (f field) methodName(dev *device) {
	illegal := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("$()<>@,;:\\\"/[]?={}#+%", r) }
	switch {
	case f.name == "" || strings.ContainsFunc(f.name, illegal):
		f.refuse("E077", "method %s cannot be called through the hub; use ASCII letters, digits, _, - and .", quote(f.name))
	case dev.owner == nil:
	default:
		if other, twice := dev.owner.methods[f.name]; twice {
			f.refuse("E077", "%s has a method %s already, on line %d; give one of them another name", dev.owner.identity.ID, quote(f.name), other.key.line)
			return
		}
		dev.owner.methods[f.name] = f.node
	}
}

// target is the point of the device that a method names; nil if there is none.
func (n node) target(dev *device) *point {
	name, ok := n.text()
	if !ok {
		return nil
	}
	p := dev.byName[name]
	if p == nil && !dev.partial {
		where := quote(dev.name)
		if dev.profile.yaml != nil {
			where += " or its profile " + quote(dev.profile.yaml.Value)
		}
		n.complain("E161", "no point %s in %s%s", quote(name), where, didYouMean(name, slices.Sorted(maps.Keys(dev.byName))))
	}
	return p
}

func (s section) readingMethod(read node, dev *device, m *gateway.Method) {
	for _, key := range []string{"from", "value", "require", "deliver", "expires", "confirm"} {
		if n, ok := s.get(key); ok {
			n.refuse("E165", "%s is for methods that write; drop it", key)
		}
	}
	items, _ := read.items()
	for _, item := range items {
		p := item.target(dev)
		switch {
		case p == nil:
		case slices.Contains(m.Read, p.north.ID):
			item.complain("E002", "%s is listed twice", quote(p.name))
		default:
			m.Read = append(m.Read, p.north.ID)
		}
	}
}

// writingMethod reads what a method writes.
func (s section) writingMethod(write node, dev *device, m *gateway.Method) {
	w := s.writing(write, dev, "method "+quote(m.Name))
	m.Write, m.From, m.Value = w.point, w.from, w.value
	m.Queued = s.queued()
	m.Confirm = s.confirm(write, dev)
	n, ok := s.get("require")
	switch {
	case !ok:
	case m.Queued > 0:
		n.refuse("E166", "require is looked at when the method is called, and this one may write later; drop require, or deliver: queued")
	default:
		m.Require = n.requirements(dev)
	}
}

// confirm reads when the write of a method or desired property counts as done; nil: as the point says.
func (s section) confirm(write node, dev *device) *gateway.Confirm {
	n, ok := s.get("confirm")
	p := dev.byName[write.yaml.Value]
	if !ok || p == nil {
		return nil
	}
	c := n.confirming(p)
	return &c
}

// requirements reads which values points of the device must have.
func (n node) requirements(dev *device) (all []gateway.Requirement) {
	for _, f := range n.fields("E002") {
		name := f.node
		name.yaml, name.at = &yaml.Node{Kind: yaml.ScalarNode, Value: f.name}, f.key
		p := name.target(dev)
		text, ok := f.text()
		if p == nil || !ok || !p.sound {
			continue
		}
		v, ok := p.reading(text)
		if !ok {
			f.complain("E163", "%s (line %d) never has the value %s: it is %s", quote(p.name), p.key.line, quote(text), p.shape("require"))
			continue
		}
		all = append(all, gateway.Requirement{Point: p.north.ID, Value: v})
	}
	return all
}

// reading is the value of the point that text stands for; false if it never has it.
func (p *point) reading(text string) (v gateway.Value, ok bool) {
	number, isNumber := parseNumber(text)
	switch {
	case len(p.south.Enum) > 0:
		return gateway.TextValue(text), slices.ContainsFunc(p.south.Enum, func(w modbus.EnumWord) bool { return w.Word == text })
	case p.south.Type == modbus.Bool:
		return gateway.BoolValue(text == "true"), text == "true" || text == "false"
	case p.south.Type.Text():
		return gateway.TextValue(text), true
	}
	return gateway.FloatValue(number), isNumber && p.measures()
}

// writing is what a method or message rule writes.
type writing struct {
	point gateway.PointID
	from  string
	value *gateway.Value
}

// writing reads which point is written, and with what; what is the method or rule, in a sentence.
func (s section) writing(write node, dev *device, what string) (w writing) {
	p := write.target(dev)
	from, byField := s.get("from")
	value, constant := s.get("value")
	switch {
	case byField && constant:
		value.refuse("E162", "%s takes its value from %s but also has value: %s; keep one", what, quote(from.yaml.Value), quote(value.yaml.Value))
	case byField:
		w.from, _ = from.text()
	case !constant && !s.misspelt["from"]:
		s.lacks("value", "E162", "%s does not say what it writes; add from: FIELD of the payload, or value: CONSTANT", what)
	}
	if p == nil || !p.writable(write, what) {
		return w
	}
	w.point = p.north.ID
	if constant && !byField && p.sound {
		w.value = p.constant(value)
	}
	return w
}

// writable wants a point that the cloud may write.
func (p *point) writable(write node, what string) bool {
	if p.sound && p.north.Write == nil {
		write.complain("E160", "%s writes %s (line %d), which has no write; add write: to the point", what, quote(p.name), p.key.line)
		return false
	}
	return true
}

// queued reads for how long a write waits for its device; 0 is now or never.
func (s section) queued() time.Duration {
	deliver, given := s.get("deliver")
	expires, limited := s.get("expires")
	word := "now"
	if given {
		word, _ = deliver.word("now", "queued")
	}
	switch {
	case word == "now" && limited && !s.misspelt["deliver"]:
		expires.refuse("E166", "expires is for what waits for its device; add deliver: queued, or drop expires")
	case word == "queued" && !limited && !s.misspelt["expires"]:
		deliver.complain("E166", "deliver: queued does not say until when the write makes sense; add expires: 1h")
	case word == "queued" && limited:
		d, _ := expires.duration(time.Second, longest)
		return d
	}
	return 0
}

// constant is a value that a method always writes: one that the point may be given.
func (p *point) constant(n node) *gateway.Value {
	text, ok := n.text()
	if !ok {
		return nil
	}
	var v gateway.Value
	switch rule := p.north.Write; {
	case len(p.south.Enum) > 0:
		if v = gateway.TextValue(text); !slices.Contains(rule.Words, text) {
			n.complain("E163", "%s is not a word of %s (line %d); write %s%s", quote(text), p.name, p.key.line, orList(rule.Words), didYouMean(text, rule.Words))
		}
	case p.south.Type == modbus.Bool:
		if v = gateway.BoolValue(text == "true"); text != "true" && text != "false" {
			n.complain("E163", "%s is neither true nor false, and %s (line %d) takes one of them", quote(text), p.name, p.key.line)
		}
	case p.south.Type.Text():
		v = gateway.TextValue(text)
		if err := p.south.Holds(v); err != nil {
			n.complain("E163", "%s cannot be written to %s (line %d): %v", quote(text), p.name, p.key.line, err)
		}
	default:
		return p.constantNumber(n, text)
	}
	return &v
}

func (p *point) constantNumber(n node, text string) *gateway.Value {
	if n.zeroes(text) {
		return nil
	}
	var v gateway.Value
	var exact *big.Rat
	if i, ok := parseWhole(text); ok {
		v, exact = gateway.IntValue(i), new(big.Rat).SetInt64(i)
	} else if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		v, exact = gateway.UintValue(u), new(big.Rat).SetInt(new(big.Int).SetUint64(u))
	} else if f, ok := parseNumber(text); ok {
		v, exact = gateway.FloatValue(f), exactly(f)
	} else {
		n.complain("E163", "%s is not a number, and %s (line %d) takes one", quote(text), p.name, p.key.line)
		return nil
	}
	low, high := p.north.Write.Min, p.north.Write.Max
	switch f, _ := v.Number(); {
	case low != nil && f < *low || high != nil && f > *high:
		n.complain("E163", "%s is outside the limits %s..%s of %s (line %d)", quote(text), gateway.FloatValue(*low), gateway.FloatValue(*high), p.name, p.key.line)
	case p.factor.yaml == nil && !p.holds(p.raw(exact)):
		n.complain("E163", "%s cannot be written exactly; %s (line %d) holds %s, scaled", quote(text), p.name, p.key.line, p.typeName())
	}
	return &v
}
