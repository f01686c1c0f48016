package identity

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash/maphash"
	"net/url"
	"strconv"
	"strings"
	"time"

	gateway "iothub-gateway"
)

// SAS is an identity that is proven by a token, made anew for each connection (SAS-1 to SAS-7).
type SAS struct {
	fixed
	id    gateway.IdentityID
	ttl   time.Duration
	watch bool // somebody may replace the key
	// sign makes the token about a resource, and says which key that took, as in Login; the key is inside it,
	// where nothing prints it.
	sign func(ctx context.Context, resource string, expires time.Time) (token Secret, key uint64, err error)
}

// Key is a shared access key that somebody may replace while the gateway runs.
type Key struct {
	// Policy is the name of the hub's shared access policy whose key it is, which must grant DeviceConnect:
	// one key proves all identities (SAS-14). "" is the key of the device or module itself.
	Policy string
	// Read is asked for the key, base64, for each connection and now and then in between.
	Read func() (Secret, error)
}

// marks makes the numbers by which secrets are told apart good for this process alone.
var marks = maphash.MakeSeed()

// mark tells one secret from another, and does not reveal it.
func mark(secret string) uint64 { return maphash.String(marks, secret) }

// NewSAS makes the credential of the device or module id on the hub called host. key is the base64
// text of its primary or secondary key; ttl is how long each token holds.
func NewSAS(host string, id gateway.IdentityID, key Secret, ttl time.Duration) (*SAS, error) {
	raw, err := decodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", id, err)
	}
	return &SAS{fixed: fixed{host}, id: id, ttl: ttl, sign: func(_ context.Context, resource string, expires time.Time) (Secret, uint64, error) {
		return Token(resource, raw, expires, ""), 0, nil
	}}, nil
}

// NewKeySAS is NewSAS with a key that is read again for each connection, and now and then in between: one
// that was exchanged needs no restart. Each token is about its identity alone.
func NewKeySAS(host string, id gateway.IdentityID, key Key, ttl time.Duration) *SAS {
	return &SAS{fixed: fixed{host}, id: id, ttl: ttl, watch: true, sign: func(_ context.Context, resource string, expires time.Time) (Secret, uint64, error) {
		text, err := key.Read()
		if err != nil {
			return Secret{}, 0, err
		}
		raw, err := decodeKey(text)
		return Token(resource, raw, expires, key.Policy), mark(text.Reveal()), err
	}}
}

// Login signs a fresh token for a connection that starts at a.Now. Its error says that the key is missing,
// or is none.
func (s *SAS) Login(ctx context.Context, a Attempt) (Login, error) {
	login := loginOf(s.host, s.id)
	login.Expires, login.Signed, login.Watch = a.Now.Add(s.ttl), true, s.watch
	var err error
	if login.Password, login.key, err = s.sign(ctx, Resource(s.host, s.id), login.Expires); err != nil {
		return Login{}, fmt.Errorf("identity %s: %w", s.id, err)
	}
	return login, nil
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
	return assemble(uri, expires, base64.StdEncoding.EncodeToString(mac(key, toSign(uri, expires))), policy)
}

// toSign is what the signature of a token is about (SAS-4).
func toSign(uri string, expires time.Time) string {
	return url.QueryEscape(uri) + "\n" + strconv.FormatInt(expires.Unix(), 10)
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// assemble puts a token together; signature is base64.
func assemble(uri string, expires time.Time, signature, policy string) Secret {
	var b strings.Builder
	b.WriteString("SharedAccessSignature sr=")
	b.WriteString(url.QueryEscape(uri))
	b.WriteString("&sig=")
	b.WriteString(url.QueryEscape(signature))
	b.WriteString("&se=")
	b.WriteString(strconv.FormatInt(expires.Unix(), 10))
	if policy != "" {
		b.WriteString("&skn=")
		b.WriteString(url.QueryEscape(policy))
	}
	return NewSecret(b.String())
}
