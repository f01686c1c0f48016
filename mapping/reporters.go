package mapping

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"

	yaml "go.yaml.in/yaml/v4"

	"iothub-gateway/adapters/coap"
)

// reporting is how a device reports by itself, as far as a place says so.
type reporting struct {
	pathed bool // path is given, rightly or wrongly
	device coap.Device
	assume node // where Assume is said; the zero node if it is not
}

// reporting reads what a coap section of a device or profile says about the reports.
func (s section) reporting() reporting {
	r := reporting{pathed: s.has("path") || s.misspelt["path"]}
	if n, ok := s.get("path"); ok {
		r.device.Path = n.path()
	}
	if n, ok := s.get("expect_every"); ok {
		r.device.ExpectEvery, _ = n.duration(shortest, longest)
	}
	if n, ok := s.get("assume"); ok {
		r.device.Assume, r.assume = n.format(), n
	}
	return r
}

func (r reporting) over(below reporting) reporting {
	if !r.pathed {
		r.pathed, r.device.Path = below.pathed, below.device.Path
	}
	if r.device.ExpectEvery == 0 {
		r.device.ExpectEvery = below.device.ExpectEvery
	}
	if r.assume.yaml == nil {
		r.device.Assume, r.assume = below.device.Assume, below.assume
	}
	return r
}

// path is where a device POSTs to (RFC 7252 section 6.4); "" if it was not understood.
func (n node) path() string {
	text, ok := n.text()
	if !ok {
		return ""
	}
	rest, absolute := strings.CutPrefix(text, "/")
	segments := strings.Split(rest, "/")
	good := absolute && !strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune("?#%", r) })
	for i, segment := range segments {
		last := i == len(segments)-1
		good = good && (segment != "" || last) && segment != "." && segment != ".." && len(segment) <= 255
	}
	if !good {
		n.complain("E009", "path: %s is not possible; write where the device posts to, such as /v1/t, without a host and without ?, # and %%", quote(text))
		return ""
	}
	return text
}

// format is the word for how a body is written.
func (n node) format() coap.Format {
	formats := []coap.Format{coap.Text, coap.JSON, coap.SenMLJSON, coap.SenMLCBOR}
	var words []string
	for _, f := range formats {
		words = append(words, f.String())
	}
	word, _ := n.word(words...)
	for _, f := range formats {
		if word == f.String() {
			return f
		}
	}
	return coap.Unset
}

// reports tells whether a device or profile is one that reports by itself, rather than being polled. If
// it does not say so, its points show what was meant.
func (s section) reports(what string) (reports, said bool) {
	reports, polled := s.has("coap") || s.misspelt["coap"], s.has("modbus") || s.misspelt["modbus"]
	if n, ok := s.get("coap"); ok && s.has("modbus") {
		n.refuse("E121", "a %s is either polled (modbus) or reports by itself (coap); keep one", what)
	}
	if reports == polled {
		return s.hasReported(), false
	}
	return reports, true
}

// hasReported tells whether one of the points has a key that only reported ones have.
func (s section) hasReported() bool {
	points, ok := s.get("points")
	if !ok || points.yaml.Kind != yaml.MappingNode {
		return false
	}
	for i := 1; i < len(points.yaml.Content); i += 2 {
		p := points.wrap(points.yaml.Content[i]).yaml
		for j := 0; p.Kind == yaml.MappingNode && j < len(p.Content); j += 2 {
			if slices.Contains(sourceKeys(), p.Content[j].Value) {
				return true
			}
		}
	}
	return false
}

// readCoAP says where the device reports to and how.
func (d *draft) readCoAP(s section, dev *device, prof *profile) {
	s.drop(func(f field) bool {
		why := uselessAt(f.name)
		if why != "" {
			f.refuse("E231", "%s", why)
		}
		return why != ""
	})
	dev.cadence = s.cadence(byDevice).over(reportingCadence())
	n, ok := s.get("coap")
	if !ok {
		s.lacks("coap", "E008", "device %s does not say where it reports to; write coap: { listener: NAME, psk: NAME, path: /v1/t }", quote(dev.name))
		return
	}
	part := n.section(inCoAP)
	dev.reporting = part.reporting()
	if prof != nil {
		dev.reporting = dev.reporting.over(prof.reporting)
	}
	if !dev.reporting.pathed && !dev.partial && !s.misspelt["profile"] {
		part.lacks("path", "E008", "device %s does not say where it posts to; write path: /v1/t", quote(dev.name))
	}
	if dev.listener = d.listenerOf(part); dev.listener == nil || !dev.listener.decided {
		return
	}
	if dev.listener.Plain {
		dev.readSender(part)
	} else {
		dev.readPSK(part)
	}
}

// uselessAt says why a key of a device means nothing if the device reports by itself; "" if it does.
func uselessAt(key string) string {
	switch key {
	case "poll":
		return "a device that reports by itself cannot be polled; drop poll (coap: expect_every says how long it may be silent)"
	case "offline":
		return "offline counts failed polls, and a device that reports by itself is not polled; drop it (coap: expect_every says how long it may be silent)"
	}
	return ""
}

// readPSK reads whose key the device has, on a listener with DTLS.
func (dev *device) readPSK(s section) {
	if n, ok := s.get("from"); ok {
		n.refuse("E205", "listener %s knows its devices by their keys; write psk: NAME and drop from", quote(dev.listener.Name))
	}
	n, ok := s.get("psk")
	if !ok {
		s.lacks("psk", "E008", "device %s does not say which key it has; write psk: NAME, the PSK identity that is set in the device and the name of its file in psk_dir", quote(dev.name))
		return
	}
	dev.sender, dev.reporting.device.PSK = n, n.pskIdentity()
}

// pskIdentity is the name of a key and of its file; "" if it cannot be one.
func (n node) pskIdentity() string {
	const longest = 128
	text, ok := n.text()
	switch {
	case !ok:
	case keyText.MatchString(text):
		n.complain("E051", "this looks like a key in clear text; psk is the name of the key: put the key into a file of that name in psk_dir (mode 0600)")
	case len(text) > longest || text[0] == '.' || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == '/' || r == '\\' }):
		n.complain("E203", "psk %s cannot be the name of a file in psk_dir; use up to %d characters, no slash, and no dot in front", quote(text), longest)
	default:
		return text
	}
	return ""
}

// readSender reads where the device sends from, on a plain listener.
func (dev *device) readSender(s section) {
	if n, ok := s.get("psk"); ok {
		n.refuse("E205", "listener %s is plain UDP, which has no keys; write from: ADDRESS and drop psk", quote(dev.listener.Name))
	}
	n, ok := s.get("from")
	if !ok {
		s.lacks("from", "E008", "device %s does not say where it sends from; write from: its address, such as 10.7.4.9", quote(dev.name))
		return
	}
	p, ok := n.prefix()
	switch {
	case !ok:
	case dev.listener.allowed && !dev.listener.allows(p):
		n.complain("E204", "listener %s does not listen to %s; add it to allow (line %d)", quote(dev.listener.Name), n.yaml.Value, dev.listener.field.key.line)
	default:
		dev.sender, dev.reporting.device.From = n, p
	}
}

// report hands the device's points to its listener.
func (dev *device) report() {
	dev.checkSources()
	dev.checkAssume()
	c := dev.reporting.device
	if dev.listener == nil || c.Path == "" || c.PSK == "" && c.From == (netip.Prefix{}) {
		return
	}
	c.Name = dev.name
	for _, p := range dev.points {
		c.Points = append(c.Points, p.reported)
	}
	dev.listener.join(c, route{c.PSK, c.From, c.Path}, dev.sender)
}

// checkAssume wants a format that one of the points can be found in: every other report would be
// refused.
func (dev *device) checkAssume() {
	assume := dev.reporting.device.Assume
	if assume == coap.Unset || dev.partial || len(dev.points) == 0 {
		return
	}
	for _, p := range dev.points {
		if !p.sound || p.reported.Source == sourceIn(assume) {
			return
		}
	}
	dev.reporting.assume.complain("E207", "assume: a body of %s is for points with %s:, and %s has none; assume another format, or nothing",
		assume, keyOf(sourceIn(assume)), quote(dev.name))
}

// sourceIn is how a value is found in a body of the format.
func sourceIn(f coap.Format) coap.Source {
	switch f {
	case coap.Text:
		return coap.FromBody
	case coap.JSON:
		return coap.FromJSON
	}
	return coap.FromSenML
}

// silentMethod refuses a method of a device that only reports.
func (s section) silentMethod(dev *device) {
	write, writes := s.get("write")
	read, reads := s.get("read")
	switch {
	case writes && dev.listener != nil && dev.listener.decided && dev.listener.Plain:
		write.complain("E230", "%s is heard in plain UDP, where anybody on the network can pose as it: no command is sent there; drop the method", quote(dev.name))
	case writes:
		write.complain("E231", "%s reports by itself and cannot be written; drop the method", quote(dev.name))
	case reads:
		read.complain("E231", "%s reports by itself and cannot be asked; drop the method", quote(dev.name))
	case s.yaml.Kind == yaml.MappingNode:
		s.refuse("E231", "%s reports by itself: it can be neither written nor asked; drop the method", quote(dev.name))
	}
}
