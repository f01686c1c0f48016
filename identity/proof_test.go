package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"crypto/x509"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

func TestAPolicyKeyProvesEachIdentityWithATokenAboutItAlone(t *testing.T) {
	policy := Key{Policy: "device", Read: func() (Secret, error) { return NewSecret(vectorKey), nil }}
	for id, resource := range map[gateway.IdentityID]string{
		"a": "contoso.azure-devices.net%2Fdevices%2Fa&", "a/m": "contoso.azure-devices.net%2Fdevices%2Fa%2Fmodules%2Fm&",
	} {
		login, err := NewKeySAS("contoso.azure-devices.net", id, policy, time.Hour).Login(t.Context(), first())
		if token := login.Password.Reveal(); err != nil || !strings.Contains(token, "sr="+resource) || !strings.HasSuffix(token, "&skn=device") {
			t.Errorf("%s: %s, %v", id, token, err)
		}
	}
}

func TestAKeyFileIsReadAgainForEachConnectionAndAHalfWrittenOneIsAClearError(t *testing.T) {
	secrets := Source{Dir: t.TempDir()}
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(secrets.Dir, "key"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := NewSecret(vectorKey)
	rolled := NewSecret(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32)))
	read := func() (Secret, error) { return secrets.SharedKey("file:key") }
	for name, c := range map[string]interface {
		Login(context.Context, Attempt) (Login, error)
	}{
		"device": NewKeySAS("h", "d", Key{Read: read}, time.Hour),
		"policy": NewKeySAS("h", "d", Key{Policy: "device", Read: read}, time.Hour),
		"group":  assigned(t, ProvisioningConfig{ID: "d", Scope: "0ne", Registration: "d", Key: read, Group: true, Life: time.Hour}),
	} {
		write(old.Reveal())
		before, err := c.Login(t.Context(), first())
		later, _ := c.Login(t.Context(), Attempt{Now: first().Now.Add(time.Minute)})
		if err != nil || !before.Same(later) || !before.Watch || !before.Signed {
			t.Fatalf("%s: two tokens of one key are told apart: %v", name, err)
		}
		for text, want := range map[string]string{
			"": "is empty", " \n": "is empty", rolled.Reveal()[:22]: "not base64",
			"HostName=h;SharedAccessKey=" + rolled.Reveal(): "connection string",
		} {
			write(text)
			_, err := c.Login(t.Context(), first())
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "file:key") || !strings.Contains(err.Error(), "identity d") ||
				strings.Contains(err.Error(), rolled.Reveal()[:22]) {
				t.Errorf("%s: %q in the file: %v", name, text, err)
			}
		}
		write(rolled.Reveal())
		after, err := c.Login(t.Context(), first())
		if err != nil || after.Same(before) || after.Password.Reveal() == before.Password.Reveal() {
			t.Errorf("%s: the new key is not taken: %v", name, err)
		}
	}
}

// assigned is a device that its service has assigned to hub h already.
func assigned(t *testing.T, cfg ProvisioningConfig) *Provisioned {
	t.Helper()
	cfg.State = &testkit.Notes{}
	p := NewProvisioned(cfg)
	if err := p.keep(t.Context(), assignment{Scope: cfg.Scope, Registration: cfg.Registration, Hub: "h", Device: "d"}); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAReadyTokenIsTakenAsItIsAndReadAgainForEachConnection(t *testing.T) {
	key, _ := decodeKey(NewSecret(vectorKey))
	const host = "contoso.azure-devices.net"
	now := time.Unix(vectorEnd, 0)
	token := func(resource string, life time.Duration) Secret { return Token(resource, key, now.Add(life), "") }
	var there Secret
	ready := NewReadyToken(host, "d/m", func() (Secret, error) { return there, nil })
	for name, c := range map[string]struct {
		token Secret
		want  string // of the error; "": it is good
	}{
		"about the module":  {token(host+"/devices/d/modules/m", time.Hour), ""},
		"about its device":  {token(host+"/devices/d", time.Hour), ""},
		"about the hub":     {token(host, time.Hour), ""}, // SAS-8
		"host in capitals":  {token("CONTOSO.azure-devices.net/devices/d", time.Hour), ""},
		"with a tail":       {token(host+"/devices/d/modules/m/api-version=2016-11-14", time.Hour), ""}, // SAS-9
		"encoded twice":     {token(host+"%2Fdevices%2Fd", time.Hour), ""},                              // SAS-7
		"another device":    {token(host+"/devices/dd", time.Hour), "is about"},
		"another module":    {token(host+"/devices/d/modules/n", time.Hour), "is about"},
		"another hub":       {token("other.azure-devices.net/devices/d", time.Hour), "is about"},
		"over":              {token(host, -time.Second), "put a new one in its place"},
		"a key":             {NewSecret(vectorKey), "this is no token"},
		"half a token":      {NewSecret("SharedAccessSignature sr=" + host), "copy it whole"},
		"a connection text": {NewSecret("HostName=h;SharedAccessSignature=SharedAccessSignature sr=h"), "this is no token"}, // SAS-10
	} {
		there = c.token
		login, err := ready.Login(t.Context(), Attempt{Now: now})
		switch {
		case c.want == "" && (err != nil || login.Password != c.token || !login.Watch || !login.Expires.Equal(now.Add(time.Hour))):
			t.Errorf("%s: %+v, %v", name, login, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "sig=")):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	there = token(host+"/devices/d", time.Hour)
	before, _ := ready.Login(t.Context(), Attempt{Now: now})
	there = token(host, time.Hour)
	one, _ := ready.Login(t.Context(), Attempt{Now: now})
	same, _ := ready.Login(t.Context(), Attempt{Now: now.Add(time.Minute)})
	there = token(host, 2*time.Hour)
	next, err := ready.Login(t.Context(), Attempt{Now: now})
	if err != nil || !one.Same(same) || one.Same(next) || one.Same(before) {
		t.Errorf("a token that is replaced is not told from one that is not: %v", err)
	}
}

// writePair puts a certificate and its key into dir.
func writePair(t *testing.T, dir, name string) tls.Certificate {
	t.Helper()
	pair, text := selfSigned(t, name)
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string][]byte{"crt": []byte(text), "key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pair
}

func TestACertificateIsReadForEachConnectionAndItsTimeIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	source := Source{Dir: dir}
	x := NewX509("contoso.azure-devices.net", "d", func() (tls.Certificate, error) { return source.KeyPair("file:crt", "file:key") })
	if _, err := x.Login(t.Context(), first()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "identity d: certificate:") {
		t.Errorf("without a certificate: %v", err)
	}
	pair := writePair(t, dir, "d")
	one, err := x.Login(t.Context(), first())
	if err != nil || one.Password.Reveal() != "" || !one.Watch || !one.Expires.Equal(pair.Leaf.NotAfter) || one.ClientID != "d" {
		t.Fatalf("%+v, %v", one, err)
	}
	same, _ := x.Login(t.Context(), first())
	writePair(t, dir, "d")
	next, err := x.Login(t.Context(), first())
	if err != nil || !one.Same(same) || one.Same(next) {
		t.Errorf("an exchanged certificate is not told from the old one: %v", err)
	}
	if _, err := x.Login(t.Context(), Attempt{Now: time.Now().Add(-48 * time.Hour)}); !errors.Is(err, ErrNotYetValid) {
		t.Errorf("too early: %v", err)
	}
	if _, err := x.Login(t.Context(), Attempt{Now: time.Now().Add(48 * time.Hour)}); err == nil || !strings.Contains(err.Error(), "put a new one in its place") {
		t.Errorf("too late: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Login(t.Context(), first()); !errors.Is(err, ErrExposed) {
		t.Errorf("a key that others can read: %v", err)
	}
}
