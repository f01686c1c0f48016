package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"iothub-gateway/internal/testkit"
)

// meter is a device with a point in every table, and wide values in both word orders.
const meter = `version: 1
hub: { host: plant7.azure-devices.net }
links:
  hall: %s
devices:
  meter:
    local: true
    modbus: { link: hall, unit: 3, addressing: zero }
    points:
      temp:     { at: holding 100, type: int16, scale: 0.1, unit: Cel, write: { min: -40, max: 85 } }
      level:    { at: input 7, type: uint16 }
      pump:     { at: coil 4, write: true }
      door:     { at: discrete 9 }
      big:      { at: holding 200, type: int32, write: { min: -1000000, max: 1000000 } }
      swapped:  { at: holding 202, type: int32, order: cdab }
      flow:     { at: holding 210, type: float32, write: { min: 0, max: 100 } }
      reversed: { at: input 212, type: float32, order: cdab }
`

// devices is a `gateway devsim` with the meter, in a process of its own.
type devices struct {
	t     *testing.T
	dials string   // host:port of its HTTP side
	reach []string // how mbpoll is told the way to the meter
	last  string   // of that, what stands behind the options
}

// onEachWire runs a test against a meter behind TCP, and one behind a serial port.
func onEachWire(t *testing.T, test func(t *testing.T, sim *devices)) {
	t.Run("TCP", func(t *testing.T) {
		sim, address := startDevices(t, "{ tcp: 10.7.3.11:502 }")
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		sim.reach, sim.last = []string{"-m", "tcp", "-p", port}, host
		test(t, sim)
	})
	t.Run("RTU", func(t *testing.T) {
		sim, path := startDevices(t, "{ serial: /dev/ttyS7, baud: 115200, parity: even, stop_bits: 1 }")
		sim.reach, sim.last = []string{"-m", "rtu", "-b", "115200", "-P", "even"}, path
		test(t, sim)
	})
}

// startDevices starts the meter behind a link, and returns where that is simulated.
func startDevices(t *testing.T, link string, flags ...string) (sim *devices, address string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mapping.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, meter, link), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &devices{t: t, dials: "127.0.0.1:" + freePort(t)}
	launch(t, append([]string{"devsim", path, "--dials", d.dials}, flags...)...)
	testkit.Within(t, 20*time.Second, "the dials answer", func() bool {
		response, err := http.Get("http://" + d.dials + "/devices")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		var all []struct {
			Address string `json:"address"`
		}
		if err := json.NewDecoder(response.Body).Decode(&all); err != nil || len(all) != 1 {
			t.Fatalf("devices: %s, %v, %+v", response.Status, err, all)
		}
		address = all[0].Address
		return true
	})
	return d, address
}

// ask sends a request to the dials and returns the body of the answer.
func (d *devices) ask(method, path, body string) []byte {
	d.t.Helper()
	request, err := http.NewRequestWithContext(d.t.Context(), method, "http://"+d.dials+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(response.Body); err != nil || response.StatusCode/100 != 2 {
		d.t.Fatalf("%s %s: %s, %v: %s", method, path, response.Status, err, text.Bytes())
	}
	return text.Bytes()
}

// value is what the simulator says a point is, as JSON.
func (d *devices) value(point string) string {
	d.t.Helper()
	value, _ := field[json.RawMessage](d.t, d.ask(http.MethodGet, "/points/meter/"+point, ""), "value")
	return string(value)
}

// mbpoll asks unit 3 once. Words are its options, then the values to be written, if any.
func (d *devices) mbpoll(options, values string) ran {
	d.t.Helper()
	args := slices.Concat(d.reach, []string{"-a", "3", "-1", "-o", "10"}, strings.Fields(options), []string{d.last}, strings.Fields(values))
	return peer(d.t, "mbpoll", args...)
}

var polled = regexp.MustCompile(`(?m)^\[\d+\]:\s+(.+?)\s*$`)

// shown is the value that mbpoll printed.
func (r ran) shown() string {
	if found := polled.FindStringSubmatch(r.stdout); found != nil {
		return found[1]
	}
	return ""
}

func TestMbpollReadsWhatTheSimulatorSays(t *testing.T) { onEachWire(t, mbpollReads) }

func mbpollReads(t *testing.T, sim *devices) {
	for _, c := range []struct{ point, value, options, shows string }{
		{"temp", "-12.3", "-0 -t 4 -r 100", "65413 (-123)"},
		{"temp", "-12.4", "-t 4 -r 101", "65412 (-124)"}, // counting from 1, as mbpoll does without -0
		{"temp", "0.1", "-0 -t 4:hex -r 100", "0x0001"},
		{"level", "40000", "-0 -t 3 -r 7", "40000 (-25536)"},
		{"pump", "true", "-0 -t 0 -r 4", "1"},
		{"pump", "false", "-0 -t 0 -r 4", "0"},
		{"door", "true", "-0 -t 1 -r 9", "1"},
		{"door", "false", "-0 -t 1 -r 9", "0"},
		{"big", "-123456789", "-0 -t 4:int -B -r 200", "-123456789"},
		{"swapped", "123456789", "-0 -t 4:int -r 202", "123456789"},
		{"flow", "3.14159", "-0 -t 4:float -B -r 210", "3.14159"},
		{"reversed", "-0.001", "-0 -t 3:float -r 212", "-0.001"},
	} {
		sim.ask(http.MethodPut, "/points/meter/"+c.point, `{"value": `+c.value+`}`)
		if says := sim.value(c.point); says != c.value {
			t.Errorf("%s: the simulator says %s after %s was put", c.point, says, c.value)
		}
		if got := sim.mbpoll(c.options, ""); got.code != 0 || got.shown() != c.shows {
			t.Errorf("%s = %s: mbpoll %s: exit code %d, shows %q, want %q\n%s%s", c.point, c.value, c.options, got.code, got.shown(), c.shows, got.stdout, got.stderr)
		}
	}
}

func TestWhatMbpollWritesTheSimulatorKeeps(t *testing.T) { onEachWire(t, mbpollWrites) }

func mbpollWrites(t *testing.T, sim *devices) {
	for _, c := range []struct{ point, options, written, says string }{
		{"temp", "-0 -t 4 -r 100", "215", "21.5"},
		{"pump", "-0 -t 0 -r 4", "1", "true"},
		{"pump", "-0 -t 0 -r 4", "0", "false"},
		{"big", "-0 -t 4:int -B -r 200", "70000", "70000"},
		{"flow", "-0 -t 4:float -B -r 210", "2.5", "2.5"},
	} {
		got := sim.mbpoll(c.options, c.written)
		if says := sim.value(c.point); got.code != 0 || says != c.says {
			t.Errorf("%s: mbpoll wrote %s: exit code %d, the simulator says %s, want %s\n%s%s", c.point, c.written, got.code, says, c.says, got.stdout, got.stderr)
		}
	}
}

func TestMbpollSeesTheFaultsThatAreDialled(t *testing.T) { onEachWire(t, mbpollDials) }

func mbpollDials(t *testing.T, sim *devices) {
	for _, c := range []struct{ dials, options, says string }{
		{`{"exception": 2}`, "-0 -t 4 -r 100", "Illegal data address"},
		{`{"exception": 4}`, "-0 -t 1 -r 9", "Slave device or server failure"},
		{`{"exception": 0, "mute": true}`, "-0 -t 4 -r 100 -o 0.1", "Connection timed out"},
	} {
		sim.ask(http.MethodPost, "/links/hall/units/3", c.dials)
		if got := sim.mbpoll(c.options, ""); got.code != 1 || !strings.Contains(got.stderr, c.says) || got.shown() != "" {
			t.Errorf("%s: exit code %d, want 1 and %q\n%s%s", c.dials, got.code, c.says, got.stdout, got.stderr)
		}
	}
	sim.ask(http.MethodPost, "/links/hall/units/3", `{"mute": false}`)
	if got := sim.mbpoll("-0 -t 4 -r 100", ""); got.code != 0 {
		t.Errorf("without faults: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}

// What a script does to answers, an independent master sees as the fault it is.
func TestMbpollSeesTheFaultsOfAScript(t *testing.T) {
	script := filepath.Join(t.TempDir(), "faults.json")
	if err := os.WriteFile(script, []byte(`{"hall": [
		{"do": "exception", "code": 4, "addresses": [100, 100]},
		{"do": "corrupt", "addresses": [7, 7]},
		{"do": "silent", "addresses": [9, 9], "times": 1},
		{"do": "split", "bytes": 3, "after": "10ms", "addresses": [4, 4]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	sim, path := startDevices(t, "{ serial: /dev/ttyS7, baud: 9600, parity: even, stop_bits: 1 }", "--faults", script, "--strict-holes")
	sim.reach, sim.last = []string{"-m", "rtu", "-b", "9600", "-P", "even"}, path
	for _, c := range []struct{ options, says string }{
		{"-0 -t 4 -r 100", "Slave device or server failure"},
		{"-0 -t 4 -r 101", "Illegal data address"}, // nothing of the mapping is there
		{"-0 -t 3 -r 7 -o 0.5", "Invalid CRC"},
		{"-0 -t 1 -r 9 -o 0.2", "Connection timed out"},
		{"-0 -t 1 -r 9", ""}, // it was to happen once
		{"-0 -t 0 -r 4", ""},
		{"-0 -t 4 -r 200", ""},
	} {
		got := sim.mbpoll(c.options, "")
		if failed := c.says != ""; failed != (got.code != 0) || !strings.Contains(got.stderr, c.says) || failed == (got.shown() != "") {
			t.Errorf("%s: exit code %d, want %q\n%s%s", c.options, got.code, c.says, got.stdout, got.stderr)
		}
	}
}
