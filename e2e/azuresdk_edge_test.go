package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"iothub-gateway/internal/testkit"
)

var printedEnvironment = regexp.MustCompile(`(?m)^IOTEDGE_[A-Z]+=.*$`)

// What the simulator prints is all that Microsoft's SDK needs to be a module, by the workload API and by the
// connection string that development tools set instead (EDGE-2).
func TestMicrosoftsSDKIsAModuleWithNothingButItsEnvironment(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
	socket := filepath.Join(home, "workload.sock")
	hub := launch(t, "hubsim", "--in-memory", "--host", "plant7.azure-devices.net", "--mqtt", "127.0.0.1:0", "--https", "127.0.0.1:0",
		"--device", "edge1/gateway", "--workload-socket", socket)
	var environment []string
	testkit.Within(t, 20*time.Second, "it prints the environment of the module", func() bool {
		environment = printedEnvironment.FindAllString(hub.String(), -1)
		return len(environment) == 8
	})
	service := noteOf(t, home)
	service.service().do("PATCH", "/twins/edge1/modules/gateway?api-version=2021-04-12", `{"properties":{"desired":{"interval":10}}}`, nil)
	trust := filepath.Join(home, "ca.pem")
	if err := os.WriteFile(trust, []byte(service.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, env := range [][]string{
		environment,
		{"EdgeHubConnectionString=" + printedString.FindString(hub.String()), "EdgeModuleCACertificateFile=" + trust},
	} {
		var got struct {
			Error   string          `json:"error"`
			Desired json.RawMessage `json:"desired"`
		}
		runNode(t, &got, env, "edge.js", "too hot")
		if got.Error != "" || !strings.Contains(string(got.Desired), `"interval":10`) {
			t.Fatalf("%s: %+v", env, got)
		}
		all := service.messages()
		if len(all) != i+1 || all[i].Device != "edge1" || all[i].Module != "gateway" || string(all[i].Body) != "too hot" || all[i].System["outputName"] != "alert" {
			t.Errorf("%s: the hub has %+v", env, all)
		}
	}
}
