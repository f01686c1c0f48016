package mapping

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/identity"
)

// marker is a key that must not be seen. It is as long and looks like a real one.
const marker = "TWFya2VyTWFya2VyTWFya2VyTWFya2VyTWFya2VyTWE="

// spilled is a secret that looks like nothing in particular.
const spilled = "correct-horse-battery"

func TestASecretInTheFileIsNeverShown(t *testing.T) {
	const device = "    modbus: { tcp: h:502, unit: 1, addressing: zero }\n    points: { x: { at: coil 0 } }\n"
	for _, text := range []string{
		head + "devices:\n  a:\n    identity: { device: a, sas_key: SECRET }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, oops: 1, sas_key: SECRET, nope: 2 }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, sas_key: \"SECRET\", nope: 2 }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, sas_key: 'SECRET' , device: b }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, sas_kye: SECRET }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, SAS-Key: SECRET }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, shared_access_key: SECRET }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, sas_key: [SECRET, SECRET] }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, sas_key: { SECRET: SECRET } }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, sas_key: !!binary SECRET }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, sas_key: file:x, sas_key: SECRET }\n" + device,
		head + "devices:\n  a:\n    identity:\n      device: a\n      sas_key: |\n        SECRET\n        SECRET\n      oops: 1\n" + device,
		head + "devices:\n  a:\n    identity:\n      device: a\n      sas_key:\n        SECRET\n      oops: 1\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, sas_key: \"SEC\\\n      RET SECRET\" }\n" + device,
		head + "oops: { k: &k SECRET }\ndevices:\n  a:\n    identity: { device: a, sas_key: *k }\n" + device,
		head + "sas_key: SECRET\n",
		"version: 1\nhub: { host: h, proxy: { url: \"http://u:SECRET@p:3128\", user: u, password: SECRET } }\n",
		"version: 1\nhub: { host: h, proxy: \"http://u:SECRET@p:3128\" }\n",
		"version: 1\nhub: { provisioning: { scope: s, group_key: [SECRET], key: { SECRET: SECRET } } }\n",
		"version: 1\nhub: { host: h, sas_policy: { name: device, key: [SECRET] } }\n",
		head + "devices:\n  a:\n    identity: { device: a, sas_token: [SECRET] }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, sas_token: SharedAccessSignature sr=h&sig=SECRET&se=1 }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, provisioning: { key: SECRET } }\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, certificate: file:c, private_key: SECRET }\n" + device,
		head + "links: { l: { tls: h:802, certificate: file:c, private_key: SECRET } }\n",
		head + "links: { l: { tls: h:802, private_kye: [SECRET] } }\n",
		head + "devices:\n  a: { local: true, modbus: { tls: h:802, private_key: SECRET, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } }\n",
		head + "devices:\n  a:\n    sas_key: SECRET\n" + device,
		head + "devices:\n  a:\n    identity: { device: a, sas_key: SECRET, device: [ }\n",
		head + "devices:\n  a:\n    identity: { device: a, sas_key: file:x, private_key: SECRET, device: [ }\n",
		head + "devices:\n  a:\n    identity:\n      sas_key: SECRET\n     device: x\n",
		head + "devices:\n  a:\n    identity:\n      sas_key: >-\n        SECRET\n\tdevice: x\n",
		head + "devices:\n  a:\n    identity:\n      sas_key: SECRET\n      password: @SECRET\n",
		head + "devices:\n  a:\n    identity: { device: a, sas_key: *SECRET }\n",
		head + "devices:\n  a:\n    identity: { device: a, sas_key: SECRET\x01 }\n",
		head + "--- { sas_key: SECRET }\n",
		head + "devices:\n  a:\n    identity: { device: a, sas_key: credential:../SECRET }\n" + device,
	} {
		for _, secret := range []string{marker, spilled} {
			unseen(t, strings.ReplaceAll(text, "SECRET", secret), secret)
		}
	}
	for _, text := range []string{ // where only what looks like a key can be told from other text
		"version: 1\nhub: { host: SECRET }\n",
		"version: 1\nhub: { host: \"HostName=h;SharedAccessKeyName=owner;SharedAccessKey=SECRET\" }\n",
		head + "devices: { SECRET: 1 }\n",
		head + "SECRET\n",
		head + "# SECRET\n  devices: [\n",
		head + "devices:\n  a:\n    identity: { device: SECRET }\n",
		head + "devices:\n  a:\n    coap: { psk: SECRET }\n",
		head + "devices:\n  a:\n    coap: { listener: l, psk: \"SECRET\", path: a }\nlisteners: { l: { coaps: h:5684, psk_dir: d } }\n",
	} {
		unseen(t, strings.ReplaceAll(text, "SECRET", marker), marker)
	}
}

// unseen wants findings, none of which shows the secret.
func unseen(t *testing.T, text, secret string) {
	t.Helper()
	plant, found := Parse("f", []byte(text))
	if plant != nil || len(found) == 0 {
		t.Errorf("no error found in\n%s", text)
	}
	shown, err := json.Marshal(found)
	if err != nil {
		t.Fatal(err)
	}
	all := string(shown) + fmt.Sprintf("%v %+v", found, found)
	for _, part := range []string{secret, secret[:len(secret)/2], secret[len(secret)/2:]} {
		if strings.Contains(all, part) {
			t.Errorf("%q is shown:\n%v\nof\n%s", part, found, text)
		}
	}
}

func TestAReferenceIsShownBecauseItIsNoSecret(t *testing.T) {
	_, found := Parse("f", []byte(head+"devices:\n  a:\n    identity: { device: a, sas_key: file:keys/a, oops: 1 }\n"))
	if len(found) == 0 || !strings.Contains(found[len(found)-1].Source, "sas_key: file:keys/a, oops") {
		t.Errorf("%v", found)
	}
}

func TestSecretsAreLookedForWhereTheMappingSays(t *testing.T) {
	const text = head + `devices:
  a: { identity: { device: a, sas_key: file:good }, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } }
  b: { identity: { device: b, sas_key: file:open }, modbus: { tcp: h:502, unit: 2, addressing: zero }, points: { x: { at: coil 0 } } }
  c: { identity: { device: c, sas_key: file:absent }, modbus: { tcp: h:502, unit: 3, addressing: zero }, points: { x: { at: coil 0 } } }
  d: { identity: { device: d, sas_key: file:text }, modbus: { tcp: h:502, unit: 4, addressing: zero }, points: { x: { at: coil 0 } } }
  e: { identity: { device: e, sas_key: env:MAPPING_TEST_NO_KEY }, modbus: { tcp: h:502, unit: 5, addressing: zero }, points: { x: { at: coil 0 } } }
  f: { identity: { device: f, module: m, sas_key: credential:m }, modbus: { tcp: h:502, unit: 6, addressing: zero }, points: { x: { at: coil 0 } } }
  g: { identity: { device: a }, modbus: { tcp: h:502, unit: 7, addressing: zero }, points: { y: { at: coil 0 } } }
`
	dir := t.TempDir()
	for name, content := range map[string]string{"good": marker, "open": marker, "text": spilled} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	plant := check(t, text)
	if plant == nil {
		t.FailNow()
	}
	found := CheckSecrets(plant, identity.Source{Dir: dir})
	want := []string{"5:40 E050", "7:40 E053", "6:40 W052", "8:40 W052", "9:51 W052"}
	if diff := cmp.Diff(want, brief(found)); diff != "" {
		t.Errorf("findings (-want +found):\n%s\n%v", diff, found)
	}
	for _, f := range found {
		if f.File != "f.yaml" || !strings.Contains(f.Source, "sas_key:") || strings.Contains(f.String(), marker) || strings.Contains(f.String(), spilled) {
			t.Errorf("%+v", f)
		}
	}
	if !strings.Contains(found[0].Message, "chmod 600") || !strings.Contains(found[2].Message, "file:absent") {
		t.Errorf("%v", found)
	}
	if err := os.WriteFile(filepath.Join(dir, "m"), []byte(marker), 0o600); err != nil {
		t.Fatal(err)
	}
	if found = CheckSecrets(plant, identity.Source{Dir: dir, Credentials: dir}); len(found) != 4 {
		t.Errorf("with the credential there: %v", brief(found))
	}
}

func TestTheKeysOfLinksAreLookedForWhereTheMappingSays(t *testing.T) {
	const text = head + `links:
  a: { tls: h:802, certificate: file:cert, private_key: file:good }
  b: { tls: i:802, certificate: file:cert, private_key: file:open }
  c: { tls: j:802, certificate: file:cert, private_key: credential:absent }
devices:
  a: { local: true, modbus: { link: a, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } }
  b: { local: true, modbus: { link: b, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } }
  c: { local: true, modbus: { link: c, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } }
  d: { local: true, modbus: { tls: k:802, certificate: file:cert, private_key: file:absent, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } }
`
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"good": 0o600, "open": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(marker), mode); err != nil {
			t.Fatal(err)
		}
	}
	plant := check(t, text)
	if plant == nil {
		t.FailNow()
	}
	found := CheckSecrets(plant, identity.Source{Dir: dir})
	if diff := cmp.Diff([]string{"5:57 E050", "6:57 W052", "11:80 W052"}, brief(found)); diff != "" {
		t.Errorf("findings (-want +found):\n%s\n%v", diff, found)
	}
}

func TestWhatIsToSignTheHubsCertificateIsLookedForWhereTheMappingSays(t *testing.T) {
	dir := t.TempDir()
	x509Pair(t, dir, "good", -time.Hour, time.Hour)
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte(spilled), 0o644); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"good.crt": "", "text": "2:24 E054", "absent": "2:24 W053"} {
		plant := check(t, "version: 1\nhub: { host: h, trust: \"file:"+file+"\" }\ndevices:\n"+identified("a", 1, "device: a, sas_key: credential:a"))
		if plant == nil {
			t.FailNow()
		}
		found := CheckSecrets(plant, identity.Source{Dir: dir})
		if got := strings.TrimPrefix(strings.Join(brief(found[:max(len(found)-1, 0)]), " "), " "); got != want {
			t.Errorf("%s: %v, want %s", file, found, want)
		}
	}
}

func TestAMissingGroupKeyIsFoundOnceWhereItIsWritten(t *testing.T) {
	plant := check(t, "version: 1\nhub: { provisioning: { scope: 0ne1, group_key: file:absent } }\ndevices:\n"+
		identified("a", 1, "device: a")+identified("b", 2, "device: b, provisioning: {}")+identified("c", 3, "device: c, provisioning: { id: other }"))
	if plant == nil {
		t.FailNow()
	}
	if diff := cmp.Diff([]string{"2:48 W052"}, brief(CheckSecrets(plant, identity.Source{Dir: t.TempDir()}))); diff != "" {
		t.Errorf("findings (-want +found):\n%s", diff)
	}
}

func TestTheKeysOfAListenerAreLookedForInItsDirectory(t *testing.T) {
	const text = head + `listeners:
  l: { coaps: 0.0.0.0:5684, psk_dir: psk }
  m: { coaps: 0.0.0.0:5685, psk_dir: ABSOLUTE }
devices:
  a: { local: true, coap: { listener: l, psk: good, path: /a }, points: { x: { senml: x } } }
  b: { local: true, coap: { listener: l, psk: open, path: /a }, points: { x: { senml: x } } }
  c: { local: true, coap: { listener: l, psk: absent, path: /a }, points: { x: { senml: x } } }
  d: { local: true, coap: { listener: l, psk: short, path: /a }, points: { x: { senml: x } } }
  e: { local: true, coap: { listener: l, psk: short, path: /b }, points: { x: { senml: x } } }
  f: { local: true, coap: { listener: l, psk: empty, path: /a }, points: { x: { senml: x } } }
  g: { local: true, coap: { listener: m, psk: good, path: /a }, points: { x: { senml: x } } }
  h: { local: true, coap: { listener: m, psk: absent, path: /a }, points: { x: { senml: x } } }
`
	dir := t.TempDir()
	psk := filepath.Join(dir, "psk")
	if err := os.Mkdir(psk, 0o700); err != nil {
		t.Fatal(err)
	}
	const key = "exactly-16-bytes"
	for name, content := range map[string]string{"good": key + "\n", "open": key, "short": key[1:] + "\n", "empty": "\n"} {
		if err := os.WriteFile(filepath.Join(psk, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(psk, "open"), 0o640); err != nil {
		t.Fatal(err)
	}
	plant := check(t, strings.Replace(text, "ABSOLUTE", psk, 1))
	if plant == nil {
		t.FailNow()
	}
	found := CheckSecrets(plant, identity.Source{Dir: dir})
	want := []string{"8:47 E050", "10:47 E202", "9:47 W207", "12:47 W207", "14:47 W207"} // short once, where it is named first
	if diff := cmp.Diff(want, brief(found)); diff != "" {
		t.Fatalf("findings (-want +found):\n%s\n%v", diff, found)
	}
	for i, part := range []string{"chmod 600", "key of short has 15 bytes", "psk/absent", "empty", psk + "/absent"} {
		if f := found[i]; !strings.Contains(f.Message, part) || strings.Contains(f.String(), key[1:]) || !strings.Contains(f.Source, "psk: ") {
			t.Errorf("%v does not say %s", f, part)
		}
	}
}

// What check calls a key must be what the listener takes for one, and the other way round.
func TestCheckAndListenerAgreeAboutKeys(t *testing.T) {
	dir := t.TempDir()
	source := identity.Source{Dir: dir}
	for name, mode := range map[string]os.FileMode{"good": 0o600, "open": 0o644, "urn:dev:17": 0o400} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(marker), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"good", "open", "urn:dev:17", "absent"} {
		plant := check(t, strings.Replace(reporter(secure, "psk: "+name, "points: { x: { senml: x } }"), "psk_dir: psk", "psk_dir: .", 1))
		if plant == nil {
			t.Fatal(name)
		}
		_, let := source.PSK(plant.Listeners[0].PSKDir)(plant.Listeners[0].Devices[0].PSK)
		if found := CheckSecrets(plant, source); let != (len(found) == 0) {
			t.Errorf("%s: let in %t, found %v", name, let, found)
		}
	}
}
