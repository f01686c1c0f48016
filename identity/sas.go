package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	gateway "iothub-gateway"
)

// apiVersion is the hub API whose topics and statuses upstream speaks (CON-19).
const apiVersion = "2021-04-12"

// Login is what one MQTT CONNECT carries.
type Login struct {
	ClientID string
	Username string
	Password Secret
	// Expires is when the hub stops accepting Password (plus its grace, CON-48).
	Expires time.Time
}

// SAS is an identity that is proven by a shared access key (clauses SAS-1 to SAS-7).
type SAS struct {
	host string
	id   gateway.IdentityID
	ttl  time.Duration
	// sign makes the token; the key is inside it, where nothing prints it.
	sign func(expires time.Time) Secret
}

// NewSAS makes the credential of the device or module id on the hub called host. key is the base64
// text of its primary or secondary key; ttl is how long each token holds.
func NewSAS(host string, id gateway.IdentityID, key Secret, ttl time.Duration) (*SAS, error) {
	raw, err := decodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", id, err)
	}
	sign := func(expires time.Time) Secret { return Token(Resource(host, id), raw, expires, "") }
	return &SAS{host: host, id: id, ttl: ttl, sign: sign}, nil
}

// Login signs a fresh token for a connection that starts at now.
func (s *SAS) Login(now time.Time) (Login, error) {
	expires := now.Add(s.ttl)
	device, module := s.id.Device(), s.id.Module()
	user := s.host + "/" + device
	if module != "" {
		user += "/" + module
	}
	return Login{
		ClientID: string(s.id),
		Username: user + "/?api-version=" + apiVersion,
		Password: s.sign(expires),
		Expires:  expires,
	}, nil
}

// Resource is the unencoded URI that a token for id is about (SAS-3); an empty id is the service.
func Resource(host string, id gateway.IdentityID) string {
	uri := host
	if device := id.Device(); device != "" {
		uri += "/devices/" + device
	}
	if module := id.Module(); module != "" {
		uri += "/modules/" + module
	}
	return uri
}

// ServiceToken signs a token of a shared access policy for the hub's service side (SAS-12).
func ServiceToken(host, policy string, key Secret, expires time.Time) (Secret, error) {
	raw, err := decodeKey(key)
	if err != nil {
		return Secret{}, fmt.Errorf("policy %s: %w", policy, err)
	}
	return Token(host, raw, expires, policy), nil
}

// Token signs uri with the binary key (SAS-1, SAS-4). policy is left out if empty.
func Token(uri string, key []byte, expires time.Time, policy string) Secret {
	sr := url.QueryEscape(uri)
	se := strconv.FormatInt(expires.Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(sr + "\n" + se))
	var b strings.Builder
	b.WriteString("SharedAccessSignature sr=")
	b.WriteString(sr)
	b.WriteString("&sig=")
	b.WriteString(url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))))
	b.WriteString("&se=")
	b.WriteString(se)
	if policy != "" {
		b.WriteString("&skn=")
		b.WriteString(url.QueryEscape(policy))
	}
	return NewSecret(b.String())
}
