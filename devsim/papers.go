package devsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"time"
)

// papersLife is how long the certificates of a simulated plant are valid.
const papersLife = 365 * 24 * time.Hour

// Papers are what a client of simulated Modbus Security devices needs, as PEM texts made anew by each New:
// the authority that signs the devices' certificates, and a client certificate with its key. A device asks
// for a client certificate if the mapping names one for its link.
type Papers struct {
	CA, Certificate, Key []byte

	issuer *x509.Certificate
	key    *ecdsa.PrivateKey
}

var errNoPapers = errors.New("no such file, or the mapping has no link with tls")

// Papers are those of the plant; empty if it has no link with TLS.
func (s *Sim) Papers() Papers {
	if s.papers == nil {
		return Papers{}
	}
	return *s.papers
}

// Client is how a client of the devices trusts them and shows its certificate; nil without papers.
func (p Papers) Client() (*tls.Config, error) {
	if p.issuer == nil {
		return nil, nil
	}
	own, err := tls.X509KeyPair(p.Certificate, p.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(p.issuer)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{own}}, nil
}

// secure is how a device on host behaves; the first one makes the plant's papers.
func (s *Sim) secure(host string, mutual bool) (*tls.Config, error) {
	if s.papers == nil {
		papers, err := newPapers()
		if err != nil {
			return nil, err
		}
		s.papers = papers
	}
	certificate, key, err := s.papers.issue(host)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	server := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if mutual {
		server.ClientCAs = x509.NewCertPool()
		server.ClientCAs.AddCert(s.papers.issuer)
		server.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return server, nil
}

func newPapers() (*Papers, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := paper("simulated plant")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	p := &Papers{CA: pemText("CERTIFICATE", der), key: key}
	if p.issuer, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	p.Certificate, p.Key, err = p.issue("gateway")
	return p, err
}

// issue makes a certificate for a host name or address, and its key.
func (p *Papers) issue(host string) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := paper(host)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames = []string{host, "localhost"}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if ip := net.ParseIP(host); ip != nil {
		template.DNSNames, template.IPAddresses = []string{"localhost"}, append(template.IPAddresses, ip)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.issuer, &private.PublicKey, p.key)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pemText("CERTIFICATE", der), pemText("PRIVATE KEY", raw), nil
}

func paper(name string) *x509.Certificate {
	serial := make([]byte, 8)
	_, _ = rand.Read(serial) // never fails
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(papersLife), KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func pemText(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
