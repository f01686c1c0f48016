package modbus

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

// authority signs certificates.
type authority struct {
	own  tls.Certificate
	pool *x509.CertPool
}

// issue makes a certificate that parent signs; nil signs itself.
func issue(t *testing.T, parent *authority, template x509.Certificate) (tls.Certificate, *authority) {
	t.Helper()
	var signer *tls.Certificate
	if parent != nil {
		signer = &parent.own
	}
	own := testkit.Issue(t, signer, template)
	pool := x509.NewCertPool()
	pool.AddCert(own.Leaf)
	return own, &authority{own, pool}
}

// secure serves f over TLS and asks clients for a certificate of ca.
func (f *field) secure(t *testing.T, own tls.Certificate, ca *authority, most uint16) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{own}, ClientCAs: ca.pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS10, MaxVersion: most,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.serving.Go(func() { f.accept(l) })
	t.Cleanup(func() { f.shut(l) })
	return l.Addr().String()
}

func TestModbusSecurityIsMutual(t *testing.T) {
	t.Parallel()
	_, ca := issue(t, nil, x509.Certificate{Subject: pkix.Name{CommonName: "plant"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	_, stranger := issue(t, nil, x509.Certificate{Subject: pkix.Name{CommonName: "stranger"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	server, _ := issue(t, ca, x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	client, _ := issue(t, ca, x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	foreign, _ := issue(t, stranger, x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	for _, c := range []struct {
		name   string
		config *tls.Config
		most   uint16
		wrong  string // part of the error
	}{
		{"both sides known", &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{client}}, 0, ""},
		{"TLS 1.2", &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{client}}, tls.VersionTLS12, ""},
		{"TLS 1.1", &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{client}}, tls.VersionTLS11, "protocol version"},
		{"an unknown device", &tls.Config{RootCAs: stranger.pool, Certificates: []tls.Certificate{client}}, 0, "unknown authority"},
		{"the system's authorities", nil, 0, "unknown authority"},
		{"another name", &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{client}, ServerName: "plc-2"}, 0, "plc-2"},
		{"no certificate of ours", &tls.Config{RootCAs: ca.pool}, 0, "certificate"},
		{"a certificate of a stranger", &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{foreign}}, 0, "certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newField()
			r := run(t, Config{Address: f.secure(t, server, ca, c.most), TLS: &TLS{Client: c.config}, Timeout: 2 * time.Second, Devices: []Device{{
				Name: "d", Unit: 7, Points: points("d", Holding, 50*time.Millisecond, span2(100, 20)...),
			}}}, f)
			if c.wrong == "" {
				for a := range 20 {
					if v, err := readOne(t, r, r.cfg.Devices[0].Points[a].ID); err != nil || v != uint64(100+a) {
						t.Errorf("%d %v", v, err)
					}
				}
				return
			}
			if _, err := readOne(t, r, "d/100"); !errors.Is(err, gateway.ErrNoAnswer) {
				t.Errorf("%v", err)
			}
			testkit.Eventually(t, "the reason", func() bool { return strings.Contains(r.Stats().Link.LastError, c.wrong) })
			if n := len(f.calls()); n > 0 {
				t.Errorf("%d requests got through", n)
			}
		})
	}
}
