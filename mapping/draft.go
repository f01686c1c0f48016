package mapping

import (
	"strings"
	"unicode"

	yaml "go.yaml.in/yaml/v4"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
)

// draft is a mapping while it is read: what was understood so far, with where it stands.
type draft struct {
	*reader
	hub      Hub
	hubKeys  []keyUse
	trust    Finding
	buffer   Buffer
	defaults cadence
	links    []*link // in the order of first mention
	profiles map[string]*profile
	devices  []*device
	gateway  gateway.IdentityID
	order    []*owner // in the order of first mention
	points   int      // of all devices so far
	most     int      // points that are read

	listeners []*listener
	listening map[string]*listener // by name
	byName    map[string]*link     // those under links
	byAddress map[string]*link
	owners    map[gateway.IdentityID]*owner

	// What identities without a credential of their own prove themselves with; the zero node is none.
	groupKey, enrolmentKey, policyAt node
	group, enrolment                 identity.Ref
	policy                           Credential
	enrolled, module                 *owner // who has the enrolment's key, and who is the IoT Edge module
	hostSettled, scopeSettled        bool   // said, or reported that it is not
}

// plant reads the whole file. What it returns is complete only if nothing was reported as an error.
func (r *reader) plant(root *yaml.Node, most int) *Plant {
	d := &draft{
		reader: r, most: most, buffer: builtInBuffer(), profiles: map[string]*profile{}, owners: map[gateway.IdentityID]*owner{},
		byName: map[string]*link{}, byAddress: map[string]*link{}, listening: map[string]*listener{},
	}
	start := position{1, 1}
	top := node{reader: r}.wrap(root)
	top.label = "a mapping"
	if root.Kind != yaml.MappingNode {
		r.found(start, "E007", "a mapping starts with version: 1, hub: and devices:, each on a line of its own")
		return nil
	}
	s := top.section(atTop)
	d.version(s)
	if n, ok := s.get("hub"); ok {
		d.readHub(n)
	} else if d.hostSettled = true; !s.misspelt["hub"] {
		r.found(start, "E008", "hub is missing; write hub: { host: NAME.azure-devices.net }")
	}
	if n, ok := s.get("buffer"); ok {
		d.readBuffer(n)
	}
	if n, ok := s.get("defaults"); ok {
		d.readDefaults(n)
	}
	if n, ok := s.get("links"); ok {
		d.readLinks(n)
	}
	if n, ok := s.get("listeners"); ok {
		d.readListeners(n)
	}
	if n, ok := s.get("profiles"); ok {
		d.readProfiles(n)
	}
	if n, ok := s.get("devices"); ok {
		d.readDevices(n)
	} else if !s.misspelt["devices"] {
		r.found(start, "E008", "devices is missing; without a device there is nothing to do")
	}
	if n, ok := s.get("gateway"); ok {
		d.readGateway(n)
	}
	d.checkOwners()
	d.checkOverlaps()
	d.checkLinks()
	d.checkListeners()
	return d.result()
}

func (d *draft) version(s section) {
	n, ok := s.get("version")
	switch {
	case !ok && !s.misspelt["version"]:
		d.found(position{1, 1}, "E008", "version is missing; write version: 1")
	case ok:
		if text, ok := n.text(); ok && text != "1" {
			n.complain("E014", "version %s is not known to this gateway; write version: 1", quote(text))
		}
	}
}

// result puts the plant together.
func (d *draft) result() *Plant {
	p := &Plant{Hub: d.hub, hubKeys: d.hubKeys, trust: d.trust, Buffer: d.buffer, Gateway: d.gateway}
	for _, o := range d.order {
		p.Identities = append(p.Identities, o.identity)
	}
	for _, l := range d.links {
		if len(l.config.Devices) > 0 {
			p.Links = append(p.Links, l.config)
			if l.key.identity != "" {
				p.linkKeys = append(p.linkKeys, l.key)
			}
		}
	}
	for _, l := range d.listeners {
		if len(l.Devices) > 0 {
			p.Listeners = append(p.Listeners, l.Listener)
		}
	}
	for _, dev := range d.devices {
		p.Devices = append(p.Devices, Device{Name: dev.name, Identity: dev.identity, Link: dev.linkName(), Unit: dev.unit})
		for _, pt := range dev.points {
			p.Points = append(p.Points, pt.north)
		}
		p.Methods = append(p.Methods, dev.methods...)
		p.Desired = append(p.Desired, dev.desired...)
		p.Messages = append(p.Messages, dev.messages...)
	}
	p.placeDesired()
	return p
}

// named checks the name of something that the file defines.
func (f field) named() bool {
	const longest = 64
	legal := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_' || r == '-' || r == '.'
	}
	illegal := strings.IndexFunc(f.name, func(r rune) bool { return !legal(r) })
	if f.name == "" || illegal >= 0 || len(f.name) > longest {
		f.refuse("E015", "%s cannot be a name; use up to %d letters, digits, _, - and .", quote(f.name), longest)
		return false
	}
	return true
}
