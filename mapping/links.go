package mapping

import (
	"maps"
	"slices"
	"time"

	"iothub-gateway/adapters/modbus"
)

const (
	builtInTimeout = 2 * time.Second
	modbusTCP      = "Modbus/TCP"
	modbusExample  = "10.7.3.11:502"
)

// link is one connection with every device behind it.
type link struct {
	config modbus.Config
	named  bool // stands under links
	field  node // its name under links, or the modbus block that mentions it first
}

func (d *draft) readLinks(n node) {
	n.label = "links"
	for _, f := range n.fields("E001") {
		legal := f.named()
		s := f.section(inLink)
		l := &link{named: true, field: f.node, config: modbus.Config{Name: f.name, Timeout: s.timeout(builtInTimeout)}}
		if n, ok := s.get("tcp"); ok {
			address, _ := n.endpoint(modbusTCP, modbusExample)
			l.config.Address = address
			if same := d.byAddress[address]; same != nil {
				n.complain("E060", "%s is the endpoint of link %s too (line %d); one connection serves all of its devices",
					l.config.Address, same.config.Name, same.field.key.line)
			}
		} else {
			s.lacks("tcp", "E008", "link %s has no endpoint; write tcp: HOST:502", quote(f.name))
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

// timeout is the time that a connection and an answer may take.
func (s section) timeout(otherwise time.Duration) time.Duration {
	n, ok := s.get("timeout")
	if !ok {
		return otherwise
	}
	t, _ := n.duration(10*time.Millisecond, longestWait)
	return t
}

// linkOf is the link that a modbus block names or describes; nil if it does neither properly.
func (d *draft) linkOf(s section) *link {
	name, byName := s.get("link")
	tcp, inline := s.get("tcp")
	switch {
	case byName && inline:
		tcp.refuse("E061", "a device has either a link or an endpoint of its own; drop tcp, or drop link")
	case byName:
		if n, ok := s.get("timeout"); ok {
			n.refuse("E061", "the timeout belongs to the link; write it there")
		}
		return d.namedLink(name)
	case inline:
		return d.inlineLink(s, tcp)
	case !s.misspelt["link"]:
		s.lacks("tcp", "E008", "modbus does not say where the device is; write tcp: HOST:502, or link: NAME of one under links")
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
func (d *draft) inlineLink(s section, tcp node) *link {
	timeout := s.timeout(builtInTimeout)
	address, ok := tcp.endpoint(modbusTCP, modbusExample)
	if !ok {
		return nil
	}
	l := d.byAddress[address]
	if l == nil {
		l = &link{field: s.node, config: modbus.Config{Name: address, Address: address, Timeout: timeout}}
		d.add(l)
	}
	if l.config.Timeout != timeout && timeout > 0 && l.config.Timeout > 0 {
		s.node.lacks("E060", "%s is used with timeout %s here and %s on line %d; define it once under links, and name it here with link: NAME",
			address, shortTime(timeout), shortTime(l.config.Timeout), l.field.at.line)
	}
	return l
}

// checkLinks doubts links that nothing is behind.
func (d *draft) checkLinks() {
	for _, l := range d.links {
		if l.named && len(l.config.Devices) == 0 && d.errors == 0 {
			l.field.refuse("W206", "no device uses link %s; drop it, or name it in a device's modbus: link", quote(l.config.Name))
		}
	}
}
