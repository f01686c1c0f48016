package hubsim

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// denial is why a registration is refused. Its error is for the log; what the device is told says less, as
// the real service does.
type denial struct {
	error
	told *Error
}

func (d *denial) Unwrap() error { return d.error }

// denied is a denial with 401002 (DPS-11).
func denied(told, clause, format string, args ...any) error {
	return &denial{
		coded(401002, clause, format, args...),
		&Error{Status: http.StatusUnauthorized, Code: 401002, Name: "Unauthorized", Message: told},
	}
}

// toldOf is err as a device is told it.
func toldOf(err error) *Error {
	var d *denial
	if errors.As(err, &d) {
		return d.told
	}
	var bad *Error
	if errors.As(err, &bad) {
		return bad
	}
	return apiError(errInternal).because(err.Error())
}

// attest finds the enrolment that a device proves to belong to, and what it will prove itself with at its
// hub. Its own enrolment goes before those of groups, also a disabled one.
func (p *provisioner) attest(r *registrant, now time.Time) (*Enrollment, Credential, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.enrollments[individualKey(r.id)]; e != nil {
		c, err := e.proved(r, now)
		return e, c, err
	}
	why := denied("Unauthorized", "DPS-11", "there is no enrolment for it, and no group whose key it has")
	if r.token == nil {
		why = denied("CA certificate not found.", "DPS-4", "there is no enrolment for it, and no group with the authority of its certificate")
	}
	for _, key := range slices.Sorted(maps.Keys(p.enrollments)) {
		e := p.enrollments[key]
		if !e.isGroup() {
			continue
		}
		if c, err := e.proved(r, now); err == nil {
			return e, c, nil
		}
	}
	return nil, Credential{}, why
}

// proved says why r is not of the enrolment, or what it will prove itself with at its hub (DPS-13).
func (e *Enrollment) proved(r *registrant, now time.Time) (Credential, error) {
	if keys := e.Attestation.SymmetricKey; keys != nil {
		if r.token == nil {
			return Credential{}, denied("Unauthorized", "DPS-3", "the enrolment is for a key, and no token came")
		}
		c := Credential{PrimaryKey: keys.PrimaryKey, SecondaryKey: keys.SecondaryKey}
		if e.isGroup() {
			c.PrimaryKey, c.SecondaryKey = derivedKey(keys.PrimaryKey, r.id), derivedKey(keys.SecondaryKey, r.id)
		}
		if !r.token.signedWith(c.PrimaryKey) && !r.token.signedWith(c.SecondaryKey) {
			return Credential{}, denied("Unauthorized", "DPS-3, DPS-12", "the signature is not made with a key of its enrolment; is the key base64-decoded, and sr signed as it is sent?")
		}
		return c, nil
	}
	if r.token != nil || len(r.chain) == 0 {
		return Credential{}, denied("Unauthorized", "DPS-4", "the enrolment is for a certificate, and a token came")
	}
	if err := e.checkCertificate(r, now); err != nil {
		return Credential{}, err
	}
	return Credential{Thumbprint: fmt.Sprintf("%X", sha256.Sum256(r.chain[0].Raw))}, nil
}

// checkCertificate says why the certificate of r does not prove that it is of the enrolment.
func (e *Enrollment) checkCertificate(r *registrant, now time.Time) error {
	leaf := r.chain[0]
	if !strings.EqualFold(leaf.Subject.CommonName, r.id) {
		return denied("Invalid certificate.", "DPS-4", "the client certificate is for %q (CN), not for the registration id", leaf.Subject.CommonName)
	}
	if e.isGroup() {
		options := x509.VerifyOptions{
			Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		}
		e.Attestation.each(options.Roots.AddCert)
		for _, link := range r.chain[1:] {
			options.Intermediates.AddCert(link)
		}
		if _, err := leaf.Verify(options); err != nil {
			return denied("CA certificate not found.", "DPS-4", "the client certificate: %v", err)
		}
		return nil
	}
	known := false
	e.Attestation.each(func(c *x509.Certificate) { known = known || c.Equal(leaf) })
	switch {
	case !known:
		return denied("Invalid certificate.", "DPS-4", "the client certificate is not the enrolled one")
	case now.After(leaf.NotAfter) || now.Before(leaf.NotBefore):
		return denied("Invalid certificate.", "DPS-4", "the client certificate holds from %s to %s", leaf.NotBefore.Format(time.DateOnly), leaf.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// derivedKey is the key of a device of a group (DPS-12).
func derivedKey(groupKey, registrationID string) string {
	raw, err := base64.StdEncoding.DecodeString(groupKey)
	if err != nil {
		return ""
	}
	mac := hmac.New(sha256.New, raw)
	mac.Write([]byte(strings.ToLower(registrationID)))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
