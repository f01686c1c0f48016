package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
)

const (
	vectorKey = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	vectorEnd = 1700000000
)

func TestTokensAreSignedAsTheVectorsOfTheContractSay(t *testing.T) {
	raw, err := decodeKey(NewSecret(vectorKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct{ uri, policy, want string }{ // SAS-16
		{"contoso.azure-devices.net/devices/MyDevice01", "", "sr=contoso.azure-devices.net%2Fdevices%2FMyDevice01&sig=tQSLxkMuSnuabLJYPJTe5fSi39Xn%2BlCRPf9StqqV0Qs%3D&se=1700000000"},
		{"contoso.azure-devices.net/devices/MyDevice01/modules/modA", "", "sr=contoso.azure-devices.net%2Fdevices%2FMyDevice01%2Fmodules%2FmodA&sig=fHwmQcOiG0wLClPZtKrxXdJqqyb5DQfW%2B8TD7KK%2BlNE%3D&se=1700000000"},
		{"contoso.azure-devices.net", "service", "sr=contoso.azure-devices.net&sig=WA5mJabSkWWSZo21WRgph5CHQ9FMXwo27EQaik72FJ0%3D&se=1700000000&skn=service"},
	} {
		got := Token(v.uri, raw, time.Unix(vectorEnd, 0), v.policy).Reveal()
		if got != "SharedAccessSignature "+v.want {
			t.Errorf("%s:\n got %s\nwant SharedAccessSignature %s", v.uri, got, v.want)
		}
	}
}

func TestALoginNamesTheIdentityAsTheHubExpects(t *testing.T) {
	now := time.Unix(vectorEnd-3600, 0)
	for _, c := range []struct {
		id             gateway.IdentityID
		user, resource string
	}{
		{"dev1", "contoso.azure-devices.net/dev1/?api-version=2021-04-12", "contoso.azure-devices.net%2Fdevices%2Fdev1&"},
		{"dev1/modA", "contoso.azure-devices.net/dev1/modA/?api-version=2021-04-12", "contoso.azure-devices.net%2Fdevices%2Fdev1%2Fmodules%2FmodA&"},
	} {
		sas, err := NewSAS("contoso.azure-devices.net", c.id, NewSecret(vectorKey), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		login, err := sas.Login(t.Context(), Attempt{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		if login.ClientID != string(c.id) || login.Username != c.user {
			t.Errorf("%s: client id %q, user name %q", c.id, login.ClientID, login.Username)
		}
		if !strings.Contains(login.Password.Reveal(), "sr="+c.resource) || !login.Expires.Equal(time.Unix(vectorEnd, 0)) {
			t.Errorf("%s: password about the wrong resource or time: %s", c.id, login.Password.Reveal())
		}
	}
}

func TestAKeyThatIsNotBase64IsRefusedWithoutShowingIt(t *testing.T) {
	for _, key := range []string{"not*base64*marker", ""} {
		_, err := NewSAS("h", "d", NewSecret(key), time.Hour)
		if err == nil || key != "" && strings.Contains(err.Error(), key) {
			t.Errorf("key %q: error %v", key, err)
		}
	}
}

func TestASecretCannotBePrinted(t *testing.T) {
	const marker = "marker-of-the-secret"
	s := NewSecret(marker)
	holder := struct {
		Name string
		Key  Secret
		Ptr  *Secret
	}{"n", s, &s}
	inside := struct{ key Secret }{s}
	sas, err := NewSAS("h", "d", NewSecret(vectorKey), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T%[1]v"} {
		fmt.Fprintf(&shown, verb, s)
		fmt.Fprintf(&shown, verb, &s)
		fmt.Fprintf(&shown, verb, holder)
		fmt.Fprintf(&shown, verb, inside)
		fmt.Fprintf(&shown, verb, sas)
	}
	for _, v := range []any{s, &s, holder, []Secret{s}, map[string]Secret{"k": s}} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		shown.Write(text)
		fmt.Fprint(&shown, v, fmt.Errorf("wrapped: %v", v))
	}
	if raw, _ := decodeKey(NewSecret(vectorKey)); strings.Contains(shown.String(), string(raw)) || strings.Contains(shown.String(), fmt.Sprint(raw)) {
		t.Error("the key inside a credential shows")
	}
	if strings.Contains(shown.String(), marker) || strings.Contains(shown.String(), fmt.Sprintf("%x", marker)) {
		t.Errorf("the secret shows: %s", shown.String())
	}
	if s.Reveal() != marker {
		t.Error("Reveal lost the content")
	}
}

func TestReferencesAreParsedAndClearTextIsRecognised(t *testing.T) {
	for text, want := range map[string]error{
		"file:/etc/k": nil, "file:keys/k": nil, "env:KEY": nil, "credential:boiler": nil,
		"MDEyMzQ1Njc4OWFiY2RlZg==": ErrClearText, "hunter2": ErrClearText, "http://x": ErrClearText, "": ErrClearText,
	} {
		if _, err := ParseRef(text); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
	for _, text := range []string{"file:", "env:", "credential:", "credential:../../etc/shadow", "credential:.."} {
		if _, err := ParseRef(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestSecretsAreFoundWhereTheReferenceSays(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("good", "key1\n", 0o600)
	write("open", "key2", 0o644)
	write("empty", " \n", 0o600)
	write("keys_loaded", "key4", 0o400)
	t.Setenv("GATEWAY_TEST_KEY", "key3")
	src := Source{Dir: dir, Credentials: dir}
	for _, c := range []struct {
		ref  Ref
		want string
		err  error
	}{
		{"file:good", "key1", nil},
		{Ref("file:" + filepath.Join(dir, "good")), "key1", nil},
		{"file:open", "", ErrExposed},
		{"file:absent", "", ErrMissing},
		{"file:empty", "", ErrMissing},
		{"env:GATEWAY_TEST_KEY", "key3", nil},
		{"env:GATEWAY_TEST_NO_KEY", "", ErrMissing},
		{"credential:open", "key2", nil}, // systemd guards its own directory
		{"credential:absent", "", ErrMissing},
		{"credential:loaded", "key4", nil}, // of LoadCredential=keys:DIRECTORY
	} {
		got, err := src.Resolve(c.ref)
		if !errors.Is(err, c.err) || got.Reveal() != c.want {
			t.Errorf("%s: %q, %v; want %q, %v", c.ref, got.Reveal(), err, c.want, c.err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), string(c.ref)) {
			t.Errorf("the error does not name the reference: %v", err)
		}
	}
	if _, err := (Source{}).Resolve("credential:x"); !errors.Is(err, ErrMissing) {
		t.Errorf("without a credentials directory: %v", err)
	}
}

func TestAPSKIdentityCannotLeadOutOfItsDirectory(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"psk/env-17": "0123456789abcdef\n", "outside": "stolen", "psk/.hidden": "stolen", "psk/open": "stolen"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "psk/open"), 0o644); err != nil {
		t.Fatal(err)
	}
	find := Source{Dir: dir}.PSK("psk")
	if key, ok := find("env-17"); !ok || string(key) != "0123456789abcdef" {
		t.Errorf("env-17: %q %v", key, ok)
	}
	for _, name := range []string{"../outside", "..", ".", "", ".hidden", "absent", "open", "/etc/passwd", "a\x00b", strings.Repeat("a", 200)} {
		if key, ok := find(name); ok {
			t.Errorf("%q has the key %q", name, key)
		}
	}
}
