package hubsim_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/hubsim"
)

func TestTheServiceSideReadsMergesAndReplacesATwin(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	c := hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, twinResults, twinDesired)
	twin := service.change("GET", twinPath, "")
	fresh := map[string]any{"$metadata": map[string]any{"$lastUpdated": "0001-01-01T00:00:00Z"}, "$version": 1.0}
	if diff := cmp.Diff(map[string]any{"desired": fresh, "reported": fresh}, twin["properties"]); diff != "" {
		t.Errorf("a fresh twin (-want +got):\n%s", diff)
	}
	if twin["etag"] != "AAAAAAAAAAE=" || twin["version"] != 2.0 || twin["deviceId"] != "dev1" || twin["connectionState"] != "Connected" || twin["tags"] != nil {
		t.Errorf("a fresh twin: %v", twin)
	}
	twin = service.change("PATCH", twinPath, `{"tags":{"site":"a","x":null}}`)
	if twin["etag"] != "AAAAAAAAAAI=" || twin["version"] != 3.0 || !cmp.Equal(twin["tags"], map[string]any{"site": "a"}) {
		t.Errorf("after tags: %v", twin)
	}
	service.change("PATCH", twinPath, `{"properties":{"desired":{"a":{"b":1,"c":2}}}}`)
	c.expectPublish("$iothub/twin/PATCH/properties/desired/?$version=2", 0, `{"a":{"b":1,"c":2},"$version":2}`)
	service.change("PATCH", twinPath, `{"properties":{"desired":{"a":{"b":null}}}}`)
	c.expectPublish("$iothub/twin/PATCH/properties/desired/?$version=3", 0, `{"a":{"b":null},"$version":3}`)
	// A whole twin comes back with what the hub had put into it; reported properties are not written.
	twin = service.change("PUT", twinPath, `{"deviceId":"dev1","etag":"x","properties":{"desired":{"z":null,"n":7,"$version":9,"$metadata":{}},"reported":{"a":1}}}`)
	c.expectPublish("$iothub/twin/PATCH/properties/desired/?$version=4", 0, `{"n":7,"$version":4}`)
	c.publish(twinGet+"1", 0, 0, "")
	c.expectPublish(twinAnswered+"200/?$rid=1", 0, `{"desired":{"n":7,"$version":4},"reported":{"$version":1}}`)
	if twin["tags"] != nil || twin["version"] != 6.0 || twin["etag"] != "AAAAAAAAAAU=" {
		t.Errorf("after a replacement: %v", twin)
	}
}

func TestAnETagProtectsATwinFromChangesThatWereNotSeen(t *testing.T) {
	hub := startHub(t, hubConfig())
	if _, err := hub.Register("dev1", "mod1"); err != nil {
		t.Fatal(err)
	}
	service := hub.rest(t)
	for _, c := range []struct {
		match  string
		status int
	}{
		{`"AAAAAAAAAAE="`, 200}, {`"AAAAAAAAAAE="`, 412}, {`AAAAAAAAAAI=`, 200}, {`"*"`, 200}, {`*`, 200}, {``, 200}, {`"nonsense"`, 412},
	} {
		service.match = c.match
		status, code, answer := service.do("PATCH", twinPath, `{"tags":{"a":1}}`)
		if status != c.status || status == 412 && (code != "PreconditionFailed" || !strings.Contains(answer, "ErrorCode:PreconditionFailed;")) {
			t.Errorf("If-Match %s: %d %s %s", c.match, status, code, answer)
		}
	}
	service.match = ""
	for _, c := range []struct {
		path, body string
		status     int
		code       string
	}{
		{"/twins/nobody?api-version=2021-04-12", `{}`, 404, "DeviceNotFound"},
		{"/twins/dev1/modules/nobody?api-version=2021-04-12", `{}`, 404, "ModuleNotFound"},
		{"/twins/dev1", `{}`, 400, "InvalidProtocolVersion"},
		{twinPath, `{"tags":`, 400, "ArgumentInvalid"},
		{twinPath, `{"tags":[]}`, 400, "ArgumentInvalid"},
		{twinPath, `{"properties":1}`, 400, "ArgumentInvalid"},
		{twinPath, `{"properties":{"desired":{"a b":1}}}`, 400, "ArgumentInvalid"},
		{twinPath, `{"properties":{"desired":{"a":{"$version":1}}}}`, 400, "ArgumentInvalid"},
		{twinPath, strings.Repeat(" ", 256<<10) + `{}`, 413, "MessageTooLarge"},
	} {
		if status, code, answer := service.do("PATCH", c.path, c.body); status != c.status || code != c.code {
			t.Errorf("%s %.50s: %d %s %s", c.path, c.body, status, code, answer)
		}
	}
}

func TestADeviceHasFiftyModules(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	for i := range 50 {
		if _, err := hub.Register("dev1", fmt.Sprint("mod", i)); err != nil {
			t.Fatal(err)
		}
	}
	hub.stop()
	hub = startHub(t, cfg)
	if _, err := hub.Register("dev1", "mod50"); codeOf(err) != 413003 {
		t.Errorf("a module more: %v", err)
	}
	if status, code, _ := hub.rest(t).do("PUT", "/hubsim/devices/dev1/modules/mod50", ""); status != 413 || code != "TooManyModulesOnDevice" {
		t.Errorf("a module more: %d %s", status, code)
	}
	for _, module := range []string{"mod7", ""} { // they exist
		if _, err := hub.Register("dev1", module); err != nil {
			t.Error(err)
		}
	}
	if _, err := hub.Register("dev2", "mod50"); err != nil {
		t.Error(err)
	}
}

func TestThrottledAndBasicHubsSayWhyToTheServiceSide(t *testing.T) {
	cfg := hubConfig()
	cfg.Limits.TwinReads, cfg.Limits.Registry, cfg.Limits.Commands, cfg.Limits.DailyMessages = 0.001, 0.001, 0.001, 3
	hub := startHub(t, cfg)
	if _, err := hub.Register("dev1", ""); err != nil {
		t.Fatal(err)
	}
	service := hub.rest(t)
	for i, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"POST", "/hubsim/devices/dev1/messages", 200, ""},
		{"GET", twinPath, 200, ""},
		{"GET", twinPath, 429, "ThrottlingException"},
		{"GET", "/devices/dev1?api-version=2021-04-12", 200, ""},
		{"GET", "/devices/dev1?api-version=2021-04-12", 429, "ThrottlingException"},
		{"PATCH", twinPath, 200, ""},
		{"PATCH", twinPath, 403, "IotHubQuotaExceeded"},
		{"POST", methodPath, 403, "IotHubQuotaExceeded"},
		{"POST", "/hubsim/devices/dev1/messages", 429, "ThrottlingException"},
	} {
		body := `{"methodName":"m"}`
		if strings.HasPrefix(c.path, "/hubsim/") {
			body = `{}`
		}
		status, code, answer := service.do(c.method, c.path, body)
		if status != c.status || code != c.code {
			t.Errorf("%d: %s %s: %d %s %s, want %d %s", i, c.method, c.path, status, code, answer, c.status, c.code)
		}
	}
	cfg.Limits = hubsim.Limits{Basic: true}
	hub = startHub(t, cfg)
	for method, path := range map[string]string{"GET": twinPath, "PATCH": twinPath, "POST": methodPath} {
		if status, code, _ := hub.rest(t).do(method, path, `{"methodName":"m"}`); status != 403 || code != "OperationNotAvailableInCurrentTier" {
			t.Errorf("%s %s on a basic hub: %d %s", method, path, status, code)
		}
	}
}

func TestADeletedDeviceComesBackWithAFreshTwin(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	c := hub.rawConnected(t, "dev1", false)
	c.subscribe(1, 0, twinResults)
	c.publish(twinReport+"1", 0, 0, `{"a":1}`)
	c.expectPublish(twinAnswered+"204/?$rid=1&$version=2", 0, "")
	hub.rest(t).change("PATCH", twinPath, `{"tags":{"a":1},"properties":{"desired":{"a":1}}}`)
	if err := hub.Unregister("dev1", ""); err != nil {
		t.Fatal(err)
	}
	c.expectClosed()
	if status, code, _ := hub.rest(t).do("GET", twinPath, ""); status != 404 || code != "DeviceNotFound" {
		t.Errorf("the twin of a deleted device: %d %s", status, code)
	}
	for range 2 { // the second time after a restart
		c = hub.rawConnected(t, "dev1", false)
		c.subscribe(1, 0, twinResults)
		c.publish(twinGet+"1", 0, 0, "")
		c.expectPublish(twinAnswered+"200/?$rid=1", 0, emptyTwin)
		if twin := hub.rest(t).change("GET", twinPath, ""); twin["version"] != 2.0 || twin["tags"] != nil {
			t.Errorf("the twin is %v", twin)
		}
		hub.stop()
		hub = startHub(t, cfg)
	}
}

func TestADisabledDeviceHasNoMethods(t *testing.T) {
	hub := startHub(t, hubConfig())
	hub.rawConnected(t, "dev1", true).subscribe(1, 0, "$iothub/methods/POST/#")
	if err := hub.SetEnabled("dev1", "", false); err != nil {
		t.Fatal(err)
	}
	if _, err := hub.CallMethod(t.Context(), methodCall("dev1", "m")); codeOf(err) != 404001 {
		t.Errorf("a call: %v", err)
	}
}
