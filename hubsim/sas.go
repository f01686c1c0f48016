package hubsim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// token is a shared access signature as it came: sr, and se where it is signed, are kept as received,
// because the signature is about exactly that text (SAS-4, SAS-6).
type token struct {
	resource  string // sr, still encoded
	signature []byte
	expiryRaw string // se
	expiry    time.Time
	policy    string // skn, "" for an identity's own key
}

// parseToken reads the text form of SAS-1. Its errors never repeat the signature.
func parseToken(text string) (token, error) {
	scheme, rest, found := strings.Cut(text, " ")
	if !found || !strings.EqualFold(scheme, "SharedAccessSignature") {
		return token{}, wrong("SAS-1", `it does not begin with "SharedAccessSignature "`)
	}
	var t token
	seen := map[string]bool{}
	for field := range strings.SplitSeq(rest, "&") {
		name, value, found := strings.Cut(field, "=")
		if !found || seen[name] {
			return token{}, wrong("SAS-1", "it is not a list of different name=value fields joined by &")
		}
		seen[name] = true
		if err := t.set(name, value); err != nil {
			return token{}, err
		}
	}
	for _, name := range []string{"sr", "sig", "se"} {
		if !seen[name] {
			return token{}, wrong("SAS-1", "field %s is missing", name)
		}
	}
	return t, nil
}

// set takes one field; unknown ones are ignored.
func (t *token) set(name, value string) error {
	switch name {
	case "sr":
		t.resource = value
	case "sig":
		text, err := url.QueryUnescape(value)
		if err != nil {
			return wrong("SAS-4", "sig is not URL-encoded")
		}
		if t.signature, err = base64.StdEncoding.DecodeString(text); err != nil {
			return wrong("SAS-4", "sig is not base64; the signature must be URL-encoded, so that + becomes %%2B")
		}
	case "se":
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return wrong("SAS-2", "se is not a count of seconds")
		}
		t.expiryRaw, t.expiry = value, time.Unix(seconds, 0)
	case "skn":
		policy, err := url.QueryUnescape(value)
		if err != nil {
			return wrong("SAS-1", "skn is not URL-encoded")
		}
		t.policy = policy
	}
	return nil
}

// signedWith tells whether key, base64 as it is handed out, made the signature.
func (t token) signedWith(key string) bool {
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(raw) == 0 {
		return false
	}
	mac := hmac.New(sha256.New, raw)
	mac.Write([]byte(t.resource + "\n" + t.expiryRaw))
	return hmac.Equal(mac.Sum(nil), t.signature)
}

// covers tells whether the token is about path, such as "devices/dev1" or "" for the whole hub, on the
// hub called name. A token about a parent covers its children (SAS-8). Clients encode once or twice
// (SAS-7) and some documents ask for lower case (SAS-6).
func (t token) covers(name, path string) bool {
	text := t.resource
	for range 2 {
		decoded, err := url.PathUnescape(text)
		if err != nil {
			return false
		}
		if text = decoded; resourceCovers(text, name, path) {
			return true
		}
	}
	return false
}

func resourceCovers(resource, name, path string) bool {
	host, scope, _ := strings.Cut(resource, "/")
	if !answersTo(name, host) {
		return false
	}
	scope = strings.TrimSuffix(scope, "/")
	// A tool once made tokens with an api-version segment at the end (SAS-9).
	if parent, last, found := cutLast(scope, "/"); found && strings.HasPrefix(last, "api-version=") {
		scope = parent
	}
	return scope == "" || strings.EqualFold(scope, path) ||
		len(path) > len(scope) && path[len(scope)] == '/' && strings.EqualFold(scope, path[:len(scope)])
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// right is what a shared access policy grants (SAS-13).
type right string

const (
	deviceConnect  right = "DeviceConnect"
	serviceConnect right = "ServiceConnect"
	registryRead   right = "RegistryRead"
	registryWrite  right = "RegistryWrite"
)

// policy is a shared access policy of the hub.
type policy struct {
	Name         string  `json:"keyName"`
	PrimaryKey   string  `json:"primaryKey"`
	SecondaryKey string  `json:"secondaryKey"`
	Rights       []right `json:"rights"`
}

// defaultPolicies makes the five policies that every hub has (SAS-13), with fresh keys.
func defaultPolicies() []policy {
	all := []policy{
		{Name: "iothubowner", Rights: []right{registryRead, registryWrite, serviceConnect, deviceConnect}},
		{Name: "service", Rights: []right{serviceConnect}},
		{Name: "device", Rights: []right{deviceConnect}},
		{Name: "registryRead", Rights: []right{registryRead}},
		{Name: "registryReadWrite", Rights: []right{registryRead, registryWrite}},
	}
	for i := range all {
		all[i].PrimaryKey, all[i].SecondaryKey = newKey(), newKey()
	}
	return all
}
