package mapping

import (
	"net"
	"regexp"
	"strconv"
	"strings"
)

var hostText = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

func (d *draft) readHub(n node) {
	s := n.section(inHub)
	d.hub.Transport = "mqtt"
	if n, ok := s.get("host"); ok {
		d.readHost(n)
	} else {
		s.lacks("host", "E008", "hub has no host; write host: NAME.azure-devices.net")
	}
	if n, ok := s.get("transport"); ok {
		d.hub.Transport, _ = n.word("mqtt", "websocket")
	}
	if n, ok := s.get("trust"); ok {
		if text, ok := n.text(); ok {
			path, isFile := strings.CutPrefix(text, "file:")
			if !isFile || path == "" {
				n.complain("E009", "trust names a file of PEM certificates; write trust: file:PATH")
			}
			d.hub.Trust = path
		}
	}
}

// readHost takes a name or name:port. What it refuses is not repeated: it may be a connection string.
func (d *draft) readHost(n node) {
	text, ok := n.text()
	if !ok {
		return
	}
	host, port, withPort := strings.Cut(text, ":")
	d.hub.Host = host
	if withPort {
		d.hub.Port, _ = parsePort(port)
	}
	if !hostText.MatchString(host) || withPort && d.hub.Port == 0 {
		n.complain("E009", "host takes the hub's full name, such as plant7.azure-devices.net, or name:port; no URL and no connection string")
	}
}

// parsePort reads a TCP port, 1 to 65535.
func parsePort(text string) (int, bool) {
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 || strconv.Itoa(port) != text {
		return 0, false
	}
	return port, true
}

// endpoint is a host:port in one spelling for each; example is one of the protocol, at its usual port.
func (n node) endpoint(protocol, example string) (string, bool) {
	text, ok := n.text()
	if !ok {
		return "", false
	}
	_, usual, _ := strings.Cut(example, ":")
	host, port, err := net.SplitHostPort(text)
	if err != nil && strings.Count(text, ":") > 1 {
		n.complain("E040", "%s: an IPv6 address stands in brackets, with the port behind: [fd00::7]:%s", quote(text), usual)
		return "", false
	}
	if err != nil {
		n.complain("E040", "%s has no port; %s uses %s: write %s:%s", quote(text), protocol, usual, strings.TrimSuffix(text, ":"), usual)
		return "", false
	}
	if _, ok := parsePort(port); !ok {
		n.complain("E040", "%s: the port is a number from 1 to 65535; %s uses %s", quote(text), protocol, usual)
		return "", false
	}
	if !hostText.MatchString(host) && net.ParseIP(host) == nil {
		n.complain("E040", "%s names no host; write an address and a port, such as %s", quote(text), example)
		return "", false
	}
	return net.JoinHostPort(strings.ToLower(host), port), true
}
