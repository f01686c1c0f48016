package mapping

import (
	"strings"
	"unicode"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
)

// reportingCadence is what holds for a device that reports by itself where it says nothing: each of its
// reports is passed on. The file's defaults speak of polled devices.
func reportingCadence() cadence {
	return cadence{on: setting[gateway.PublishOn]{value: gateway.OnPoll}}
}

// readReported reads the rest of a point of a device that reports by itself.
func (p *point) readReported() {
	p.drop(func(f field) bool {
		code, why := uselessIn(f.name)
		if code == "" {
			return false
		}
		f.refuse(code, "%s", why)
		p.misspelt["senml"] = p.misspelt["senml"] || f.name == "at"
		return true
	})
	p.readSource()
	p.readScale()
	p.reported.Scale, p.reported.Offset = p.south.Scale, p.south.Offset
	p.readWrap()
	p.readReport()
}

// uselessIn says why a key of a register has no place at a point that is reported; "" if it has.
func uselessIn(key string) (code, why string) {
	switch key {
	case "poll":
		return "E231", "a device that reports by itself cannot be polled; drop poll"
	case "write":
		return "E231", "a device that reports by itself cannot be written; drop write"
	case "at", "bit", "type", "order":
		return "E122", key + " is for registers (modbus); a report names its values: write senml: NAME, pointer: /a/b or format: text"
	case "linear":
		return "E122", "linear is for registers (modbus); use scale and offset"
	case "enum", "flags", "not_available":
		return "E122", key + " is for registers (modbus); a report says what it means, drop it"
	}
	return "", ""
}

// refuseReported refuses the keys of a reported point at one that is polled.
func (p *point) refuseReported() {
	for _, key := range sourceKeys() {
		if n, ok := p.get(key); ok {
			n.refuse("E122", "%s is for devices that report by themselves (coap); a register is found by at: holding 100", key)
			p.misspelt["at"] = true
		}
	}
}

// readSource reads where in a report the value stands: exactly one of senml, pointer and format: text.
func (p *point) readSource() {
	senml, bySenML := p.get("senml")
	pointer, byPointer := p.get("pointer")
	format, formatted := p.get("format")
	word := ""
	if formatted {
		word, _ = format.word(coap.JSON.String(), coap.Text.String())
	}
	switch {
	case bySenML && byPointer:
		pointer.refuse("E121", "a point stands in one place of a report; keep senml or pointer")
	case bySenML && formatted:
		format.refuse("E121", "senml says the format already; drop format, or senml")
	case bySenML:
		p.reported.Source, p.reported.Key = coap.FromSenML, senml.recordName()
	case byPointer && word == coap.Text.String():
		pointer.refuse("E121", "a text is taken whole; drop pointer, or write format: json")
	case byPointer:
		p.reported.Source, p.reported.Key = coap.FromJSON, pointer.jsonPointer()
	case word == coap.Text.String():
		p.reported.Source = coap.FromBody
	case word == coap.JSON.String():
		p.lacks("pointer", "E102", "point %s does not say where in the JSON it stands; write pointer: /a/b", quote(p.name))
	case !formatted && !p.misspelt["pointer"] && !p.misspelt["format"]:
		p.lacks("senml", "E102", "point %s does not say where it stands in a report; write senml: NAME, pointer: /a/b (JSON) or format: text (the whole body)", quote(p.name))
	}
}

// sourceKeys are the keys that say where in a report a value stands.
func sourceKeys() []string { return []string{"senml", "pointer", "format"} }

// longestKey is how long a name or pointer may be, in bytes.
const longestKey = 256

// recordName is the name of a SenML record, with or without its base name (COAP-31). Devices do not
// keep to the characters that RFC 8428 section 4.5.1 allows.
func (n node) recordName() string {
	text, ok := n.text()
	if ok && (len(text) > longestKey || strings.ContainsFunc(text, unicode.IsControl) || strings.TrimSpace(text) != text) {
		n.complain("E009", "senml: %s is no name of a SenML record; write its n, or its bn and n together, up to %d characters", quote(text), longestKey)
	}
	return text
}

// jsonPointer is where a value stands in a JSON body (RFC 6901).
func (n node) jsonPointer() string {
	text, ok := n.text()
	switch err := coap.CheckPointer(text); {
	case !ok:
	case len(text) > longestKey:
		n.complain("E009", "pointer: at most %d characters", longestKey)
	case err != nil && !strings.HasPrefix(text, "/"):
		n.complain("E009", "pointer: %s must start with /; write it such as /a/b, or /a/0 for the first of a list", quote(text))
	case err != nil:
		n.complain("E009", "pointer: %s has a ~ that means nothing; write ~0 for ~ and ~1 for / inside a name", quote(text))
	}
	return text
}

// checkEffect wants a report to be one that can be suppressed where something says when.
func (p *point) checkEffect(c cadence) {
	const remedy = "add publish: { on: change }, or drop it"
	if c.on.value != gateway.OnPoll {
		return
	}
	if n, ok := p.get("deadband"); ok {
		n.refuse("E183", "deadband has no effect: each report of %s is passed on; "+remedy, quote(p.device.name))
	}
	if c.atLeast.value > 0 && c.atLeast.level >= c.on.level {
		c.atLeast.node.complain("E183", "at_least_every has no effect: each report of %s is passed on; "+remedy, quote(p.device.name))
	}
}

// checkSources wants the points of one report to be different values.
func (dev *device) checkSources() {
	type place struct {
		source coap.Source
		key    string
	}
	first := map[place]*point{}
	for _, p := range dev.points {
		if !p.sound {
			continue
		}
		where := place{p.reported.Source, p.reported.Key}
		other := first[where]
		if other == nil {
			first[where] = p
			continue
		}
		p.blame(other, keyOf(where.source)).complain("E104", "%s is the same value of a report as %s (line %d); keep one", quote(p.name), quote(other.name), other.key.line)
	}
}

// keyOf is the key that says that a value is found this way.
func keyOf(s coap.Source) string {
	switch s {
	case coap.FromJSON:
		return "pointer"
	case coap.FromBody:
		return "format"
	}
	return "senml"
}
