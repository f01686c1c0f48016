package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"iothub-gateway/internal/control"
	"iothub-gateway/internal/testkit"
)

// The mapping of a running process changes twice: at a signal a device is added, by the command one is removed and a
// point of another changes its meaning. In between a mistake is refused.
func TestARunningGatewayTakesOverItsChangedMapping(t *testing.T) {
	hub, plc := startHub(t), startPLC(t)
	devices := plc.devices("50ms")
	const broken = "  broken:\n"
	at := strings.Index(devices, broken)
	plant := newPlant(t, hub, devices[:at], plcIdentities...)
	text, err := os.ReadFile(plant.mapping)
	if err != nil {
		t.Fatal(err)
	}
	head := strings.TrimSuffix(string(text), devices[:at])
	process := plant.start()
	arrived := func(device, name string) func() bool {
		return func() bool {
			for _, m := range hub.Messages(0, 100_000) {
				if _, ok := field[any](t, m.Body, name); m.Device == device && ok {
					return true
				}
			}
			return false
		}
	}
	testkit.Within(t, 30*time.Second, "readings arrive", arrived("press", "cycles"))

	plant.write("mapping.yaml", head+devices)
	if err := process.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, 30*time.Second, "the added device reports", arrived("broken", "_quality"))

	plant.write("mapping.yaml", head+strings.Replace(devices, "type: float32", "type: float33", 1))
	runtime := []string{"--runtime-dir", plant.runtime()}
	out, problems, code := gatewayCommand(t, plant.dir, append([]string{"reload"}, runtime...)...)
	if code != 1 || out != "" || !strings.Contains(problems, "mapping.yaml:") || !strings.Contains(problems, "float33") || !strings.Contains(problems, "nothing has changed") {
		t.Errorf("a mistake: exit %d\n%s%s", code, out, problems)
	}
	if out, _, _ := gatewayCommand(t, plant.dir, append([]string{"status"}, runtime...)...); !strings.Contains(out, "refused") {
		t.Errorf("the status does not tell:\n%s", out)
	}

	plant.write("mapping.yaml", head+strings.Replace(devices[:at], "cycles:   {", "rounds:   {", 1))
	out, problems, code = gatewayCommand(t, plant.dir, append([]string{"reload", "--json"}, runtime...)...)
	var reply control.ReloadReply
	if err := json.Unmarshal([]byte(out), &reply); err != nil || code != 0 || len(reply.Refused) > 0 {
		t.Fatalf("exit %d, %v\n%s%s", code, err, out, problems)
	}
	if c := reply.Changes; strings.Join(c.Identities.Removed, " ") != "broken" || c.Identities.Untouched != 2 || len(c.Points.Added) != 1 || len(c.Links.Changed) != 1 {
		t.Errorf("%+v", c)
	}
	testkit.Within(t, 30*time.Second, "the point has its new name", arrived("press", "rounds"))
	if status, _ := call(t, hub, "press", "setSetpoint", `{"value": 65}`); status != 200 || hub.Connected("broken") {
		t.Errorf("a command: %d; the removed one is connected: %v", status, hub.Connected("broken"))
	}
	process.stop()
	for id, l := range judge(t, hub) {
		if l.repeated > 0 {
			t.Errorf("%s: %d messages came again", id, l.repeated)
		}
	}
	connects := 0
	for _, e := range hub.ConnectionEvents(0) {
		if e.Device == "press" && e.Operation == "deviceConnect" {
			connects++
		}
	}
	if connects != 1 {
		t.Errorf("an identity that stayed was connected %d times", connects)
	}
}
