package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/bridge"
	"iothub-gateway/devsim"
	"iothub-gateway/internal/control"
	"iothub-gateway/internal/testkit"
	"iothub-gateway/mapping"
)

const oven = `
devices:
  oven:
    local: true
    modbus: { tcp: ADDRESS, unit: 1, addressing: zero }
    points:
      temp:     { at: input 5, type: int16, scale: 0.1, unit: Cel }
      setpoint: { at: holding 10, type: int16, scale: 0.1, unit: Cel, write: { min: 30, max: 85 } }
      mode:     { at: holding 11, type: uint16, enum: { 0: standby, 1: auto }, write: true }
      lamp:     { at: coil 3, write: { confirm: sent } }
      name:     { at: holding 20, type: string(8), write: true }
`

// simulated starts the oven and returns its mapping with the port that it really has.
func simulated(t *testing.T) (path string, sim *devsim.Sim) {
	t.Helper()
	plant, _, err := mapping.Load(mappingFile(t, strings.Replace(oven, "ADDRESS", "10.7.3.11:502", 1)))
	if err != nil || plant == nil {
		t.Fatal(err)
	}
	sim, err = devsim.New(devsim.Config{Plant: plant, Seed: 1, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Background(t, func(ctx context.Context) error { return sim.Run(ctx) })
	return mappingFile(t, strings.Replace(oven, "ADDRESS", sim.Addr(plant.Links[0].Name), 1)), sim
}

// served runs the oven's adapter as a gateway does and answers for its points on a control socket.
func served(t *testing.T, path string) (runtime string) {
	t.Helper()
	plant, _, err := mapping.Load(path)
	if err != nil || plant == nil {
		t.Fatal(err)
	}
	adapter := modbus.New(plant.Links[0], nil, zerolog.Nop())
	testkit.Background(t, func(ctx context.Context) error {
		return adapter.Run(ctx, func(context.Context, []gateway.Sample) error { return nil })
	})
	runtime = t.TempDir()
	listener, err := control.Listen(filepath.Join(runtime, control.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { control.WriteJSON(w, control.Status{}) })
	servePoints(mux, pointsOf(plant.Points, func(gateway.PointID) bridge.Device { return adapter }))
	testkit.Background(t, func(ctx context.Context) error { return control.Serve(ctx, listener, mux) })
	return runtime
}

func TestAPointIsReadAndWrittenDirectlyAndThroughTheRunningGateway(t *testing.T) {
	path, sim := simulated(t)
	for name, flags := range map[string][]string{
		"directly": {"--mapping", path, "--runtime-dir", t.TempDir()},
		"gateway":  {"--mapping", filepath.Join(t.TempDir(), "absent.yaml"), "--runtime-dir", served(t, path)},
	} {
		do := func(args ...string) (int, string, string) { return command(t, append(args, flags...)...) }
		for _, c := range []struct{ point, value, holds, says string }{
			{"oven/setpoint", "61.5", "61.5", "the device has confirmed it"}, {"oven/mode", "auto", "auto", "the device has confirmed it"},
			{"oven/lamp", "true", "true", "nobody has read it back"}, {"oven/name", "east", "east", "the device has confirmed it"},
		} {
			if code, out, problems := do("write", c.point, c.value, "--yes"); code != exitOK || !strings.Contains(out, c.says) {
				t.Errorf("%s: write %s: exit %d, %s%s", name, c.point, code, out, problems)
			}
			if v, err := sim.Value(gateway.PointID(c.point)); err != nil || v.String() != c.holds {
				t.Errorf("%s: %s holds %v, %v", name, c.point, v, err)
			}
		}
		if code, out, problems := do("write", "oven/setpoint", "-5.5", "--yes"); code != exitFailed || !strings.Contains(out+problems, "-5.5") || !strings.Contains(out+problems, "minimum") {
			t.Errorf("%s: a negative number: exit %d\n%s%s", name, code, out, problems)
		}
		code, out, problems := do("read", "oven/setpoint", "oven/mode", "--json")
		var readings []control.Reading
		if err := json.Unmarshal([]byte(out), &readings); err != nil || code != exitOK {
			t.Fatalf("%s: exit %d, %v: %s%s", name, code, err, out, problems)
		}
		if len(readings) != 2 || string(readings[0].Value) != "61.5" || readings[0].Unit != "Cel" || string(readings[1].Value) != `"auto"` || time.Since(readings[0].Time) > time.Minute {
			t.Errorf("%s: %+v", name, readings)
		}
		if code, out, _ := do("read", "oven/setpoint"); code != exitOK || !strings.Contains(out, "oven/setpoint  61.5   Cel") {
			t.Errorf("%s: exit %d\n%s", name, code, out)
		}
		if _, err := sim.Value("oven/temp"); err != nil {
			t.Error(err)
		}
	}
}

func TestAWriteByHandHasTheLimitsOfTheCloud(t *testing.T) {
	path, sim := simulated(t)
	before, err := sim.Value("oven/setpoint")
	if err != nil {
		t.Fatal(err)
	}
	flags := []string{"--mapping", path, "--runtime-dir", t.TempDir()}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"write", "oven/setpoint", "90", "--yes"}, exitFailed, "above the maximum 85"},
		{[]string{"write", "oven/setpoint", "hot", "--yes"}, exitFailed, "not a number"},
		{[]string{"write", "oven/setpoint", "61.23", "--yes"}, exitFailed, "nearest is 61.2"},
		{[]string{"write", "oven/mode", "1", "--yes"}, exitFailed, `"standby", "auto"`},
		{[]string{"write", "oven/temp", "5", "--yes"}, exitFailed, "cannot be written"},
		{[]string{"write", "oven/none", "5", "--yes"}, exitFailed, "unknown point oven/none"},
		{[]string{"write", "oven/setpoint"}, exitUsage, "usage: gateway write"},
		{[]string{"write", "oven/setpoint", "65"}, exitUsage, "This writes 65 Cel to it.\nadd --yes"},
		{[]string{"write", "oven/setpoint", "65"}, exitUsage, "oven/setpoint (30..85) is "},
		{[]string{"write", "oven/mode", "auto"}, exitUsage, "oven/mode (standby, auto) is "},
		{[]string{"write", "oven/lamp", "true"}, exitUsage, "oven/lamp (any value) is "},
		{[]string{"write", "oven/temp", "5"}, exitFailed, "oven/temp cannot be written: it has no write in the mapping"},
		{[]string{"read"}, exitUsage, "usage: gateway read"},
		{[]string{"read", "oven/none"}, exitFailed, "unknown point oven/none; oven has temp, "},
		{[]string{"read", "none/temp"}, exitFailed, "points are named DEVICE/POINT"},
		{[]string{"write", "oven/setpoint", "65"}, exitUsage, "no gateway runs in "},
	} {
		if code, out, problems := command(t, append(c.args, flags...)...); code != c.code || !strings.Contains(problems, c.says) || out != "" {
			t.Errorf("%v: exit %d, %s%s", c.args, code, out, problems)
		}
	}
	if after, err := sim.Value("oven/setpoint"); err != nil || after != before {
		t.Errorf("the set-point is %v, it was %v", after, before)
	}
	code, out, _ := command(t, append([]string{"write", "oven/setpoint", "90", "--yes", "--json"}, flags...)...)
	if code != exitFailed || !strings.Contains(out, `"code":"bad-argument"`) {
		t.Errorf("exit %d, %s", code, out)
	}
}

func TestAPointThatCannotBeReadIsAFailure(t *testing.T) {
	path := mappingFile(t, strings.Replace(oven, "ADDRESS", "127.0.0.1:1", 1))
	flags := []string{"--mapping", path, "--runtime-dir", t.TempDir()}
	code, out, _ := command(t, append([]string{"read", "oven/temp"}, flags...)...)
	if code != exitFailed || !strings.Contains(out, "no answer") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if code, _, problems := command(t, append([]string{"write", "oven/lamp", "true", "--yes"}, flags...)...); code != exitFailed || !strings.Contains(problems, "nothing was sent") {
		t.Errorf("exit %d, %s", code, problems)
	}
}

func TestAPointOfASensorCannotBeAskedForDirectly(t *testing.T) {
	path := mappingFile(t, `
listeners: { l: { coap: 127.0.0.1:5683, allow: [127.0.0.1] } }
devices:
  env: { local: true, coap: { listener: l, from: 127.0.0.1, path: /t }, points: { temp: { senml: temp } } }
`)
	code, _, problems := command(t, "read", "env/temp", "--mapping", path, "--runtime-dir", t.TempDir())
	if code != exitFailed || !strings.Contains(problems, "reports by itself") {
		t.Errorf("exit %d, %s", code, problems)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestAWriteThatIsNotConfirmedHasAnExitCodeOfItsOwn(t *testing.T) {
	for code, reply := range map[int]control.WriteReply{
		exitOK:        {Status: 200, Body: json.RawMessage(`{"point":"d/p","written":1}`)},
		exitUncertain: {Status: 504, Body: json.RawMessage(`{"error":"sent, but not confirmed","code":"uncertain"}`)},
		exitFailed:    {Status: 504, Body: json.RawMessage(`{"error":"no answer","code":"no-answer"}`)},
	} {
		for _, asJSON := range []bool{false, true} {
			var out strings.Builder
			err := showWritten(streams{out: &out}, []string{"d/p", "1"}, reply, asJSON)
			got := exitOK
			if f, ok := err.(*failure); ok {
				got = f.code
			}
			if got != code || asJSON && strings.TrimSpace(out.String()) != string(reply.Body) {
				t.Errorf("%+v: exit %d, %s", reply, got, out.String())
			}
		}
	}
}
