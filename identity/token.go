package identity

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	gateway "iothub-gateway"
)

// ReadyToken is an identity that is proven by a token that somebody else signs and puts in its place
// again before it ends: the gateway has no key.
type ReadyToken struct {
	fixed
	id   gateway.IdentityID
	read func() (Secret, error)
}

// NewReadyToken makes the credential of id on the hub called host. read is asked for each connection,
// and now and then in between.
func NewReadyToken(host string, id gateway.IdentityID, read func() (Secret, error)) *ReadyToken {
	return &ReadyToken{fixed: fixed{host}, id: id, read: read}
}

// Login takes the token that is there now. Its error says that it is missing, about something else or
// over.
func (t *ReadyToken) Login(_ context.Context, a Attempt) (Login, error) {
	text, err := t.read()
	if err != nil {
		return Login{}, err
	}
	login := loginOf(t.host, t.id)
	login.Watch, login.Password, login.key = true, text, mark(text.Reveal())
	if login.Expires, err = CheckToken(text, Resource(t.host, t.id)); err != nil {
		return Login{}, fmt.Errorf("identity %s: %w", t.id, err)
	}
	if !a.Now.Before(login.Expires) {
		return Login{}, fmt.Errorf("identity %s: its token ended on %s; put a new one in its place", t.id, login.Expires.UTC().Format(time.RFC3339))
	}
	return login, nil
}

// CheckToken says whether a ready token can prove resource, and until when. Who signed it only the hub
// can tell. The error does not repeat the token.
func CheckToken(token Secret, resource string) (expires time.Time, err error) {
	fields, found := strings.CutPrefix(token.Reveal(), "SharedAccessSignature ")
	if !found {
		return time.Time{}, errors.New("this is no token; keep what begins with the word SharedAccessSignature, to its end")
	}
	part := map[string]string{}
	for field := range strings.SplitSeq(fields, "&") {
		name, value, _ := strings.Cut(field, "=")
		part[name] = value
	}
	seconds, err := strconv.ParseInt(part["se"], 10, 64)
	if err != nil || part["sr"] == "" || part["sig"] == "" {
		return time.Time{}, errors.New("the token lacks sr, sig or se; copy it whole")
	}
	if about := decodeResource(part["sr"]); !covers(about, resource) {
		return time.Time{}, fmt.Errorf("the token is about %q, not about %q", about, resource)
	}
	return time.Unix(seconds, 0), nil
}

// decodeResource undoes the encoding of sr, which some tools apply twice (SAS-7).
func decodeResource(sr string) string {
	for range 2 {
		plain, err := url.QueryUnescape(sr)
		if err != nil {
			break
		}
		sr = plain
	}
	return sr
}

// covers tells whether a token about one resource is good for another: by whole segments from the
// front, the host in any case (SAS-8). What tools put behind the id is let pass (SAS-9).
func covers(about, resource string) bool {
	have, want := strings.Split(about, "/"), strings.Split(resource, "/")
	for i := range min(len(have), len(want)) {
		if have[i] != want[i] && (i > 0 || !strings.EqualFold(have[i], want[i])) {
			return false
		}
	}
	return len(have) <= len(want) || strings.HasPrefix(have[len(want)], "api-version=")
}
