package mapping

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/adapters/modbus"
)

func TestALinkMeansWhatItSays(t *testing.T) {
	const point = "addressing: zero }, poll: 10s, points: { x: { at: holding 5, type: int16 } } }\n"
	base := modbus.Config{Timeout: 2 * time.Second}
	with := func(change func(*modbus.Config)) modbus.Config { c := base; change(&c); return c }
	serial := func(baud, bits int, parity modbus.Parity, stop int, rs485 *modbus.RS485) func(*modbus.Config) {
		return func(c *modbus.Config) {
			c.Address, c.Framing, c.Timeout = "/dev/ttyS1", modbus.RTU, time.Second
			c.Serial = &modbus.Serial{Baud: baud, DataBits: bits, Parity: parity, StopBits: stop, RS485: rs485}
		}
	}
	for text, want := range map[string]modbus.Config{
		"tcp: h:502": with(func(c *modbus.Config) { c.Address = "h:502" }),
		"tls: h:802": with(func(c *modbus.Config) { c.Address, c.TLS = "h:802", &modbus.TLS{} }),
		"tls: h:802, trust: file:ca.pem, certificate: credential:cert, private_key: env:KEY": with(func(c *modbus.Config) {
			c.Address, c.TLS = "h:802", &modbus.TLS{Trust: "file:ca.pem", Certificate: "credential:cert", PrivateKey: "env:KEY"}
		}),
		"rtu_over_tcp: h:4001, timeout: 3s":                          with(func(c *modbus.Config) { c.Address, c.Framing, c.Timeout = "h:4001", modbus.RTU, 3*time.Second }),
		"ascii_over_tcp: h:4001":                                     with(func(c *modbus.Config) { c.Address, c.Framing = "h:4001", modbus.ASCII }),
		"serial: /dev/ttyS1, baud: 9600, parity: none, stop_bits: 2": with(serial(9600, 8, modbus.NoParity, 2, nil)),
		"serial: /dev/ttyS1, baud: 14400, parity: odd, stop_bits: 1, mode: rtu, data_bits: 8, rs485: true": with(
			serial(14400, 8, modbus.OddParity, 1, &modbus.RS485{})),
		"serial: /dev/ttyS1, baud: 9600, parity: even, stop_bits: 1, rs485: { rts: low, before: 1ms, after: 2ms, receive: true }": with(
			serial(9600, 8, modbus.EvenParity, 1, &modbus.RS485{Low: true, Before: time.Millisecond, After: 2 * time.Millisecond, Receive: true})),
		"serial: /dev/ttyS1, baud: 9600, parity: even, stop_bits: 1, mode: ascii, rs485: false": with(func(c *modbus.Config) {
			serial(9600, 7, modbus.EvenParity, 1, nil)(c)
			c.Framing = modbus.ASCII
		}),
		"serial: /dev/ttyS1, baud: 150, parity: even, stop_bits: 1": with(func(c *modbus.Config) { // 8 and 7 characters of 11 bits, and 100 ms
			serial(150, 8, modbus.EvenParity, 1, nil)(c)
			c.Timeout = 1200 * time.Millisecond
		}),
		"tcp: h:502, pause: 5ms, pause_after_connect: 1s, close_after_poll: true, retries: 2, read_only: true, write_rate: 0.5, max_connections: 3, ignore_transaction_id: true, keepalive: 400ms": with(func(c *modbus.Config) {
			c.Address, c.Pause, c.PauseAfterConnect, c.CloseAfterPoll, c.Retries = "h:502", 5*time.Millisecond, time.Second, true, 2
			c.ReadOnly, c.WriteRate, c.MaxConnections, c.IgnoreTransactionID, c.KeepAlive = true, 0.5, 3, true, 400*time.Millisecond
		}),
	} {
		named := good(t, "links: { l: { "+text+" } }\ndevices:\n  d: { local: true, modbus: { link: l, unit: 1, "+point)
		inline := good(t, "devices:\n  d: { local: true, modbus: { "+text+", unit: 1, "+point+"  e: { local: true, modbus: { "+text+", unit: 2, "+point)
		for _, c := range []struct {
			name    string
			devices int
			links   []modbus.Config
		}{{"l", 1, named.Links}, {want.Address, 2, inline.Links}} {
			if len(c.links) != 1 || len(c.links[0].Devices) != c.devices {
				t.Errorf("%s: %+v", text, c.links)
				continue
			}
			got := c.links[0]
			want.Name, got.Devices = c.name, nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s:\n%s", text, diff)
			}
		}
	}
}

func TestTheTimeoutOfASlowLineFitsItsLongestExchange(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"x: { at: holding 5, type: string(100) }":              1230 * time.Millisecond, // 8 and 105 characters of 11 bits, and 100 ms
		"x: { at: holding 5, type: string(100), write: true }": 1270 * time.Millisecond, // 109 and 8
		"x: { at: coil 0 }":                                    time.Second,
	} {
		plant := good(t, "devices:\n  d: { local: true, modbus: { serial: /dev/ttyS1, baud: 1100, parity: even, stop_bits: 1, unit: 1, addressing: zero }, poll: 10s, points: { "+text+" } }\n")
		if got := plant.Links[0].Timeout; got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestEqualEndpointsAreOneLink(t *testing.T) {
	plant := good(t, `devices:
  a: { local: true, modbus: { tcp: Plc.example:502, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } }
  b: { local: true, modbus: { link: named, unit: 2, addressing: zero }, points: { x: { at: coil 0 } } }
  c: { local: true, modbus: { tcp: plc.example:502, unit: 3, addressing: zero }, points: { x: { at: coil 0 } } }
  e: { local: true, modbus: { tcp: "[fd00::7]:502", unit: 0x0A, timeout: 300ms, addressing: zero }, points: { x: { at: coil 0 } } }
  f: { local: true, modbus: { tcp: 10.0.0.1:502, unit: 255, addressing: zero }, points: { x: { at: coil 0 } } }
links:
  named: { tcp: 10.0.0.1:502 }
`)
	var got []string
	for _, l := range plant.Links {
		for _, d := range l.Devices {
			got = append(got, fmt.Sprintf("%s %s %s %s:%d", l.Name, l.Address, l.Timeout, d.Name, d.Unit))
		}
	}
	want := []string{
		"named 10.0.0.1:502 2s b:2", "named 10.0.0.1:502 2s f:255",
		"plc.example:502 plc.example:502 2s a:1", "plc.example:502 plc.example:502 2s c:3",
		"[fd00::7]:502 [fd00::7]:502 300ms e:10",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if plant.Devices[0].Link != "plc.example:502" || plant.Devices[4].Link != "named" {
		t.Errorf("%+v", plant.Devices)
	}
}
