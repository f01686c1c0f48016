package mapping

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"iothub-gateway/adapters/coap"
)

// listener is one socket with every device that reports to it.
type listener struct {
	Listener
	field   node           // its name
	decided bool           // whether it is plain or DTLS was understood
	allowed bool           // and so was allow
	routes  map[route]node // who reports here, and where that is said
}

// route is what tells the devices of one listener apart.
type route struct {
	psk  string
	from netip.Prefix
	path string
}

func (d *draft) readListeners(n node) {
	n.label = "listeners"
	for _, f := range n.fields("E001") {
		legal := f.named()
		if same := d.byName[f.name]; same != nil {
			f.refuse("E001", "%s is the name of a link already (line %d); give one of them another name", quote(f.name), same.field.key.line)
		}
		s := f.section(inListener)
		l := &listener{field: f.node, routes: map[route]node{}}
		l.Name = f.name
		d.readSocket(s, l)
		l.readAllow(s)
		l.readKeys(s)
		if n, ok := s.get("limits"); ok {
			l.readLimits(n.section(inLimits))
		}
		d.listeners = append(d.listeners, l)
		if legal {
			d.listening[f.name] = l
		}
	}
}

// readSocket reads where to listen, and how: exactly one of coap and coaps.
func (d *draft) readSocket(s section, l *listener) {
	plain, isPlain := s.get("coap")
	secure, isSecure := s.get("coaps")
	n, example := secure, "0.0.0.0:5684"
	switch {
	case isPlain && isSecure:
		secure.refuse("E121", "a listener is either plain UDP or DTLS; keep coap or coaps")
		return
	case isPlain:
		n, example = plain, "0.0.0.0:5683"
	case !isSecure:
		if !s.misspelt["coap"] {
			s.lacks("coaps", "E008", "listener %s does not say where it listens; write coaps: 0.0.0.0:5684 (DTLS), or coap: 0.0.0.0:5683 (plain UDP)", quote(s.label))
		}
		return
	}
	l.decided, l.Plain = true, isPlain
	address, ok := n.endpoint("CoAP", example)
	if !ok {
		return
	}
	l.Listen = address
	for _, other := range d.listeners {
		if oneSocket(address, other.Listen) {
			n.complain("E060", "%s is taken by listener %s (line %d, %s); give one of them another port, or put their devices under one",
				address, quote(other.Name), other.field.key.line, other.Listen)
			return
		}
	}
}

// oneSocket tells whether two listeners would take the same port of the same address.
func oneSocket(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	return errA == nil && errB == nil && portA == portB && (hostA == hostB || everywhere(hostA, hostB) || everywhere(hostB, hostA))
}

// everywhere tells whether all addresses that the host stands for include the other host's. [::] stands
// for IPv4 too.
func everywhere(host, other string) bool {
	all, err := netip.ParseAddr(host)
	one, _ := netip.ParseAddr(other)
	return err == nil && all.IsUnspecified() && (all.Is6() || !one.Is6())
}

// readAllow reads who is listened to. Plain UDP has nothing else to tell friend from foe (COAP-51).
func (l *listener) readAllow(s section) {
	n, ok := s.get("allow")
	if !ok {
		if l.allowed = l.decided && !l.Plain; l.decided && l.Plain {
			s.lacks("allow", "E200", "listener %s is plain UDP and accepts anyone; add allow: [10.7.4.0/24], the addresses of its devices", quote(l.Name))
		}
		return
	}
	items, ok := n.items()
	l.allowed = ok
	for _, item := range items {
		p, ok := item.prefix()
		l.allowed = l.allowed && ok
		if ok {
			l.Allow = append(l.Allow, p)
		}
	}
}

// readKeys reads where the keys of the devices are kept.
func (l *listener) readKeys(s section) {
	n, ok := s.get("psk_dir")
	switch {
	case !ok && l.decided && !l.Plain:
		s.lacks("psk_dir", "E008", "listener %s does not say where the keys of its devices are; write psk_dir: DIRECTORY with one file a key, named like the psk of its device", quote(l.Name))
	case !ok:
	case l.decided && l.Plain:
		n.refuse("E205", "plain UDP has no keys; drop psk_dir, or write coaps instead of coap")
	default:
		path, ok := n.text()
		if ok && strings.HasPrefix(path, "file:") {
			n.complain("E009", "psk_dir takes a directory, not a reference; drop file:")
		}
		l.PSKDir = path
	}
}

// readLimits reads what the peers of the listener may take; what is not given is the adapter's default.
func (l *listener) readLimits(s section) {
	const (
		leastBody, mostBody = 1 << 10, 1 << 20
		fastest             = 1000
		mostSessions        = 100_000
	)
	if n, ok := s.get("body"); ok {
		body, _ := n.size(leastBody, mostBody)
		l.Limits.Body = int(body)
	}
	if n, ok := s.get("rate"); ok {
		rate, ok := n.number()
		if ok && (rate <= 0 || rate > fastest) {
			n.complain("E009", "rate: %s is not possible; write how many reports a second one device may send, above 0 and up to %d", quote(n.yaml.Value), fastest)
		}
		l.Limits.Rate = rate
	}
	for _, key := range []string{"sessions", "idle"} {
		if n, ok := s.get(key); ok && l.decided && l.Plain {
			n.refuse("E205", "plain UDP has no sessions; drop %s", key)
		}
	}
	if n, ok := s.get("sessions"); ok {
		l.Limits.Sessions, _ = n.whole(1, mostSessions, "E009")
	}
	if n, ok := s.get("idle"); ok {
		l.Limits.Idle, _ = n.duration(time.Second, longest)
	}
}

// listenerOf is the listener that a coap block names; nil if there is none.
func (d *draft) listenerOf(s section) *listener {
	n, ok := s.get("listener")
	if !ok {
		s.lacks("listener", "E008", "coap does not say where the device reports to; write listener: NAME of one under listeners")
		return nil
	}
	name, ok := n.text()
	if l := d.listening[name]; l != nil || !ok {
		return l
	}
	n.complain("E074", "listener %s is not defined under listeners%s", quote(name), didYouMean(name, slices.Sorted(maps.Keys(d.listening))))
	return nil
}

// allows tells whether everything that sends from p is listened to.
func (l *listener) allows(p netip.Prefix) bool {
	return slices.ContainsFunc(l.Allow, func(a netip.Prefix) bool { return a.Bits() <= p.Bits() && a.Contains(p.Addr()) })
}

// join adds a device, unless it could not be told from one that is there.
func (l *listener) join(dev coap.Device, r route, said node) {
	if other, taken := l.routes[r]; taken {
		said.complain("E206", "listener %s cannot tell %s from the device on line %d: same sender, same path %s; give them different paths", quote(l.Name), quote(dev.Name), other.at.line, quote(r.path))
		return
	}
	l.routes[r] = said
	l.Devices = append(l.Devices, dev)
	same := func(k keyUse) bool { return k.identity == dev.PSK }
	if dev.PSK != "" && !slices.ContainsFunc(l.keys, same) {
		l.keys = append(l.keys, keyUse{dev.PSK, said.finding()})
	}
}

// checkListeners doubts listeners that nobody reports to.
func (d *draft) checkListeners() {
	for _, l := range d.listeners {
		if len(l.Devices) == 0 && d.errors == 0 {
			l.field.refuse("W206", "no device reports to listener %s; drop it, or name it in a device's coap: listener", quote(l.Name))
		}
	}
}
