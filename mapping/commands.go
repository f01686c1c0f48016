package mapping

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"unicode"

	gateway "iothub-gateway"
)

const (
	longestLevel = 64 // of a desired property's path, bytes: what hubs of all ages take (TWIN-28)
	deepest      = 5  // levels (TWIN-32)
	// ownProperty is the reported property that belongs to the gateway.
	ownProperty = "gateway"
	largestWill = 4 << 10 // bytes
)

// modelText is a DTMI of a Plug and Play model.
var modelText = regexp.MustCompile(`^dtmi(:[A-Za-z](_?[A-Za-z0-9]+)*)+;[1-9][0-9]{0,8}$`)

// readCommands reads what the cloud may do to the device beside calling methods.
func (d *draft) readCommands(s section, dev *device) {
	for _, key := range []string{"desired", "messages"} {
		n, ok := s.get(key)
		switch {
		case !ok:
		case dev.local:
			n.refuse("E080", "a local device has no identity that the cloud could send anything to; drop %s", key)
		case dev.reports:
			n.refuse("E231", "%s reports by itself and cannot be written; drop %s", quote(dev.name), key)
		case key == "desired":
			d.readDesired(n, dev)
		default:
			d.readMessages(n, dev)
		}
	}
}

// readDesired reads which desired properties of the twin write a point.
func (d *draft) readDesired(n node, dev *device) {
	for _, f := range n.fields("E002") {
		f.desiredPath(dev)
		s := f.section(inDesired)
		rule := gateway.Desired{Identity: dev.identity, Path: f.name}
		if n, ok := s.get("apply"); ok {
			word, _ := n.word("on-change", "always")
			rule.Always = word == "always"
		}
		write, ok := s.get("write")
		if !ok {
			s.lacks("write", "E162", "desired property %s does not say what it writes; add write: POINT", quote(f.name))
			continue
		}
		if p := write.target(dev); p != nil && p.writable(write, "desired property "+quote(f.name)) {
			rule.Write, rule.Confirm = p.north.ID, s.confirm(write, dev)
			dev.desired = append(dev.desired, rule)
		}
	}
}

// desiredPath wants a path that a twin can have, and that neither is nor contains another one of the
// identity.
func (f field) desiredPath(dev *device) {
	levels := strings.Split(f.name, ".")
	illegal := func(level string) bool {
		return level == "" || len(level) > longestLevel || strings.ContainsFunc(level, func(r rune) bool {
			return unicode.IsControl(r) || r == '$' || r == ' '
		})
	}
	switch {
	case slices.ContainsFunc(levels, illegal) || len(levels) > deepest:
		f.refuse("E167", "a twin has no property %s; write names without space and $ of up to %d characters, with dots between up to %d levels: heating.setpoint", quote(f.name), longestLevel, deepest)
		return
	case levels[0] == ownProperty:
		f.refuse("E167", "the property %s belongs to the gateway, which reports there how it is doing; use another name", quote(ownProperty))
		return
	case dev.owner == nil:
		return
	}
	for path, other := range dev.owner.desired {
		if path == f.name || strings.HasPrefix(path, f.name+".") || strings.HasPrefix(f.name, path+".") {
			f.refuse("E167", "%s has the desired property %s on line %d already; each writes a point of its own, give one of them another name", dev.owner.identity.ID, quote(path), other.key.line)
			return
		}
	}
	dev.owner.desired[f.name] = f.node
}

// readMessages reads which cloud-to-device messages write a point.
func (d *draft) readMessages(n node, dev *device) {
	items, _ := n.items()
	for _, item := range items {
		item.label, item.key = "a message rule", item.at
		s := item.section(inMessage)
		rule := gateway.MessageRule{Identity: dev.identity, When: s.when(), Queued: s.queued()}
		write, ok := s.get("write")
		if !ok {
			s.lacks("write", "E162", "the message rule does not say what it writes; add write: POINT with from: or value:")
			continue
		}
		w := s.writing(write, dev, "the message rule")
		rule.Write, rule.From, rule.Value = w.point, w.from, w.value
		item.onlyRule(dev, rule.When)
		dev.messages = append(dev.messages, rule)
	}
}

// when reads the property that a message must have; the zero Property is that of every message.
func (s section) when() (p gateway.Property) {
	n, ok := s.get("when")
	if !ok {
		return p
	}
	w := n.section(inWhen)
	for _, part := range []struct {
		key  string
		into *string
	}{{"property", &p.Name}, {"equals", &p.Value}} {
		text, ok := w.get(part.key)
		if !ok {
			w.lacks(part.key, "E008", "when has no %s; write when: { property: command, equals: start }", part.key)
			continue
		}
		if *part.into, ok = text.text(); ok && !printable(*part.into) {
			text.complain("E078", "%s: names and values of properties are printable ASCII", part.key)
		}
	}
	return p
}

// onlyRule wants the rules of an identity to fit different messages; names are compared without case
// (D2C-14).
func (n node) onlyRule(dev *device, when gateway.Property) {
	if dev.owner == nil {
		return
	}
	key := gateway.Property{Name: strings.ToLower(when.Name), Value: when.Value}
	other, twice := dev.owner.messages[key]
	every, open := dev.owner.messages[gateway.Property{}]
	switch {
	case twice:
		n.complain("E168", "%s has a rule for the same messages on line %d already, and only the first one counts; let when differ", dev.owner.identity.ID, other.at.line)
	case open:
		n.complain("E168", "the rule on line %d of %s fits every message, so this one is never used; put it last", every.at.line, dev.owner.identity.ID)
	default:
		dev.owner.messages[key] = n
	}
}

// claimTwin takes over what one device says about its identity's connection.
func (o *owner) claimTwin(s section) {
	if n, ok := s.get("will"); ok && o.once(&o.will, n) {
		o.identity.Will = n.will()
	}
	if n, ok := s.get("model_id"); ok && o.once(&o.model, n) {
		text, ok := n.text()
		if ok && (!modelText.MatchString(text) || len(text) > 2048) {
			n.complain("E009", "model_id: %s is no DTMI; write it as in the model: dtmi:com:example:Boiler;1", quote(text))
		}
		o.identity.ModelID = text
	}
}

// once wants a setting of the identity at one of its devices only.
func (o *owner) once(first *node, n node) bool {
	if first.yaml != nil {
		n.refuse("E086", "%s of %s is given on line %d already; keep one", n.label, o.identity.ID, first.key.line)
		return false
	}
	*first = n
	return true
}

// will is the body of the message that the hub sends when the connection is lost: an object of texts.
func (n node) will() []byte {
	body := map[string]string{}
	for _, f := range n.fields("E002") {
		body[f.name], _ = f.text()
	}
	text, err := json.Marshal(body)
	switch {
	case err != nil || len(body) == 0:
		n.complain("E009", "will says nothing; write will: { state: lost }")
	case len(text) > largestWill:
		n.complain("E009", "will has %d bytes; at most %d are sent", len(text), largestWill)
	}
	return text
}

// readGateway reads the identity that reports how the gateway is doing.
func (d *draft) readGateway(n node) {
	s := n.section(inGateway)
	part, ok := s.get("identity")
	if !ok {
		s.lacks("identity", "E008", "gateway has no identity; write identity: { device: ID, sas_key: file:PATH }, or drop gateway")
		return
	}
	claimed := part.section(inIdentity)
	if o, proof := d.owner(claimed), d.readProof(claimed); o != nil {
		o.claim(claimed, proof)
		d.gateway = o.identity.ID
	}
}
