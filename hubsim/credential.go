package hubsim

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Credential says how a device or module proves who it is, in one of three ways (CON-30): with keys, with
// the thumbprint of a certificate, or with a certificate of an authority.
type Credential struct {
	// PrimaryKey and SecondaryKey sign tokens, either of them: base64 of 16 to 64 bytes. "" keeps what is
	// there, or makes one.
	PrimaryKey   string `json:"primaryKey,omitempty"`
	SecondaryKey string `json:"secondaryKey,omitempty"`
	// Thumbprint and SecondaryThumbprint are of certificates, either of which is taken: SHA-1 or SHA-256
	// in hex; colons and letter case do not matter. With one of them there are no keys.
	Thumbprint          string `json:"thumbprint,omitempty"`
	SecondaryThumbprint string `json:"secondaryThumbprint,omitempty"`
	// X509CA takes a certificate whose CN is the device's id, "device/module" for a module, from an
	// authority that AddDeviceCA made known. With it there are no keys.
	X509CA bool `json:"x509ca,omitempty"`
	// None has no proof: only the token of a shared access policy lets it connect.
	None bool `json:"none,omitempty"`
}

// Ways to prove who one is, as the registry calls them (CON-30).
const (
	byKey       = "sas"
	byThumb     = "selfSigned"
	byAuthority = "certificateAuthority"
	byNothing   = "none"
)

// kind is one of the three ways, or none.
func (c Credential) kind() string {
	switch {
	case c.None:
		return byNothing
	case c.X509CA:
		return byAuthority
	case c.Thumbprint != "" || c.SecondaryThumbprint != "":
		return byThumb
	}
	return byKey
}

// normal checks c and brings its thumbprints into one form. Its error does not repeat a key.
func (c Credential) normal() (Credential, error) {
	for _, key := range []string{c.PrimaryKey, c.SecondaryKey} {
		if err := checkKey(key); err != nil {
			return c, err
		}
	}
	for _, thumb := range []*string{&c.Thumbprint, &c.SecondaryThumbprint} {
		*thumb = strings.ToUpper(strings.ReplaceAll(*thumb, ":", ""))
		raw, err := hex.DecodeString(*thumb)
		if err != nil || len(raw) != 0 && len(raw) != sha1.Size && len(raw) != sha256.Size {
			return c, fmt.Errorf("%q is no thumbprint: 40 or 64 hex digits", *thumb)
		}
	}
	hasKey, hasThumb := c.PrimaryKey+c.SecondaryKey != "", c.Thumbprint+c.SecondaryThumbprint != ""
	if hasKey && c.kind() != byKey || hasThumb && c.kind() != byThumb || c.None && c.X509CA {
		return c, errors.New("keys, thumbprints, x509ca and none exclude each other")
	}
	return c, nil
}

// replace is what becomes of an identity's old credential when c, in normal form, is set.
func (c Credential) replace(old Credential) Credential {
	if c.kind() == byKey {
		for _, key := range []struct{ new, old *string }{{&c.PrimaryKey, &old.PrimaryKey}, {&c.SecondaryKey, &old.SecondaryKey}} {
			if *key.new == "" {
				*key.new = *key.old
			}
			if *key.new == "" {
				*key.new = newKey()
			}
		}
	}
	return c
}

// checkCertificate says why the certificates of a TLS client do not prove that it is id, nil if they do
// (CON-29 to CON-31).
func (h *Hub) checkCertificate(chain []*x509.Certificate, id *identity, now time.Time) error {
	c := h.registry.credential(id)
	switch {
	case c.kind() == byKey, c.kind() == byNothing:
		return wrong("CON-31", "no password, and this identity proves itself with a token")
	case len(chain) == 0:
		return coded(401003, "CON-16, CLOSE-21", "no client certificate, and this identity proves itself with one")
	case c.kind() == byThumb:
		sum1, sum256 := sha1.Sum(chain[0].Raw), sha256.Sum256(chain[0].Raw)
		for _, sum := range [][]byte{sum1[:], sum256[:]} {
			if text := strings.ToUpper(hex.EncodeToString(sum)); text == c.Thumbprint || text == c.SecondaryThumbprint {
				return nil
			}
		}
		return coded(401003, "CON-30", "the client certificate has the thumbprint %X (SHA-1), which is not registered", sum1)
	}
	if name := chain[0].Subject.CommonName; name != id.name() {
		return coded(401003, "CON-30", "the client certificate is for %q (CN)", name)
	}
	options := x509.VerifyOptions{
		Roots: h.registry.deviceAuthorities(), Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, link := range chain[1:] {
		options.Intermediates.AddCert(link)
	}
	if _, err := chain[0].Verify(options); err != nil {
		return coded(401003, "CON-30", "the client certificate: %v", err)
	}
	return nil
}

// RegisterWith makes a device, or with a module id a module and its device, that proves itself with c, or
// gives one that exists this credential. It returns the credential with its keys. The error names a bad
// id or credential, or says why it could not be stored.
func (h *Hub) RegisterWith(device, module string, c Credential) (Credential, error) {
	c, err := c.normal()
	if err != nil {
		return c, fmt.Errorf("hubsim: %s: %w", identityName(device, module), err)
	}
	reg, err := h.registry.register(wish{device: device, module: module, edit: func(reg *registration) error {
		reg.Credential = c.replace(reg.Credential)
		return nil
	}})
	return reg.Credential, err
}

// authorityKind are the authorities of device certificates in the state, DER by SHA-256.
const authorityKind = "authority"

// AddDeviceCA makes authorities known whose certificates prove devices that are registered with X509CA.
// The text is PEM with one certificate or more. The error says what is wrong with it, or that it could
// not be stored.
func (h *Hub) AddDeviceCA(text []byte) error {
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("hubsim: authority of devices: %w", err)
		}
		if !certificate.IsCA {
			return fmt.Errorf("hubsim: authority of devices: %q is not a certificate authority", certificate.Subject)
		}
		all = append(all, certificate)
	}
	if len(all) == 0 {
		return errors.New("hubsim: authority of devices: no certificate in PEM")
	}
	return h.registry.addAuthorities(all).wait()
}
