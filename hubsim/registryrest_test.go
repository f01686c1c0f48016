package hubsim_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
