package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	gateway "iothub-gateway"
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
	Page             string `json:"page"` // the web face, with its key
	// Methods are those of the mapping that the simulator was started with: for completion.
	Methods map[gateway.IdentityID][]string `json:"methods,omitempty"`
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
	mqtt   string // where the simulator serves MQTT, "" of a real hub
	// methods are those that each identity's mapping has, where the simulator knows one.
	methods map[gateway.IdentityID][]string
}

// newHubClient makes a client of the hub that the connection string names, or of the simulator that
// runs here if it is empty.
func newHubClient(connectionString string) (*hubClient, error) {
	var roots *x509.CertPool
	var note simulator
	if connectionString == "" {
		var err error
		if note, err = readNote(); err != nil {
			return nil, err
		}
		connectionString = note.ConnectionString
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(note.CA))
	}
	parts, err := parseConnectionString(connectionString)
	if err != nil {
		return nil, err
	}
	return &hubClient{
		base: cmp.Or(note.URL, "https://"+parts["HostName"]), mqtt: note.MQTT, methods: note.Methods,
		host: parts["HostName"], policy: parts["SharedAccessKeyName"], key: identity.NewSecret(parts["SharedAccessKey"]),
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

// simulatorOnly is an error if the hub is Azure's, which does not have what the simulator has beside the
// service's REST interface; instead says what to use there.
func (h *hubClient) simulatorOnly(what, instead string) error {
	if host, _, _ := strings.Cut(h.host, ":"); strings.Contains(host, ".azure-devices.") && !h.simulated() {
		return fmt.Errorf("IoT Hub does not offer %s over HTTPS; %s", what, instead)
	}
	return nil
}

// simulated tells whether the hub is the simulator that runs on this machine.
func (h *hubClient) simulated() bool { return h.base != "https://"+h.host }

// hubRequest is one request to the service side.
type hubRequest struct {
	method, path string
	header       http.Header
	body         any // nil: none
}

// do sends body (nil: none) to path and decodes the answer into answer (nil: none is wanted).
func (h *hubClient) do(ctx context.Context, method, path string, body, answer any) error {
	_, err := h.ask(ctx, hubRequest{method: method, path: path, body: body}, answer)
	return err
}

// ask sends a request, decodes the answer into answer unless that is nil, and returns its headers. An
// answer other than 2xx is a *hubError.
func (h *hubClient) ask(ctx context.Context, r hubRequest, answer any) (http.Header, error) {
	response, err := h.open(ctx, r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		return nil, newHubError(h.host, response, text)
	}
	if answer == nil {
		return response.Header, nil
	}
	return response.Header, json.Unmarshal(text, answer)
}

// maxAnswer bounds what is read of an answer: a thousand messages, or a page of twins.
const maxAnswer = 64 << 20

// open sends a request and returns the answer, whose body is the caller's to read and close.
func (h *hubClient) open(ctx context.Context, r hubRequest) (*http.Response, error) {
	var payload io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, r.method, h.base+r.path, payload)
	if err != nil {
		return nil, err
	}
	token, err := identity.ServiceToken(h.host, h.policy, h.key, time.Now().Add(10*time.Minute))
	if err != nil {
		return nil, err
	}
	maps.Copy(request.Header, r.header)
	request.Header.Set("Authorization", token.Reveal())
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	return h.http.Do(request)
}

// hubError is a refusal of the hub.
type hubError struct {
	host   string
	status int    // of HTTP
	name   string // such as DeviceNotFound, "" if the hub gave none
	text   string // for people
}

func newHubError(host string, response *http.Response, body []byte) *hubError {
	e := &hubError{host: host, status: response.StatusCode, name: response.Header.Get("iothub-errorcode"), text: hubErrorText(body)}
	if name, text, ok := strings.Cut(strings.TrimPrefix(e.text, "ErrorCode:"), ";"); ok && name == e.name {
		e.text = text
	}
	return e
}

func (e *hubError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("hub %s: %s (%d %s", e.host, cmp.Or(e.text, "no reason given"), e.status, cmp.Or(e.name, http.StatusText(e.status))), " ") + ")"
}

// exitCode is what a refusal means to a script.
func (e *hubError) exitCode() int {
	switch {
	case e.status == http.StatusGatewayTimeout:
		return exitUncertain
	case e.status == http.StatusNotFound && e.name != "DeviceNotOnline":
		return exitUnknown
	}
	return exitFailed
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

// hubPath is the REST path of a device or module below prefix.
func hubPath(prefix string, id gateway.IdentityID) string {
	path := prefix + url.PathEscape(id.Device())
	if module := id.Module(); module != "" {
		path += "/modules/" + url.PathEscape(module)
	}
	return path
}
