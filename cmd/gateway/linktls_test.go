package main

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iothub-gateway/adapters/modbus"
	"iothub-gateway/identity"
	"iothub-gateway/internal/testkit"
	"iothub-gateway/mapping"
)

// keyPair writes a self-signed certificate and its key.
func keyPair(t *testing.T, dir, name string, mode os.FileMode) {
	t.Helper()
	certificate, key := testkit.PEM(t, testkit.Issue(t, nil, x509.Certificate{}))
	if err := errors.Join(os.WriteFile(filepath.Join(dir, name+".pem"), []byte(certificate), 0o644),
		os.WriteFile(filepath.Join(dir, name+".key"), []byte(key), mode)); err != nil {
		t.Fatal(err)
	}
}

func TestLinksGetTheCertificatesThatTheMappingNames(t *testing.T) {
	dir := t.TempDir()
	keyPair(t, dir, "a", 0o600)
	keyPair(t, dir, "b", 0o644)
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets := identity.Source{Dir: dir, Credentials: dir}
	for _, c := range []struct {
		refs  modbus.TLS
		wrong string
	}{
		{modbus.TLS{}, ""},
		{modbus.TLS{Trust: "file:b.pem"}, ""},
		{modbus.TLS{Trust: "file:" + filepath.Join(dir, "a.pem"), Certificate: "credential:a.pem", PrivateKey: "file:a.key"}, ""},
		{modbus.TLS{Trust: "file:none"}, "trust: "},
		{modbus.TLS{Trust: "file:text"}, "holds no PEM certificate"},
		{modbus.TLS{Certificate: "file:none", PrivateKey: "file:a.key"}, "certificate: "},
		{modbus.TLS{Certificate: "file:a.pem", PrivateKey: "file:none"}, "secret is missing"},
		{modbus.TLS{Certificate: "file:b.pem", PrivateKey: "file:b.key"}, "others can read it"},
		{modbus.TLS{Certificate: "file:b.pem", PrivateKey: "file:a.key"}, "do not fit"},
	} {
		plant := &mapping.Plant{Links: []modbus.Config{{Name: "plain"}, {Name: "press", TLS: &c.refs}}}
		err := secureLinks(plant, secrets)
		switch client := plant.Links[1].TLS.Client; {
		case c.wrong != "":
			if err == nil || !strings.Contains(err.Error(), c.wrong) || !strings.HasPrefix(err.Error(), "link press: ") {
				t.Errorf("%+v: %v", c.refs, err)
			}
		case err != nil || client == nil || (client.RootCAs != nil) != (c.refs.Trust != "") || (len(client.Certificates) == 1) != (c.refs.Certificate != ""):
			t.Errorf("%+v: %v, %+v", c.refs, err, client)
		}
	}
}
