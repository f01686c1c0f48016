package main

import (
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
	"iothub-gateway/mapping"
)

func TestTheSimulatorKnowsTheCertificatesOfAMappingAndSaysWhatItCannotProve(t *testing.T) {
	s := newSite(t, hubsim.Config{})
	s.certificate("x509")
	s.file("policy", base64.StdEncoding.EncodeToString([]byte("a key of another hub")))
	s.device("device: x509, certificate: file:x509.crt, private_key: file:x509.key")
	s.device("device: absent, certificate: file:absent.crt, private_key: file:absent.key")
	s.device("device: by-policy, sas_policy: { name: device, key: file:policy }")
	plant, found := mapping.Parse("site.yaml", []byte("version: 1\nhub: { host: localhost }\ndevices:\n"+s.text.String()))
	if plant == nil {
		t.Fatal(found)
	}
	var said strings.Builder
	options := &hubsimOptions{mapping: filepath.Join(s.dir, "site.yaml")}
	if err := options.registerPlant(&said, s.hub, plant); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"absent is not registered", "file:policy holds another key than the policy device"} {
		if !strings.Contains(said.String(), want) || strings.Contains(said.String(), "x509 is") {
			t.Errorf("said %q, want %q", said.String(), want)
		}
	}
	s.start("host: localhost", func(c *serviceConfig) { c.address = func(string, int) string { return s.hub.MQTTAddr() } })
	testkit.Eventually(s.t, "the certificate is known", func() bool { return s.delivered(s.hub, "x509") })
}

func TestTheSimulatorWritesTheKeyOfAPolicyWhereTheMappingLooksForIt(t *testing.T) {
	s := newSite(t, hubsim.Config{})
	s.device("device: a, sas_policy: { name: device, key: file:keys/policy }")
	s.device("device: b, sas_policy: { name: device, key: file:keys/policy }")
	s.device("device: c, sas_policy: { name: other, key: file:keys/other }")
	plant, found := mapping.Parse("site.yaml", []byte("version: 1\nhub: { host: localhost }\ndevices:\n"+s.text.String()))
	if plant == nil {
		t.Fatal(found)
	}
	options := &hubsimOptions{mapping: filepath.Join(s.dir, "site.yaml")}
	for range 2 { // what was written stays good
		var said strings.Builder
		if err := options.registerPlant(&said, s.hub, plant); err != nil {
			t.Fatal(err)
		}
		if lines := strings.Split(strings.TrimSpace(said.String()), "\n"); len(lines) != 1 || !strings.HasPrefix(lines[0], "c proves itself by the policy other") {
			t.Errorf("said %q", lines)
		}
	}
	s.file("keys/other", base64.StdEncoding.EncodeToString([]byte("a key of another hub")))
	s.start("host: localhost", func(c *serviceConfig) { c.address = func(string, int) string { return s.hub.MQTTAddr() } })
	testkit.Eventually(s.t, "both are let in", func() bool { return s.delivered(s.hub, "a") && s.delivered(s.hub, "b") })
}
