package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// environment looks variables up in a map.
func environment(values map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		text, ok := values[name]
		return text, ok
	}
}

// moduleVariables are those that the runtime sets (EDGE-1).
func moduleVariables(workload string) map[string]string {
	return map[string]string{
		"IOTEDGE_WORKLOADURI": workload, "IOTEDGE_IOTHUBHOSTNAME": "contoso.azure-devices.net", "IOTEDGE_GATEWAYHOSTNAME": "edge-1.lan",
		"IOTEDGE_DEVICEID": "MyDevice01", "IOTEDGE_MODULEID": "mod A", "IOTEDGE_MODULEGENERATIONID": "637/1",
		"IOTEDGE_AUTHSCHEME": "sasToken", "IOTEDGE_APIVERSION": "2019-01-30",
	}
}

// runtime is a workload API as the contract describes it (EDGE-3, EDGE-5).
func runtime(t *testing.T) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /modules/{module}/genid/{generation}/sign", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		var ask map[string]string
		if err := json.Unmarshal(text, &ask); err != nil || ask["keyId"] != "primary" || ask["algo"] != "HMACSHA256" {
			t.Errorf("%s: %v", text, err)
		}
		if r.PathValue("module") != "mod A" || r.PathValue("generation") != "637/1" || r.URL.Query().Get("api-version") != "2019-01-30" {
			t.Errorf("asked at %s", r.URL)
		}
		data, err := base64.StdEncoding.DecodeString(ask["data"])
		if err != nil {
			t.Error(err)
		}
		key, _ := base64.StdEncoding.DecodeString(vectorKey)
		h := hmac.New(sha256.New, key)
		h.Write(data)
		_ = json.NewEncoder(w).Encode(map[string]string{"digest": base64.StdEncoding.EncodeToString(h.Sum(nil))})
	})
	mux.HandleFunc("GET /trust-bundle", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"certificate": "PEM"})
	})
	return mux
}

func TestAModuleIsProvenByTheRuntimeOverASocketAndOverTCP(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "workload.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	over := &httptest.Server{Listener: listener, Config: &http.Server{Handler: runtime(t), ReadHeaderTimeout: time.Minute}}
	over.Start()
	defer over.Close()
	tcp := httptest.NewServer(runtime(t))
	defer tcp.Close()
	for _, uri := range []string{"unix://" + socket, tcp.URL, tcp.URL + "/"} {
		edge, err := EdgeModule(environment(moduleVariables(uri)))
		if err != nil {
			t.Fatal(err)
		}
		credential, err := edge.Credential(time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		login, err := credential.Login(t.Context(), Attempt{Now: time.Unix(vectorEnd-3600, 0)})
		if err != nil {
			t.Fatal(err)
		}
		key, _ := decodeKey(NewSecret(vectorKey))
		want := Token("contoso.azure-devices.net/devices/MyDevice01/modules/mod A", key, time.Unix(vectorEnd, 0), "").Reveal()
		if login.Password.Reveal() != want { // EDGE-4: the hub's name, not the gateway's
			t.Errorf("%s:\n got %s\nwant %s", uri, login.Password.Reveal(), want)
		}
		if login.ClientID != "MyDevice01/mod A" || login.Hub != "contoso.azure-devices.net" || edge.Gateway != "edge-1.lan" || !login.Expires.Equal(time.Unix(vectorEnd, 0)) {
			t.Errorf("%+v at %s", login, edge.Gateway)
		}
		if pem, err := edge.Trust(t.Context()); string(pem) != "PEM" || err != nil {
			t.Errorf("trust bundle %q, %v", pem, err)
		}
	}
}

func TestARuntimeThatDoesNotSignIsAnErrorThatSaysWhy(t *testing.T) {
	answers := map[string]string{"/fault": `{"message":"module not found"}`, "/text": "oops", "/digest": `{"digest":"?"}`, "/none": `{}`}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for prefix, body := range answers {
			if strings.HasPrefix(r.URL.Path, prefix) {
				if prefix == "/fault" {
					w.WriteHeader(http.StatusNotFound)
				}
				_, _ = io.WriteString(w, body)
			}
		}
	}))
	defer server.Close()
	for path, want := range map[string]string{"/fault": "module not found", "/text": "invalid character", "/digest": "not base64", "/none": "not base64"} {
		edge, err := EdgeModule(environment(moduleVariables(server.URL + path)))
		if err != nil {
			t.Fatal(err)
		}
		credential, err := edge.Credential(time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := credential.Login(t.Context(), first()); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "IoT Edge workload API") {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	edge, err := EdgeModule(environment(moduleVariables("unix:///nowhere/workload.sock")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := edge.Trust(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a socket that is not there: %v", err)
	}
}

func TestTheEnvironmentOfAModuleIsReadOrWhatItLacksIsSaid(t *testing.T) {
	for name, c := range map[string]struct{ set, to, want string }{
		"no workload":   {"IOTEDGE_WORKLOADURI", "", "IOTEDGE_WORKLOADURI"},
		"no module":     {"IOTEDGE_MODULEID", "", "IOTEDGE_MODULEID"},
		"another way":   {"IOTEDGE_WORKLOADURI", "npipe://x", "neither unix:///PATH nor http://HOST"},
		"half a string": {"EdgeHubConnectionString", "HostName=h;DeviceId=d", "not the connection string of a module"},
	} {
		values := moduleVariables("http://w")
		values[c.set] = c.to
		if _, err := EdgeModule(environment(values)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := EdgeModule(environment(nil)); err == nil || !strings.Contains(err.Error(), "this is no IoT Edge module") {
		t.Errorf("outside of IoT Edge: %v", err)
	}
}

func TestADevelopmentEnvironmentHasAConnectionStringInstead(t *testing.T) { // EDGE-2
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte("PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	edge, err := EdgeModule(environment(map[string]string{
		"EdgeHubConnectionString":     "HostName=contoso.azure-devices.net;GatewayHostName=localhost;DeviceId=MyDevice01;ModuleId=modA;SharedAccessKey=" + vectorKey,
		"EdgeModuleCACertificateFile": ca,
	}))
	if err != nil {
		t.Fatal(err)
	}
	credential, err := edge.Credential(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	login, err := credential.Login(t.Context(), Attempt{Now: time.Unix(vectorEnd-3600, 0)})
	if err != nil || !strings.Contains(login.Password.Reveal(), "sig=fHwmQcOiG0wLClPZtKrxXdJqqyb5DQfW%2B8TD7KK%2BlNE%3D&") || edge.Gateway != "localhost" {
		t.Errorf("%+v, %v", login, err)
	}
	if pem, err := edge.Trust(t.Context()); string(pem) != "PEM" || err != nil {
		t.Errorf("trust %q, %v", pem, err)
	}
}
