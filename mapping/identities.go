package mapping

import (
	"errors"
	"strings"

	yaml "go.yaml.in/yaml/v4"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
)

// owner is an identity with what the devices that report as it have claimed so far.
type owner struct {
	identity Identity
	first    node // where it is mentioned first
	proof    proof
	fields   map[string]*point
	methods  map[string]node
	property map[string]node
	desired  map[string]node           // by path
	messages map[gateway.Property]node // by what they fit
	will     node                      // the zero node if none was seen
	model    node
}

// readIdentity says whose a device's points are. "" is nobody: the device is local, or it is not said
// properly, which has been reported.
func (d *draft) readIdentity(s section) (id gateway.IdentityID, local bool) {
	understood := true
	if n, ok := s.get("local"); ok {
		local, understood = n.yes()
	}
	n, given := s.get("identity")
	switch {
	case !given && !understood:
		return "", local
	case given && local:
		n.refuse("E080", "a local device is not reported, hence has no identity; drop identity, or local: true")
		return "", local
	case !given && !local:
		s.lacks("identity", "E080", "device %s has no identity; write identity: { device: ID, sas_key: file:PATH }, or local: true if it is only read", quote(s.label))
		return "", local
	case local:
		return "", local
	}
	part := n.section(inIdentity)
	o, proof := d.owner(part), d.readProof(part)
	if o == nil {
		return "", local
	}
	o.claim(part, proof)
	return o.identity.ID, false
}

// owner finds or makes the identity that a section names.
func (d *draft) owner(s section) *owner {
	device, ok := s.get("device")
	if !ok {
		s.lacks("device", "E008", "identity has no device; write device: ID, as it is registered in the hub")
		return nil
	}
	id, ok := device.hubID()
	if module, given := s.get("module"); given {
		name, legal := module.hubID()
		id, ok = id+"/"+name, ok && legal
	}
	if !ok {
		return nil
	}
	key := gateway.IdentityID(id)
	o := d.owners[key]
	if o == nil {
		o = &owner{
			first:  s.node,
			fields: map[string]*point{}, methods: map[string]node{}, property: map[string]node{},
			desired: map[string]node{}, messages: map[gateway.Property]node{},
		}
		o.identity.ID = key
		d.owners[key] = o
		d.order = append(d.order, o)
	}
	return o
}

// hubID is a device or module id that the hub takes and MQTT topics can carry (CON-25).
func (n node) hubID() (string, bool) {
	const longest, marks = 128, "-._*?!(),:=@$'"
	text, ok := n.text()
	if !ok {
		return "", false
	}
	legal := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune(marks, r)
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return !legal(r) }); i >= 0 {
		n.complain("E076", "%s %s: %q cannot be in an id, it would break MQTT topics; use ASCII letters, digits and %s",
			n.label, quote(text), []rune(text[i:])[0], marks)
		return "", false
	}
	if len(text) > longest {
		n.complain("E076", "%s: an id has at most %d characters", n.label, longest)
		return "", false
	}
	return text, true
}

// claim takes over what one device says about its identity.
func (o *owner) claim(s section, p proof) {
	switch {
	case p.at.yaml != nil && o.proof.at.yaml != nil:
		p.at.refuse("E070", "the key of %s is given on line %d already; credentials stand at one of its devices only", o.identity.ID, o.proof.at.at.line)
	case p.at.yaml != nil:
		p.misspelt = p.misspelt || o.proof.misspelt
		o.proof = p
	default:
		o.proof.misspelt = o.proof.misspelt || p.misspelt
	}
	if n, ok := s.get("properties"); ok {
		o.readProperties(n)
	}
	o.claimTwin(s)
}

// reference is where a secret is kept. What it refuses is never repeated (MAP-65).
func (n node) reference() identity.Ref {
	const remedy = "put it into a file of mode 0600 and write %s: file:PATH (or env:NAME, credential:NAME)"
	if n.yaml.Kind != yaml.ScalarNode {
		n.complain("E051", "%s takes a reference to a secret; "+remedy, n.label, n.label)
		return ""
	}
	if _, ok := n.text(); !ok {
		return ""
	}
	ref, err := identity.ParseRef(n.yaml.Value)
	switch {
	case errors.Is(err, identity.ErrClearText):
		n.complain("E051", "this looks like a key in clear text; "+remedy, n.label)
	case err != nil:
		n.complain("E009", "%s: %s; write file:PATH, env:NAME or credential:NAME", n.label, err)
	}
	return ref
}

// readProperties takes the application properties of every message. Several devices may give some of
// them each; the hub compares their names without case (D2C-13).
func (o *owner) readProperties(n node) {
	for _, f := range n.fields("E002") {
		value, ok := f.text()
		if !ok {
			continue
		}
		key := strings.ToLower(f.name)
		other, again := o.property[key]
		switch {
		case !printable(f.name):
			f.refuse("E078", "property %s: names and values are printable ASCII", quote(f.name))
		case !printable(value):
			f.complain("E078", "property %s: names and values are printable ASCII", quote(f.name))
		case strings.HasPrefix(f.name, "$.") || strings.HasPrefix(key, "iothub-"):
			f.refuse("E078", "property %s: names that begin with $. or iothub- belong to the hub; use another name", quote(f.name))
		case again && (other.yaml.Value != value || other.label != f.name):
			f.complain("E078", "property %s of %s has another value or spelling on line %d; keep one", quote(f.name), o.identity.ID, other.at.line)
		case !again:
			o.property[key] = f.node
			o.identity.Properties = append(o.identity.Properties, gateway.Property{Name: f.name, Value: value})
		}
	}
}

// printable tells whether text is printable ASCII (D2C-14).
func printable(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}
