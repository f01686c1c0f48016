package mapping

import (
	"strings"

	"iothub-gateway/identity"
)

// CredentialKind is a way in which an identity proves who it is.
type CredentialKind uint8

const (
	// DeviceKey is the identity's own shared access key; of a provisioned device, that of its enrolment.
	DeviceKey CredentialKind = iota + 1
	// PolicyKey is the key of a shared access policy, which proves every identity of the hub.
	PolicyKey
	// ReadyToken is a token that somebody else signs.
	ReadyToken
	// Certificate is an X.509 certificate with its key.
	Certificate
	// GroupKey is the key of an enrolment group; the device is always provisioned.
	GroupKey
	// EdgeModule is the IoT Edge module that the gateway runs as: the runtime signs for it.
	EdgeModule
)

// String is the kind as status pages call it.
func (k CredentialKind) String() string {
	return [...]string{"nothing", "device key", "policy key", "ready token", "certificate", "group key", "IoT Edge module"}[k]
}

// Credential is how an identity proves who it is: where its secrets come from, never the secrets.
type Credential struct {
	Kind CredentialKind
	// Key refers to the key, the ReadyToken, or the private key of Certificate; "" for an EdgeModule.
	Key identity.Ref
	// Policy is the name of the shared access policy of a PolicyKey.
	Policy string
	// Certificate refers to the certificate in PEM of that kind.
	Certificate identity.Ref
	// Registration is the registration id of a device that a provisioning service assigns to a hub; "" if
	// it belongs to the hub of the mapping.
	Registration string
}

// proof is a credential while it is read.
type proof struct {
	Credential
	at       node // the key that names it first; the zero node if there is none
	misspelt bool // a key was seen that was meant for one
	// provisioned devices are assigned to a hub by a service.
	provisioned bool
}

// credentialKeys are the keys of an identity that prove it, each in its own way.
func credentialKeys() []string {
	return []string{"sas_key", "sas_policy", "sas_token", "certificate", "private_key", "provisioning"}
}

// readProof reads what one device says about how its identity proves itself.
func (d *draft) readProof(s section) proof {
	var p proof
	if n, ok := s.get("sas_key"); ok {
		p.take(n, Credential{Kind: DeviceKey, Key: n.reference()})
	}
	if n, ok := s.get("sas_policy"); ok {
		p.take(n, n.policy())
	}
	if n, ok := s.get("sas_token"); ok {
		p.take(n, Credential{Kind: ReadyToken, Key: n.reference()})
	}
	if n, ok := s.get("certificate"); ok {
		p.take(n, Credential{Kind: Certificate, Certificate: n.publicFile()})
	}
	if n, ok := s.get("private_key"); ok {
		key := n.reference()
		if p.Kind == Certificate {
			p.Key = key
		}
	}
	s.needsBoth("certificate", "private_key")
	if n, ok := s.get("provisioning"); ok {
		d.readProvisioned(n, &p)
	}
	for _, key := range credentialKeys() {
		p.misspelt = p.misspelt || s.misspelt[key]
	}
	return p
}

// needsBoth wants a certificate and its key together.
func (s section) needsBoth(certificate, key string) {
	switch {
	case s.has(certificate) && !s.has(key):
		s.lacks(key, "E008", "a certificate needs its key; write %s: file:PATH", key)
	case s.has(key) && !s.has(certificate):
		s.lacks(certificate, "E008", "a private key needs its certificate; write %s: file:PATH", certificate)
	}
}

// take sets the one way of proving.
func (p *proof) take(n node, c Credential) {
	if p.at.yaml != nil {
		n.refuse("E070", "%s and %s are two ways to prove the same identity; keep one", p.at.label, n.label)
		return
	}
	p.Credential, p.at = c, n
}

// publicFile is where a certificate is kept.
func (n node) publicFile() identity.Ref {
	text, ok := n.text()
	if !ok {
		return ""
	}
	ref, err := identity.ParseRef(text)
	if err != nil || strings.HasPrefix(text, "env:") {
		n.complain("E009", "%s names a PEM file; write %s: file:PATH", n.label, n.label)
		return ""
	}
	return ref
}

// policy is a shared access policy with one of its keys.
func (n node) policy() Credential {
	s := n.section(inPolicy)
	c := Credential{Kind: PolicyKey}
	if n, ok := s.get("name"); ok {
		if text, ok := n.text(); ok && !printable(text) || strings.ContainsAny(text, "&=") {
			n.complain("E009", "name: %s is no name of a shared access policy, such as device", quote(text))
		} else {
			c.Policy = text
		}
	} else {
		s.lacks("name", "E008", "sas_policy has no name; write { name: device, key: file:PATH }, the policy must grant device connect")
	}
	if n, ok := s.get("key"); ok {
		c.Key = n.reference()
	} else {
		s.lacks("key", "E008", "sas_policy has no key; write key: file:PATH")
	}
	return c
}

// readProvisioned reads the registration of a device; a certificate stands beside it.
func (d *draft) readProvisioned(n node, p *proof) {
	s := n.section(inProvisioned)
	if n, ok := s.get("id"); ok {
		p.Registration, _ = n.registrationID()
	}
	key, withKey := s.get("key")
	switch {
	case withKey:
		p.take(n, Credential{Kind: DeviceKey, Key: key.reference(), Registration: p.Registration})
	case p.at.yaml == nil:
		p.take(n, Credential{Kind: GroupKey, Registration: p.Registration})
	case p.Kind != Certificate:
		p.take(n, Credential{})
	}
	p.provisioned = true
}

// registrationID is an id that a provisioning service takes (DPS-14).
func (n node) registrationID() (string, bool) {
	text, ok := n.text()
	if ok && !registrable(text) {
		n.complain("E076", "id %s cannot be a registration id; use up to 128 letters, digits and - . _ :, the last one a letter, digit or -", quote(text))
		return "", false
	}
	return text, ok
}

// registrable tells whether text can be a registration id (DPS-14).
func registrable(text string) bool {
	const longest, marks = 128, "-._:"
	legal := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune(marks, r)
	}
	return text != "" && len(text) <= longest && !strings.ContainsFunc(text, func(r rune) bool { return !legal(r) }) &&
		!strings.ContainsAny(text[len(text)-1:], "._:")
}

// checkOwners gives each identity its way to prove itself, and wants one for each.
func (d *draft) checkOwners() {
	registered := map[string]*owner{}
	for _, o := range d.order {
		if o.proof.at.yaml == nil && o.proof.misspelt {
			continue
		}
		if o.proof.at.yaml == nil {
			d.proveByDefault(o)
		}
		if o.proof.at.yaml == nil { // has been reported
			continue
		}
		d.checkProof(o)
		id := strings.ToLower(o.proof.Registration)
		if other := registered[id]; id != "" && other != nil {
			o.first.lacks("E070", "%s and %s have the same registration id %s; write provisioning: { id: ... } at one of them", other.identity.ID, o.identity.ID, quote(id))
		}
		registered[id] = o
		o.identity.Credential = o.proof.Credential
		o.identity.written = o.proof.at.finding()
	}
}

// proveByDefault gives an identity without a credential of its own that of the hub.
func (d *draft) proveByDefault(o *owner) {
	p := &o.proof
	switch {
	case o.identity.ID.Module() == "" && d.groupKey.yaml != nil:
		p.at, p.Kind, p.provisioned = d.groupKey, GroupKey, true
	case o.identity.ID.Module() == "" && d.enrolmentKey.yaml != nil && d.enrolled == nil:
		d.enrolled = o
		p.at, p.provisioned = d.enrolmentKey, true
		p.Credential = Credential{Kind: DeviceKey, Key: d.enrolment}
	case d.policy.Kind != 0:
		p.at, p.Credential = d.policyAt, d.policy
	case d.hub.Edge && d.module == nil:
		d.module = o
		p.at, p.Kind = o.first, EdgeModule
	case d.hub.Edge:
		o.first.lacks("E072", "%s has no key, and the IoT Edge module is %s already; write sas_key: file:PATH", o.identity.ID, d.module.identity.ID)
	case d.enrolled != nil:
		o.first.lacks("E072", "%s has no key, and the one of hub.provisioning is of %s; write provisioning: { key: file:PATH }, or use group_key", o.identity.ID, d.enrolled.identity.ID)
	default:
		o.first.lacks("E072", "%s has no key; write sas_key: file:PATH at one of its devices", o.identity.ID)
	}
}

// checkProof completes a credential and looks whether it goes with what hub says.
func (d *draft) checkProof(o *owner) {
	p := &o.proof
	if p.Kind == Certificate && d.hub.Host == "" && d.hub.Provisioning != nil {
		p.provisioned = true
	}
	switch {
	case !p.provisioned && d.hub.Host == "" && !d.hub.Edge && !d.hostSettled:
		d.hostSettled = true
		p.at.refuse("E008", "hub has no host, and %s proves itself to a hub; write hub.host: NAME.azure-devices.net, or provisioning at the identity", o.identity.ID)
	case !p.provisioned:
	case d.hub.Provisioning == nil && !d.scopeSettled:
		p.at.refuse("E008", "%s is to be provisioned, and hub does not say by whom; write hub.provisioning: { scope: ID_SCOPE }", o.identity.ID)
	case o.identity.ID.Module() != "":
		p.at.refuse("E072", "%s is a module, and only devices are provisioned; write sas_key: file:PATH", o.identity.ID)
	case p.Registration == "" && !registrable(o.identity.ID.Device()):
		p.at.refuse("E076", "device %s cannot be a registration id; write provisioning: { id: ... }", quote(o.identity.ID.Device()))
	case p.Kind == GroupKey && d.groupKey.yaml == nil:
		p.at.refuse("E072", "%s has no key; write one here, or group_key at hub.provisioning", o.identity.ID)
	case p.Registration == "":
		p.Registration = o.identity.ID.Device()
	}
	if p.Kind == GroupKey && d.groupKey.yaml != nil {
		p.Key, p.at = d.group, d.groupKey
	}
}
