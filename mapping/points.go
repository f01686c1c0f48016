package mapping

import (
	yaml "go.yaml.in/yaml/v4"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
	"iothub-gateway/adapters/modbus"
)

// point is one point of one device while it is read.
type point struct {
	section
	name   string
	device *device
	south  modbus.Point
	north  gateway.Point
	// reported is the southbound half instead, if the device reports by itself.
	reported coap.Point
	// factor is the scale that names a point of the device instead of a number, and factorName that point.
	factor node
	// confirm says when a write is done; the zero node: as is built in.
	confirm    node
	factorName string
	nth        int  // of all points, in the order of the file
	shared     bool // stands in a profile
	// What of it was understood: table and number, how they count, type, all of it.
	placed, decided, typed, sound bool
}

// list is where points stand: in a profile or at a device.
type list struct {
	counting counting
	shared   bool
}

// takePoint reads a point and gives it to its device.
func (d *draft) takePoint(f field, dev *device, from list) {
	if d.points++; d.points > d.most {
		if d.points == d.most+1 {
			f.refuse("E013", "this is point %d; one gateway takes %d, those of profiles counted for each device", d.points, d.most)
		}
		dev.partial = true
		return
	}
	p := d.readPoint(f, dev, from.counting)
	p.nth, p.shared = d.points, from.shared
	dev.points = append(dev.points, p)
	dev.byName[p.name] = p
	if dev.owner != nil && p.north.Field != "" && !p.north.Hidden {
		dev.owner.take(p)
		d.checkTime(p)
	}
}

// take wants the names of an identity's fields to differ.
func (o *owner) take(p *point) {
	same := o.fields[p.north.Field]
	if same == nil {
		o.fields[p.north.Field] = p
		return
	}
	p.blame(same, "name").complain("E073", "%s reports the field %s twice: as %s here, and as %s on line %d; give one of them another name: NAME",
		o.identity.ID, quote(p.north.Field), p.north.ID, same.north.ID, same.key.line)
}

// blame is where to report what is wrong between p and another point: at p's value of a key, at its
// own, or at the mention of its profile if the two meet only because a device uses that.
func (p *point) blame(other *point, key string) node {
	n, given := p.get(key)
	switch {
	case p.shared && (p.device != other.device || p.reader != other.reader):
		return p.device.profile
	case given:
		return n
	}
	return node{reader: p.reader, at: p.key}
}

// readPoint reads one point as the device has it, whose list counts registers as c says.
func (d *draft) readPoint(f field, dev *device, c counting) *point {
	before := d.errors
	p := &point{name: f.name, device: dev, section: section{node: f.node}}
	p.north.ID = gateway.PointID(dev.name + "/" + f.name)
	p.south.ID, p.reported.ID = p.north.ID, p.north.ID
	p.south.Bit, p.south.Scale = modbus.WholeRegister, 1
	f.named()
	if f.yaml.Kind != yaml.MappingNode {
		f.complain("E101", "point %s takes a map, such as { at: holding 100, type: int16 } or { senml: temp }", quote(f.name))
		return p
	}
	p.section = f.section(inPoint)
	if dev.reports {
		p.readReported()
	} else {
		p.readRegister(c)
	}
	p.sound = d.errors == before
	return p
}

// readRegister reads the rest of a point of a device that is polled.
func (p *point) readRegister(c counting) {
	p.refuseReported()
	p.readPlace(c)
	p.readType()
	p.readOrder()
	p.readMeaning()
	p.readReport()
	p.readWrite()
	p.checkFit()
}

// readPlace reads where the point stands: at, and bit if at does not name it.
func (p *point) readPlace(c counting) {
	n, ok := p.get("at")
	if !ok {
		p.lacks("at", "E102", "point %s does not say where it stands; write at: holding 100, input 0x34, coil 3, discrete 12 or, with addressing: modicon, at: 40001", quote(p.name))
		return
	}
	place, ok := n.address(c)
	if !ok {
		return
	}
	p.placed, p.decided = true, c != undecided
	p.south.Table, p.south.Address, p.south.Bit = place.table, place.register, place.bit
	bit, ok := p.get("bit")
	switch {
	case !ok:
		return
	case place.bit >= 0:
		bit.refuse("E121", "the bit stands in at: %s already; keep one", quote(n.yaml.Value))
	case place.table.Bits():
		bit.refuse("E118", "a %s is a single bit already; drop bit", tableName(place.table))
	default:
		if i, ok := bit.whole(0, 15, "E112"); ok {
			p.south.Bit = i
		}
	}
}

// bits tells whether the point is a single bit.
func (p *point) bits() bool { return p.placed && (p.south.Table.Bits() || p.south.Bit >= 0) }

// readReport reads what the cloud sees of the point, and when.
func (p *point) readReport() {
	p.north.Identity = p.device.identity
	p.north.Field = p.name
	if n, ok := p.get("name"); ok {
		p.north.Field, _ = n.text()
	}
	if n, ok := p.get("unit"); ok {
		p.north.Unit, _ = n.text()
	}
	if n, ok := p.get("hidden"); ok {
		p.north.Hidden, _ = n.yes()
	}
	p.checkField()
	cadence := p.cadence(byPoint).over(p.device.cadence)
	p.south.Poll = cadence.poll.value
	p.north.Publish = cadence.publish()
	if p.device.reports {
		p.checkEffect(cadence)
	}
	if n, ok := p.get("deadband"); ok && p.suits("deadband") {
		p.north.Publish.Deadband = n.deadband()
	}
	if n, ok := p.get("range"); ok && p.suits("range") {
		p.north.Range = n.goodRange()
	}
}
