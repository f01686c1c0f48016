package hubsim

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// LinkedHub is how the provisioning service reaches a hub, another simulator or a real one, to register
// devices there.
type LinkedHub struct {
	// ConnectionString is of a policy that may write the registry and twins, such as iothubowner. Devices are
	// told its HostName, with the port if it has one.
	ConnectionString string `json:"connectionString"`
	// URL is where the service side is served, "" is https://HostName.
	URL string `json:"url,omitempty"`
	// CA is PEM of the authorities to trust, "" is what this machine trusts.
	CA string `json:"ca,omitempty"`
}

// Link is how the provisioning service of another hub reaches this one.
func (h *Hub) Link() LinkedHub {
	_, rest, _ := strings.Cut(h.ServiceConnectionString(), ";")
	return LinkedHub{
		ConnectionString: "HostName=" + h.AssignedName() + ";" + rest,
		URL:              "https://" + h.HTTPSAddr(), CA: string(h.CAPEM()),
	}
}

// LinkHub makes a hub known to this hub's provisioning service: enrolments may name it. The error says
// what is wrong with l, or that it could not be stored.
func (h *Hub) LinkHub(l LinkedHub) error {
	linked, err := l.open()
	if err != nil {
		return fmt.Errorf("hubsim: linked hub: %w", err)
	}
	p := h.provisioner
	p.mu.Lock()
	p.linked[linked.name] = linked
	stored := p.state.put(linkedKind, linked.name, l)
	p.mu.Unlock()
	return stored.wait()
}

// linkedNames are the names of the linked hubs, sorted.
func (p *provisioner) linkedNames() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.linked))
}

// linkedHub is a hub that LinkHub made known.
type linkedHub struct {
	name, base  string
	policy, key string
	client      http.Client
}

// open checks l.
func (l LinkedHub) open() (*linkedHub, error) {
	hub := &linkedHub{base: l.URL, client: http.Client{Timeout: 10 * time.Second}}
	for field := range strings.SplitSeq(l.ConnectionString, ";") {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "HostName":
			hub.name = strings.ToLower(value)
		case "SharedAccessKeyName":
			hub.policy = value
		case "SharedAccessKey":
			hub.key = value
		}
	}
	if hub.name == "" || hub.policy == "" || hub.key == "" || checkKey(hub.key) != nil {
		return nil, errors.New("connectionString is not HostName=...;SharedAccessKeyName=...;SharedAccessKey=...")
	}
	if hub.base == "" {
		hub.base = "https://" + hub.name
	}
	if at, err := url.Parse(hub.base); err != nil || at.Scheme != "https" || at.Host == "" {
		return nil, fmt.Errorf("url %q is not https://host", hub.base)
	}
	// A connection for each request: nothing stays open that nobody owns.
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if l.CA != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(l.CA)) {
			return nil, errors.New("ca has no certificate in PEM")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	hub.client.Transport = transport
	return hub, nil
}

// admit registers a device, or gives one that is there this credential and twin.
func (l *linkedHub) admit(ctx context.Context, a arrival) error {
	c := a.credential
	proof := map[string]any{"type": c.kind()}
	if c.kind() == byKey {
		proof["symmetricKey"] = SymmetricKeys{c.PrimaryKey, c.SecondaryKey}
	} else {
		proof["x509Thumbprint"] = map[string]string{"primaryThumbprint": c.Thumbprint, "secondaryThumbprint": c.Thumbprint}
	}
	entry := map[string]any{"deviceId": a.device, "authentication": proof}
	if a.edge {
		entry["capabilities"] = Capabilities{IotEdge: true}
	}
	body, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	put := hubCall{method: http.MethodPut, path: devicePath(a.device), body: body}
	_, err = l.do(ctx, put)
	var bad *Error
	if errors.As(err, &bad) && bad.Status == http.StatusConflict { // it is there: it gets this credential
		put.always = true
		_, err = l.do(ctx, put)
	}
	if err != nil || a.twin == nil {
		return err
	}
	_, err = l.do(ctx, hubCall{http.MethodPut, twinPath(a.device), a.twin, true})
	return err
}

// twin is the tags and desired properties of the device, nil if the hub does not have it.
func (l *linkedHub) twin(ctx context.Context, device string) ([]byte, error) {
	text, err := l.do(ctx, hubCall{method: http.MethodGet, path: twinPath(device)})
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	whole, err := parseObject(text)
	if err != nil {
		return nil, err
	}
	tags, err := sectionOf(whole, "tags", true)
	if err != nil {
		return nil, err
	}
	properties, err := sectionOf(whole, "properties", true)
	if err != nil {
		return nil, err
	}
	desired, err := sectionOf(properties, "desired", true)
	delete(desired, "$version")
	delete(desired, "$metadata")
	if err != nil {
		return nil, err
	}
	return portable(tags, desired)
}

// remove deletes the device; one that is not there is no error.
func (l *linkedHub) remove(ctx context.Context, device string) error {
	_, err := l.do(ctx, hubCall{method: http.MethodDelete, path: devicePath(device), always: true})
	if missing(err) {
		return nil
	}
	return err
}

func devicePath(device string) string { return "/devices/" + url.PathEscape(device) }

func twinPath(device string) string { return "/twins/" + url.PathEscape(device) }

// missing tells whether a hub does not have the device.
func missing(err error) bool {
	var bad *Error
	return errors.As(err, &bad) && bad.Status == http.StatusNotFound
}

// hubCall is a request to a hub's service side.
type hubCall struct {
	method, path string
	body         []byte
	always       bool // whatever the etag is: If-Match "*"
}

// do sends a request to the hub's service side; an answer of 400 and more is an *Error.
func (l *linkedHub) do(ctx context.Context, call hubCall) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, call.method, l.base+call.path+"?api-version=2021-04-12", bytes.NewReader(call.body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", l.token(time.Now().Add(time.Hour)))
	if call.always {
		request.Header.Set("If-Match", `"*"`)
	}
	if call.body != nil {
		request.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	response, err := l.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err == nil && response.StatusCode >= http.StatusBadRequest {
		err = &Error{
			Status: response.StatusCode, Code: response.StatusCode * 1000, Name: response.Header.Get("iothub-errorcode"),
			Message: fmt.Sprintf("%s %s at %s: %s", call.method, call.path, l.name, clip(string(text))),
		}
	}
	return text, err
}

// token is a shared access signature of the whole hub (SAS-1 to SAS-4).
func (l *linkedHub) token(expires time.Time) string {
	resource := url.QueryEscape(l.name)
	raw, _ := base64.StdEncoding.DecodeString(l.key) // open has checked it
	mac := hmac.New(sha256.New, raw)
	fmt.Fprintf(mac, "%s\n%d", resource, expires.Unix())
	return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d&skn=%s", resource,
		url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))), expires.Unix(), url.QueryEscape(l.policy))
}
