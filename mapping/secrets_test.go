package mapping

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
