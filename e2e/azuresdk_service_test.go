package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/hubsim"
)

// application is a program on Microsoft's service SDK, and the hub that it works with.
type application struct {
	*sdkDevice
	hub *hubsim.Hub
}

// startApplication runs an application that may do everything.
func startApplication(t *testing.T, hub *hubsim.Hub) application {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, hub.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	environment := append(usualPorts(hub), "NODE_EXTRA_CA_CERTS="+ca)
	a := application{startNode(t, environment, "service.js"), hub}
	a.do("become", fields{"connectionString": hub.ServiceConnectionString()})
	return a
}

// registry makes a call of the SDK's Registry that succeeds; the result goes to result, unless it is nil.
func (a application) registry(result any, call string, args ...any) {
	a.t.Helper()
	text := a.do("registry", fields{"call": call, "args": append([]any{}, args...)})
	if result != nil {
		if err := json.Unmarshal(text, result); err != nil {
			a.t.Fatalf("%s: %s: %v", call, text, err)
		}
	}
}

// fails makes a call that must fail with a class of the SDK, a status and a body that has some text.
func (a application) fails(class string, status int, has, op string, arguments fields) {
	a.t.Helper()
	got := a.answer(a.ask(op, arguments))
	want := fmt.Sprintf("%s %d ", class, status)
	var body string
	_ = json.Unmarshal(got.Result, &body)
	if !strings.HasPrefix(got.Error, want) || !strings.Contains(body, has) {
		a.t.Errorf("%s %v: %q with %s, want %q with %q", op, arguments, got.Error, body, want, has)
	}
}

func invoking(name string, args ...any) fields {
	return fields{"call": name, "args": append([]any{}, args...)}
}

// sdkEntry is a device or module as the SDK has it.
type sdkEntry struct {
	DeviceID, ModuleID, ETag, Status, ConnectionState string
	Authentication                                    struct {
		Type           string
		SymmetricKey   struct{ PrimaryKey, SecondaryKey string }
		X509Thumbprint struct{ PrimaryThumbprint string }
	}
}

// serviceHub is a hub whose name is that of a real one, so that the SDK asks its usual port.
func serviceHub(t *testing.T) *hubsim.Hub {
	t.Helper()
	return startHubAs(t, hubsim.Config{HostName: sdkName})
}

func TestMicrosoftsServiceSDKKeepsARegistry(t *testing.T) {
	t.Parallel()
	hub := serviceHub(t)
	a := startApplication(t, hub)
	var made, again, updated sdkEntry
	a.registry(&made, "create", fields{"deviceId": "d1"})
	if keys := made.Authentication.SymmetricKey; made.Authentication.Type != "sas" || len(keys.PrimaryKey) != 44 || keys.SecondaryKey == keys.PrimaryKey || made.Status != "enabled" || made.ETag == "" {
		t.Errorf("created with empty keys: %+v", made)
	}
	thumb := strings.Repeat("AB", 20)
	a.registry(&again, "create", fields{"deviceId": "x509", "authentication": fields{"x509Thumbprint": fields{"primaryThumbprint": thumb, "secondaryThumbprint": thumb}}})
	if again.Authentication.Type != "selfSigned" || again.Authentication.X509Thumbprint.PrimaryThumbprint != thumb {
		t.Errorf("created with thumbprints: %+v", again)
	}
	a.registry(&again, "create", fields{"deviceId": "ca", "authentication": fields{"type": "certificateAuthority"}})
	if again.Authentication.Type != "certificateAuthority" {
		t.Errorf("created with an authority: %+v", again)
	}
	a.fails("DeviceAlreadyExistsError", 409, "ErrorCode:DeviceAlreadyExists;", "registry", invoking("create", fields{"deviceId": "d1"}))
	a.fails("DeviceNotFoundError", 404, "ErrorCode:DeviceNotFound;", "registry", invoking("get", "nobody"))
	a.fails("DeviceNotFoundError", 404, "ErrorCode:DeviceNotFound;", "registry", invoking("delete", "nobody"))
	a.fails("DeviceNotFoundError", 404, "ErrorCode:DeviceNotFound;", "registry", invoking("update", fields{"deviceId": "nobody"}))
	a.fails("ArgumentError", 400, "ErrorCode:ArgumentInvalid;", "registry", invoking("create", fields{"deviceId": "a b"}))
	a.fails("ArgumentError", 400, "a key is base64", "registry", invoking("create", fields{"deviceId": "d9", "authentication": fields{"symmetricKey": fields{"primaryKey": "short"}}}))

	a.registry(&updated, "update", fields{"deviceId": "d1", "status": "disabled", "statusReason": "lost"})
	if updated.Status != "disabled" || updated.Authentication != made.Authentication || updated.ETag == made.ETag {
		t.Errorf("updated: %+v, was %+v", updated, made)
	}
	var statistics struct{ TotalDeviceCount, EnabledDeviceCount, DisabledDeviceCount int }
	a.registry(&statistics, "getRegistryStatistics")
	if statistics.TotalDeviceCount != 3 || statistics.EnabledDeviceCount != 2 || statistics.DisabledDeviceCount != 1 {
		t.Errorf("statistics: %+v", statistics)
	}
	a.registry(nil, "delete", "ca")
	if got := a.listed(); !slices.Equal(got, []string{"d1", "x509"}) {
		t.Errorf("listed: %v", got)
	}
	a.modules()
	a.bulk()
	a.fails("Error", 501, "ErrorCode:NotImplemented;jobs are not simulated", "registry", invoking("listJobs"))
	a.fails("Error", 501, "ErrorCode:NotImplemented;configurations", "registry", invoking("getConfigurations"))
}

// listed are the ids of all devices.
func (a application) listed() (ids []string) {
	a.t.Helper()
	var all []sdkEntry
	a.registry(&all, "list")
	for _, one := range all {
		ids = append(ids, one.DeviceID)
	}
	return ids
}

// modules keeps modules of d1.
func (a application) modules() {
	a.t.Helper()
	var m sdkEntry
	a.registry(nil, "addModule", fields{"deviceId": "d1", "moduleId": "m1"})
	a.registry(&m, "getModule", "d1", "m1")
	if m.ModuleID != "m1" || m.Authentication.SymmetricKey.PrimaryKey == "" {
		a.t.Errorf("module: %+v", m)
	}
	keys := m.Authentication.SymmetricKey
	changed := fields{"deviceId": "d1", "moduleId": "m1", "etag": m.ETag, "authentication": fields{"symmetricKey": fields{"primaryKey": keys.SecondaryKey, "secondaryKey": keys.PrimaryKey}}}
	a.registry(nil, "updateModule", changed)
	a.fails("InvalidEtagError", 412, "ErrorCode:PreconditionFailed;", "registry", invoking("updateModule", changed)) // the etag is old now
	a.registry(&m, "getModule", "d1", "m1")
	if m.Authentication.SymmetricKey.PrimaryKey != keys.SecondaryKey {
		a.t.Errorf("updated module: %+v", m)
	}
	var all []sdkEntry
	a.registry(&all, "getModulesOnDevice", "d1")
	if len(all) != 1 || all[0].ModuleID != "m1" {
		a.t.Errorf("modules: %+v", all)
	}
	a.fails("DeviceAlreadyExistsError", 409, "ErrorCode:ModuleAlreadyExistsOnDevice;", "registry", invoking("addModule", fields{"deviceId": "d1", "moduleId": "m1"}))
	a.fails("Error", 404, "ErrorCode:ModuleNotFound;", "registry", invoking("getModule", "d1", "m2"))
	a.fails("DeviceNotFoundError", 404, "ErrorCode:DeviceNotFound;", "registry", invoking("addModule", fields{"deviceId": "d7", "moduleId": "m1"}))
	a.registry(nil, "removeModule", "d1", "m1")
	a.fails("Error", 404, "ErrorCode:ModuleNotFound;", "registry", invoking("removeModule", "d1", "m1"))
}

// bulk changes a hundred devices at a time.
func (a application) bulk() {
	a.t.Helper()
	var devices []any
	for i := range 100 {
		devices = append(devices, fields{"deviceId": fmt.Sprintf("bulk%02d", i)})
	}
	var result struct{ IsSuccessful bool }
	for _, c := range []struct {
		call string
		args []any
		want int
	}{{"addDevices", nil, 102}, {"updateDevices", []any{true}, 102}, {"removeDevices", []any{true}, 2}} {
		a.registry(&result, c.call, append([]any{devices}, c.args...)...)
		if got := len(a.listed()); !result.IsSuccessful || got != c.want {
			a.t.Errorf("%s: %+v, then there are %d devices, want %d", c.call, result, got, c.want)
		}
	}
	a.fails("ArgumentError", 400, `"errorCode":"DeviceAlreadyExists"`, "registry", invoking("addDevices", []any{fields{"deviceId": "bulk00"}, fields{"deviceId": "d1"}}))
	if got := a.listed(); !slices.Equal(got, []string{"bulk00", "d1", "x509"}) {
		a.t.Errorf("after half of a bulk: %v", got)
	}
	a.fails("ArgumentError", 400, `"errorCode":"PreconditionFailed"`, "registry", invoking("removeDevices", []any{fields{"deviceId": "bulk00", "etag": "MQ=="}}, false))
	var d sdkEntry
	a.registry(&d, "get", "bulk00")
	a.registry(&result, "removeDevices", []any{fields{"deviceId": "bulk00", "etag": d.ETag}}, false)
	if got := a.listed(); !result.IsSuccessful || len(got) != 2 {
		a.t.Errorf("removed with the etag: %+v, %v", result, got)
	}
}

func TestMicrosoftsServiceSDKReadsChangesAndAsksForTwins(t *testing.T) {
	t.Parallel()
	hub := serviceHub(t)
	a := startApplication(t, hub)
	for i := range 25 {
		if _, err := hub.Register(fmt.Sprintf("d%02d", i), "m1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, module := range []string{"", "m1"} {
		a.do("twin", fields{"device": "d00", "module": module})
		a.do("twin", fields{"device": "d00", "module": module, "patch": fields{"tags": fields{"city": "Redmond"}, "properties": fields{"desired": fields{"interval": 10, "gone": 1}}}})
		got := a.do("twin", fields{"device": "d00", "module": module, "patch": fields{"properties": fields{"desired": fields{"gone": nil}}}})
		var twin struct {
			ETag, DeviceID, ModuleID string
			Tags                     map[string]any
			Properties               struct{ Desired map[string]any }
		}
		if err := json.Unmarshal(got, &twin); err != nil {
			t.Fatal(err)
		}
		delete(twin.Properties.Desired, "$metadata")
		if twin.ModuleID != module || twin.Tags["city"] != "Redmond" || !cmp.Equal(twin.Properties.Desired, map[string]any{"interval": 10.0, "$version": 3.0}) {
			t.Errorf("twin: %s", got)
		}
		read := "updateTwin"
		args := []any{"d00", fields{"tags": fields{"a": 1}}, twin.ETag}
		if module != "" {
			read, args = "updateModuleTwin", slices.Insert(args, 1, any(module))
		}
		a.registry(nil, read, args...)
		a.fails("InvalidEtagError", 412, "ErrorCode:PreconditionFailed;", "registry", invoking(read, args...))
		a.fails("InvalidEtagError", 412, "", "twin", fields{"device": "d00", "module": module, "patch": fields{"tags": fields{"a": 2}}})
	}
	a.fails("DeviceNotFoundError", 404, "", "registry", invoking("getTwin", "nobody"))
	a.fails("ArgumentError", 400, "", "registry", invoking("updateTwin", "d00", fields{"properties": fields{"desired": fields{"a.b": 1}}}, "*"))
	a.queries()
}

// queries asks for pages of twins, whole and in part.
func (a application) queries() {
	a.t.Helper()
	for _, c := range []struct {
		sql   string
		pages []int
	}{
		{"SELECT * FROM devices", []int{10, 10, 5}},
		{"SELECT * FROM devices.modules", []int{10, 10, 5}},
		{"SELECT * FROM devices WHERE tags.city = 'Redmond' AND properties.desired.interval >= 10", []int{1}},
		{"SELECT * FROM devices WHERE NOT deviceId IN ['d00', 'd01'] AND connectionState = 'Disconnected' AND deviceId < 'd12'", []int{10}},
		{"SELECT * FROM devices WHERE status = 'disabled'", []int{0}},
	} {
		var pages [][]struct{ DeviceID, ETag string }
		if err := json.Unmarshal(a.do("query", fields{"sql": c.sql, "size": 10}), &pages); err != nil {
			a.t.Fatal(err)
		}
		var sizes []int
		seen := map[string]bool{}
		for _, page := range pages {
			sizes = append(sizes, len(page))
			for _, twin := range page {
				seen[twin.DeviceID] = twin.ETag != ""
			}
		}
		total := 0
		for _, n := range c.pages {
			total += n
		}
		if !slices.Equal(sizes, c.pages) || len(seen) != total {
			a.t.Errorf("%s: pages of %v with %d devices, want %v", c.sql, sizes, len(seen), c.pages)
		}
	}
	got := a.do("query", fields{"sql": "SELECT deviceId, tags.city AS town FROM devices WHERE is_defined(tags.city)", "size": 10, "raw": true})
	if want := `[[{"deviceId":"d00","town":"Redmond"}]]`; string(got) != want {
		a.t.Errorf("fields: %s, want %s", got, want)
	}
	a.fails("ArgumentError", 400, "ErrorCode:ArgumentInvalid;the query at character 15", "query", fields{"sql": "SELECT * FROM cars", "size": 10})
}

func TestMicrosoftsServiceSDKCallsMethods(t *testing.T) {
	t.Parallel()
	hub := serviceHub(t)
	a := startApplication(t, hub)
	for _, module := range []string{"", "mod1"} {
		v := sdkVariant{"Mqtt", module, "sas"}
		method := func(name string, more fields) fields {
			params := fields{"methodName": name}
			for k, value := range more {
				params[k] = value
			}
			return fields{"device": "dev1", "module": module, "params": params}
		}
		cfg := v.config(t, hub)
		// Its own class it has for a device that is not there; one that is not online is "Not found", with the code.
		a.fails("Error", 404, `\"errorCode\":404103`, "method", method("reboot", nil))
		d := startSDKAt(t, hub, cfg)
		d.do("open", nil)
		d.do("method", fields{"name": "reboot", "status": 207})
		got := a.do("method", method("reboot", fields{"payload": fields{"delay": 5}, "responseTimeoutInSeconds": 15, "connectTimeoutInSeconds": 15}))
		if want := `{"status":207,"payload":{"called":{"delay":5}}}`; string(got) != want {
			t.Errorf("%s: answered %s, want %s", v, got, want)
		}
		if module != "" { // it has no handler for this one, and says nothing
			a.fails("GatewayTimeoutError", 504, `\"errorCode\":504101`, "method", method("silence", fields{"responseTimeoutInSeconds": 5}))
		}
		a.fails("ArgumentError", 400, "must be within [5; 300]", "method", method("reboot", fields{"responseTimeoutInSeconds": 301}))
		a.fails("ArgumentError", 400, "must be within [0; 300]", "method", method("reboot", fields{"connectTimeoutInSeconds": 301}))
	}
	a.fails("DeviceNotFoundError", 404, "ErrorCode:DeviceNotFound;", "method", fields{"device": "nobody", "params": fields{"methodName": "m"}})
	a.fails("Error", 404, "ErrorCode:ModuleNotFound;", "method", fields{"device": "dev1", "module": "m2", "params": fields{"methodName": "m"}})
}

// A policy that lacks a right is refused as a wrong key is.
func TestMicrosoftsServiceSDKIsRefusedWhatItsPolicyDoesNotGrant(t *testing.T) {
	t.Parallel()
	hub := serviceHub(t)
	if _, err := hub.Register("d1", ""); err != nil {
		t.Fatal(err)
	}
	a := startApplication(t, hub)
	host, _, _ := strings.Cut(hub.ServiceConnectionString(), ";")
	for _, c := range []struct {
		connectionString string
		may              map[string]bool
	}{
		{host + ";SharedAccessKeyName=iothubowner;SharedAccessKey=" + strings.Repeat("A", 43) + "=", nil},
		{hub.PolicyConnectionString("iothubowner"), map[string]bool{"read": true, "write": true, "service": true}},
		{hub.PolicyConnectionString("service"), map[string]bool{"service": true}},
		{hub.PolicyConnectionString("device"), nil},
		{hub.PolicyConnectionString("registryRead"), map[string]bool{"read": true}},
		{hub.PolicyConnectionString("registryReadWrite"), map[string]bool{"read": true, "write": true}},
	} {
		a.do("become", fields{"connectionString": c.connectionString})
		for _, try := range []struct {
			right, op string
			arguments fields
		}{
			{"read", "registry", invoking("list")},
			{"read", "registry", invoking("getRegistryStatistics")},
			{"write", "registry", invoking("update", fields{"deviceId": "d1", "statusReason": "why"})},
			{"write", "registry", invoking("addDevices", []any{fields{"deviceId": "d2"}})},
			{"write", "registry", invoking("delete", "d2")},
			{"service", "registry", invoking("getTwin", "d1")},
			{"service", "query", fields{"sql": "SELECT * FROM devices"}},
		} {
			if c.may[try.right] {
				a.do(try.op, try.arguments)
			} else {
				a.fails("UnauthorizedError", 401, "ErrorCode:IotHubUnauthorizedAccess;", try.op, try.arguments)
			}
		}
	}
}
