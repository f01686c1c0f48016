package mapping

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"iothub-gateway/identity"
)

// CheckSecrets looks whether the keys of a plant are where its mapping says. One that is missing is a
// warning, because a mapping is often written on another machine, and so is a token or certificate whose
// time is over; one that others can read, or that is no key, is an error. So it is with the certificates that the
// hub's is to be signed by. The keys themselves are in no finding.
func CheckSecrets(p *Plant, src identity.Source) Findings {
	c := secretCheck{plant: p, source: src, seen: map[Finding]bool{}}
	for _, id := range p.Identities {
		c.credential(id)
	}
	for _, k := range slices.Concat(p.hubKeys, p.linkKeys) {
		_, err := src.Resolve(identity.Ref(k.identity))
		c.found(k.written, err)
	}
	for _, l := range p.Listeners {
		c.listener(l)
	}
	c.trusted()
	c.findings.sort()
	return c.findings
}

// secretCheck looks at the secrets of one plant.
type secretCheck struct {
	plant    *Plant
	source   identity.Source
	findings Findings
	seen     map[Finding]bool // the same key may prove many identities
}

func (c *secretCheck) report(f Finding, code, message string) {
	f.Code, f.Message = code, hideKeys(message)
	if !c.seen[f] {
		c.seen[f] = true
		c.findings = append(c.findings, f)
	}
}

// found reports why a secret could not be had, if err says so, and tells whether it was had.
func (c *secretCheck) found(written Finding, err error) bool {
	switch {
	case errors.Is(err, identity.ErrExposed):
		c.report(written, "E050", err.Error())
	case errors.Is(err, identity.ErrMissing), errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		c.report(written, "W052", err.Error())
	case err != nil:
		c.report(written, "E053", err.Error())
	}
	return err == nil
}

// credential looks at what proves an identity.
func (c *secretCheck) credential(id Identity) {
	if id.Kind == EdgeModule { // the runtime has the key
		return
	}
	if id.Kind == Certificate {
		pair, err := c.source.KeyPair(id.Certificate, id.Key)
		if c.found(id.written, err) {
			c.inTime(id.written, identity.CheckPeriod(pair, time.Now()))
		}
		return
	}
	key, err := c.source.Resolve(id.Key)
	if !c.found(id.written, err) {
		return
	}
	if id.Kind != ReadyToken {
		_, err = identity.NewSAS(c.plant.Hub.Host, id.ID, key, time.Hour)
		err = errors.Unwrap(err) // without the identity: others may have the same key
	} else if c.plant.Hub.Host != "" {
		var expires time.Time
		expires, err = identity.CheckToken(key, identity.Resource(c.plant.Hub.Host, id.ID))
		if err == nil && time.Now().After(expires) {
			c.inTime(id.written, fmt.Errorf("%s: the token ended on %s; put a new one in its place", id.Key, expires.UTC().Format(time.RFC3339)))
		}
	}
	if err != nil {
		c.report(id.written, "E053", string(id.Key)+": "+err.Error())
	}
}

// inTime reports a proof whose time is over or still to come.
func (c *secretCheck) inTime(written Finding, err error) {
	if err != nil {
		c.report(written, "W055", err.Error())
	}
}

// listener looks at the keys of a listener's devices. Its own lookup, identity.Source.PSK, does not say
// why there is no key.
func (c *secretCheck) listener(l Listener) {
	for _, k := range l.keys {
		key, err := c.source.Resolve(identity.Ref("file:" + filepath.Join(l.PSKDir, k.identity)))
		switch length := len(key.Reveal()); {
		case errors.Is(err, identity.ErrExposed):
			c.report(k.written, "E050", err.Error())
		case err != nil:
			c.report(k.written, "W207", fmt.Sprintf("%s is not let in before its key is there: %s", k.identity, err))
		case length < shortestPSK:
			c.report(k.written, "E202", fmt.Sprintf("the key of %s has %d bytes; it takes at least %d random ones", k.identity, length, shortestPSK))
		}
	}
}

// trusted looks at the certificates that sign the hub's.
func (c *secretCheck) trusted() {
	if c.plant.Hub.Trust == "" {
		return
	}
	pem, err := c.source.Public(identity.Ref("file:" + c.plant.Hub.Trust))
	switch {
	case err != nil:
		c.report(c.plant.trust, "W053", fmt.Sprintf("trust: %s; put the certificate of the hub's authority there", err))
	case !x509.NewCertPool().AppendCertsFromPEM(pem):
		c.report(c.plant.trust, "E054", fmt.Sprintf("trust: %s holds no PEM certificate", c.plant.Hub.Trust))
	}
}

// shortestPSK is how long a pre-shared key must be, in bytes (COAP-43).
const shortestPSK = 16
