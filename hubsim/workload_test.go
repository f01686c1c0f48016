package hubsim_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/hubsim"
)

// edge is a module's view of its machine: its environment and the workload API.
type edge struct {
	t           *testing.T
	environment map[string]string
	client      *http.Client
}

// startEdge starts a hub with a workload socket and a module dev1/gateway.
func startEdge(t *testing.T) (*testHub, *edge) {
	t.Helper()
	cfg := hubConfig()
	cfg.WorkloadSocket = filepath.Join(t.TempDir(), "work load.sock")
	hub := startHub(t, cfg)
	if _, err := hub.Register("dev1", "gateway"); err != nil {
		t.Fatal(err)
	}
	return hub, hub.edge(t, "dev1", "gateway")
}

func (h *testHub) edge(t *testing.T, device, module string) *edge {
	t.Helper()
	lines, err := h.Environment(device, module)
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{t: t, environment: map[string]string{}}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		e.environment[name] = value
	}
	at, err := url.Parse(e.environment["IOTEDGE_WORKLOADURI"])
	if err != nil || at.Scheme != "unix" {
		t.Fatalf("%v %v", at, err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", at.Path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	e.client = &http.Client{Transport: transport}
	return e
}

// do sends a request without a Content-Type, as Python's SDK does.
func (e *edge) do(method, path, body string) (status int, answer string) {
	e.t.Helper()
	request, err := http.NewRequestWithContext(e.t.Context(), method, "http://workload"+path, strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	response, err := e.client.Do(request)
	if err != nil {
		e.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func (e *edge) signPath() string {
	return "/modules/" + url.PathEscape(e.environment["IOTEDGE_MODULEID"]) + "/genid/" + e.environment["IOTEDGE_MODULEGENERATIONID"] +
		"/sign?api-version=" + e.environment["IOTEDGE_APIVERSION"]
}

// token is a token that the workload API signs (EDGE-4).
func (e *edge) token(keyID string) string {
	e.t.Helper()
	sr := url.QueryEscape(e.environment["IOTEDGE_IOTHUBHOSTNAME"] + "/devices/" + e.environment["IOTEDGE_DEVICEID"] + "/modules/" + e.environment["IOTEDGE_MODULEID"])
	se := strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)
	data := base64.StdEncoding.EncodeToString([]byte(sr + "\n" + se))
	status, answer := e.do("POST", e.signPath(), `{"keyId":"`+keyID+`","algo":"HMACSHA256","data":"`+data+`"}`)
	var signed struct{ Digest string }
	if err := json.Unmarshal([]byte(answer), &signed); err != nil || status != 200 || signed.Digest == "" {
		e.t.Fatalf("%d %s %v", status, answer, err)
	}
	return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(signed.Digest) + "&se=" + se
}

func TestAModuleConnectsWithWhatItsEnvironmentAndTheWorkloadAPISay(t *testing.T) {
	hub, e := startEdge(t)
	_, port, _ := strings.Cut(hub.MQTTAddr(), ":")
	for name, want := range map[string]string{
		"IOTEDGE_IOTHUBHOSTNAME": hub.name, "IOTEDGE_GATEWAYHOSTNAME": "localhost:" + port, "IOTEDGE_DEVICEID": "dev1",
		"IOTEDGE_MODULEID": "gateway", "IOTEDGE_AUTHSCHEME": "sasToken", "IOTEDGE_APIVERSION": "2019-01-30",
	} {
		if got := e.environment[name]; got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
	for _, keyID := range []string{"primary", "secondary"} {
		connect := hub.connectPacket(t, "dev1/gateway", true)
		connect.Password = []byte(e.token(keyID))
		c := hub.raw(t)
		c.sendPacket(connect)
		if ack := c.expect(packets.Connack); ack.ReasonCode != 0 {
			t.Errorf("%s: CONNACK %d", keyID, ack.ReasonCode)
		}
		c.publish("devices/dev1/modules/gateway/messages/events/%24.on=alert/", 1, 1, "{}")
		c.expectPuback(1)
	}
}

func TestTheDigestIsTheKeysOverExactlyWhatWasSent(t *testing.T) {
	hub, e := startEdge(t)
	key, err := hub.Register("dev1", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{"x", "contoso%2Fdevices\n1700000000", "\x00\xff"} {
		mac := hmac.New(sha256.New, raw)
		mac.Write([]byte(data))
		want := `{"digest":"` + base64.StdEncoding.EncodeToString(mac.Sum(nil)) + `"}`
		body := `{"keyId":"primary","algo":"HMACSHA256","data":"` + base64.StdEncoding.EncodeToString([]byte(data)) + `"}`
		if status, got := e.do("POST", e.signPath(), body); status != 200 || got != want {
			t.Errorf("%q: %d %s, want %s", data, status, got, want)
		}
	}
}

func TestTheTrustBundleProvesTheHub(t *testing.T) {
	hub, e := startEdge(t)
	status, answer := e.do("GET", "/trust-bundle?api-version=2019-01-30", "")
	var bundle struct{ Certificate string }
	if err := json.Unmarshal([]byte(answer), &bundle); err != nil || status != 200 {
		t.Fatalf("%d %s %v", status, answer, err)
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM([]byte(bundle.Certificate)) || !pool.Equal(hub.CAPool()) {
		t.Error(bundle.Certificate)
	}
}

func TestTheWorkloadAPISaysWhatIsWrongInItsOwnForm(t *testing.T) {
	hub, e := startEdge(t)
	own := e.environment["IOTEDGE_MODULEGENERATIONID"]
	const good = `{"keyId":"primary","algo":"HMACSHA256","data":"eA=="}`
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/modules/gateway/genid/" + own + "/sign", good, 400}, // no api-version
		{"POST", "/modules/gateway/genid/1/sign?api-version=2019-01-30", good, 404},
		{"POST", "/modules/other/genid/" + own + "/sign?api-version=2019-01-30", good, 404},
		{"POST", "/modules/gateway/genid/x/sign?api-version=2019-01-30", good, 404},
		{"POST", e.signPath(), `{"keyId":"third","algo":"HMACSHA256","data":"eA=="}`, 400},
		{"POST", e.signPath(), `{"keyId":"primary","algo":"HMACSHA1","data":"eA=="}`, 400},
		{"POST", e.signPath(), `{"keyId":"primary","algo":"HMACSHA256","data":"!"}`, 400},
		{"POST", e.signPath(), `{`, 400},
		{"GET", "/modules?api-version=2019-01-30", "", 404},
		{"POST", "/modules/gateway/certificate/identity?api-version=2019-01-30", "{}", 404},
	} {
		status, answer := e.do(c.method, c.path, c.body)
		var body struct{ Message string }
		if err := json.Unmarshal([]byte(answer), &body); err != nil || status != c.status || body.Message == "" {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, status, answer)
		}
	}
	for _, id := range [][2]string{{"dev1", ""}, {"dev1", "other"}, {"dev2", "gateway"}} {
		if got, err := hub.Environment(id[0], id[1]); err == nil {
			t.Errorf("%v: %v", id, got)
		}
	}
}

func TestASocketLeftBehindIsReplacedAndOneInUseIsNot(t *testing.T) {
	cfg := hubConfig()
	cfg.WorkloadSocket = filepath.Join(t.TempDir(), "w.sock")
	l, err := net.Listen("unix", cfg.WorkloadSocket)
	if err != nil {
		t.Fatal(err)
	}
	if hub, err := hubsim.New(cfg); err == nil {
		t.Errorf("a socket in use was taken: %v", hub)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as after kill -9
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	hub := startHub(t, cfg)
	if _, err := hub.Register("dev1", "gateway"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(cfg.WorkloadSocket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	hub.edge(t, "dev1", "gateway").token("primary")
	hub.stop()
	if _, err := os.Stat(cfg.WorkloadSocket); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}
