package hubsim_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/hubsim"
)

func TestAnEdgeDeviceHasAScopeThatItsChildrenShare(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	edge := service.entry("PUT", "/devices/edge", `{"capabilities":{"iotEdge":true}}`, "")
	if !strings.HasPrefix(edge.DeviceScope, "ms-azure-iot-edge://edge-") || !edge.Capabilities.IoTEdge || edge.ParentScopes != nil {
		t.Errorf("an Edge device: %+v", edge)
	}
	leaf := service.entry("PUT", "/devices/leaf", `{"deviceScope":"`+edge.DeviceScope+`"}`, "")
	if leaf.DeviceScope != edge.DeviceScope || !cmp.Equal(leaf.ParentScopes, []string{edge.DeviceScope}) {
		t.Errorf("a leaf: %+v", leaf)
	}
	below := service.entry("PUT", "/devices/below", `{"capabilities":{"iotEdge":true},"parentScopes":["`+edge.DeviceScope+`"]}`, "")
	if below.DeviceScope == edge.DeviceScope || !cmp.Equal(below.ParentScopes, []string{edge.DeviceScope}) {
		t.Errorf("an Edge device below another: %+v", below)
	}
	other := service.entry("PUT", "/devices/other", `{"parentScopes":["`+below.DeviceScope+`"]}`, "")
	if other.DeviceScope != below.DeviceScope {
		t.Errorf("a leaf by parentScopes: %+v", other)
	}
	service.match = "*"
	service.refused("PUT", "/devices/leaf"+apiVersion, `{"deviceScope":"`+below.DeviceScope+`"}`, 400, "InvalidDeviceScope", "belongs to another scope")
	service.refused("PUT", "/devices/edge"+apiVersion, `{"deviceScope":"ms-azure-iot-edge://edge-1"}`, 400, "InvalidDeviceScope", "cannot be changed")
	service.match = ""
	service.refused("PUT", "/devices/lost"+apiVersion, `{"deviceScope":"ms-azure-iot-edge://gone-1"}`, 400, "InvalidDeviceScope", "there is no IoT Edge device with the scope")
	if kept := service.entry("PUT", "/devices/leaf", `{"status":"disabled","deviceScope":"`+edge.DeviceScope+`"}`, "*"); kept.DeviceScope != edge.DeviceScope || kept.Status != "disabled" {
		t.Errorf("a leaf that keeps its scope: %+v", kept)
	}
	plain := service.entry("PUT", "/devices/below", `{"capabilities":{"iotEdge":false}}`, "*")
	if plain.Capabilities.IoTEdge || plain.DeviceScope != "" {
		t.Errorf("no longer an Edge device: %+v", plain)
	}
	twin := service.change("GET", "/twins/leaf"+apiVersion, "")
	if twin["deviceScope"] != edge.DeviceScope {
		t.Errorf("the twin: %v", twin)
	}
}

func TestTheRegistryIsTheSameAfterARestart(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	service := hub.rest(t)
	edge := service.entry("PUT", "/devices/edge", `{"capabilities":{"iotEdge":true}}`, "")
	service.entry("PUT", "/devices/d1", `{"status":"disabled","statusReason":"why","deviceScope":"`+edge.DeviceScope+`"}`, "")
	service.entry("PUT", "/devices/d1", `{"authentication":{"type":"certificateAuthority"}}`, "*")
	service.entry("PUT", "/devices/d1/modules/m1", `{"managedBy":"IotEdge","authentication":{"type":"none"}}`, "")
	service.do("POST", "/devices"+apiVersion, `[{"id":"bulk","importMode":"create","tags":{"a":1}}]`)
	paths := []string{"/devices/edge", "/devices/d1", "/devices/d1/modules/m1", "/devices/bulk"}
	var before, after []entry
	for _, path := range paths {
		before = append(before, service.entry("GET", path, "", ""))
	}
	hub.stop()
	hub = startHub(t, cfg)
	service = hub.rest(t)
	for _, path := range paths {
		after = append(after, service.entry("GET", path, "", ""))
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after the restart (-before +after):\n%s", diff)
	}
	if before[2].ManagedBy != "IotEdge" || before[2].Authentication.Type != "none" {
		t.Errorf("the module: %+v", before[2])
	}
	service.match = `"` + before[1].ETag + `"`
	if status, code, _ := service.do("PUT", "/devices/d1"+apiVersion, `{"status":"enabled"}`); status != 200 {
		t.Errorf("the etag of before: %d %s", status, code)
	}
}

func TestWhatIsNotSimulatedSaysSo(t *testing.T) {
	service := startHub(t, hubConfig()).rest(t)
	for _, request := range []string{
		"GET /jobs", "POST /jobs/create", "DELETE /jobs/7", "PUT /jobs/v2/j1", "GET /jobs/v2/query", "GET /configurations", "PUT /configurations/c",
		"POST /configurations/testQueries", "POST /devices/d1/applyConfigurationContent", "GET /digitaltwins/d1", "GET /messages/serviceBound/feedback",
	} {
		method, path, _ := strings.Cut(request, " ")
		service.refused(method, path+apiVersion, "", 501, "NotImplemented", "not simulated")
	}
}

func TestEachPolicyMayDoWhatItGrants(t *testing.T) {
	hub := startHub(t, hubConfig())
	if _, err := hub.Register("dev1", ""); err != nil {
		t.Fatal(err)
	}
	service := hub.rest(t)
	_, _, answer := service.do("GET", "/hubsim/policies", "")
	var policies []struct {
		KeyName, PrimaryKey, SecondaryKey string
		Rights                            []string
	}
	if err := json.Unmarshal([]byte(answer), &policies); err != nil || len(policies) != 5 {
		t.Fatalf("%s (%v)", answer, err)
	}
	for _, p := range policies {
		for i, key := range []string{p.PrimaryKey, p.SecondaryKey} {
			service.token = sign(hub.name, key, time.Now().Add(time.Hour), p.KeyName)
			for request, right := range map[string]string{
				"GET /devices/dev1" + apiVersion: "RegistryRead", "GET /devices" + apiVersion: "RegistryRead", "GET /statistics/devices" + apiVersion: "RegistryRead",
				fmt.Sprintf("PUT /devices/%s%d%s", p.KeyName, i, apiVersion): "RegistryWrite", "POST /devices" + apiVersion: "RegistryWrite",
				"GET " + twinPath: "ServiceConnect", "POST /devices/query" + apiVersion: "ServiceConnect", "GET /hubsim/messages": "ServiceConnect", "GET /hubsim/policies": "RegistryWrite",
			} {
				method, path, _ := strings.Cut(request, " ")
				status, code, _ := service.do(method, path, "")
				if granted := strings.Contains(strings.Join(p.Rights, " "), right); granted == (status == 401) || !granted && code != "IotHubUnauthorizedAccess" {
					t.Errorf("%s with %v: %s is %d %s", p.KeyName, p.Rights, request, status, code)
				}
			}
		}
		if cs := hub.PolicyConnectionString(p.KeyName); !strings.HasSuffix(cs, ";SharedAccessKeyName="+p.KeyName+";SharedAccessKey="+p.PrimaryKey) {
			t.Errorf("connection string of %s", p.KeyName)
		}
	}
	if cs := hub.PolicyConnectionString("nobody"); cs != "" {
		t.Error("there is a connection string of no policy")
	}
}

func TestATwinNamesTheModelThatItsDeviceAnnounced(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	options := hub.pahoOptions(t, "dev1")
	options.SetUsername(options.Username + "&model-id=dtmi:com:example:gw;1&DeviceClientType=x")
	connectPaho(t, options)
	if twin := hub.rest(t).change("GET", twinPath, ""); twin["modelId"] != "dtmi:com:example:gw;1" || twin["version"] != 2.0 {
		t.Errorf("the twin: %v", twin)
	}
	hub.stop()
	hub = startHub(t, cfg)
	if twin := hub.rest(t).change("GET", twinPath, ""); twin["modelId"] != "dtmi:com:example:gw;1" {
		t.Errorf("the twin after a restart: %v", twin)
	}
}

// The limits of registry operations hold for all of them (THR-1), queries have their own (THR-9).
func TestRegistryOperationsAndQueriesHaveTheirLimits(t *testing.T) {
	cfg := hubConfig()
	cfg.Limits = hubsim.Limits{Registry: 0.001, Queries: 0.001}
	hub := startHub(t, cfg)
	service := hub.rest(t)
	service.entry("PUT", "/devices/d1", "{}", "")
	service.refused("GET", "/devices"+apiVersion, "", 429, "ThrottlingException", "")
	service.refused("POST", "/devices"+apiVersion, "[]", 429, "ThrottlingException", "")
	for i, status := range []int{200, 429} {
		if got, _, answer := service.do("POST", "/devices/query"+apiVersion, `{"query":"SELECT * FROM devices"}`); got != status {
			t.Errorf("query %d: %d %s", i, got, answer)
		}
	}
}

// What is registered of a device may change at any moment, also while it sends.
func TestAnEntryChangesWhileItsDeviceSends(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	client := hub.paho(t, "dev1")
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 50 {
			client.Publish(dev1Events, 1, false, "{}").Wait()
		}
	}()
	last := ""
	for i := range 20 {
		e := service.entry("PUT", "/devices/dev1", fmt.Sprintf(`{"statusReason":"%d"}`, i), "*")
		if e.ETag == last {
			t.Errorf("the etag is %s again", last)
		}
		last = e.ETag
	}
	<-sent
	if got := hub.Received(); got != 50 {
		t.Errorf("%d messages arrived", got)
	}
}
