package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// everyWire is a plant with a device on each kind of Modbus link.
const everyWire = `version: 1
hub: { host: plant7.azure-devices.net }
links:
  tcp:    { tcp: 10.7.3.11:502 }
  tls:    { tls: 10.7.3.12:802, trust: file:ca.pem, certificate: file:gateway.pem, private_key: file:gateway.key }
  rtu:    { rtu_over_tcp: 10.7.3.13:4001 }
  ascii:  { ascii_over_tcp: 10.7.3.14:4001 }
  line:   { serial: /dev/ttyS8, baud: 19200, parity: even, stop_bits: 1 }
  letters: { serial: /dev/ttyS9, mode: ascii, baud: 19200, parity: even, stop_bits: 1 }
defaults: { poll: 500ms }
devices:
  on-tcp:     { identity: { device: on-tcp, sas_key: file:k }, modbus: { link: tcp, unit: 1, addressing: zero }, points: { n: { at: holding 0, type: uint32, publish: { on: poll } } } }
  on-tls:     { identity: { device: on-tls, sas_key: file:k }, modbus: { link: tls, unit: 1, addressing: zero }, points: { n: { at: holding 0, type: bcd32, publish: { on: poll } } } }
  on-rtu:     { identity: { device: on-rtu, sas_key: file:k }, modbus: { link: rtu, unit: 1, addressing: zero }, points: { n: { at: input 0, type: float16, publish: { on: poll } } } }
  on-ascii:   { identity: { device: on-ascii, sas_key: file:k }, modbus: { link: ascii, unit: 1, addressing: zero }, points: { n: { at: holding 0, type: time(unix32), publish: { on: poll } } } }
  on-line:    { identity: { device: on-line, sas_key: file:k }, modbus: { link: line, unit: 1, addressing: zero }, points: { n: { at: holding 0, type: uint48, publish: { on: poll } } } }
  on-letters: { identity: { device: on-letters, sas_key: file:k }, modbus: { link: letters, unit: 1, addressing: zero }, points: { n: { at: holding 0, type: uint8h, publish: { on: poll } } } }
`

func TestTheDemoSimulatesEveryWire(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", "")
	path := filepath.Join(t.TempDir(), "mapping.yaml")
	if err := os.WriteFile(path, []byte(everyWire), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := gatewayCommand(t, t.TempDir(), "demo", path, "--for", "3s")
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, device := range []string{"on-tcp", "on-tls", "on-rtu", "on-ascii", "on-line", "on-letters"} {
		arrived := 0
		for line := range strings.Lines(stdout) {
			if strings.Contains(line, device) && strings.Contains(line, "  n=") {
				arrived++
			}
		}
		if arrived == 0 {
			t.Errorf("%d messages of %s", arrived, device)
		}
	}
	if t.Failed() {
		t.Logf("%s%s", stdout, stderr)
	}
}
