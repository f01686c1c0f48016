package e2e

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// simulatedName is what the simulated hub calls itself.
const simulatedName = "plant7.azure-devices.net"

// hubProcess is a `gateway hubsim` in a process of its own.
type hubProcess struct {
	t   *testing.T
	dir string

	URL              string `json:"url"`
	MQTT             string `json:"mqtt"`
	CA               string `json:"ca"`
	ConnectionString string `json:"connection_string"`
}

// startHubProcess runs a hub that knows the devices boiler and mixer. The test's environment changes, so
// that `gateway hub` finds this hub.
func startHubProcess(t *testing.T) *hubProcess {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	mapping := "version: 1\nhub: { host: " + simulatedName + " }\ndevices:\n"
	for i, device := range []string{"boiler", "mixer"} {
		mapping += fmt.Sprintf("  %s: { identity: { device: %[1]s, sas_key: \"file:keys/%[1]s\" }, "+
			"modbus: { tcp: 10.7.3.11:502, unit: %d, addressing: zero }, points: { a: { at: coil 1 } } }\n", device, i+1)
	}
	path := filepath.Join(dir, "mapping.yaml")
	if err := os.WriteFile(path, []byte(mapping), 0o600); err != nil {
		t.Fatal(err)
	}
	launch(t, "hubsim", "--dir", filepath.Join(dir, "hub"), "--mqtt", "127.0.0.1:0", "--https", "127.0.0.1:0", "--mapping", path)
	h := noteOf(t, dir)
	h.dir = dir
	return h
}

// noteOf waits for the note that a hub leaves below home, and says where that hub is.
func noteOf(t *testing.T, home string) *hubProcess {
	t.Helper()
	h := &hubProcess{t: t}
	testkit.Within(t, 20*time.Second, "the hub has left the note that says where it is", func() bool {
		note, err := os.ReadFile(filepath.Join(home, "cache", "iothub-gateway", "hubsim.json"))
		return err == nil && json.Unmarshal(note, h) == nil && h.ConnectionString != ""
	})
	return h
}

// token is a password for device, as an engineer would make one.
func (h *hubProcess) token(device string) string {
	h.t.Helper()
	stdout, stderr, code := gatewayCommand(h.t, h.dir, "hub", "token", device)
	if code != 0 {
		h.t.Fatalf("gateway hub token %s: exit code %d\n%s", device, code, stderr)
	}
	return strings.TrimSpace(stdout)
}

// mosquitto runs one of mosquitto's clients as device with this password.
func (h *hubProcess) mosquitto(program, device, password string, args ...string) ran {
	h.t.Helper()
	host, port, err := net.SplitHostPort(h.MQTT)
	if err != nil {
		h.t.Fatal(err)
	}
	return peer(h.t, program, append([]string{
		"-d", "-V", "mqttv311", "-h", host, "-p", port, "--cafile", filepath.Join(h.dir, "hub", "ca.pem"),
		"-i", device, "-u", simulatedName + "/" + device + "/?api-version=2021-04-12", "-P", password,
	}, args...)...)
}

// messages asks the hub, over HTTPS, for everything it has stored.
func (h *hubProcess) messages() []hubsim.Message {
	h.t.Helper()
	var all []hubsim.Message
	h.service().do(http.MethodGet, "/hubsim/messages", "", &all)
	return all
}

// service is the hub's service side.
func (h *hubProcess) service() service {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(h.CA))
	return service{t: h.t, url: h.URL, roots: roots, authorization: serviceToken(h.t, h.ConnectionString)}
}

func TestMosquittoPublishesThroughTheSimulatedHub(t *testing.T) {
	hub := startHubProcess(t)
	topic := "devices/boiler/messages/events/site=plant%207&line=&$.mid=a-1&$.ct=application%2Fjson&$.ce=utf-8"
	got := hub.mosquitto("mosquitto_pub", "boiler", hub.token("boiler"), "-q", "1", "-t", topic, "-m", `{"temp":71.5}`)
	if got.code != 0 || !strings.Contains(got.stdout, "received PUBACK") {
		t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	all := hub.messages()
	if len(all) != 1 {
		t.Fatalf("the hub has %d messages, want 1: %+v", len(all), all)
	}
	m := all[0]
	if m.Device != "boiler" || m.Module != "" || string(m.Body) != `{"temp":71.5}` {
		t.Errorf("message of %q %q: %s", m.Device, m.Module, m.Body)
	}
	if diff := cmp.Diff(map[string]string{"site": "plant 7", "line": ""}, m.Properties); diff != "" {
		t.Errorf("application properties (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{"message-id": "a-1", "content-type": "application/json", "content-encoding": "utf-8"} {
		if m.System[name] != want {
			t.Errorf("system property %s is %q, want %q", name, m.System[name], want)
		}
	}
}

func TestMosquittoIsRefusedAsTheHubWould(t *testing.T) {
	hub := startHubProcess(t)
	token := hub.token("boiler")
	const events, foreign = "devices/boiler/messages/events/", "devices/mixer/messages/events/"
	for _, c := range []struct {
		what, password, topic, qos string
		code                       int
		says                       string
	}{
		{"another device's key", hub.token("mixer"), events, "1", 5, "Connection Refused: not authorised"},
		{"a password that is no token", "secret", events, "1", 5, "Connection Refused: not authorised"},
		{"QoS 2", token, events, "2", 7, "The connection was lost"},
		{"another device's topic", token, foreign, "1", 7, "The connection was lost"},
	} {
		got := hub.mosquitto("mosquitto_pub", "boiler", c.password, "-q", c.qos, "-t", c.topic, "-m", "{}")
		if got.code != c.code || !strings.Contains(got.stderr, c.says) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s%s", c.what, got.code, c.code, c.says, got.stdout, got.stderr)
		}
	}
	if got := hub.mosquitto("mosquitto_pub", "boiler", token, "-q", "1", "-t", events, "-m", "{}"); got.code != 0 {
		t.Errorf("after that a good message is refused: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if all := hub.messages(); len(all) != 1 {
		t.Errorf("the hub has %d messages, want only the good one: %+v", len(all), all)
	}
}

func TestMosquittoSubscribesToItsMailboxOnly(t *testing.T) {
	hub := startHubProcess(t)
	token := hub.token("boiler")
	got := hub.mosquitto("mosquitto_sub", "boiler", token, "-c", "-q", "1", "-E", "-t", "devices/boiler/messages/devicebound/#")
	if got.code != 0 || !strings.Contains(got.stdout, "Subscribed (mid: 1): 1") {
		t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	got = hub.mosquitto("mosquitto_sub", "boiler", token, "-q", "1", "-E", "-W", "1", "-t", "devices/mixer/messages/devicebound/#")
	if got.code == 0 || strings.Contains(got.stdout, "SUBACK") {
		t.Errorf("another device's mailbox: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}
