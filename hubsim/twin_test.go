package hubsim_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
)

const (
	twinResults  = "$iothub/twin/res/#"
	twinDesired  = "$iothub/twin/PATCH/properties/desired/#"
	twinGet      = "$iothub/twin/GET/?$rid="
	twinReport   = "$iothub/twin/PATCH/properties/reported/?$rid="
	twinPath     = "/twins/dev1?api-version=2021-04-12"
	emptyTwin    = `{"desired":{"$version":1},"reported":{"$version":1}}`
	twinAnswered = "$iothub/twin/res/"
)

// expectPublish wants a PUBLISH of the hub with this topic, QoS and body.
func (c *rawClient) expectPublish(topic string, qos byte, body string) {
	c.t.Helper()
	p := c.expect(packets.Publish)
	if p.TopicName != topic || p.FixedHeader.Qos != qos || string(p.Payload) != body || p.FixedHeader.Retain || p.FixedHeader.Dup {
		c.t.Fatalf("PUBLISH %s QoS %d %s\nwant    %s QoS %d %s", p.TopicName, p.FixedHeader.Qos, p.Payload, topic, qos, body)
	}
	if qos > 0 {
		c.send([]byte{0x40, 2, byte(p.PacketID >> 8), byte(p.PacketID)})
	}
}

// change sends a change of the service side that must succeed.
func (r *rest) change(method, path, body string) map[string]any {
	r.t.Helper()
	status, code, answer := r.do(method, path, body)
	if status != 200 {
		r.t.Fatalf("%s %s %s: %d %s %s", method, path, body, status, code, answer)
	}
	var twin map[string]any
	if err := json.Unmarshal([]byte(answer), &twin); err != nil {
		r.t.Fatal(err)
	}
	return twin
}

// Transcripts 3 to 6 of APP-B, for a device and, with the same topics, for a module (TWIN-17).
func TestTranscriptTwin(t *testing.T) {
	for identity, path := range map[string]string{"dev1": "/twins/dev1", "dev1/mod1": "/twins/dev1/modules/mod1"} {
		for qos := range byte(2) {
			hub := startHub(t, hubConfig())
			c := hub.rawConnected(t, identity, true)
			c.subscribe(1, qos, twinResults, twinDesired)
			c.publish(twinGet+"1", 0, 0, "")
			c.expectPublish(twinAnswered+"200/?$rid=1", qos, emptyTwin)
			c.publish(twinReport+"2", 0, 0, `{"t":1}`)
			c.expectPublish(twinAnswered+"204/?$rid=2&$version=2", qos, "")
			c.publish(twinReport+"3", 0, 0, `{"t":`)
			p := c.expect(packets.Publish)
			var bad struct {
				ErrorCode                         int
				TrackingID, Message, TimestampUTC string
			}
			if err := json.Unmarshal(p.Payload, &bad); err != nil || p.TopicName != twinAnswered+"400/?$rid=3" || bad.ErrorCode != 400004 ||
				bad.TrackingID == "" || bad.Message == "" || bad.TimestampUTC == "" {
				t.Errorf("%s %s (%v)", p.TopicName, p.Payload, err)
			}
			hub.rest(t).change("PATCH", path+"?api-version=2021-04-12", `{"properties":{"desired":{"x":5,"y":null}}}`)
			c.expectPublish("$iothub/twin/PATCH/properties/desired/?$version=2", qos, `{"x":5,"y":null,"$version":2}`)
			c.publish(twinGet+"4", 0, 0, " ")
			c.expectPublish(twinAnswered+"200/?$rid=4", qos, `{"desired":{"x":5,"$version":2},"reported":{"t":1,"$version":2}}`)
			c.alive()
		}
	}
}

func TestATwinRequestAtQoSOneIsAcknowledgedAndAnswered(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 1, twinResults)
	c.publish(twinGet+"a", 1, 7, "")
	c.expectPublish(twinAnswered+"200/?$rid=a", 1, emptyTwin)
	c.expectPuback(7)
}

func TestTheRequestIdIsEchoedAsItCame(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, twinResults)
	for _, rid := range []string{"1", "cac251ef-a0f8-45fd-bf12-b40145edaf5a", "1f", "a%20b%2F", "A=b", "!~'()*"} {
		c.publish(twinGet+rid, 0, 0, "")
		c.expectPublish(twinAnswered+"200/?$rid="+rid, 0, emptyTwin)
	}
	c.publish("$iothub/twin/GET/?x=1&$rid=9", 0, 0, "")
	c.expectPublish(twinAnswered+"200/?$rid=9", 0, emptyTwin)
}

func TestWithoutASubscriptionTheAnswerIsLostAndTheChangeHolds(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.publish(twinGet+"1", 0, 0, "")
	c.publish(twinReport+"2", 1, 3, `{"a":1}`)
	c.expectPuback(3)
	c.subscribe(1, 0, twinResults)
	c.publish(twinGet+"4", 0, 0, "")
	c.expectPublish(twinAnswered+"200/?$rid=4", 0, `{"desired":{"$version":1},"reported":{"a":1,"$version":2}}`)
}

// SDKs rely on it: after a reconnect with CleanSession 0 they do not subscribe again.
func TestAKeptSessionAnswersAndNotifiesWithoutAnotherSubscribe(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	c := hub.rawConnected(t, "dev1", false)
	c.subscribe(1, 1, twinResults, twinDesired)
	_ = c.conn.Close()
	eventually(t, func() bool { return !hub.Connected("dev1") })
	service.change("PATCH", twinPath, `{"properties":{"desired":{"missed":1}}}`)
	c = hub.rawConnected(t, "dev1", false)
	service.change("PATCH", twinPath, `{"properties":{"desired":{"seen":2}}}`)
	c.expectPublish("$iothub/twin/PATCH/properties/desired/?$version=3", 1, `{"seen":2,"$version":3}`) // and nothing of what it missed
	c.publish(twinGet+"1", 0, 0, "")
	c.expectPublish(twinAnswered+"200/?$rid=1", 1, `{"desired":{"missed":1,"seen":2,"$version":3},"reported":{"$version":1}}`)
}

func TestBadPatchesAreRefusedAsAWholeAndDoNotClose(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, twinResults)
	for i, patch := range []string{
		``, `[]`, `{"a":1,"$version":7}`, `{"a":1,"b.c":2}`, `{"a":1,"s":"` + strings.Repeat("x", 4097) + `"}`, `{"a":1,"n":4503599627370496}`,
		`{"a":1,"d":` + strings.Repeat(`{"a":`, 11) + "1" + strings.Repeat("}", 11) + "}",
	} {
		c.publish(fmt.Sprint(twinReport, i), 0, 0, patch)
		if p := c.expect(packets.Publish); p.TopicName != fmt.Sprint(twinAnswered, "400/?$rid=", i) || !json.Valid(p.Payload) {
			t.Errorf("%.40s: %s %s", patch, p.TopicName, p.Payload)
		}
	}
	c.publish("$iothub/twin/PATCH/properties/desired/?$rid=x", 0, 0, "{}")
	if p := c.expect(packets.Publish); p.TopicName != twinAnswered+"400/?$rid=x" {
		t.Errorf("a path that does not exist: %s", p.TopicName)
	}
	c.publish("$iothub/twin/get/?$rid=y", 0, 0, "") // the case matters (TWIN-20)
	if p := c.expect(packets.Publish); p.TopicName != twinAnswered+"400/?$rid=y" {
		t.Errorf("a path in another case: %s", p.TopicName)
	}
	c.publish(twinGet+"g", 0, 0, "")
	c.expectPublish(twinAnswered+"200/?$rid=g", 0, emptyTwin)
}

func TestASectionHoldsThirtyTwoKilobytes(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, twinResults)
	for i := range 8 {
		c.publish(fmt.Sprint(twinReport, i), 0, 0, fmt.Sprintf(`{"k%d":"%s"}`, i, strings.Repeat("x", 4094)))
		c.expectPublish(fmt.Sprintf("%s204/?$rid=%d&$version=%d", twinAnswered, i, i+2), 0, "")
	}
	c.publish(twinReport+"full", 0, 0, `{"a":""}`)
	if p := c.expect(packets.Publish); p.TopicName != twinAnswered+"400/?$rid=full" || !strings.Contains(string(p.Payload), "the limit is 32768") {
		t.Errorf("%s %s", p.TopicName, p.Payload)
	}
	c.publish(twinReport+"less", 0, 0, `{"k0":null,"a":"now it fits"}`)
	c.expectPublish(twinAnswered+"204/?$rid=less&$version=10", 0, "")
	service := hub.rest(t)
	if status, code, _ := service.do("PATCH", twinPath, `{"tags":{"a":"`+strings.Repeat("x", 4096)+`","b":"`+strings.Repeat("x", 4095)+`"}}`); status != 400 || code != "ArgumentInvalid" {
		t.Errorf("8193 bytes of tags: %d %s", status, code)
	}
	service.change("PATCH", twinPath, `{"tags":{"a":"`+strings.Repeat("x", 4096)+`","b":"`+strings.Repeat("x", 4094)+`"}}`)
}

func TestAReportedPatchMayNameTheVersionItKnows(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, twinResults)
	c.publish(twinReport+"1&$version=1", 0, 0, `{"a":1}`)
	c.expectPublish(twinAnswered+"204/?$rid=1&$version=2", 0, "")
	for _, version := range []string{"1", "3", "x"} {
		c.publish(twinReport+"2&$version="+version, 0, 0, `{"a":2}`)
		if p := c.expect(packets.Publish); p.TopicName != twinAnswered+"412/?$rid=2" || !strings.Contains(string(p.Payload), `"errorCode":412001`) {
			t.Errorf("version %s: %s %s", version, p.TopicName, p.Payload)
		}
	}
	c.publish(twinReport+"3", 0, 0, `{}`) // an empty patch counts (TWIN-36)
	c.expectPublish(twinAnswered+"204/?$rid=3&$version=3", 0, "")
}

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

func TestTwinsSurviveARestart(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	c := hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, twinResults)
	c.publish(twinReport+"1", 0, 0, `{"n":1.50,"o":{"a":[1,null]}}`)
	c.expectPublish(twinAnswered+"204/?$rid=1&$version=2", 0, "")
	service := hub.rest(t)
	want := service.change("PATCH", twinPath, `{"tags":{"t":1},"properties":{"desired":{"d":12345678901234.5}}}`)
	hub.stop()
	hub = startHub(t, cfg)
	got := hub.rest(t).change("GET", twinPath, "")
	for _, twin := range []map[string]any{want, got} { // they are about the connection
		delete(twin, "lastActivityTime")
		delete(twin, "connectionState")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the twin (-before +after):\n%s", diff)
	}
	c = hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, twinResults)
	c.publish(twinGet+"2", 0, 0, "")
	c.expectPublish(twinAnswered+"200/?$rid=2", 0, `{"desired":{"d":12345678901234.5,"$version":2},"reported":{"n":1.50,"o":{"a":[1,null]},"$version":2}}`)
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
	cfg.Limits.TwinReads, cfg.Limits.Registry, cfg.Limits.DailyMessages = 0.001, 0.001, 2
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
		{"GET", twinPath, 200, ""},
		{"GET", twinPath, 429, "ThrottlingException"},
		{"GET", "/devices/dev1?api-version=2021-04-12", 200, ""},
		{"GET", "/devices/dev1?api-version=2021-04-12", 429, "ThrottlingException"},
		{"PATCH", twinPath, 200, ""},
		{"PATCH", twinPath, 403, "IotHubQuotaExceeded"},
		{"POST", methodPath, 403, "IotHubQuotaExceeded"},
	} {
		status, code, answer := service.do(c.method, c.path, `{"methodName":"m"}`)
		if status != c.status || code != c.code {
			t.Errorf("%d: %s %s: %d %s %s, want %d %s", i, c.method, c.path, status, code, answer, c.status, c.code)
		}
	}
	cfg.Limits.TwinReads, cfg.Limits.DailyMessages, cfg.Limits.Basic = 0, 0, true
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
