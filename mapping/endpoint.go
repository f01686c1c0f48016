package mapping

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v4"

	"iothub-gateway/adapters/modbus"
	"iothub-gateway/identity"
)

// way is a way to a Modbus device: the key that names its endpoint, and who uses which port.
type way struct{ key, protocol, example string }

// ways lists them; of a link exactly one is given.
func ways() []way {
	return []way{
		{"tcp", "Modbus/TCP", "10.7.3.11:502"},
		{"tls", "Modbus Security", "10.7.3.12:802"},
		{"rtu_over_tcp", "a serial server often", "10.7.3.40:4001"},
		{"ascii_over_tcp", "a serial server often", "10.7.3.40:4001"},
		{"serial", "", "/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0"},
	}
}

// linkKeys are the keys of a link, wherever it is described.
func linkKeys() []string {
	keys := []string{
		"timeout", "pause", "pause_after_connect", "close_after_poll", "retries", "read_only", "write_rate", "max_connections",
		"ignore_transaction_id", "keepalive", "mode", "baud", "parity", "stop_bits", "data_bits", "rs485", "trust", "certificate", "private_key",
	}
	for i, w := range ways() {
		keys = slices.Insert(keys, i, w.key)
	}
	return keys
}

// onlyFor says which ways a key has a meaning for; nil is all.
func onlyFor(key string) []string {
	switch key {
	case "mode", "baud", "parity", "stop_bits", "data_bits", "rs485":
		return []string{"serial"}
	case "trust", "certificate", "private_key":
		return []string{"tls"}
	case "ignore_transaction_id", "max_connections":
		return []string{"tcp", "tls"}
	case "close_after_poll":
		return []string{"tcp", "tls", "rtu_over_tcp", "ascii_over_tcp"}
	}
	return nil
}

// endpoints are the ways that a section gives, whatever their values.
func (s section) endpoints() (given []field) {
	for _, f := range s.fields {
		if slices.ContainsFunc(ways(), func(w way) bool { return w.key == f.name }) {
			given = append(given, f)
		}
	}
	return given
}

// misspeltWay tells whether an unknown key was taken for an endpoint.
func (s section) misspeltWay() bool {
	return slices.ContainsFunc(ways(), func(w way) bool { return s.misspelt[w.key] })
}

// readLink reads an endpoint and how it is used. Address is "" if the endpoint was not understood, and
// sound is false if anything was not.
func (d *draft) readLink(s section) *link {
	before := d.errors
	l := &link{field: s.node}
	given := s.endpoints()
	if len(given) == 0 {
		return l
	}
	for _, second := range given[1:] {
		second.refuse("E121", "a link has one endpoint; keep %s or %s", given[0].name, second.name)
	}
	at := given[0]
	s.drop(func(f field) bool {
		fits := onlyFor(f.name)
		misfit := fits != nil && !slices.Contains(fits, at.name)
		if misfit {
			f.refuse("E062", "%s is for %s, and this link is %s; drop it", f.name, orList(fits), at.name)
		}
		return misfit
	})
	l.way = at.name
	l.readAddress(at)
	switch at.name {
	case "serial":
		l.readSerial(s)
	case "tls":
		l.readTLS(s)
	case "rtu_over_tcp":
		l.config.Framing = modbus.RTU
	case "ascii_over_tcp":
		l.config.Framing = modbus.ASCII
	}
	l.readUse(s)
	l.sound = d.errors == before
	return l
}

func (l *link) readAddress(at field) {
	for _, w := range ways() {
		if w.key == at.name && w.key != "serial" {
			l.config.Address, _ = at.endpoint(w.protocol, w.example)
		}
	}
	if at.name != "serial" {
		return
	}
	path, ok := at.text()
	switch {
	case !ok:
	case !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/"):
		at.complain("E040", "%s is no serial port; write its path, such as %s", quote(path), ways()[4].example)
	default:
		l.config.Address = path
		if strings.HasPrefix(path, "/dev/ttyUSB") || strings.HasPrefix(path, "/dev/ttyACM") {
			at.complain("W033", "%s can have another number after a restart; write its path under /dev/serial/by-id or /dev/serial/by-path, as ls -l there shows it", path)
		}
	}
}

// readSerial reads how the port is set. Rate, parity and stop bits differ from device to device, and a
// wrong one looks like a dead device: they have no default (MB-20).
func (l *link) readSerial(s section) {
	const fastest = 4_000_000
	port := &modbus.Serial{DataBits: 8}
	l.config.Serial, l.config.Framing = port, modbus.RTU
	if n, ok := s.get("mode"); ok {
		if mode, _ := n.word("rtu", "ascii"); mode == "ascii" {
			l.config.Framing, port.DataBits = modbus.ASCII, 7
		}
	}
	if n, ok := s.get("baud"); ok {
		port.Baud, _ = n.whole(50, fastest, "E009")
	} else {
		s.lacks("baud", "E008", "serial port %s has no rate; write baud: 9600, 19200 ... as the device's manual says", quote(l.config.Address))
	}
	if n, ok := s.get("parity"); ok {
		parity, _ := n.word("none", "even", "odd")
		port.Parity = map[string]modbus.Parity{"even": modbus.EvenParity, "odd": modbus.OddParity}[parity]
	} else {
		s.lacks("parity", "E030", "serial port %s needs parity: none, even or odd (the standard says even; many devices ship with none)", quote(l.config.Address))
	}
	if n, ok := s.get("stop_bits"); ok {
		port.StopBits, _ = n.whole(1, 2, "E009")
	} else {
		s.lacks("stop_bits", "E031", "serial port %s needs stop_bits: 1 or 2 (the manual's 8N1 is parity: none, stop_bits: 1; 8N2 has 2)", quote(l.config.Address))
	}
	if n, ok := s.get("data_bits"); ok {
		bits, ok := n.whole(7, 8, "E009")
		if ok && bits == 7 && l.config.Framing == modbus.RTU {
			n.complain("E009", "data_bits: RTU needs 8; 7 is for mode: ascii")
		}
		port.DataBits = bits
	}
	if n, ok := s.get("rs485"); ok {
		port.RS485 = n.rs485()
	}
}

// rs485 is true, or how the direction is switched.
func (n node) rs485() *modbus.RS485 {
	if n.yaml.Kind == yaml.ScalarNode {
		if on, _ := n.yes(); on {
			return &modbus.RS485{}
		}
		return nil
	}
	const longest = 100 * time.Millisecond
	s := n.section(inRS485)
	r := &modbus.RS485{}
	if n, ok := s.get("rts"); ok {
		level, _ := n.word("high", "low")
		r.Low = level == "low"
	}
	if n, ok := s.get("before"); ok {
		r.Before, _ = n.duration(0, longest)
	}
	if n, ok := s.get("after"); ok {
		r.After, _ = n.duration(0, longest)
	}
	if n, ok := s.get("receive"); ok {
		r.Receive, _ = n.yes()
	}
	return r
}

// readTLS reads whom to trust and who we are (MB-18).
func (l *link) readTLS(s section) {
	t := &modbus.TLS{}
	l.config.TLS = t
	for key, to := range map[string]*string{"trust": &t.Trust, "certificate": &t.Certificate} {
		if n, ok := s.get(key); ok {
			if text, ok := n.text(); ok {
				*to = text
				if ref, err := identity.ParseRef(text); err != nil || strings.HasPrefix(string(ref), "env:") {
					n.complain("E009", "%s names a PEM file; write %s: file:PATH", key, key)
				}
			}
		}
	}
	if n, ok := s.get("private_key"); ok {
		t.PrivateKey = string(n.reference())
		l.key = keyUse{t.PrivateKey, n.finding()}
	}
	switch {
	case s.has("certificate") && !s.has("private_key"):
		s.lacks("private_key", "E008", "a certificate needs its key; write private_key: file:PATH")
	case s.has("private_key") && !s.has("certificate"):
		s.lacks("certificate", "E008", "a private key needs its certificate; write certificate: file:PATH")
	}
}

// readUse reads how the link is used.
func (l *link) readUse(s section) {
	const mostRetries, mostConnections, fastest = 5, 16, 1000
	c := &l.config
	if n, ok := s.get("timeout"); ok {
		c.Timeout, _ = n.duration(10*time.Millisecond, longestWait)
		l.timeout = n
	}
	for key, to := range map[string]*time.Duration{"pause": &c.Pause, "pause_after_connect": &c.PauseAfterConnect} {
		if n, ok := s.get(key); ok {
			*to, _ = n.duration(0, longestWait)
		}
	}
	if n, ok := s.get("keepalive"); ok {
		c.KeepAlive, _ = n.duration(50*time.Millisecond, time.Hour)
	}
	for key, to := range map[string]*bool{"close_after_poll": &c.CloseAfterPoll, "read_only": &c.ReadOnly, "ignore_transaction_id": &c.IgnoreTransactionID} {
		if n, ok := s.get(key); ok {
			*to, _ = n.yes()
		}
	}
	if n, ok := s.get("retries"); ok {
		c.Retries, _ = n.whole(0, mostRetries, "E009")
	}
	if n, ok := s.get("max_connections"); ok {
		c.MaxConnections, _ = n.whole(1, mostConnections, "E009")
	}
	if n, ok := s.get("write_rate"); ok {
		rate, ok := n.number()
		if ok && (rate <= 0 || rate > fastest) {
			n.complain("E009", "write_rate: %s is not possible; write how many writes a second the link takes, above 0 and up to %d", quote(n.yaml.Value), fastest)
		}
		c.WriteRate = rate
	}
}

// settings are what must agree where one endpoint is described twice, as the file spells it.
func (l *link) settings() [][2]string {
	c := l.config
	list := [][2]string{
		{"endpoint", l.way}, {"timeout", orNotGiven(c.Timeout)}, {"pause", orNotGiven(c.Pause)}, {"pause_after_connect", orNotGiven(c.PauseAfterConnect)},
		{"keepalive", orNotGiven(c.KeepAlive)}, {"close_after_poll", strconv.FormatBool(c.CloseAfterPoll)}, {"retries", strconv.Itoa(c.Retries)},
		{"read_only", strconv.FormatBool(c.ReadOnly)}, {"write_rate", fmt.Sprint(c.WriteRate)}, {"max_connections", strconv.Itoa(max(1, c.MaxConnections))},
		{"ignore_transaction_id", strconv.FormatBool(c.IgnoreTransactionID)},
	}
	if s := c.Serial; s != nil {
		list = append(list, [2]string{"mode", strings.ToLower(c.Framing.String())}, [2]string{"serial settings", s.String()}, [2]string{"rs485", "false"})
		if s.RS485 != nil {
			list[len(list)-1][1] = fmt.Sprintf("%+v", *s.RS485)
		}
	}
	if t := c.TLS; t != nil {
		list = append(list, [2]string{"trust", t.Trust}, [2]string{"certificate", t.Certificate}, [2]string{"private_key", t.PrivateKey})
	}
	return list
}

// orNotGiven is a time as the file spells it, or what stands for one that is not given.
func orNotGiven(d time.Duration) string {
	if d == 0 {
		return "not given"
	}
	return shortTime(d)
}
