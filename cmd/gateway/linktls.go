package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

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
		pem, err := secrets.Public(identity.Ref(t.Trust))
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
	pair, err := secrets.KeyPair(identity.Ref(t.Certificate), identity.Ref(t.PrivateKey))
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}
