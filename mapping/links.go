package mapping

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"iothub-gateway/adapters/modbus"
)

const (
	builtInTimeout = 2 * time.Second
	// serialTimeout is the built-in timeout of a serial port (MB-24); a slow line has a longer one.
	serialTimeout = time.Second
	// serialMargin is what a timeout must leave to the device, beside the characters on the line (MB-24).
	serialMargin = 100 * time.Millisecond
)

// link is one connection with every device behind it.
type link struct {
	config  modbus.Config
	way     string // the key of its endpoint
	named   bool   // stands under links
	sound   bool   // all that is said about it was understood
	field   node   // its name under links, or the modbus block that mentions it first
	timeout node   // the zero node if it is not given
	key     keyUse // of its private key
}

func (d *draft) readLinks(n node) {
	n.label = "links"
	for _, f := range n.fields("E001") {
		legal := f.named()
		s := f.section(inLink)
		l := d.readLink(s)
		l.config.Name, l.named, l.field = f.name, true, f.node
		if address := l.config.Address; address != "" {
			if same := d.byAddress[address]; same != nil {
				s.endpoints()[0].complain("E060", "%s is the endpoint of link %s too (line %d); one connection serves all of its devices",
					address, same.config.Name, same.field.key.line)
			}
		} else if len(s.endpoints()) == 0 && !s.misspeltWay() {
			s.lacks("tcp", "E008", "link %s has no endpoint; write tcp: HOST:502, or tls, rtu_over_tcp, ascii_over_tcp or serial", quote(f.name))
		}
		if legal {
			d.add(l)
		}
	}
}

// add takes a new link; an endpoint that was not understood is nobody's.
func (d *draft) add(l *link) {
	d.links = append(d.links, l)
	if l.named {
		d.byName[l.config.Name] = l
	}
	if l.config.Address != "" && d.byAddress[l.config.Address] == nil {
		d.byAddress[l.config.Address] = l
	}
}

// linkOf is the link that a modbus block names or describes; nil if it does neither properly.
func (d *draft) linkOf(s section) *link {
	name, byName := s.get("link")
	inline := s.endpoints()
	switch {
	case byName:
		for _, f := range s.fields {
			switch {
			case slices.ContainsFunc(inline, func(e field) bool { return e.name == f.name }):
				f.refuse("E061", "a device has either a link or an endpoint of its own; drop %s, or drop link", f.name)
			case slices.Contains(linkKeys(), f.name):
				f.refuse("E061", "%s belongs to the link; write it there", f.name)
			}
		}
		return d.namedLink(name)
	case len(inline) > 0:
		return d.inlineLink(s)
	case !s.misspelt["link"] && !s.misspeltWay():
		s.lacks("tcp", "E008", "modbus does not say where the device is; write tcp: HOST:502 (or tls, rtu_over_tcp, ascii_over_tcp, serial), or link: NAME of one under links")
	}
	return nil
}

func (d *draft) namedLink(n node) *link {
	name, ok := n.text()
	if !ok {
		return nil
	}
	if l := d.byName[name]; l != nil {
		return l
	}
	n.complain("E074", "link %s is not defined under links%s", quote(name), didYouMean(name, slices.Sorted(maps.Keys(d.byName))))
	return nil
}

// inlineLink joins equal endpoints to one link (MAP-9).
func (d *draft) inlineLink(s section) *link {
	l := d.readLink(s)
	if l.config.Address == "" {
		return nil
	}
	l.config.Name = l.config.Address
	same := d.byAddress[l.config.Address]
	if same == nil {
		d.add(l)
		return l
	}
	theirs := same.settings()
	for i, ours := range l.settings() {
		if l.sound && same.sound && ours != theirs[i] {
			s.node.lacks("E060", "%s is used with %s %s here and %s on line %d; define it once under links, and name it here with link: NAME",
				l.config.Address, ours[0], ours[1], theirs[i][1], same.field.at.line)
			break
		}
	}
	return same
}

// checkLinks sets the timeouts that are not given, and doubts links that nothing is behind or that cannot
// do what is asked of them.
func (d *draft) checkLinks() {
	if d.errors > 0 {
		return // what is not understood would be missed here
	}
	for _, l := range d.links {
		l.checkTimeout()
		l.checkLoad()
		if d.errors > 0 {
			continue
		}
		if l.named && len(l.config.Devices) == 0 {
			l.field.refuse("W206", "no device uses link %s; drop it, or name it in a device's modbus: link", quote(l.config.Name))
		}
		if n := l.writable(); l.config.ReadOnly && n > 0 {
			l.field.refuse("W208", "link %s is read_only: writing any of its %d points with write is refused", quote(l.config.Name), n)
		}
	}
}

// checkTimeout compares the timeout with what the longest exchange takes on the line (MB-24).
func (l *link) checkTimeout() {
	c := &l.config
	floor := time.Duration(0)
	if c.Serial != nil {
		floor = (l.longest() + serialMargin).Round(time.Millisecond)
	}
	switch {
	case c.Timeout == 0 && c.Serial != nil:
		c.Timeout = max(serialTimeout, floor)
	case c.Timeout == 0:
		c.Timeout = builtInTimeout
	case c.Timeout < floor:
		l.timeout.complain("E041", "timeout %s is shorter than the longest exchange at %s, which takes %s and the device's own time; write at least %s, or a smaller max_read",
			shortTime(c.Timeout), c.Serial, shortTime(floor-serialMargin), shortTime(floor))
	}
}

// longest is what the longest read or write of the link's points takes on the line.
func (l *link) longest() (longest time.Duration) {
	for _, dev := range l.config.Devices {
		for _, b := range modbus.Plan(dev, dev.Points, nil) {
			size := 2 * b.Quantity
			if b.Table.Bits() {
				size = (b.Quantity + 7) / 8
			}
			longest = max(longest, l.config.LineTime(5, 2+size))
		}
		for _, p := range dev.Points {
			if p.Writable && !p.Table.Bits() {
				longest = max(longest, l.config.LineTime(6+2*p.Registers(), 5))
			}
		}
	}
	return longest
}

// busy is the load of a serial line above which little is left for late answers, retries and writes (MB-52).
const busy = 0.8

// checkLoad compares what the polls take with what the line has (MB-52). What the devices themselves take
// comes on top of that, and is not known.
func (l *link) checkLoad() {
	c, load, requests := l.config, modbus.Load(l.config), 0.0
	if load <= busy {
		return
	}
	for _, dev := range c.Devices {
		for _, cycle := range modbus.Foresee(c, dev) {
			requests += cycle.PerSecond * float64(len(cycle.Requests))
		}
	}
	remedy := fmt.Sprintf("poll %d times less often, read fewer points", int(math.Ceil(load/busy)))
	if needed := l.fastEnough(); needed > 0 {
		remedy += fmt.Sprintf(", or set line and devices to %d baud", needed)
	}
	what := fmt.Sprintf("the polls of %s take %.3g s of every second at %s (%.3g requests a second), and what the devices need comes on top",
		quote(c.Name), load, c.Serial, requests)
	if load > 1 {
		l.field.refuse("E153", "%s; the line cannot carry them: %s", what, remedy)
		return
	}
	l.field.refuse("W230", "%s; %s", what, remedy)
}

// fastEnough is the lowest usual rate at which the line would not be busy; 0 if none is.
func (l *link) fastEnough() int {
	c := l.config
	for _, baud := range []int{19200, 38400, 57600, 115200} {
		port := *l.config.Serial
		port.Baud = baud
		c.Serial = &port
		if baud > l.config.Serial.Baud && modbus.Load(c) <= busy {
			return baud
		}
	}
	return 0
}

// writable is how many points of the link have write.
func (l *link) writable() (n int) {
	for _, dev := range l.config.Devices {
		for _, p := range dev.Points {
			if p.Writable {
				n++
			}
		}
	}
	return n
}
