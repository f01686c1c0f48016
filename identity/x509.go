package identity

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	gateway "iothub-gateway"
)

// X509 is an identity that is proven by a certificate (CON-29, CON-30), which is read for each
// connection, and now and then in between: one that was exchanged needs no restart.
type X509 struct {
	fixed
	id   gateway.IdentityID
	load func() (tls.Certificate, error)
}

// NewX509 makes the credential of id on the hub called host; load reads certificate and key.
func NewX509(host string, id gateway.IdentityID, load func() (tls.Certificate, error)) *X509 {
	return &X509{fixed: fixed{host}, id: id, load: load}
}

// Login takes the certificate that is there now. Its error says that it is missing, does not fit its
// key, or is not valid at a.Now.
func (x *X509) Login(_ context.Context, a Attempt) (Login, error) {
	pair, err := x.load()
	if err == nil {
		err = CheckPeriod(pair, a.Now)
	}
	if err != nil {
		return Login{}, fmt.Errorf("identity %s: %w", x.id, err)
	}
	login := loginOf(x.host, x.id)
	login.Watch, login.Certificate, login.Expires = true, &pair, pair.Leaf.NotAfter
	return login, nil
}

// CheckPeriod says whether the first certificate of pair is valid at time now. The error wraps
// ErrNotYetValid if its time is still to come.
func CheckPeriod(pair tls.Certificate, now time.Time) error {
	switch leaf := pair.Leaf; {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("the certificate of %s %w before %s", leaf.Subject.CommonName, ErrNotYetValid, leaf.NotBefore.UTC().Format(time.RFC3339))
	case now.After(leaf.NotAfter):
		return fmt.Errorf("the certificate of %s ended on %s; put a new one in its place", leaf.Subject.CommonName, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// KeyPair reads a certificate, with those that lead to its authority if they follow it, and its key.
// Only the key's file must be closed to others. The error says which of the two is wrong.
func (s Source) KeyPair(certificate, key Ref) (tls.Certificate, error) {
	public, err := s.Public(certificate)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate: %w; put the gateway's own certificate there", err)
	}
	private, err := s.Resolve(key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("private_key: %w", err)
	}
	pair, err := tls.X509KeyPair(public, []byte(private.Reveal()))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %s and private_key %s do not fit: %w", certificate, key, err)
	}
	return pair, nil
}

// Public reads what is no secret: unlike a key, others may read its file.
func (s Source) Public(ref Ref) ([]byte, error) {
	path, isFile := strings.CutPrefix(string(ref), "file:")
	if !isFile {
		text, err := s.Resolve(ref)
		return []byte(text.Reveal()), err
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.Dir, path)
	}
	return os.ReadFile(path)
}
