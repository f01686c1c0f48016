package mapping

import (
	"cmp"
	"strings"

	yaml "go.yaml.in/yaml/v4"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// device is one entry of devices while it is read.
type device struct {
	name     string
	field    field
	identity gateway.IdentityID
	owner    *owner // nil if it is local
	local    bool   // it is only read
	cadence  cadence
	reports  bool // by itself (CoAP), else it is polled (Modbus)

	// Of a device that is polled.
	link     *link // nil if it was not understood
	unit     uint8
	placed   bool // link and unit were understood
	protocol protocol

	// Of one that reports.
	listener  *listener // nil if it was not understood
	reporting reporting
	sender    node // its psk or from; the zero node if it was not understood

	points []*point // in the order of the file, those of the profile first
	byName map[string]*point
	// partial is set if points are missing because something about them was not understood.
	partial bool
	profile node // the profile's name; the zero node without one
	methods []gateway.Method

	desired  []gateway.Desired
	messages []gateway.MessageRule
}

// linkName is the name of the device's link or listener.
func (dev *device) linkName() string {
	switch {
	case dev.link != nil:
		return dev.link.config.Name
	case dev.listener != nil:
		return dev.listener.Name
	}
	return ""
}

func (d *draft) readDevices(n node) {
	fields := n.fields("E001")
	if len(fields) == 0 && n.yaml.Kind == yaml.MappingNode {
		n.complain("E008", "devices is empty; without a device there is nothing to do")
	}
	for _, f := range fields {
		if f.named() && d.points <= d.most {
			d.devices = append(d.devices, d.readDevice(f))
		}
	}
}

func (d *draft) readDevice(f field) *device {
	s := f.section(inDevice)
	dev := &device{name: f.name, field: f, byName: map[string]*point{}}
	dev.identity, dev.local = d.readIdentity(s)
	dev.owner = d.owners[dev.identity]
	prof := d.profileOf(s, dev)
	if dev.reports {
		d.readCoAP(s, dev, prof)
	} else {
		dev.cadence = s.cadence(byDevice).over(d.defaults).over(builtInCadence())
		d.readModbus(s, dev, prof)
	}
	d.readPoints(s, dev, prof)
	dev.findFactors(dev.points)
	dev.findConfirmations()
	if n, ok := s.get("methods"); ok {
		d.readMethods(n, dev)
	}
	d.readCommands(s, dev)
	if dev.reports {
		dev.report()
	} else {
		dev.attach()
	}
	return dev
}

// readModbus says where the device is and how it is spoken to.
func (d *draft) readModbus(s section, dev *device, prof *profile) {
	var below protocol
	if prof != nil {
		below = prof.protocol
	}
	dev.protocol = below.over(builtInProtocol(nil))
	n, ok := s.get("modbus")
	if !ok {
		s.lacks("modbus", "E008", "device %s does not say how it is reached; write modbus: { tcp: HOST:502, unit: 1, addressing: zero }, or coap: { listener: NAME, psk: NAME, path: /v1/t } if it reports by itself", quote(dev.name))
		return
	}
	part := n.section(inModbus)
	dev.link = d.linkOf(part)
	dev.protocol = part.protocol().over(below).over(builtInProtocol(dev.link))
	dev.unit, dev.placed = part.unit()
	dev.placed = dev.placed && dev.link != nil
	if n, ok := part.get("unit"); ok && dev.placed {
		n.onLine(dev)
	}
	if !dev.protocol.counted && !dev.partial && !s.misspelt["profile"] {
		part.lacks("addressing", "E005", "device %s does not say how its manual counts registers; add addressing: zero (the first register is 0), one (the first register is 1) or modicon (40001)", quote(dev.name))
	}
}

// profileOf is the profile that a device names, or nil. Whether the device is polled or reports by
// itself is what the device says, else what its profile does.
func (d *draft) profileOf(s section, dev *device) *profile {
	reports, said := s.reports("device")
	dev.reports = reports
	n, ok := s.get("profile")
	if !ok {
		return nil
	}
	name, ok := n.text()
	p := d.profile(name)
	dev.profile, dev.partial = n, p == nil || len(p.points) == 0
	if ok && p == nil {
		remedy := didYouMean(name, d.profileNames())
		if remedy == "" {
			remedy = "; write it under profiles, or name one of " + strings.Join(d.profileNames(), ", ")
		}
		n.complain("E071", "profile %s is not defined%s", quote(name), remedy)
	}
	switch {
	case p == nil:
	case !said:
		dev.reports = p.reports
	case p.reports != reports:
		dev.partial = true
		n.complain("E085", "profile %s is for a device that %s, but %s %s; choose another", quote(name), manner(p.reports), quote(dev.name), manner(reports))
		return nil
	}
	return p
}

// manner is how the readings of a device come to the gateway, in a sentence.
func manner(reports bool) string {
	if reports {
		return "reports by itself (coap)"
	}
	return "is polled (modbus)"
}

// attach hands the device's points to its link.
func (dev *device) attach() {
	if dev.link == nil {
		return
	}
	m := modbus.Device{
		Name: dev.name, Unit: dev.unit,
		Gap: *dev.protocol.gap, MaxRead: *dev.protocol.maxRead, MaxWrite: *dev.protocol.maxWrite, Even: *dev.protocol.even,
		Offline: dev.cadence.offline(),
	}
	for _, p := range dev.points {
		m.Points = append(m.Points, p.south)
	}
	dev.link.config.Devices = append(dev.link.config.Devices, m)
}

// readPoints joins the points of the profile with the device's own. Each list counts registers in its
// own way: an address means what the page says on which it stands.
func (d *draft) readPoints(s section, dev *device, prof *profile) {
	points, given := s.get("points")
	var own []field
	if given {
		own = points.fields("E002")
		dev.partial = dev.partial || points.yaml.Kind != yaml.MappingNode
	}
	dev.partial = dev.partial || s.misspelt["points"] || s.misspelt["profile"]
	replaced := s.replaced(own, prof)
	for _, f := range s.chosen(dev, prof) {
		if !replaced[f.name] {
			d.takePoint(f, dev, list{cmp.Or(prof.protocol.counting, dev.protocol.counting), true})
		}
	}
	first := len(dev.points)
	for _, f := range own {
		d.takePoint(f, dev, list{dev.protocol.counting, false})
	}
	if given {
		doubtUnits(points, dev.name, dev.points[first:])
	}
	if len(dev.points) == 0 && !dev.partial {
		s.lacks("points", "E082", "device %s has no points; write points: or profile:", quote(dev.name))
	}
}

// replaced names the points of the profile that the device defines itself.
func (s section) replaced(own []field, prof *profile) map[string]bool {
	meant := false
	if n, ok := s.get("override"); ok {
		meant, _ = n.yes()
	}
	names := map[string]bool{}
	for _, f := range own {
		if prof == nil || !prof.has[f.name] {
			continue
		}
		names[f.name] = true
		if !meant {
			f.refuse("W205", "point %s replaces the one of profile %s; if that is meant, write override: true at the device, else give it another name", quote(f.name), prof.name)
		}
	}
	return names
}

// chosen are the points of the profile that the device takes: all, or as only or except say.
func (s section) chosen(dev *device, prof *profile) []field {
	lists := map[string]map[string]bool{}
	for _, key := range []string{"only", "except"} {
		if n, ok := s.get(key); ok {
			lists[key] = n.among(prof, dev.partial)
		}
	}
	if n, ok := s.get("except"); ok && s.has("only") {
		n.refuse("E084", "only and except exclude each other; keep one")
	}
	if prof == nil {
		return nil
	}
	var taken []field
	for _, f := range prof.points {
		only, some := lists["only"]
		if (!some || only[f.name]) && !lists["except"][f.name] {
			taken = append(taken, f)
		}
	}
	return taken
}

// among reads a list of names of a profile's points.
func (n node) among(prof *profile, unknown bool) map[string]bool {
	if prof == nil {
		if !unknown {
			n.refuse("E084", "%s chooses among the points of a profile, and this device has none; drop it", n.label)
		}
		return nil
	}
	names := map[string]bool{}
	items, _ := n.items()
	for _, item := range items {
		name, ok := item.text()
		if ok && !prof.has[name] {
			item.complain("E084", "profile %s has no point %s%s", quote(prof.name), quote(name), didYouMean(name, prof.names))
		}
		names[name] = true
	}
	return names
}
