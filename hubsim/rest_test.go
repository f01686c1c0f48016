package hubsim_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/hubsim"
)

// rest is the service side of a test.
type rest struct {
	t      *testing.T
	hub    *testHub
	client *http.Client
	token  string
	match  string            // If-Match, left out if empty
	send   map[string]string // further headers
	got    http.Header       // of the last answer to a request with those
}

func (h *testHub) rest(t *testing.T) *rest {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.CAPool()}}
	t.Cleanup(transport.CloseIdleConnections)
	return &rest{t: t, hub: h, client: &http.Client{Transport: transport}, token: sign(h.name, ownerKey(h), time.Now().Add(time.Hour), "iothubowner")}
}

// do sends a request and returns the status, the error code header and the body.
func (r *rest) do(method, path, body string) (status int, code, answer string) {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), method, "https://"+r.hub.HTTPSAddr()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if r.token != "" {
		request.Header.Set("Authorization", r.token)
	}
	if r.match != "" {
		request.Header.Set("If-Match", r.match)
	}
	for name, value := range r.send {
		request.Header.Set(name, value)
	}
	response, err := r.client.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	if r.send != nil { // otherwise many may ask at a time
		r.got = response.Header
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if kind := response.Header.Get("Content-Type"); json.Valid(text) && !strings.Contains(kind, "application/json") {
		r.t.Errorf("%s %s: Content-Type %s", method, path, kind)
	}
	return response.StatusCode, response.Header.Get("iothub-errorcode"), string(text)
}

const methodPath = "/twins/dev1/methods?api-version=2021-04-12"

func TestRESTCallsAMethod(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	echo := func(name, body string) (string, string) { return "207", `[` + orNull(body) + `,"` + name + `"]` }
	answering(t, hub, "dev1", echo)
	answering(t, hub, "dev1/mod1", echo)
	for _, c := range []struct{ path, body, want string }{
		{methodPath, `{"methodName":"reboot","payload":{"delay":5},"responseTimeoutInSeconds":30,"connectTimeoutInSeconds":5}`, `{"status":207,"payload":[{"delay":5},"reboot"]}`},
		{"/twins/dev1/modules/mod1/methods?api-version=2018-06-30", `{"methodName":"m","payload":null}`, `{"status":207,"payload":[null,"m"]}`},
		{"/twins/dev%31/methods?api-version=2020-05-31-preview", `{"methodName":"m"}`, `{"status":207,"payload":[null,"m"]}`}, // SVC-4
	} {
		if status, _, got := service.do("POST", c.path, c.body); status != 200 || got != c.want {
			t.Errorf("%s: %d %s, want %s", c.path, status, got, c.want)
		}
	}
}

func TestACallWithoutAPayloadReachesTheDeviceAsNull(t *testing.T) {
	hub := startHub(t, hubConfig())
	answering(t, hub, "dev1", func(_, body string) (string, string) { return "200", fmt.Sprintf("%q", body) })
	for _, body := range []string{`{"methodName":"m"}`, `{"methodName":"m","payload":null}`} {
		if _, _, got := hub.rest(t).do("POST", methodPath, body); got != `{"status":200,"payload":"null"}` {
			t.Errorf("%s: the device got %s", body, got)
		}
	}
	// From Go an empty body can be sent too: a device must take both.
	if got, err := hub.CallMethod(t.Context(), hubsim.MethodCall{Device: "dev1", Name: "m"}); err != nil || string(got.Payload) != `""` {
		t.Errorf("a nil payload: the device got %s (%v)", got.Payload, err)
	}
}

func TestRESTErrorsHaveTheHubsForm(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	if _, err := hub.Register("dev1", ""); err != nil {
		t.Fatal(err)
	}
	large := `{"methodName":"m","payload":"` + strings.Repeat("x", 128<<10) + `"}`
	for _, c := range []struct {
		path, body string
		status     int
		code, text string
	}{
		{"/twins/nobody/methods?api-version=2021-04-12", `{"methodName":"m"}`, 404, "DeviceNotFound", `"Message":"ErrorCode:DeviceNotFound;no device nobody"`},
		{"/twins/dev1/modules/m/methods?api-version=2021-04-12", `{"methodName":"m"}`, 404, "ModuleNotFound", "ErrorCode:ModuleNotFound;"},
		{"/twins/dev1/methods", `{"methodName":"m"}`, 400, "InvalidProtocolVersion", "ErrorCode:InvalidProtocolVersion;"},
		{"/twins/dev1/methods?api-version=x", `{"methodName":"m"}`, 400, "InvalidProtocolVersion", "ErrorCode:InvalidProtocolVersion;"},
		{methodPath, `{"methodName":"m","responseTimeoutInSeconds":4}`, 400, "ArgumentInvalid", `\"responseTimeoutInSeconds\" must be within [5; 300]`},
		{methodPath, `{"methodName":"m","responseTimeoutInSeconds":301}`, 400, "ArgumentInvalid", `\"responseTimeoutInSeconds\" must be within [5; 300]`},
		{methodPath, `{"methodName":"m","connectTimeoutInSeconds":301}`, 400, "ArgumentInvalid", `\"connectTimeoutInSeconds\" must be within [0; 300]`},
		{methodPath, `{"methodName":"m","connectTimeoutInSeconds":-1}`, 400, "ArgumentInvalid", "must be within"},
		{methodPath, `{"methodName":"a b"}`, 400, "ArgumentInvalid", "method name"},
		{methodPath, `{"methodName":`, 400, "ArgumentInvalid", "the body is not"},
		{methodPath, ``, 400, "ArgumentInvalid", "method name"},
		{methodPath, large, 413, "MessageTooLarge", "131074 bytes"},
		{methodPath, large + strings.Repeat(" ", 256<<10), 413, "MessageTooLarge", "a body of more than 262144 bytes"},
		{methodPath, `{"methodName":"m"}`, 404, "DeviceNotOnline", `\"errorCode\":404103`},
	} {
		status, code, got := service.do("POST", c.path, c.body)
		if status != c.status || code != c.code || !strings.Contains(got, c.text) {
			t.Errorf("%s %.60s: %d %s %s; want %d %s %s", c.path, c.body, status, code, got, c.status, c.code, c.text)
		}
		var shape struct{ Message, ExceptionMessage *string }
		if err := json.Unmarshal([]byte(got), &shape); err != nil || shape.Message == nil || shape.ExceptionMessage == nil {
			t.Errorf("%s is not the form of SVC-5 (%v)", got, err)
		}
	}
}

// METH-14: JSON inside a string.
func TestADeviceThatIsNotOnlineIsReportedTheNewWay(t *testing.T) {
	hub := startHub(t, hubConfig())
	if _, err := hub.Register("dev1", ""); err != nil {
		t.Fatal(err)
	}
	_, _, answer := hub.rest(t).do("POST", methodPath, `{"methodName":"m"}`)
	var outer struct{ Message, ExceptionMessage string }
	var inner struct {
		ErrorCode    int
		TrackingID   string
		Message      string
		Info         struct{ Timeout string }
		TimestampUTC time.Time
	}
	if err := json.Unmarshal([]byte(answer), &outer); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(outer.Message), &inner); err != nil {
		t.Fatal(err)
	}
	if inner.ErrorCode != 404103 || inner.Message != "Timed out waiting for device to connect." || inner.Info.Timeout != "00:00:00" ||
		inner.TrackingID == "" || inner.TimestampUTC.IsZero() || outer.ExceptionMessage != "" {
		t.Errorf("%s", answer)
	}
}

func TestTheServiceSideWantsATokenOfAPolicyThatMay(t *testing.T) {
	hub := startHub(t, hubConfig())
	key, err := hub.Register("dev1", "")
	if err != nil {
		t.Fatal(err)
	}
	owner, later := ownerKey(hub), time.Now().Add(time.Hour)
	service := hub.rest(t)
	for name, token := range map[string]string{
		"none":              "",
		"another scheme":    "Bearer abc",
		"not a token":       "SharedAccessSignature x",
		"a device's":        sign(hub.name+"/devices/dev1", key, later, ""),
		"unknown policy":    sign(hub.name, owner, later, "nobody"),
		"wrong key":         sign(hub.name, key, later, "iothubowner"),
		"expired":           sign(hub.name, owner, time.Now().Add(-time.Minute), "iothubowner"),
		"another hub's":     sign("fabrikam.azure-devices.net", owner, later, "iothubowner"),
		"for another place": sign(hub.name+"/jobs", owner, later, "iothubowner"),
	} {
		service.token = token
		for _, request := range []string{"POST " + methodPath, "GET /hubsim/messages", "GET /hubsim/messages/stream", "GET /hubsim/devices", "PUT /hubsim/devices/x", "POST /hubsim/faults"} {
			method, path, _ := strings.Cut(request, " ")
			if status, code, _ := service.do(method, path, ""); status != 401 || code != "IotHubUnauthorizedAccess" {
				t.Errorf("%s with %s: %d %s", request, name, status, code)
			}
		}
	}
	service.token = sign(strings.ToUpper(hub.name)+"%2Fhubsim", owner, later, "iothubowner")
	if status, _, _ := service.do("GET", "/hubsim/devices", ""); status != 200 {
		t.Errorf("a token for /hubsim: %d", status)
	}
	service.token = ""
	if status, _, pem := service.do("GET", "/hubsim/ca.pem", ""); status != 200 || pem != string(hub.CAPEM()) {
		t.Errorf("ca.pem: %d %s", status, pem)
	}
	if status, _, _ := service.do("GET", "/elsewhere", ""); status != 404 {
		t.Errorf("another path: %d", status)
	}
}

func TestDevicesAreRegisteredAndListed(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	var made struct{ DeviceID, ModuleID, PrimaryKey string }
	status, _, answer := service.do("PUT", "/hubsim/devices/dev1/modules/mod1", "")
	if err := json.Unmarshal([]byte(answer), &made); err != nil || status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	if key, _ := hub.Register("dev1", "mod1"); made.PrimaryKey != key || made.DeviceID != "dev1" || made.ModuleID != "mod1" {
		t.Errorf("%s", answer)
	}
	status, _, answer = service.do("PUT", "/hubsim/devices/dev%232", `{"primaryKey":"`+knownKey+`"}`)
	if key, _ := hub.Register("dev#2", ""); status != 200 || key != knownKey {
		t.Errorf("%d %s", status, answer)
	}
	for path, body := range map[string]string{
		"/hubsim/devices/a%20b": "", "/hubsim/devices/d": `{"primaryKey":"short"}`, "/hubsim/devices/d/modules/%C3%BC": "", "/hubsim/devices/e": "[]",
	} {
		if status, code, answer := service.do("PUT", path, body); status != 400 || code != "ArgumentInvalid" {
			t.Errorf("%s %s: %d %s", path, body, status, answer)
		}
	}
	hub.paho(t, "dev1").Publish(dev1Events, 1, false, "x").Wait()
	_, _, answer = service.do("GET", "/hubsim/devices", "")
	var list []map[string]any
	if err := json.Unmarshal([]byte(answer), &list); err != nil {
		t.Fatal(err)
	}
	if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(list[1]["lastActivity"])); err != nil || time.Since(at) > time.Minute {
		t.Errorf("last activity %v", list[1]["lastActivity"])
	}
	delete(list[1], "lastActivity")
	want := []map[string]any{
		{"deviceId": "dev#2", "connected": false, "messages": 0.0, "lastActivity": nil},
		{"deviceId": "dev1", "connected": true, "messages": 1.0},
		{"deviceId": "dev1", "moduleId": "mod1", "connected": false, "messages": 0.0, "lastActivity": nil},
	}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

func TestTheRegistryShowsAnEntryWithItsKeys(t *testing.T) {
	hub := startHub(t, hubConfig())
	key, err := hub.Register("d1", "m1")
	if err != nil {
		t.Fatal(err)
	}
	hub.rawConnected(t, "d1", true)
	service := hub.rest(t)
	var entry struct {
		DeviceID, ModuleID, Status, ConnectionState string
		Authentication                              struct {
			Type         string
			SymmetricKey struct{ PrimaryKey, SecondaryKey string }
		}
	}
	read := func(path string) {
		t.Helper()
		status, code, body := service.do("GET", path, "")
		if status != 200 {
			t.Fatalf("%s: %d %s", path, status, code)
		}
		if err := json.Unmarshal([]byte(body), &entry); err != nil {
			t.Fatal(err)
		}
	}
	read("/devices/d1?api-version=2021-04-12")
	if entry.DeviceID != "d1" || entry.ModuleID != "" || entry.Status != "enabled" || entry.ConnectionState != "Connected" {
		t.Errorf("the device: %+v", entry)
	}
	read("/devices/d1/modules/m1?api-version=2021-04-12")
	if entry.ModuleID != "m1" || entry.ConnectionState != "Disconnected" || entry.Authentication.Type != "sas" || entry.Authentication.SymmetricKey.PrimaryKey != key {
		t.Errorf("the module: %+v, key %s", entry, key)
	}
	for path, want := range map[string]string{
		"/devices/d2?api-version=2021-04-12":            "DeviceNotFound",
		"/devices/d2/modules/m1?api-version=2021-04-12": "DeviceNotFound",
		"/devices/d1/modules/m2?api-version=2021-04-12": "ModuleNotFound",
		"/devices/d1": "InvalidProtocolVersion",
	} {
		if status, code, _ := service.do("GET", path, ""); status/100 != 4 || code != want {
			t.Errorf("%s: %d %s, want %s", path, status, code, want)
		}
	}
}

func TestStoredMessagesAreListed(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	first, second := hub.paho(t, "dev1"), hub.paho(t, "dev1/mod1")
	for i := range 5 {
		first.Publish(dev1Events, 1, false, fmt.Sprintf(`{"n":%d}`, i)).Wait()
		second.Publish("devices/dev1/modules/mod1/messages/events/", 1, false, "text").Wait()
	}
	for query, want := range map[string][]uint64{
		"":                                  {1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
		"?after=8":                          {9, 10},
		"?after=2&max=3":                    {3, 4, 5},
		"?device=dev1%2Fmod1":               {2, 4, 6, 8, 10},
		"?device=dev1&max=3":                {1, 2, 3},
		"?device=dev1%2Fmod1&max=2&after=4": {6, 8},
		"?device=dev2":                      {},
		"?after=10":                         {},
	} {
		status, _, answer := service.do("GET", "/hubsim/messages"+query, "")
		var list []hubsim.Message
		if err := json.Unmarshal([]byte(answer), &list); err != nil || status != 200 {
			t.Fatalf("%s: %d %s", query, status, answer)
		}
		got := []uint64{}
		for _, m := range list {
			got = append(got, m.Sequence)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
		if query != "" {
			continue
		}
		if diff := cmp.Diff(hub.Messages(0, 0), list); diff != "" {
			t.Errorf("messages (-stored +listed):\n%s", diff)
		}
	}
	for _, query := range []string{"?after=-1", "?after=x", "?max=0", "?max=many"} {
		if status, code, _ := service.do("GET", "/hubsim/messages"+query, ""); status != 400 || code != "ArgumentInvalid" {
			t.Errorf("%s: %d %s", query, status, code)
		}
	}
}

// A request may not keep the hub from stopping, however slow its client is.
func TestOpenRequestsDoNotKeepTheHubUp(t *testing.T) {
	hub := startHub(t, hubConfig())
	client := hub.paho(t, "dev1")
	for range 25 {
		client.Publish(dev1Events, 1, false, bytes.Repeat([]byte("x"), 200<<10)).Wait()
	}
	token := hub.rest(t).token
	reader := dialTLS(t, hub.HTTPSAddr(), hub.Hub) // asks for five megabytes and never reads
	defer reader.Close()
	writer := dialTLS(t, hub.HTTPSAddr(), hub.Hub) // promises a body and never sends it
	defer writer.Close()
	idle := dialTCP(t, hub.HTTPSAddr())
	defer idle.Close()
	fmt.Fprintf(reader, "GET /hubsim/messages/stream HTTP/1.1\r\nHost: h\r\nAuthorization: %s\r\n\r\n", token)
	fmt.Fprintf(writer, "POST /hubsim/faults HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nAuthorization: %s\r\n\r\n", token)
	hub.paho(t, "dev2").Publish("devices/dev2/messages/events/", 1, false, "x").Wait()
	start := time.Now()
	hub.stop()
	if after := time.Since(start); after > 3*time.Second {
		t.Errorf("the hub took %v to stop", after)
	}
}
