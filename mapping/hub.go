package mapping

import (
	"net"
	"regexp"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

var hostText = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

func (d *draft) readHub(n node) {
	s := n.section(inHub)
	d.hub.Transport = "mqtt"
	if n, ok := s.get("host"); ok {
		d.hub.Host, d.hub.Port = n.host("the hub's full name, such as plant7.azure-devices.net,")
	} else if !s.has("edge") && !s.has("provisioning") {
		s.lacks("host", "E008", "hub has no host; write host: NAME.azure-devices.net")
		d.hostSettled = true
	}
	d.scopeSettled = s.misspelt["provisioning"]
	d.hostSettled = d.hostSettled || s.has("host") || s.has("edge") || s.misspelt["host"] || s.misspelt["edge"] || d.scopeSettled
	if n, ok := s.get("transport"); ok {
		d.hub.Transport, _ = n.word("mqtt", "websocket")
	}
	if n, ok := s.get("trust"); ok {
		if text, ok := n.text(); ok {
			path, isFile := strings.CutPrefix(text, "file:")
			if !isFile || path == "" {
				n.complain("E009", "trust names a file of PEM certificates; write trust: file:PATH")
			}
			d.hub.Trust, d.trust = path, n.finding()
		}
	}
	d.readTier(s)
	d.readWay(s)
	d.readDefaultProofs(s)
}

// mostUnits is the most that Microsoft sells without being asked.
const mostUnits = 200

// readTier reads how much the hub takes.
func (d *draft) readTier(s section) {
	if n, ok := s.get("tier"); ok {
		if d.hub.Tier, ok = n.word("F1", "B1", "B2", "B3", "S1", "S2", "S3"); ok {
			d.hub.Units = 1
		}
	}
	n, ok := s.get("units")
	if !ok {
		return
	}
	if !s.has("tier") && !s.misspelt["tier"] {
		n.refuse("E009", "units says how many of a tier the hub has; add tier: S1, or drop units")
		return
	}
	if d.hub.Units, ok = n.whole(1, mostUnits, "E009"); ok && d.hub.Tier == "F1" && d.hub.Units > 1 {
		n.complain("E009", "a free hub has one unit; write units: 1, or another tier")
	}
}

// readWay reads through whom the hub is reached.
func (d *draft) readWay(s section) {
	if n, ok := s.get("edge"); ok {
		_, d.hub.Edge = n.word("auto")
	}
	if n, ok := s.get("gateway_host"); ok {
		d.hub.GatewayHost, d.hub.GatewayPort = n.host("the name of an IoT Edge gateway")
		if s.has("edge") {
			n.refuse("E009", "edge: auto takes the gateway's host from the environment; drop gateway_host")
		}
	}
	if n, ok := s.get("proxy"); ok {
		d.hub.Proxy = d.readProxy(n)
	}
}

// readProxy takes a URL, or a map of it and what the proxy asks for.
func (d *draft) readProxy(n node) *Proxy {
	p := &Proxy{}
	if n.yaml.Kind != yaml.MappingNode {
		p.Address = n.proxyAddress()
		return p
	}
	s := n.section(inProxy)
	if n, ok := s.get("url"); ok {
		p.Address = n.proxyAddress()
	} else {
		s.lacks("url", "E008", "proxy has no url; write url: http://HOST:PORT")
	}
	if n, ok := s.get("user"); ok {
		text, ok := n.text()
		if ok && (!printable(text) || strings.Contains(text, ":")) {
			n.complain("E009", "user: a name for the proxy is printable ASCII without a colon")
		}
		p.User = text
	}
	if n, ok := s.get("password"); ok {
		p.Password = n.reference()
		d.hubKeys = append(d.hubKeys, keyUse{string(p.Password), n.finding()})
	}
	switch {
	case s.has("user") && !s.has("password"):
		s.lacks("password", "E008", "a user of the proxy needs a password; write password: file:PATH")
	case s.has("password") && !s.has("user"):
		s.lacks("user", "E008", "the proxy's password needs its user; write user: NAME")
	}
	return p
}

// proxyAddress is the host:port of http://HOST:PORT. A URL that holds a password is not repeated.
func (n node) proxyAddress() string {
	text, ok := n.text()
	if !ok {
		return ""
	}
	rest, isHTTP := strings.CutPrefix(text, "http://")
	host, port, err := net.SplitHostPort(strings.TrimSuffix(rest, "/"))
	_, usable := parsePort(port)
	switch {
	case strings.Contains(text, "@"):
		n.complain("E051", "a password does not stand in the URL; write proxy: { url: http://HOST:PORT, user: NAME, password: file:PATH }")
	case !isHTTP || err != nil || !usable || !hostText.MatchString(host) && net.ParseIP(host) == nil:
		n.complain("E009", "%s: a proxy is spoken to in HTTP; write http://HOST:PORT", n.label)
	default:
		return net.JoinHostPort(host, port)
	}
	return ""
}

// readDefaultProofs reads what identities without a credential of their own prove themselves with.
func (d *draft) readDefaultProofs(s section) {
	provisioning, provisioned := s.get("provisioning")
	if provisioned {
		d.readProvisioning(provisioning)
	}
	if n, ok := s.get("sas_policy"); ok {
		d.policyAt, d.policy = n, n.policy()
		if d.groupKey.yaml != nil || d.enrolmentKey.yaml != nil {
			n.refuse("E070", "sas_policy and the key of provisioning are two ways for identities without a key of their own; keep one")
		}
	}
	if n, ok := s.get("edge"); ok && (d.policy.Kind != 0 || d.groupKey.yaml != nil || d.enrolmentKey.yaml != nil) {
		n.refuse("E070", "with edge, the identity without a key of its own is the module; name the others' keys at each of them")
	}
}

// readProvisioning reads who assigns devices to hubs.
func (d *draft) readProvisioning(n node) {
	s := n.section(inProvisioning)
	p := &Provisioning{}
	if n, ok := s.get("scope"); ok {
		text, ok := n.text()
		if ok && !hostText.MatchString(text) {
			n.complain("E009", "scope: %s is no id scope; copy it from the provisioning service, such as 0ne00A1B2C3", quote(text))
		}
		p.Scope = text
	} else {
		s.lacks("scope", "E008", "provisioning has no scope; write scope: ID_SCOPE, such as 0ne00A1B2C3")
	}
	if n, ok := s.get("host"); ok {
		var port int
		if p.Host, port = n.host("the service's name, such as plant7.azure-devices-provisioning.net,"); port != 0 {
			p.Host = net.JoinHostPort(p.Host, strconv.Itoa(port))
		}
	}
	if n, ok := s.get("group_key"); ok {
		d.groupKey, d.group = n, n.reference()
	}
	if n, ok := s.get("key"); ok {
		d.enrolmentKey, d.enrolment = n, n.reference()
		if s.has("group_key") {
			n.refuse("E070", "key is of one enrolment and group_key of a group; keep one")
		}
	}
	d.hub.Provisioning = p
}

// host takes a name or name:port; what is of which. What it refuses is not repeated: it may be a
// connection string.
func (n node) host(what string) (host string, port int) {
	text, ok := n.text()
	if !ok {
		return "", 0
	}
	host, number, withPort := strings.Cut(text, ":")
	if withPort {
		port, _ = parsePort(number)
	}
	if !hostText.MatchString(host) || withPort && port == 0 {
		n.complain("E009", "%s takes %s or name:port; no URL and no connection string", n.label, what)
	}
	return host, port
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
