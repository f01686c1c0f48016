package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// hubShell is a person with a running simulator and a shell.
type hubShell struct {
	t    *testing.T
	note *hubProcess
}

func startHubShell(t *testing.T) *hubShell {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
	t.Setenv("IOTHUB_CONNECTION_STRING", "")
	launch(t, "hubsim", "--in-memory", "--mqtt", "127.0.0.1:0", "--https", "127.0.0.1:0")
	return &hubShell{t, noteOf(t, home)}
}

// says runs gateway hub with these words, wants this exit code, and returns what it printed.
func (s *hubShell) says(code int, words ...string) string {
	s.t.Helper()
	stdout, stderr, got := gatewayCommand(s.t, "", append([]string{"hub"}, words...)...)
	if got != code {
		s.t.Fatalf("gateway hub %s: exit code %d, want %d\n%s%s", strings.Join(words, " "), got, code, stdout, stderr)
	}
	return strings.TrimSpace(stdout)
}

// watch runs gateway hub watch until the test ends.
func (s *hubShell) watch(words ...string) *process {
	s.t.Helper()
	return launch(s.t, append([]string{"hub", "watch"}, words...)...)
}

// shows waits until a watch has printed part.
func (s *hubShell) shows(w *process, part string) {
	s.t.Helper()
	testkit.Within(s.t, 20*time.Second, "the watch shows "+part, func() bool { return strings.Contains(w.String(), part) })
}

// A person needs nothing but gateway hub: to make a device, to be its cloud, and to put an end to it.
func TestGatewayHubIsTheCloudOfADevice(t *testing.T) {
	shell := startHubShell(t)
	watch := shell.watch("--kind", "all")
	testkit.Within(t, 20*time.Second, "the watch has begun", func() bool {
		shell.says(0, "devices", "add", "probe")
		shell.says(0, "devices", "remove", "probe", "--yes")
		return strings.Contains(watch.String(), "probe  deleteDeviceIdentity")
	})
	first := shell.watch("--after", "0", "--count", "1", "--json", "--property", "line=3")

	device := startSDK(t, sdkConfig{Transport: "Mqtt", ConnectionString: shell.says(0, "devices", "add", "dev1"), CA: shell.note.CA})
	device.do("open", nil)
	shell.shows(watch, "dev1  connected (Mqtt)")
	device.do("send", fields{"body": `{"temp":20}`})
	device.do("send", fields{"body": `{"temp":21.5}`, "properties": fields{"line": "3"}})
	shell.shows(watch, "dev1  temp=21.5")
	<-first.done
	var message struct {
		Kind string
		hubsim.Message
	}
	if err := json.Unmarshal([]byte(first.String()), &message); err != nil || first.waited != nil || string(message.Body) != `{"temp":21.5}` {
		t.Errorf("%v, %v: the one message with line=3 is %s", err, first.waited, first.String())
	}

	device.do("method", fields{"name": "reboot", "status": 200})
	device.do("method", fields{"name": "refuse", "status": 409})
	if got := shell.says(0, "call", "dev1", "reboot", `{"delay":5}`, "--json"); !strings.Contains(got, `"status": 200`) || !strings.Contains(got, `"delay": 5`) {
		t.Errorf("the call says %s", got)
	}
	shell.says(1, "call", "dev1", "refuse")
	shell.shows(watch, "dev1  method refuse: status 409")

	device.do("twin", nil)
	shell.says(0, "twin", "patch", "dev1", `{"interval":10}`)
	device.find(1, "the desired change", func(l sdkLine) bool {
		return l.Event == "desired" && strings.Contains(string(l.Payload), `"interval":10`)
	})
	device.do("report", fields{"patch": fields{"interval": 10}})
	if got := shell.says(0, "twin", "get", "dev1", "--reported"); !strings.Contains(got, `"interval": 10`) {
		t.Errorf("reported is %s", got)
	}

	device.do("messages", nil)
	// Nothing tells when the SDK has subscribed; what was sent before is dropped.
	testkit.Within(t, 20*time.Second, "a message reaches the device", func() bool {
		id := shell.says(0, "send", "dev1", "open the valve", "--property", "line=3", "--ack", "full")
		device.mu.Lock()
		defer device.mu.Unlock()
		for _, l := range device.lines {
			if l.Event == "message" && l.MessageID == id && l.Body == "open the valve" && l.Properties["line"] == "3" {
				return true
			}
		}
		return false
	})
	shell.cutsOff(watch)
}

// cutsOff disables the connected dev1, which ends its connection, and removes it.
func (s *hubShell) cutsOff(watch *process) {
	s.t.Helper()
	if got := s.says(0, "devices", "list"); !strings.Contains(got, "connected") || strings.Contains(got, "disconnected") {
		s.t.Errorf("the list is\n%s", got)
	}
	s.says(0, "devices", "disable", "dev1")
	s.shows(watch, "dev1  disconnected after")
	s.shows(watch, "dev1  was not let in")
	if got := s.says(0, "devices", "show", "dev1", "--json"); !strings.Contains(got, `"status": "disabled"`) || !strings.Contains(got, `"connectionState": "Disconnected"`) {
		s.t.Errorf("the device is shown as %s", got)
	}
	s.says(4, "call", "dev1", "reboot") // so the hub says of a disabled device
	s.says(2, "devices", "remove", "dev1")
	s.says(0, "devices", "remove", "dev1", "--yes")
	s.says(4, "call", "dev1", "reboot")
	s.says(4, "devices", "show", "dev1")
}

// A hub elsewhere, as a real one, is reached by its connection string alone.
func TestGatewayHubTakesAConnectionString(t *testing.T) {
	shell := startHubShell(t)
	shell.says(0, "devices", "add", "dev1")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(shell.note.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(shell.note.URL, "https://")
	named := strings.Replace(shell.note.ConnectionString, "HostName=localhost", "HostName="+address, 1)
	t.Setenv("XDG_CACHE_HOME", t.TempDir()) // no note
	t.Setenv("SSL_CERT_FILE", ca)
	if got := shell.says(0, "--connection-string", named, "devices", "list"); !strings.Contains(got, "dev1") {
		t.Errorf("the list is\n%s", got)
	}
	t.Setenv("IOTHUB_CONNECTION_STRING", named)
	shell.says(0, "twin", "patch", "dev1", `{"interval":10}`)
	shell.says(0, "devices", "disable", "dev1")
	if got := shell.says(0, "connection-string", "dev1"); !strings.HasPrefix(got, "HostName="+address+";DeviceId=dev1;") {
		t.Errorf("the connection string is %s", got)
	}
	shell.says(0, "watch", "--stored")
	t.Setenv("IOTHUB_CONNECTION_STRING", "HostName=plant7.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey=c2VjcmV0")
	shell.says(1, "send", "dev1", "x")
}
