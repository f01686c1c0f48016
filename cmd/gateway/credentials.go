package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
	"iothub-gateway/mapping"
	"iothub-gateway/upstream"
)

// tokenLife is how long a token holds that the gateway signs: what Microsoft's own SDKs use (CON-49).
const tokenLife = time.Hour

// credential is how one identity of a plant proves itself.
func (s *service) credential(plant *mapping.Plant, id mapping.Identity) (upstream.Credential, error) {
	host, secrets := s.way.host(), s.cfg.secrets
	if s.cfg.keys != nil {
		key, err := s.cfg.keys(id)
		if err != nil {
			return nil, fmt.Errorf("identity %s: %w", id.ID, err)
		}
		return identity.NewSAS(host, id.ID, key, tokenLife)
	}
	load := func() (tls.Certificate, error) { return secrets.KeyPair(id.Certificate, id.Key) }
	read := func() (identity.Secret, error) { return secrets.SharedKey(id.Key) }
	if id.Registration != "" {
		return s.provisioned(*plant.Hub.Provisioning, id, proof{load, read}), nil
	}
	switch id.Kind {
	case mapping.EdgeModule:
		return s.way.edge.Credential(tokenLife)
	case mapping.Certificate:
		return identity.NewX509(host, id.ID, load), nil
	case mapping.ReadyToken:
		return identity.NewReadyToken(host, id.ID, func() (identity.Secret, error) { return secrets.Resolve(id.Key) }), nil
	}
	sas := identity.NewKeySAS(host, id.ID, identity.Key{Policy: id.Policy, Read: read}, tokenLife)
	_, err := sas.Login(context.Background(), identity.Attempt{Now: time.Now()}) // a key that is not there now is a mistake
	return sas, err
}

// proof reads what an identity proves itself with: a certificate or a key.
type proof struct {
	load func() (tls.Certificate, error)
	read func() (identity.Secret, error)
}

// provisioned is the credential of a device that a service assigns to a hub.
func (s *service) provisioned(by mapping.Provisioning, id mapping.Identity, p proof) upstream.Credential {
	cfg := identity.ProvisioningConfig{
		ID: id.ID, Host: cmp.Or(by.Host, identity.ProvisioningHost), Scope: by.Scope, Registration: id.Registration,
		Life: tokenLife, State: s.state, Pace: s.way.pace, Dial: s.way.toService,
	}
	if id.Kind == mapping.Certificate {
		cfg.Load = p.load
	} else {
		cfg.Key, cfg.Group = p.read, id.Kind == mapping.GroupKey
	}
	return identity.NewProvisioned(cfg)
}

// proofOf says in a few words how an identity proves itself, to which hub if that is not the mapping's,
// and until when, if somebody has to see to that.
func (s *service) proofOf(link upstream.LinkStats) string {
	text := ""
	if id, ok := s.now.Load().identities[link.Identity]; ok {
		text = id.Kind.String()
	}
	if link.Hub != "" && link.Hub != s.way.host() {
		text += " at " + link.Hub
	}
	if link.Account != "" && gateway.IdentityID(link.Account) != link.Identity {
		text += " as " + link.Account
	}
	if !link.Expires.IsZero() {
		text += " until " + link.Expires.UTC().Format("2006-01-02 15:04")
	}
	return text
}
