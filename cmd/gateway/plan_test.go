package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// command runs one command line and returns its exit code and what it wrote.
func command(t *testing.T, args ...string) (code int, out, problems string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = execute(t.Context(), args, streams{out: &stdout, err: &stderr})
	return code, stdout.String(), stderr.String()
}

// mappingFile writes a mapping whose devices are the given lines.
func mappingFile(t *testing.T, lines string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mapping.yaml")
	text := "version: 1\nhub: { host: plant7.azure-devices.net }\n" + lines
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const meterOnALine = `
devices:
  meter:
    local: true
    modbus: { serial: /dev/ttyS3, baud: 9600, parity: none, stop_bits: 1, unit: 1, addressing: zero }
    points:
      a: { at: holding 0, type: uint16, unit: V }
      b: { at: holding 30, type: uint16, unit: V }
      c: { at: holding 40, type: uint16, unit: V, poll: 5m }
`

func TestPlanShowsEachRequestAndTheLoadOfTheLine(t *testing.T) {
	code, out, problems := command(t, "plan", mappingFile(t, meterOnALine))
	if code != exitOK || problems != "" {
		t.Fatalf("exit %d: %s", code, problems)
	}
	want := `registers and bits are numbered as on the wire: the first is 0

link /dev/ttyS3: /dev/ttyS3, RTU at 9600 8N1; load 4.7 % of the line; 2 requests a second

  meter, unit 1, every 1s: 2 requests, 47.29 ms on the line, 4.7 % of the cycle
    REQUEST          POINTS  IN VAIN  MS     WHY NOT JOINED WITH THE ONE ABOVE
    FC 3 holding 0   a             0  23.64
    FC 3 holding 30  b             0  23.64  29 registers between them, the gap is 16

  meter, unit 1, when 1s and 5m meet: 2 requests, 68.12 ms on the line, 6.8 % of the cycle
    REQUEST              POINTS  IN VAIN  MS     WHY NOT JOINED WITH THE ONE ABOVE
    FC 3 holding 0       a             0  23.64
    FC 3 holding 30..40  b c           9  44.48  29 registers between them, the gap is 16

`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestPlanAsJSONHoldsTheSame(t *testing.T) {
	code, out, _ := command(t, "plan", "--json", mappingFile(t, meterOnALine))
	var links []plannedLink
	if err := json.Unmarshal([]byte(out), &links); err != nil || code != exitOK {
		t.Fatalf("exit %d, %v", code, err)
	}
	cycles := links[0].Devices[0].Cycles
	if len(cycles) != 2 || *links[0].Load < 4.7 || *links[0].Load > 4.8 {
		t.Fatalf("%+v", links)
	}
	joined := cycles[1].Requests[1]
	if joined.Function != 3 || joined.First != 30 || joined.Quantity != 11 || joined.InVain != 9 || strings.Join(joined.Points, " ") != "b c" {
		t.Errorf("%+v", joined)
	}
}

func TestPlanOfABadMappingShowsItsMistakes(t *testing.T) {
	code, out, problems := command(t, "plan", mappingFile(t, strings.Replace(meterOnALine, "baud: 9600", "baud: 300", 1)))
	if code != exitFailed || out != "" || !strings.Contains(problems, "E153") {
		t.Errorf("exit %d: %s%s", code, out, problems)
	}
}
