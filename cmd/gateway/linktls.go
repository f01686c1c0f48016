package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"iothub-gateway/adapters/modbus"
	"iothub-gateway/identity"
	"iothub-gateway/mapping"
)

// secureLinks gives the links with Modbus Security their certificates and keys, and reports all that are
// missing or wrong at once.
func secureLinks(plant *mapping.Plant, secrets identity.Source) error {
	var errs []error
	for _, link := range plant.Links {
		if link.TLS == nil {
			continue
		}
		var err error
		if link.TLS.Client, err = clientTLS(*link.TLS, secrets); err != nil {
			errs = append(errs, fmt.Errorf("link %s: %w", link.Name, err))
		}
	}
	return errors.Join(errs...)
}

// clientTLS reads whom to trust and who we are.
func clientTLS(t modbus.TLS, secrets identity.Source) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.Trust != "" {
		pem, err := publicPEM(t.Trust, secrets)
		if err != nil {
			return nil, fmt.Errorf("trust: %w; put the certificate of the devices' authority there", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("trust: %s holds no PEM certificate", t.Trust)
		}
	}
	if t.Certificate == "" {
		return config, nil
	}
	certificate, err := publicPEM(t.Certificate, secrets)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w; put the gateway's own certificate there", err)
	}
	key, err := secrets.Resolve(identity.Ref(t.PrivateKey))
	if err != nil {
		return nil, fmt.Errorf("private_key: %w", err)
	}
	pair, err := tls.X509KeyPair(certificate, []byte(key.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("certificate %s and private_key %s do not fit: %w", t.Certificate, t.PrivateKey, err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// publicPEM reads what is no secret: unlike a key, others may read its file.
func publicPEM(ref string, secrets identity.Source) ([]byte, error) {
	path, isFile := strings.CutPrefix(ref, "file:")
	if !isFile {
		text, err := secrets.Resolve(identity.Ref(ref))
		return []byte(text.Reveal()), err
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(secrets.Dir, path)
	}
	return os.ReadFile(path)
}
