package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

const (
	debianPython = "/usr/bin/python3"
	pythonPaho   = "/usr/lib/python3/dist-packages/paho/mqtt/client.py"

	// elsewhere runs a Python program (the first argument) whose connections all go to one place (the
	// second and third), so that it can use the real name and port of its hub.
	elsewhere = `import runpy, socket, sys
dial = socket.create_connection
socket.create_connection = lambda address, *rest, **named: dial((sys.argv[2], int(sys.argv[3])), *rest, **named)
runpy.run_path(sys.argv[1])`
)

// example is the program that Microsoft's page about MQTT shows ("Communicate with your IoT hub using the
// MQTT protocol"), with what it wants filled in. The page of 2019 says TLS 1.0, which no hub speaks any more.
func example(t *testing.T, ca, token string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/mqtt_example.py")
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(sdkName, ".")
	for _, fill := range [][2]string{
		{"<local path to digicert.cer>", ca},
		{"<device id from device registry>", "dev1"},
		{"<generated SAS token>", token},
		{"<iot hub name>", name},
		{"ssl.PROTOCOL_TLSv1,", "ssl.PROTOCOL_TLSv1_2,"},
	} {
		if bytes.Count(text, []byte(fill[0])) != 1 {
			t.Fatalf("the example does not have one %s", fill[0])
		}
		text = bytes.Replace(text, []byte(fill[0]), []byte(fill[1]), 1)
	}
	path := filepath.Join(t.TempDir(), "example.py")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheExampleOfMicrosoftsPageSendsItsMessage(t *testing.T) {
	for _, path := range []string{debianPython, pythonPaho} {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%v; make test installs what the tests need, or names it (e2e/peers.sh)", err)
		}
	}
	hub := startHubAs(t, hubsim.Config{HostName: sdkName})
	key, err := hub.Register("dev1", "")
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, hub.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	program := example(t, ca, sasToken(t, sdkName+"/devices/dev1", key, time.Hour))
	host, port, _ := strings.Cut(hub.MQTTAddr(), ":")
	var said testkit.Log
	cmd := exec.Command(debianPython, "-u", "-c", elsewhere, program, host, port)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it runs for ever
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the example said:\n%s", said.String())
		}
	})
	const want = "Device connected with result code: 0\nDevice sent message\n"
	testkit.Within(t, 20*time.Second, "the example has sent its message", func() bool { return said.String() == want })
	all := hub.Messages(0, 10)
	if len(all) != 1 || all[0].Device != "dev1" || string(all[0].Body) != "{id=123}" {
		t.Fatalf("the hub has %+v", all)
	}
	if diff := cmp.Diff(map[string]string{}, all[0].Properties); diff != "" {
		t.Errorf("application properties (-want +got):\n%s", diff)
	}
	hub.Kick("dev1")
	testkit.Within(t, 20*time.Second, "it is back, which is its library's doing", func() bool {
		return strings.Count(said.String(), "connected with result code: 0") == 2 && hub.Connected("dev1")
	})
}
