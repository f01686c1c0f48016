package hubsim

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

const vectorKey = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// The vectors of SAS-16.
func TestPublishedSignaturesVerify(t *testing.T) {
	for _, v := range []struct{ sr, sig, path string }{
		{"contoso.azure-devices.net%2Fdevices%2FMyDevice01", "tQSLxkMuSnuabLJYPJTe5fSi39Xn%2BlCRPf9StqqV0Qs%3D", "devices/MyDevice01"},
		{"contoso.azure-devices.net/devices/MyDevice01", "agZn1lUNmIDm80HY9O09ji9ETsWEfdNzygGOVhmdq94%3D", "devices/MyDevice01"},
		{"contoso.azure-devices.net%2Fdevices%2FMyDevice01%2Fmodules%2FmodA", "fHwmQcOiG0wLClPZtKrxXdJqqyb5DQfW%2B8TD7KK%2BlNE%3D", "devices/MyDevice01/modules/modA"},
		{"contoso.azure-devices.net", "WA5mJabSkWWSZo21WRgph5CHQ9FMXwo27EQaik72FJ0%3D", "devices/MyDevice01"},
	} {
		for _, sig := range []string{v.sig, strings.ToLower(v.sig[len(v.sig)-3:])} {
			if len(sig) == 3 { // lower-case escapes mean the same
				sig = v.sig[:len(v.sig)-3] + sig
			}
			got, err := parseToken("SharedAccessSignature sr=" + v.sr + "&sig=" + sig + "&se=1700000000")
			if err != nil {
				t.Errorf("%s: %v", v.sr, err)
				continue
			}
			if !got.signedWith(vectorKey) {
				t.Errorf("%s: the signature does not verify", v.sr)
			}
			if got.signedWith(newKey()) {
				t.Errorf("%s: the signature verifies with another key", v.sr)
			}
			if !got.covers("contoso.azure-devices.net", v.path) {
				t.Errorf("%s does not cover %s", v.sr, v.path)
			}
			if !got.expiry.Equal(time.Unix(1700000000, 0)) {
				t.Errorf("expiry %v", got.expiry)
			}
		}
	}
}

func TestFieldsOfATokenComeInAnyOrder(t *testing.T) {
	got, err := parseToken("SharedAccessSignature sig=AA%3d%3d&skn=device&se=12&sr=h%2fdevices&extra=1")
	if err != nil || got.policy != "device" || got.resource != "h%2fdevices" || got.expiryRaw != "12" || len(got.signature) != 1 {
		t.Errorf("parseToken = %+v, %v", got, err)
	}
}

func TestWhatIsNoTokenSaysWhyWithoutRepeatingIt(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "does not begin",
		"hunter2":                              "does not begin",
		"Bearer abc":                           "does not begin",
		"SharedAccessSignature":                "does not begin",
		"SharedAccessSignature sr=h&sig=AA==":  "se is missing",
		"SharedAccessSignature sr=h&se=1":      "sig is missing",
		"SharedAccessSignature sig=AA==&se=1":  "sr is missing",
		"SharedAccessSignature sr=h&sr=i&se=1": "different",
		"SharedAccessSignature sr=h&sig=AA==&se=soon":    "se is not a count",
		"SharedAccessSignature sr=h&sig=a+secret==&se=1": "+ becomes %2B",
		"SharedAccessSignature sr=h&sig=secret%zz&se=1":  "not URL-encoded",
		"SharedAccessSignature  sr=h&sig=AA==&se=1":      "sr is missing",
	} {
		_, err := parseToken(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error repeats the signature: %v", text, err)
		}
	}
}

func TestTokensCoverTheirResourceAndWhatIsBelowIt(t *testing.T) {
	const hub = "contoso.azure-devices.net"
	for _, c := range []struct {
		sr, path string
		want     bool
	}{
		{hub + "/devices/dev1", "devices/dev1", true},
		{"CONTOSO.azure-devices.net/devices/dev1", "devices/dev1", true},
		{hub + "%2Fdevices%2Fdev1", "devices/dev1", true},
		{hub + "%2fdevices%2fdev1", "devices/dev1", true},
		{url.QueryEscape(hub + "/devices/" + url.QueryEscape("dev=1")), "devices/dev=1", true}, // encoded twice: C#
		{hub, "devices/dev1", true},                                                            // Go SDK, mosquitto
		{hub + "/devices", "devices/dev1", true},                                               // gateway policy
		{hub + "/devices/dev1", "devices/dev1/modules/m", true},                                // a parent covers its child
		{hub + "/devices/dev1/modules/m", "devices/dev1", false},                               // not the other way
		{hub + "/devices/dev", "devices/dev1", false},                                          // whole segments only
		{hub + "/devices/dev1", "devices/dev", false},                                          //
		{hub + "/devices/dev2", "devices/dev1", false},                                         //
		{"other.azure-devices.net/devices/dev1", "devices/dev1", false},
		{hub + "/devices/dev1/api-version=2016-11-14", "devices/dev1", true}, // Device Explorer's (SAS-9)
		{hub + "%2Fdevices%2Fdev1%2Fapi-version%3D2016-11-14", "devices/dev1", true},
		{hub + "/devices/dev1/other", "devices/dev1", false},
		{hub + "/devices/DEV1", "devices/dev1", true}, // the documents ask for lower case (SAS-6)
		{hub + "%2", "devices/dev1", false},
		{"localhost:8883/devices/dev1", "devices/dev1", true},
		{"127.0.0.1/devices/dev1", "devices/dev1", true},
		{hub + "/", "", true},
		{hub + "/devices/dev1", "", false},
	} {
		if got := (token{resource: c.sr}).covers(hub, c.path); got != c.want {
			t.Errorf("%s covers %q: %v, want %v", c.sr, c.path, got, c.want)
		}
	}
}
