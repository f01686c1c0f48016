package e2e

import (
	"strings"
	"testing"
	"time"

	"iothub-gateway/internal/testkit"
)

// The same point is read and written while the gateway runs, through it, and after it was stopped, directly.
func TestAPointIsReadAndWrittenByHandWithAndWithoutAGateway(t *testing.T) {
	hub, plc := startHub(t), startPLC(t)
	plant := newPlant(t, hub, plc.devices("100ms"), plcIdentities...)
	gateway := plant.start()
	testkit.Within(t, 20*time.Second, "the gateway answers on its socket", func() bool {
		_, err := plant.status()
		return err == nil
	})
	try := func(code int, says string, args ...string) {
		t.Helper()
		args = append(args, "--runtime-dir", plant.runtime(), "--mapping", plant.mapping)
		if out, problems, got := gatewayCommand(t, plant.dir, args...); got != code || !strings.Contains(out+problems, says) {
			t.Errorf("%v: exit %d, want %d and %q\n%s%s", args, got, code, says, out, problems)
		}
	}
	for i, value := range []string{"65", "61.5"} {
		if i == 1 {
			gateway.stop()
		}
		try(0, "the device has confirmed it", "write", "press/setpoint", value, "--yes")
		try(0, value, "read", "press/setpoint")
		try(1, "above the maximum", "write", "press/setpoint", "90", "--yes")
		try(2, "add --yes", "write", "press/setpoint", "50")
		try(1, "failure", "write", "broken/level", "3", "--yes")
	}
	if got := plc.register(10); got != 615 {
		t.Errorf("holding 10 is %d", got)
	}
}
