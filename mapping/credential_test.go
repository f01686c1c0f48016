package mapping

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/identity"
	"iothub-gateway/internal/testkit"
)

// identified is a device of a mapping whose identity section is given.
func identified(name string, unit int, section string) string {
	return fmt.Sprintf("  %s:\n    identity: { %s }\n    modbus: { tcp: h:502, unit: %d, addressing: zero }\n    points: { %s: { at: coil 0 } }\n", name, section, unit, name)
}

func TestEachIdentityHasOneWayToProveItself(t *testing.T) {
	const provisioning = "version: 1\nhub: { provisioning: { scope: 0ne1, group_key: file:group } }\ndevices:\n"
	for text, want := range map[string]Credential{
		head + "devices:\n" + identified("a", 1, "device: a, sas_key: file:k"):                                                        {Kind: DeviceKey, Key: "file:k"},
		head + "devices:\n" + identified("a", 1, "device: a, sas_policy: { name: device, key: env:P }"):                               {Kind: PolicyKey, Policy: "device", Key: "env:P"},
		head + "devices:\n" + identified("a", 1, "device: a, module: m, sas_token: credential:t"):                                     {Kind: ReadyToken, Key: "credential:t"},
		head + "devices:\n" + identified("a", 1, "device: a, certificate: file:c, private_key: file:k"):                               {Kind: Certificate, Certificate: "file:c", Key: "file:k"},
		"version: 1\nhub: { host: h, sas_policy: { name: p, key: file:p } }\ndevices:\n" + identified("a", 1, "device: a, module: m"): {Kind: PolicyKey, Policy: "p", Key: "file:p"},
		"version: 1\nhub: { edge: auto }\ndevices:\n" + identified("a", 1, "device: a"):                                               {Kind: EdgeModule},
		provisioning + identified("a", 1, "device: A_1"):                                                                              {Kind: GroupKey, Key: "file:group", Registration: "A_1"},
		provisioning + identified("a", 1, "device: a, provisioning: { id: sn-7 }"):                                                    {Kind: GroupKey, Key: "file:group", Registration: "sn-7"},
		provisioning + identified("a", 1, "device: a, provisioning: { key: file:own }"):                                               {Kind: DeviceKey, Key: "file:own", Registration: "a"},
		provisioning + identified("a", 1, "device: a, certificate: file:c, private_key: file:k"):                                      {Kind: Certificate, Certificate: "file:c", Key: "file:k", Registration: "a"},
		provisioning + identified("a", 1, "device: a, certificate: file:c, private_key: file:k, provisioning: { id: cn }"):            {Kind: Certificate, Certificate: "file:c", Key: "file:k", Registration: "cn"},
		"version: 1\nhub: { provisioning: { scope: s, key: file:one } }\ndevices:\n" + identified("a", 1, "device: a"):                {Kind: DeviceKey, Key: "file:one", Registration: "a"},
		// a certificate is for the hub that the mapping names, unless it says provisioning
		"version: 1\nhub: { host: h, provisioning: { scope: s } }\ndevices:\n" + identified("a", 1, "device: a, certificate: file:c, private_key: file:k"): {Kind: Certificate, Certificate: "file:c", Key: "file:k"},
	} {
		plant := check(t, text)
		if plant == nil || len(plant.Identities) != 1 || plant.Identities[0].Credential != want {
			t.Errorf("%s\ngives %+v, want %+v", text, plant, want)
		}
	}
}

func TestTheWayToTheHubIsReadAsItIsWritten(t *testing.T) {
	device := "devices:\n" + identified("a", 1, "device: a, sas_key: file:k")
	for text, want := range map[string]Hub{
		"hub: { host: h, gateway_host: edge-1.lan }":                                                    {Host: "h", GatewayHost: "edge-1.lan"},
		"hub: { host: h, gateway_host: edge-1.lan:18883 }":                                              {Host: "h", GatewayHost: "edge-1.lan", GatewayPort: 18883},
		"hub: { host: h, proxy: http://proxy:3128 }":                                                    {Host: "h", Proxy: &Proxy{Address: "proxy:3128"}},
		"hub: { host: h, proxy: \"http://[fd00::1]:80/\" }":                                             {Host: "h", Proxy: &Proxy{Address: "[fd00::1]:80"}},
		"hub: { host: h, transport: websocket, proxy: { url: http://p:1, user: u, password: file:p } }": {Host: "h", Transport: "websocket", Proxy: &Proxy{Address: "p:1", User: "u", Password: "file:p"}},
		"hub: { host: h, provisioning: { scope: 0ne1, host: p.example:8884 } }":                         {Host: "h", Provisioning: &Provisioning{Host: "p.example:8884", Scope: "0ne1"}},
		"hub: { edge: auto }": {Edge: true},
	} {
		if want.Transport == "" {
			want.Transport = "mqtt"
		}
		plant := check(t, "version: 1\n"+text+"\n"+device)
		if plant == nil {
			continue
		}
		if diff := cmp.Diff(want, plant.Hub); diff != "" {
			t.Errorf("%s (-want +read):\n%s", text, diff)
		}
	}
}

// x509Pair writes a certificate with its key, valid in a span of time around now.
func x509Pair(t *testing.T, dir, name string, from, to time.Duration) {
	t.Helper()
	certificate, key := testkit.PEM(t, testkit.Issue(t, nil, x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to),
	}))
	for file, text := range map[string]string{".crt": certificate, ".key": key} {
		if err := os.WriteFile(filepath.Join(dir, name+file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTokensCertificatesAndSharedKeysAreLookedForWhereTheMappingSays(t *testing.T) {
	dir := t.TempDir()
	x509Pair(t, dir, "good", -time.Hour, time.Hour)
	x509Pair(t, dir, "over", -time.Hour, -time.Minute)
	x509Pair(t, dir, "early", time.Minute, time.Hour)
	key, err := identity.DeriveKey(identity.NewSecret(marker), "d")
	if err != nil {
		t.Fatal(err)
	}
	token := func(file, resource string, life time.Duration) {
		text := identity.Token(resource, []byte(key.Reveal()), time.Now().Add(life), "").Reveal()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token("token", "h.example/devices/e", time.Hour)
	token("ended", "h.example/devices/f", -time.Hour)
	token("another", "h.example/devices/x", time.Hour)
	for name, content := range map[string]string{"text": spilled, "policy": spilled} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := "version: 1\nhub: { host: h.example, sas_policy: { name: p, key: file:policy }, proxy: { url: http://p:1, user: u, password: file:absent } }\ndevices:\n"
	for i, section := range []string{
		"device: a, certificate: file:good.crt, private_key: file:good.key",
		"device: b, certificate: file:over.crt, private_key: file:over.key",
		"device: c, certificate: file:early.crt, private_key: file:early.key",
		"device: d, certificate: file:good.crt, private_key: file:over.key",
		"device: e, sas_token: file:token",
		"device: f, sas_token: file:ended",
		"device: g, sas_token: file:another",
		"device: i, sas_token: file:text",
		"device: j, certificate: file:absent.crt, private_key: file:good.key",
		"device: k",
		"device: l", // the same policy
	} {
		text += identified(string(rune('a'+i)), i+1, section)
	}
	plant := check(t, text)
	if plant == nil {
		t.FailNow()
	}
	found := CheckSecrets(plant, identity.Source{Dir: dir})
	want := []string{"2:37 E053", "17:41 E053", "29:39 E053", "33:39 E053", "2:113 W052", "9:41 W055", "13:41 W055", "25:39 W055", "37:41 W052"}
	if diff := cmp.Diff(want, brief(found)); diff != "" {
		t.Errorf("findings (-want +found):\n%s\n%v", diff, found)
	}
	if shown := fmt.Sprint(found); strings.Contains(shown, spilled) || strings.Contains(shown, "sig=") {
		t.Errorf("a secret is shown: %v", found)
	}
}
