package e2e

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// sdkName is the hub that Microsoft's SDK believes it talks to.
const sdkName = "contoso.azure-devices.net"

// sdkConfig is what azure-sdk/device.js wants to know; it says what the fields mean.
type sdkConfig struct {
	Transport        string      `json:"transport"`
	ConnectionString string      `json:"connectionString,omitempty"`
	Host             string      `json:"host,omitempty"`
	Device           string      `json:"device,omitempty"`
	Module           string      `json:"module,omitempty"`
	Cert             string      `json:"cert,omitempty"`
	Key              string      `json:"key,omitempty"`
	CA               string      `json:"ca,omitempty"`
	Renewal          *sdkRenewal `json:"renewal,omitempty"`
}

// sdkRenewal is how long a token of the SDK is valid, and how long before its end it is renewed: seconds.
type sdkRenewal struct {
	Valid  int `json:"valid"`
	Margin int `json:"margin"`
}

// sdkLine is what a device says: what became of an operation, or what the hub sent.
type sdkLine struct {
	ID     int             `json:"id"`
	Error  string          `json:"error"`
	Result json.RawMessage `json:"result"`

	Event      string            `json:"event"`
	Name       string            `json:"name"`
	Payload    json.RawMessage   `json:"payload"`
	Body       string            `json:"body"`
	MessageID  string            `json:"messageId"`
	Properties map[string]string `json:"properties"`
}

// sdkDevice is a program on Microsoft's SDK, a device, a module or an application, in a process of its own.
type sdkDevice struct {
	t     *testing.T
	stdin io.WriteCloser
	done  chan struct{}
	asked int

	said testkit.Log // all of it

	mu    sync.Mutex // guards lines
	lines []sdkLine
}

// startSDKAt runs a device against hub, of which it believes that it is at the usual ports of its name.
func startSDKAt(t *testing.T, hub *hubsim.Hub, cfg sdkConfig) *sdkDevice {
	t.Helper()
	cfg.CA = string(hub.CAPEM())
	return startSDK(t, cfg, usualPorts(hub)...)
}

// usualPorts is the environment in which the ports of every hub are those of this one.
func usualPorts(hub *hubsim.Hub) []string {
	return []string{"NODE_OPTIONS=--require ./ports.js", "HUB_MQTT=" + hub.MQTTAddr(), "HUB_HTTPS=" + hub.HTTPSAddr()}
}

// startSDK runs a device with this environment.
func startSDK(t *testing.T, cfg sdkConfig, environment ...string) *sdkDevice {
	t.Helper()
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return startNode(t, environment, "device.js", string(text))
}

// startNode runs a program of azure-sdk with this environment. The SDK is as it comes from npm.
func startNode(t *testing.T, environment []string, program ...string) *sdkDevice {
	t.Helper()
	d := &sdkDevice{t: t, done: make(chan struct{})}
	cmd := exec.Command("node", program...)
	cmd.Dir = "azure-sdk"
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stderr = &d.said
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if d.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; make test installs what the tests need, or names it (e2e/peers.sh)", err)
	}
	go func() {
		defer close(d.done)
		d.listen(stdout)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-d.done
		if t.Failed() {
			t.Logf("the program said:\n%s", d.said.String())
		}
	})
	return d
}

func (d *sdkDevice) listen(stdout io.Reader) {
	in := bufio.NewScanner(io.TeeReader(stdout, &d.said))
	for in.Buffer(nil, 4<<20); in.Scan(); {
		var line sdkLine
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			line.Event, line.Error = "nonsense", in.Text()
		}
		d.mu.Lock()
		d.lines = append(d.lines, line)
		d.mu.Unlock()
	}
}

// find waits for the nth line, from 1, that fits.
func (d *sdkDevice) find(nth int, what string, fits func(sdkLine) bool) sdkLine {
	d.t.Helper()
	var found sdkLine
	testkit.Within(d.t, 30*time.Second, what, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		n := 0
		for _, line := range d.lines {
			if fits(line) {
				if n++; n == nth {
					found = line
					return true
				}
			}
		}
		return false
	})
	return found
}

// event waits for the nth event of a kind.
func (d *sdkDevice) event(nth int, kind string) sdkLine {
	d.t.Helper()
	return d.find(nth, fmt.Sprintf("event %d of kind %q", nth, kind), func(l sdkLine) bool { return l.Event == kind })
}

// fields are an operation's arguments.
type fields map[string]any

// ask begins an operation and returns the answer's id.
func (d *sdkDevice) ask(op string, arguments fields) int {
	d.t.Helper()
	d.asked++
	line := fields{"id": d.asked, "op": op}
	for name, value := range arguments {
		line[name] = value
	}
	if err := json.NewEncoder(d.stdin).Encode(line); err != nil {
		d.t.Fatal(err)
	}
	return d.asked
}

// answer waits for the outcome of an operation.
func (d *sdkDevice) answer(id int) sdkLine {
	d.t.Helper()
	return d.find(1, fmt.Sprintf("the outcome of operation %d", id), func(l sdkLine) bool { return l.ID == id })
}

// do carries an operation out and wants it to succeed.
func (d *sdkDevice) do(op string, arguments fields) json.RawMessage {
	d.t.Helper()
	got := d.answer(d.ask(op, arguments))
	if got.Error != "" {
		d.t.Fatalf("%s %v: %s", op, arguments, got.Error)
	}
	return got.Result
}

// sdkVariant is one way to use the SDK.
type sdkVariant struct {
	transport string
	module    string // "" is a device
	proof     string // sas; thumbprint or authority of a certificate
}

func (v sdkVariant) String() string {
	kind := "device"
	if v.module != "" {
		kind = "module"
	}
	return v.transport + " " + kind + " " + v.proof
}

// identity is "dev1" or "dev1/mod1".
func (v sdkVariant) identity() string {
	if v.module == "" {
		return "dev1"
	}
	return "dev1/" + v.module
}

// config registers the identity and says how to be it.
func (v sdkVariant) config(t *testing.T, hub *hubsim.Hub) sdkConfig {
	t.Helper()
	cfg := sdkConfig{Transport: v.transport, Host: sdkName, Device: "dev1", Module: v.module}
	var c hubsim.Credential
	switch v.proof {
	case "thumbprint":
		leaf := issue(t, "any name", nil)
		c.Thumbprint = fmt.Sprintf("%X", sha256.Sum256(leaf.Certificate[0]))
		cfg.Cert, cfg.Key = testkit.PEM(t, leaf)
	case "authority":
		root := issue(t, "plant 7", nil)
		text, _ := testkit.PEM(t, root)
		if err := hub.AddDeviceCA([]byte(text)); err != nil {
			t.Fatal(err)
		}
		c.X509CA = true
		cfg.Cert, cfg.Key = testkit.PEM(t, issue(t, v.identity(), &root))
	}
	c, err := hub.RegisterWith("dev1", v.module, c)
	if err != nil {
		t.Fatal(err)
	}
	if v.proof == "sas" {
		cfg.ConnectionString = "HostName=" + sdkName + ";DeviceId=dev1"
		if v.module != "" {
			cfg.ConnectionString += ";ModuleId=" + v.module
		}
		cfg.ConnectionString += ";SharedAccessKey=" + c.PrimaryKey
	}
	return cfg
}

// rival is a plain client with the same identity as the SDK's, which connects once; lost hears when its
// connection ends.
func (r *sdkRun) rival(lost chan<- error) mqtt.Client {
	r.t.Helper()
	trust := &tls.Config{RootCAs: r.hub.CAPool()}
	options := mqtt.NewClientOptions().AddBroker("ssl://" + r.hub.MQTTAddr()).SetClientID(r.identity()).
		SetUsername(sdkName + "/" + r.identity() + "/?api-version=2021-04-12").
		SetTLSConfig(trust).SetProtocolVersion(4).SetCleanSession(false).SetAutoReconnect(false).SetConnectRetry(false).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err })
	if r.proof != "sas" {
		certificate, err := tls.X509KeyPair([]byte(r.cfg.Cert), []byte(r.cfg.Key))
		if err != nil {
			r.t.Fatal(err)
		}
		trust.Certificates = []tls.Certificate{certificate}
		return mqtt.NewClient(options)
	}
	_, key, _ := strings.Cut(r.cfg.ConnectionString, "SharedAccessKey=")
	resource := sdkName + "/devices/dev1"
	if r.module != "" {
		resource += "/modules/" + r.module
	}
	return mqtt.NewClient(options.SetPassword(sasToken(r.t, resource, key, time.Hour)))
}

// sdkVariants are every way to use the SDK: devices and modules, over TCP and over WebSocket, with a key
// and with a certificate.
func sdkVariants() []sdkVariant {
	var all []sdkVariant
	for _, module := range []string{"", "mod1"} {
		all = append(all, sdkVariant{"Mqtt", module, "sas"}, sdkVariant{"Mqtt", module, "thumbprint"},
			sdkVariant{"MqttWs", module, "sas"}, sdkVariant{"MqttWs", module, "authority"})
	}
	return all
}
