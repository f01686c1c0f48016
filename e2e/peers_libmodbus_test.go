package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iothub-gateway/internal/testkit"
)

// during runs a program that nobody here wrote until the test ends. One that is missing fails the test.
func during(t *testing.T, program string, args ...string) *testkit.Log {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is not installed; make test installs what the tests need, or names it (e2e/peers.sh)", program)
	}
	said := &testkit.Log{}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("%s said:\n%s", program, said.String())
		}
	})
	return said
}

// libmodbusServer compiles the server of testdata.
func libmodbusServer(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "modbus_server")
	built := peer(t, "gcc", "-std=gnu99", "-Wall", "-Werror", "-I/usr/include/modbus", "-o", program, "testdata/modbus_server.c", "-lmodbus")
	if built.code != 0 {
		t.Fatalf("gcc: exit code %d\n%s%s", built.code, built.stdout, built.stderr)
	}
	return program
}

// serialPair is a pair of serial ports that are joined by a wire.
func serialPair(t *testing.T) (ours, theirs string) {
	t.Helper()
	dir := t.TempDir()
	ours, theirs = filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	during(t, "socat", "pty,raw,echo=0,link="+ours, "pty,raw,echo=0,link="+theirs)
	testkit.Within(t, 10*time.Second, "socat has made the ports", func() bool {
		_, err := os.Stat(theirs)
		_, other := os.Stat(ours)
		return err == nil && other == nil
	})
	return ours, theirs
}

// libmodbusLinks starts a server of libmodbus on each kind of wire, and returns the mapping's links to them.
func libmodbusLinks(t *testing.T) map[string]string {
	t.Helper()
	program, port := libmodbusServer(t), freePort(t)
	ours, theirs := serialPair(t)
	for _, said := range []*testkit.Log{during(t, program, "tcp", port), during(t, program, "rtu", theirs, "115200", "3")} {
		testkit.Within(t, 10*time.Second, "the server is ready", func() bool { return strings.Contains(said.String(), "ready") })
	}
	return map[string]string{
		"TCP":             fmt.Sprintf("{ tcp: 127.0.0.1:%s, timeout: 2s }", port),
		"RTU on a serial": fmt.Sprintf("{ serial: %q, baud: 115200, parity: none, stop_bits: 1, timeout: 2s }", ours),
	}
}

const libmodbusDevice = `links:
  wire: %s
devices:
  meter:
    identity: { device: meter, sas_key: "file:keys/meter" }
    modbus: { link: wire, unit: 3, addressing: zero, gap: 4 }
    poll: 100ms
    points:
      level:    { at: holding 40, type: uint16, write: { min: 0, max: 60000 } }
      wide:     { at: holding 50, type: uint32, write: { min: 0, max: 4000000000 } }
      flow:     { at: holding 60, type: float32, order: cdab, write: { min: -1000, max: 1000 } }
      bit:      { at: holding 70, bit: 2, write: true }
      measured: { at: input 7, type: uint16 }
      lamp:     { at: coil 3, write: true }
      door:     { at: discrete 9 }
      beyond:   { at: holding 1500, type: uint16 }
    methods:
      setLevel: { write: level, from: value }
`

// What a server of libmodbus holds arrives in the hub, and what the hub and a person write it holds: by TCP and
// on a serial port, through the running gateway and, after it was stopped, directly.
func TestADeviceOfLibmodbusIsReadAndWrittenOnEveryWire(t *testing.T) {
	for name, link := range libmodbusLinks(t) {
		t.Run(name, func(t *testing.T) {
			hub := startHub(t)
			plant := newPlant(t, hub, fmt.Sprintf(libmodbusDevice, link), "meter")
			gateway := plant.start()
			arrives := func(name, want string) {
				t.Helper()
				testkit.Within(t, 20*time.Second, name+" = "+want+" arrives", func() bool {
					for _, m := range hub.Messages(0, 100000) {
						if v, ok := field[any](t, m.Body, name); ok && fmt.Sprint(v) == want {
							return true
						}
					}
					return false
				})
			}
			for point, want := range map[string]string{"level": "40", "measured": "5007", "lamp": "true", "door": "true"} {
				arrives(point, want)
			}
			if status, body := call(t, hub, "meter", "setLevel", `{"value": 1234}`); status != 200 {
				t.Errorf("setLevel: %d %v", status, body)
			}
			arrives("level", "1234")
			byHand(t, plant)
			gateway.stop()
			byHand(t, plant)
		})
	}
}

// byHand writes and reads the points of a device of libmodbus.
func byHand(t *testing.T, plant *plant) {
	t.Helper()
	try := func(code int, says string, args ...string) {
		t.Helper()
		args = append(args, "--runtime-dir", plant.runtime(), "--mapping", plant.mapping)
		if out, problems, got := gatewayCommand(t, plant.dir, args...); got != code || !strings.Contains(out+problems, says) {
			t.Errorf("%v: exit %d, want %d and %q\n%s%s", args, got, code, says, out, problems)
		}
	}
	for _, c := range [][2]string{
		{"level", "777"}, {"wide", "3000000001"}, {"flow", "-12.625"}, {"bit", "false"}, {"bit", "true"}, {"lamp", "false"}, {"lamp", "true"},
	} {
		try(0, "the device has confirmed it", "write", "meter/"+c[0], c[1], "--yes")
		try(0, c[1], "read", "meter/"+c[0])
	}
	try(0, "5007", "read", "meter/measured")
	try(1, "illegal data address", "read", "meter/beyond")
}
