package identity

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	gateway "iothub-gateway"
)

const (
	workloadTimeout = 10 * time.Second
	workloadAnswer  = 1 << 20 // bytes, of a trust bundle too
	workloadVersion = "2018-06-28"
)

// Edge is the IoT Edge module that this process runs as, as the runtime's environment describes it
// (EDGE-1). The module's key never leaves the runtime: it signs what it is asked to (EDGE-3).
type Edge struct {
	// Hub is the IoT Hub's name and Gateway the host of the edgeHub to connect to.
	Hub, Gateway string
	// ID is the module, "device/module".
	ID gateway.IdentityID

	key    Secret // of a development environment, which has no workload API (EDGE-2)
	caFile string // the same
	sign   string // URL
	trust  string // URL
	client *http.Client
}

// EdgeModule reads the environment; lookup is os.LookupEnv. The error names what is missing.
func EdgeModule(lookup func(name string) (string, bool)) (*Edge, error) {
	get := func(name string) string { text, _ := lookup(name); return text }
	for _, name := range []string{"EdgeHubConnectionString", "IotHubConnectionString"} {
		if text := get(name); text != "" {
			return edgeOfConnectionString(name, text, get("EdgeModuleCACertificateFile"))
		}
	}
	const prefix = "IOTEDGE_"
	values := map[string]string{}
	var missing []string
	for _, name := range []string{"WORKLOADURI", "IOTHUBHOSTNAME", "GATEWAYHOSTNAME", "DEVICEID", "MODULEID", "MODULEGENERATIONID"} {
		if values[name] = get(prefix + name); values[name] == "" {
			missing = append(missing, prefix+name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("this is no IoT Edge module: the environment lacks %s", strings.Join(missing, ", "))
	}
	base, client, err := workload(values["WORKLOADURI"])
	if err != nil {
		return nil, fmt.Errorf("%sWORKLOADURI: %w", prefix, err)
	}
	version := get(prefix + "APIVERSION")
	if version == "" {
		version = workloadVersion
	}
	query := "?api-version=" + url.QueryEscape(version)
	return &Edge{
		Hub: values["IOTHUBHOSTNAME"], Gateway: values["GATEWAYHOSTNAME"],
		ID:     gateway.IdentityID(values["DEVICEID"] + "/" + values["MODULEID"]),
		sign:   base + "/modules/" + url.PathEscape(values["MODULEID"]) + "/genid/" + url.PathEscape(values["MODULEGENERATIONID"]) + "/sign" + query,
		trust:  base + "/trust-bundle" + query,
		client: client,
	}, nil
}

// workload is how the API at uri is spoken to: over a Unix socket, or TCP.
func workload(uri string) (base string, client *http.Client, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	client = &http.Client{Transport: transport, Timeout: workloadTimeout}
	switch {
	case u.Scheme == "unix" && u.Path != "":
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", u.Path)
		}
		return "http://workload", client, nil
	case u.Scheme == "http" && u.Host != "":
		return strings.TrimSuffix("http://"+u.Host+u.Path, "/"), client, nil
	}
	return "", nil, fmt.Errorf("%q is neither unix:///PATH nor http://HOST", uri)
}

// edgeOfConnectionString is the module of a development environment (CON-8, EDGE-2).
func edgeOfConnectionString(name, text, caFile string) (*Edge, error) {
	part := map[string]string{}
	for field := range strings.SplitSeq(text, ";") {
		key, value, _ := strings.Cut(field, "=")
		part[key] = value
	}
	e := &Edge{
		Hub: part["HostName"], Gateway: part["GatewayHostName"], ID: gateway.IdentityID(part["DeviceId"] + "/" + part["ModuleId"]),
		key: NewSecret(part["SharedAccessKey"]), caFile: caFile,
	}
	if _, err := decodeKey(e.key); err != nil || e.Hub == "" || part["DeviceId"] == "" || part["ModuleId"] == "" {
		return nil, fmt.Errorf("%s is not the connection string of a module: it takes HostName, DeviceId, ModuleId, SharedAccessKey and, through a gateway, GatewayHostName", name)
	}
	if e.Gateway == "" {
		e.Gateway = e.Hub
	}
	return e, nil
}

// Credential proves the module to its hub (EDGE-4); ttl is how long each token holds.
func (e *Edge) Credential(ttl time.Duration) (*SAS, error) {
	if e.client == nil {
		return NewSAS(e.Hub, e.ID, e.key, ttl)
	}
	return &SAS{fixed: fixed{e.Hub}, id: e.ID, ttl: ttl, sign: func(ctx context.Context, resource string, expires time.Time) (Secret, uint64, error) {
		digest, err := e.digest(ctx, toSign(resource, expires))
		return assemble(resource, expires, digest, ""), 0, err
	}}, nil
}

// digest has the runtime sign text (EDGE-3); it is base64.
func (e *Edge) digest(ctx context.Context, text string) (string, error) {
	body, err := json.Marshal(map[string]string{
		"keyId": "primary", "algo": "HMACSHA256", "data": base64.StdEncoding.EncodeToString([]byte(text)),
	})
	if err != nil {
		return "", err
	}
	var answer struct {
		Digest string `json:"digest"`
	}
	if err := e.call(ctx, http.MethodPost, e.sign, body, &answer); err != nil {
		return "", err
	}
	if raw, err := base64.StdEncoding.DecodeString(answer.Digest); err != nil || len(raw) == 0 {
		return "", errors.New("IoT Edge workload API: the digest is not base64")
	}
	return answer.Digest, nil
}

// Trust is the authorities in PEM that sign edgeHub's certificate (EDGE-5); empty: those of the system.
func (e *Edge) Trust(ctx context.Context) ([]byte, error) {
	switch {
	case e.client == nil && e.caFile == "":
		return nil, nil
	case e.client == nil:
		return os.ReadFile(e.caFile)
	}
	var answer struct {
		Certificate string `json:"certificate"`
	}
	err := e.call(ctx, http.MethodGet, e.trust, nil, &answer)
	return []byte(answer.Certificate), err
}

// call asks the workload API for one thing.
func (e *Edge) call(ctx context.Context, method, url string, body []byte, answer any) error {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("IoT Edge workload API: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := e.client.Do(request)
	if err != nil {
		return fmt.Errorf("IoT Edge workload API: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, workloadAnswer))
	if err != nil {
		return fmt.Errorf("IoT Edge workload API: %w", err)
	}
	if response.StatusCode/100 != 2 {
		var fault struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(text, &fault) // a fault without a message has its status
		return fmt.Errorf("IoT Edge workload API: HTTP %s %s", response.Status, fault.Message)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("IoT Edge workload API: %w", err)
	}
	return nil
}
