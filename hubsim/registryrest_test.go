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

const apiVersion = "?api-version=2021-04-12"

// entry is a device or module as the registry shows it.
type entry struct {
	DeviceID, ModuleID, ManagedBy, GenerationID, ETag string
	Status, StatusReason, ConnectionState             string
	StatusUpdatedTime, ConnectionStateUpdatedTime     time.Time
	LastActivityTime                                  time.Time
	CloudToDeviceMessageCount                         int
	DeviceScope                                       string
	ParentScopes                                      []string
	Capabilities                                      struct{ IoTEdge bool }
	Authentication                                    struct {
		Type           string
		SymmetricKey   struct{ PrimaryKey, SecondaryKey string }
		X509Thumbprint struct{ PrimaryThumbprint, SecondaryThumbprint string }
	}
}

// entry reads, or with PUT writes, an entry; match is If-Match.
func (r *rest) entry(method, path, body, match string) (e entry) {
	r.t.Helper()
	r.match = match
	defer func() { r.match = "" }()
	status, code, answer := r.do(method, path+apiVersion, body)
	if status != 200 {
		r.t.Fatalf("%s %s %s: %d %s %s", method, path, body, status, code, answer)
	}
	if err := json.Unmarshal([]byte(answer), &e); err != nil {
		r.t.Fatal(err)
	}
	return e
}

// refused wants a request to fail with a status, an error code and a text in the form of SVC-5.
func (r *rest) refused(method, path, body string, status int, code, text string) {
	r.t.Helper()
	got, name, answer := r.do(method, path, body)
	if got != status || name != code || !strings.Contains(answer, text) || !strings.Contains(answer, "ErrorCode:"+code+";") {
		r.t.Errorf("%s %s %.80s: %d %s %s, want %d %s with %q", method, path, body, got, name, answer, status, code, text)
	}
}

func TestAnEntryIsMadeOnceAndChangedWithItsETag(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	for _, path := range []string{"/devices/d1", "/devices/d1/modules/m1"} {
		made := service.entry("PUT", path, `{}`, "")
		keys := made.Authentication.SymmetricKey
		if made.Authentication.Type != "sas" || len(keys.PrimaryKey) != 44 || keys.PrimaryKey == keys.SecondaryKey || made.ETag == "" || made.GenerationID == "" {
			t.Errorf("%s: made %+v", path, made)
		}
		exists := "DeviceAlreadyExists"
		if strings.Contains(path, "/modules/") {
			exists = "ModuleAlreadyExistsOnDevice"
		}
		service.refused("PUT", path+apiVersion, `{}`, 409, exists, "already")
		service.match = `"bm9uZQ=="`
		service.refused("PUT", path+apiVersion, `{}`, 412, "PreconditionFailed", made.ETag)
		service.refused("DELETE", path+apiVersion, ``, 412, "PreconditionFailed", made.ETag)
		same := service.entry("PUT", path, `{}`, `"`+made.ETag+`"`)
		if diff := cmp.Diff(made, same); diff != "" {
			t.Errorf("%s: an update that says nothing changes (-was +is):\n%s", path, diff)
		}
		changed := service.entry("PUT", path, `{"authentication":{"symmetricKey":{"primaryKey":"`+knownKey+`"}}}`, made.ETag)
		if changed.ETag == made.ETag || changed.Authentication.SymmetricKey.PrimaryKey != knownKey || changed.Authentication.SymmetricKey.SecondaryKey != keys.SecondaryKey {
			t.Errorf("%s: changed %+v, was %+v", path, changed, made)
		}
		if got := service.entry("GET", path, "", ""); !cmp.Equal(got, changed) {
			t.Errorf("%s: reads %+v, want %+v", path, got, changed)
		}
	}
	service.match = "*"
	service.refused("PUT", "/devices/d2"+apiVersion, `{}`, 404, "DeviceNotFound", "no device d2")
	service.refused("PUT", "/devices/d1/modules/m2"+apiVersion, `{}`, 404, "ModuleNotFound", "no module m2 of device d1")
	service.refused("DELETE", "/devices/d2"+apiVersion, ``, 404, "DeviceNotFound", "no device d2")
	service.match = ""
	service.refused("PUT", "/devices/d2/modules/m1"+apiVersion, `{}`, 404, "DeviceNotFound", "no device d2")
	for _, c := range []struct{ path, gone string }{{"/devices/d1/modules/m1", "ModuleNotFound"}, {"/devices/d1", "DeviceNotFound"}} {
		service.match = `"*"`
		if status, _, answer := service.do("DELETE", c.path+apiVersion, ""); status != 204 || answer != "" {
			t.Errorf("DELETE %s: %d %s", c.path, status, answer)
		}
		service.match = ""
		service.refused("GET", c.path+apiVersion, "", 404, c.gone, "")
	}
}

func TestAnEntryThatMakesNoSenseIsRefused(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	for body, text := range map[string]string{
		`{"deviceId":"d2"}`:                                                "the body is about d2, the path about d1",
		`{"moduleId":"m1"}`:                                                "the path about d1",
		`{"status":"on"}`:                                                  `status is \"on\"`,
		`{"authentication":{"type":"password"}}`:                           `type \"password\"`,
		`{"authentication":{"type":"selfSigned"}}`:                         "has no thumbprint",
		`{"authentication":{"symmetricKey":{"primaryKey":"x"}}}`:           "a key is base64 of 16 to 64 bytes",
		`{"authentication":{"x509Thumbprint":{"primaryThumbprint":"12"}}}`: "no thumbprint: 40 or 64 hex digits",
		`{"parentScopes":["a","b"]}`:                                       "at most 1",
		`{"status":7}`:                                                     "status cannot be a number",
		`[]`:                                                               "the body is not",
		`{`:                                                                "the body is not",
	} {
		service.refused("PUT", "/devices/d1"+apiVersion, body, 400, "ArgumentInvalid", text)
	}
	service.refused("PUT", "/devices/a%20b"+apiVersion, `{}`, 400, "ArgumentInvalid", "is not allowed")
	service.refused("PUT", "/devices/"+strings.Repeat("x", 129)+apiVersion, `{}`, 400, "ArgumentInvalid", "1 to 128 characters")
	service.refused("PUT", "/devices/d1", `{}`, 400, "InvalidProtocolVersion", "")
	service.refused("GET", "/devices/d1"+apiVersion, "", 404, "DeviceNotFound", "no device d1")
	if _, _, answer := service.do("GET", "/devices"+apiVersion, ""); answer != "[]" {
		t.Errorf("something was made: %s", answer)
	}
}

func TestAnEntryHasEveryKindOfAuthentication(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	thumb := strings.Repeat("ab", 20)
	for body, want := range map[string]string{
		`{"authentication":{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}}`:              "sas",
		`{"authentication":{"x509Thumbprint":{"primaryThumbprint":"` + thumb + `"}}}`:                       "selfSigned",
		`{"authentication":{"type":"selfSigned","x509Thumbprint":{"secondaryThumbprint":"` + thumb + `"}}}`: "selfSigned",
		`{"authentication":{"type":"certificateAuthority","symmetricKey":{"primaryKey":null}}}`:             "certificateAuthority",
		`{"authentication":{"type":"none"}}`:                                                                "none",
		`{"authentication":{"type":"sas","x509Thumbprint":{"primaryThumbprint":null}}}`:                     "sas",
	} {
		service.do("DELETE", "/devices/d1"+apiVersion, "")
		got := service.entry("PUT", "/devices/d1", body, "")
		hasKey := got.Authentication.SymmetricKey.PrimaryKey != ""
		hasThumb := strings.ToUpper(thumb) == got.Authentication.X509Thumbprint.PrimaryThumbprint+got.Authentication.X509Thumbprint.SecondaryThumbprint
		if got.Authentication.Type != want || hasKey != (want == "sas") || hasThumb != (want == "selfSigned") {
			t.Errorf("%s: %+v", body, got.Authentication)
		}
	}
	// From a certificate back to keys: they are fresh.
	service.entry("PUT", "/devices/d1", `{"authentication":{"type":"none"}}`, "*")
	options := hub.pahoOptions(t, "d2")
	options.SetClientID("d1").SetUsername(hub.user("d1")).SetPassword(sign(hub.name+"/devices/d1", knownKey, time.Now().Add(time.Hour), ""))
	if err := mqttConnect(options); err == nil {
		t.Error("a device without any authentication connects")
	}
	back := service.entry("PUT", "/devices/d1", `{"authentication":{"type":"sas"}}`, "*")
	if len(back.Authentication.SymmetricKey.PrimaryKey) != 44 {
		t.Errorf("back to keys: %+v", back)
	}
	hub.paho(t, "d1")
}

func TestDisablingADeviceCutsItAndItsModules(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	device, module, other := hub.rawConnected(t, "d1", true), hub.rawConnected(t, "d1/m1", true), hub.rawConnected(t, "d2", true)
	before := service.entry("GET", "/devices/d1", "", "")
	if before.ConnectionState != "Connected" || time.Since(before.ConnectionStateUpdatedTime) > time.Minute || time.Since(before.LastActivityTime) > time.Minute || !before.StatusUpdatedTime.IsZero() {
		t.Errorf("connected: %+v", before)
	}
	service.entry("PUT", "/devices/d1", `{"status":"disabled","statusReason":"stolen"}`, "*")
	device.expectClosed()
	module.expectClosed()
	other.alive()
	got := service.entry("GET", "/devices/d1", "", "")
	if got.Status != "disabled" || got.StatusReason != "stolen" || got.ConnectionState != "Disconnected" || time.Since(got.StatusUpdatedTime) > time.Minute {
		t.Errorf("disabled: %+v", got)
	}
	if err := mqttConnect(hub.pahoOptions(t, "d1")); err == nil {
		t.Error("a disabled device connects")
	}
	// A bulk request does the same, and bulk or not, what stays disabled stays out.
	if status, _, answer := service.do("POST", "/devices"+apiVersion, `[{"id":"d2","importMode":"update","status":"disabled"},{"id":"d1","importMode":"update","status":"enabled"}]`); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	other.expectClosed()
	hub.paho(t, "d1")
}

func TestDevicesAndModulesAreListedAndCounted(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	for i := range 1005 {
		if _, err := hub.Register(fmt.Sprintf("d%04d", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []string{"m2", "m1"} {
		if _, err := hub.Register("d0003", m); err != nil {
			t.Fatal(err)
		}
	}
	if err := hub.SetEnabled("d0007", "", false); err != nil {
		t.Fatal(err)
	}
	hub.rawConnected(t, "d0001", true)
	hub.rawConnected(t, "d0003/m1", true)
	for query, want := range map[string]int{"": 1000, "&top=7": 7, "&top=0": 1000, "&top=5000": 1000, "&top=1000": 1000} {
		for _, path := range []string{"/devices", "/devices/"} {
			var list []entry
			_, _, answer := service.do("GET", path+apiVersion+query, "")
			if err := json.Unmarshal([]byte(answer), &list); err != nil || len(list) != want || list[want-1].DeviceID != fmt.Sprintf("d%04d", want-1) || list[3].ModuleID != "" {
				t.Errorf("%s%s: %d devices, want %d (%v)", path, query, len(list), want, err)
			}
		}
	}
	service.refused("GET", "/devices"+apiVersion+"&top=many", "", 400, "ArgumentInvalid", "top is not a number")
	var modules []entry
	_, _, answer := service.do("GET", "/devices/d0003/modules"+apiVersion, "")
	if err := json.Unmarshal([]byte(answer), &modules); err != nil || len(modules) != 2 || modules[0].ModuleID != "m1" || modules[1].ModuleID != "m2" || modules[0].ConnectionState != "Connected" {
		t.Errorf("modules: %s", answer)
	}
	service.refused("GET", "/devices/nobody/modules"+apiVersion, "", 404, "DeviceNotFound", "")
	for path, want := range map[string]string{
		"/statistics/devices": `{"totalDeviceCount":1005,"enabledDeviceCount":1004,"disabledDeviceCount":1}`,
		"/statistics/service": `{"connectedDeviceCount":1}`,
	} {
		if _, _, answer := service.do("GET", path+apiVersion, ""); answer != want {
			t.Errorf("%s: %s, want %s", path, answer, want)
		}
	}
}

func TestABulkRequestGrantsEachEntryByItself(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	bulk := func(status int, body, want string) {
		t.Helper()
		got, _, answer := service.do("POST", "/devices"+apiVersion, body)
		if got != status || answer != want {
			t.Errorf("%s: %d %s, want %d %s", body, got, answer, status, want)
		}
	}
	good := `{"isSuccessful":true,"errors":[],"warnings":[]}`
	bad := func(errors string) string { return `{"isSuccessful":false,"errors":[` + errors + `],"warnings":[]}` }
	bulk(200, `[{"id":"d1","importMode":"create","tags":{"a":1},"properties":{"desired":{"b":2}}},{"id":"d1","moduleId":"m1","importMode":"Create"},{"id":"d2","importMode":"create","status":"disabled"}]`, good)
	twin := service.change("GET", "/twins/d1"+apiVersion, "")
	if !cmp.Equal(twin["tags"], map[string]any{"a": 1.0}) || twin["properties"].(map[string]any)["desired"].(map[string]any)["b"] != 2.0 {
		t.Errorf("the twin of a bulk creation: %v", twin)
	}
	bulk(400, `[{"id":"d3","importMode":"create"},{"id":"d1","importMode":"create"},{"id":"d1","moduleId":"m1","importMode":"create"},{"id":"d9","importMode":"update"},{"id":"d9","importMode":"delete"},
		{"id":"d1","importMode":"destroy"},{"id":"a b","importMode":"create"},{"id":"d1","deviceId":"d2","importMode":"update"},{"id":"d1","importMode":"updateTwin","tags":7},{"id":"d1","importMode":"deleteIfMatchETag"}]`,
		bad(`{"deviceId":"d1","errorCode":"DeviceAlreadyExists","errorStatus":"a device d1 exists already"},`+
			`{"deviceId":"d1","moduleId":"m1","errorCode":"ModuleAlreadyExistsOnDevice","errorStatus":"device d1 has a module m1 already"},`+
			`{"deviceId":"d9","errorCode":"DeviceNotFound","errorStatus":"no device d9"},{"deviceId":"d9","errorCode":"DeviceNotFound","errorStatus":"no device d9"},`+
			`{"deviceId":"d1","errorCode":"ArgumentInvalid","errorStatus":"importMode \"destroy\" is not known"},`+
			`{"deviceId":"a b","errorCode":"ArgumentInvalid","errorStatus":"hubsim: id \"a b\": ' ' is not allowed"},`+
			`{"deviceId":"d1","errorCode":"ArgumentInvalid","errorStatus":"id is \"d1\" and deviceId \"d2\""},`+
			`{"deviceId":"d1","errorCode":"ArgumentInvalid","errorStatus":"tags is not a JSON object"},`+
			`{"deviceId":"d1","errorCode":"PreconditionFailed","errorStatus":"there is no etag to match"}`))
	d3 := service.entry("GET", "/devices/d3", "", "") // what could be granted was
	bulk(400, `[{"id":"d3","importMode":"updateIfMatchETag","eTag":"eA==","status":"disabled"}]`, bad(`{"deviceId":"d3","errorCode":"PreconditionFailed","errorStatus":"the etag is `+d3.ETag+`"}`))
	bulk(200, `[{"id":"d3","importMode":"updateIfMatchETag","etag":"`+d3.ETag+`","status":"disabled"}]`, good)
	bulk(400, `[{"id":"d1","importMode":"updateTwinIfMatchETag","twinETag":"eA==","tags":{"a":2}}]`, bad(`{"deviceId":"d1","errorCode":"PreconditionFailed","errorStatus":"the twin's etag is `+fmt.Sprint(twin["etag"])+`"}`))
	bulk(200, `[{"id":"d1","importMode":"updateTwinIfMatchETag","twinETag":"`+fmt.Sprint(twin["etag"])+`","tags":{"a":2}},{"id":"d1","moduleId":"m1","importMode":"updateTwin","tags":{"m":1}}]`, good)
	if got := service.change("GET", "/twins/d1"+apiVersion, "")["tags"]; !cmp.Equal(got, map[string]any{"a": 2.0}) {
		t.Errorf("tags: %v", got)
	}
	bulk(200, `[{"id":"d1","moduleId":"m1","importMode":"delete"},{"id":"d2","importMode":"delete"},{"id":"d3","importMode":"delete"}]`, good)
	if _, _, answer := service.do("GET", "/statistics/devices"+apiVersion, ""); answer != `{"totalDeviceCount":1,"enabledDeviceCount":1,"disabledDeviceCount":0}` {
		t.Errorf("what is left: %s", answer)
	}
	many := strings.Repeat(`{"id":"x","importMode":"create"},`, 100)
	service.refused("POST", "/devices"+apiVersion, "["+many+`{"id":"y","importMode":"create"}]`, 400, "ArgumentInvalid", "101 devices in one request")
	service.refused("POST", "/devices"+apiVersion, "[]", 400, "ArgumentInvalid", "0 devices in one request")
	service.refused("POST", "/devices"+apiVersion, "{}", 400, "ArgumentInvalid", "the body is not")
}

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
