package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
)

const hubAPI = "api-version=2021-04-12"

// simulator is how to reach a running hubsim; it is kept in simulatorNote while one runs.
type simulator struct {
	PID              int    `json:"pid"`
	URL              string `json:"url"` // of the service side
	MQTT             string `json:"mqtt"`
	CA               string `json:"ca"` // PEM
	ConnectionString string `json:"connection_string"`
}

// leaveNote writes the note and returns what removes it again; a note that it replaces is put back
// then, if its simulator still runs.
func leaveNote(s simulator) (remove func(), err error) {
	path := simulatorNote()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	before, readErr := readNote()
	if err := writeNote(path, s); err != nil {
		return nil, err
	}
	return func() {
		if now, err := readNote(); err != nil || now.PID != s.PID {
			return // another simulator has taken the note over
		}
		if readErr != nil || before.PID == s.PID || syscall.Kill(before.PID, 0) != nil || writeNote(path, before) != nil {
			_ = os.Remove(path)
		}
	}, nil
}

func writeNote(path string, s simulator) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

func readNote() (simulator, error) {
	var s simulator
	text, err := os.ReadFile(simulatorNote())
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && syscall.Kill(s.PID, 0) == syscall.ESRCH {
		return s, errors.New("no hub simulator is running here; start 'gateway demo' or 'gateway hubsim', or name a real hub with --connection-string")
	}
	return s, err
}

// hubClient talks to the service side of a hub.
type hubClient struct {
	base   string // https://host[:port]
	host   string
	policy string
	key    identity.Secret
	http   http.Client
}

// newHubClient makes a client of the hub that the connection string names, or of the simulator that
// runs here if it is empty.
func newHubClient(connectionString string) (*hubClient, error) {
	var roots *x509.CertPool
	base := ""
	if connectionString == "" {
		note, err := readNote()
		if err != nil {
			return nil, err
		}
		connectionString, base = note.ConnectionString, note.URL
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(note.CA))
	}
	parts, err := parseConnectionString(connectionString)
	if err != nil {
		return nil, err
	}
	if base == "" {
		base = "https://" + parts["HostName"]
	}
	return &hubClient{
		base: base, host: parts["HostName"], policy: parts["SharedAccessKeyName"], key: identity.NewSecret(parts["SharedAccessKey"]),
		http: http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}}},
	}, nil
}

// parseConnectionString takes a service connection string apart (CON-8). Its error does not show it.
func parseConnectionString(text string) (map[string]string, error) {
	parts := map[string]string{}
	for _, field := range strings.Split(text, ";") {
		name, value, ok := strings.Cut(field, "=")
		if ok {
			parts[name] = value
		}
	}
	for _, name := range []string{"HostName", "SharedAccessKeyName", "SharedAccessKey"} {
		if parts[name] == "" {
			return nil, fmt.Errorf("the connection string has no %s; it looks like HostName=..;SharedAccessKeyName=..;SharedAccessKey=..", name)
		}
	}
	return parts, nil
}

// do sends body (nil: none) to path and decodes the answer into answer.
func (h *hubClient) do(ctx context.Context, method, path string, body, answer any) error {
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, h.base+path, payload)
	if err != nil {
		return err
	}
	token, err := identity.ServiceToken(h.host, h.policy, h.key, time.Now().Add(10*time.Minute))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", token.Reveal())
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	response, err := h.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("hub %s: %s: %s", h.host, response.Status, hubErrorText(text))
	}
	return json.Unmarshal(text, answer)
}

// hubErrorText is the sentence in a hub's error body, whose newer form is JSON inside JSON (SVC-5,
// METH-14).
func hubErrorText(body []byte) string {
	var outer struct{ Message string }
	if json.Unmarshal(body, &outer) != nil || outer.Message == "" {
		return strings.TrimSpace(string(body))
	}
	var inner struct {
		ErrorCode int    `json:"errorCode"`
		Message   string `json:"message"`
	}
	if json.Unmarshal([]byte(outer.Message), &inner) == nil && inner.Message != "" {
		return fmt.Sprintf("%d %s", inner.ErrorCode, inner.Message)
	}
	return outer.Message
}

// methodAnswer is what a device answered to a direct method (METH-13).
type methodAnswer struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload"`
}

// call invokes a direct method and waits for the device's answer.
func (h *hubClient) call(ctx context.Context, id gateway.IdentityID, method string, payload json.RawMessage) (methodAnswer, error) {
	request := map[string]any{"methodName": method, "responseTimeoutInSeconds": 30, "payload": payload}
	var answer methodAnswer
	err := h.do(ctx, http.MethodPost, hubPath("/twins/", id)+"/methods?"+hubAPI, request, &answer)
	return answer, err
}

// messages are up to a thousand that the simulator stored after a sequence.
func (h *hubClient) messages(ctx context.Context, after uint64) ([]hubsim.Message, error) {
	var batch []hubsim.Message
	err := h.do(ctx, http.MethodGet, fmt.Sprintf("/hubsim/messages?after=%d", after), nil, &batch)
	return batch, err
}

// deviceKey is the identity's primary key as the hub's registry has it.
func (h *hubClient) deviceKey(ctx context.Context, id gateway.IdentityID) (identity.Secret, error) {
	var entry struct {
		Authentication struct {
			SymmetricKey struct {
				PrimaryKey string `json:"primaryKey"`
			} `json:"symmetricKey"`
		} `json:"authentication"`
	}
	if err := h.do(ctx, http.MethodGet, hubPath("/devices/", id)+"?"+hubAPI, nil, &entry); err != nil {
		return identity.Secret{}, err
	}
	key := entry.Authentication.SymmetricKey.PrimaryKey
	if key == "" {
		return identity.Secret{}, fmt.Errorf("%s has no shared access key", id)
	}
	return identity.NewSecret(key), nil
}

// hubPath is the REST path of a device or module below prefix.
func hubPath(prefix string, id gateway.IdentityID) string {
	path := prefix + url.PathEscape(id.Device())
	if module := id.Module(); module != "" {
		path += "/modules/" + url.PathEscape(module)
	}
	return path
}
