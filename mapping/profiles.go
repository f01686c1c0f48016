package mapping

import (
	"maps"
	"slices"
	"time"

	"iothub-gateway/profiles"
)

// profile is a type of device: points and how it is spoken to, never where one stands (MAP-11).
type profile struct {
	name      string
	reports   bool // its devices do so by themselves (CoAP), else they are polled (Modbus)
	protocol  protocol
	reporting reporting
	points    []field
	names     []string
	has       map[string]bool // the names
}

func (d *draft) readProfiles(n node) {
	n.label = "profiles"
	for _, f := range n.fields("E001") {
		legal := f.named()
		if p := d.readProfile(f.name, f.node); legal {
			d.profiles[f.name] = p
		}
	}
}

func (d *draft) readProfile(name string, n node) *profile {
	s := n.section(inProfile)
	p := &profile{name: name, has: map[string]bool{}, protocol: protocol{counted: s.misspelt["modbus"]}}
	if n, ok := s.get("source"); ok {
		n.text()
	}
	if n, ok := s.get("verified"); ok {
		n.verified()
	}
	if n, ok := s.get("modbus"); ok {
		p.protocol = n.section(inProfileModbus).protocol()
	}
	if n, ok := s.get("coap"); ok {
		p.reporting = n.section(inProfileCoAP).reporting()
	}
	p.reports, _ = s.reports("profile")
	if n, ok := s.get("points"); ok {
		p.points = n.fields("E002")
		d.checkProfile(p, n)
	} else {
		s.lacks("points", "E008", "profile %s has no points", quote(name))
	}
	return p
}

// verified is the day on which a profile was compared with a device, or no.
func (n node) verified() {
	text, ok := n.text()
	if _, err := time.Parse(time.DateOnly, text); ok && text != "no" && err != nil {
		n.complain("E009", "verified: %s is no day; write the day on which the profile was compared with a device, such as 2026-01-31, or no", quote(text))
	}
}

// profile is the profile called name: the mapping's own, else one that ships with the product; nil if there is
// neither.
func (d *draft) profile(name string) *profile {
	if p := d.profiles[name]; p != nil {
		return p
	}
	text, ok := profiles.Get(name)
	if !ok {
		return nil
	}
	r := newReader("profile "+name, text)
	root := r.tree(text)
	r.report = d.reader.report
	p := &profile{name: name, has: map[string]bool{}}
	if root != nil {
		p = d.readProfile(name, node{reader: r, label: "profile"}.wrap(root))
	}
	d.profiles[name] = p
	return p
}

// profileNames are those that a device may name.
func (d *draft) profileNames() []string {
	names := slices.Collect(maps.Keys(d.profiles))
	for _, name := range profiles.Names() {
		if d.profiles[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// checkProfile reads the points as a device would, so that mistakes are found before a device uses
// them. A profile that leaves the counting, or when to publish, to its devices is checked as far as
// that goes.
func (d *draft) checkProfile(p *profile, list node) {
	dev := &device{name: p.name, reports: p.reports, protocol: p.protocol.over(builtInProtocol(nil))}
	if !p.reports {
		dev.cadence = builtInCadence()
	}
	for _, f := range p.points {
		p.names, p.has[f.name] = append(p.names, f.name), true
		dev.points = append(dev.points, d.readPoint(f, dev, dev.protocol.counting))
	}
	dev.findFactors(dev.points)
	doubtUnits(list, p.name, dev.points)
	if p.reports {
		dev.checkSources()
	}
}
