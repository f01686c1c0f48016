package mapping

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
		s := f.section(inProfile)
		p := &profile{name: f.name, has: map[string]bool{}, protocol: protocol{counted: s.misspelt["modbus"]}}
		if n, ok := s.get("source"); ok {
			n.text()
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
			s.lacks("points", "E008", "profile %s has no points", quote(f.name))
		}
		if legal {
			d.profiles[f.name] = p
		}
	}
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
