package hubsim_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/hubsim"
)

func TestTheStreamHasStoredMessagesThenNewOnes(t *testing.T) {
	hub := startHub(t, hubConfig())
	client := hub.paho(t, "dev1")
	for range 3 {
		client.Publish(dev1Events, 1, false, "{}").Wait()
	}
	service := hub.rest(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func(path, last string) *bufio.Scanner { return service.listen(ctx, path, last) }
	streams := []*bufio.Scanner{open("/hubsim/messages/stream?after=1", ""), open("/hubsim/messages/stream", "1"), open("/hubsim/messages/stream?device=dev1", "1")}
	nobody := open("/hubsim/messages/stream?device=dev2", "")
	for i := 2; i <= 6; i++ {
		if i > 3 {
			client.Publish(dev1Events, 1, false, "{}").Wait()
		}
		for _, lines := range streams {
			if got := event(t, lines); got.Sequence != uint64(i) || got.Device != "dev1" {
				t.Fatalf("event %+v, want %d", got, i)
			}
		}
	}
	hub.paho(t, "dev2").Publish("devices/dev2/messages/events/", 1, false, "{}").Wait()
	if got := event(t, nobody); got.Sequence != 7 {
		t.Errorf("the stream of dev2 has %+v", got)
	}
	if status, _, _ := service.do("GET", "/hubsim/messages/stream?after=x", ""); status != 400 {
		t.Errorf("a bad after: %d", status)
	}
}

// listen opens a stream.
func (r *rest) listen(ctx context.Context, path, last string) *bufio.Scanner {
	r.t.Helper()
	request, err := http.NewRequestWithContext(ctx, "GET", "https://"+r.hub.HTTPSAddr()+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Authorization", r.token)
	request.Header.Set("Last-Event-ID", last)
	response, err := r.client.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = response.Body.Close() })
	if kind := response.Header.Get("Content-Type"); response.StatusCode != 200 || kind != "text/event-stream" {
		r.t.Fatalf("%d %s", response.StatusCode, kind)
	}
	return bufio.NewScanner(response.Body)
}

// event reads one server-sent event, whose id must be its message's sequence.
func event(t *testing.T, lines *bufio.Scanner) (m hubsim.Message) {
	t.Helper()
	id := ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "data":
			if err := json.Unmarshal([]byte(value), &m); err != nil {
				t.Fatal(err)
			}
		case "":
			if id != fmt.Sprint(m.Sequence) {
				t.Fatalf("event id %s of message %d", id, m.Sequence)
			}
			return m
		}
	}
	t.Fatal("the stream ended: ", lines.Err())
	return m
}

// happening reads one server-sent event as its kind and its JSON without times.
func happening(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	kind, data := "message", map[string]any{}
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			kind = value
		case "data":
			if err := json.Unmarshal([]byte(value), &data); err != nil {
				t.Fatal(err)
			}
		case "":
			for _, name := range []string{"time", "durationMs", "enqueued", "system", "properties", "protocol", "sdkVersion", "authType", "category", "level"} {
				delete(data, name)
			}
			text, err := json.Marshal(data)
			if err != nil {
				t.Fatal(err)
			}
			return kind + " " + string(text)
		}
	}
	t.Fatal("the stream ended: ", lines.Err())
	return ""
}

func TestAWatcherSeesWhatElseHappensFromNowOn(t *testing.T) {
	hub := startHub(t, hubConfig())
	hub.paho(t, "dev0").Publish("devices/dev0/messages/events/", 1, false, `"before"`).Wait()
	service := hub.rest(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := service.listen(ctx, "/hubsim/messages/stream?after=now&kind=all&device=dev1", "")
	devices := service.listen(ctx, "/hubsim/messages/stream?kind=device,connection", "")
	if _, err := hub.Register("dev1", "mod1"); err != nil {
		t.Fatal(err)
	}
	answering(t, hub, "dev1", func(_, _ string) (string, string) { return "207", `1` })
	hub.rawConnected(t, "dev2", true)
	service.do("POST", methodPath, `{"methodName":"m"}`)
	service.do("POST", "/twins/dev1/modules/mod1/methods?api-version=2021-04-12", `{"methodName":"m"}`)
	service.change("PATCH", twinPath, `{"tags":{"a":null},"properties":{"desired":{"b":1}}}`)
	service.change("PUT", twinPath, `{"tags":{"c":2}}`)
	hub.paho(t, "dev1/mod1").Publish("devices/dev1/modules/mod1/messages/events/", 1, false, `"x"`).Wait()
	if err := hub.SetEnabled("dev1", "mod1", false); err != nil {
		t.Fatal(err)
	}
	if err := hub.Unregister("dev1", "mod1"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 12 {
		got = append(got, happening(t, lines))
	}
	want := []string{
		`device {"deviceId":"dev1","operationName":"createDeviceIdentity","status":"enabled"}`,
		`device {"deviceId":"dev1","moduleId":"mod1","operationName":"createModuleIdentity","status":"enabled"}`,
		`connection {"deviceId":"dev1","operationName":"deviceConnect","sequence":2,"statusCode":0,"statusDescription":"","statusType":0}`,
		`method {"deviceId":"dev1","methodName":"m","status":207}`,
		`method {"deviceId":"dev1","error":"hubsim: 404103 DeviceNotOnline: Timed out waiting for device to connect.","methodName":"m","moduleId":"mod1","status":0}`,
		`twin {"desired":{"b":1},"deviceId":"dev1","operationName":"updateTwin","tags":{"a":null},"version":3}`,
		`twin {"deviceId":"dev1","operationName":"replaceTwin","tags":{"c":2},"version":4}`,
		`connection {"deviceId":"dev1","moduleId":"mod1","operationName":"deviceConnect","sequence":4,"statusCode":0,"statusDescription":"","statusType":0}`,
		`message {"body":"x","device":"dev1","module":"mod1","sequence":2}`,
		`device {"deviceId":"dev1","moduleId":"mod1","operationName":"updateModuleIdentity","status":"disabled"}`,
		`connection {"deviceId":"dev1","moduleId":"mod1","operationName":"deviceDisconnect","sequence":5,"statusCode":403,"statusDescription":"the device was disabled (403012)","statusType":403012}`,
		`device {"deviceId":"dev1","moduleId":"mod1","operationName":"deleteModuleIdentity","status":"disabled"}`,
	}
	// Messages and the rest come from two places: only within each is there an order.
	inOrder := func(all []string, message bool) (some []string) {
		for _, line := range all {
			if strings.HasPrefix(line, "message ") == message {
				some = append(some, line)
			}
		}
		return some
	}
	if diff := cmp.Diff(inOrder(want, false), inOrder(got, false)); diff != "" {
		t.Errorf("what happened (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(inOrder(want, true), inOrder(got, true)); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	for range 5 {
		if line := happening(t, devices); !strings.HasPrefix(line, "device ") && !strings.HasPrefix(line, "connection ") {
			t.Errorf("a watcher of devices and connections got %s", line)
		}
	}
}

func TestAStreamIsFilteredByModuleAndProperty(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	for _, m := range []struct{ identity, bag string }{
		{"dev1", "alert=true"}, {"dev1/mod1", "alert=false"}, {"dev2/mod1", "%24.ct=text%2Fplain&alert=true&x"}, {"dev2", ""},
	} {
		device, module, isModule := strings.Cut(m.identity, "/")
		topic := "devices/" + device + "/messages/events/" + m.bag
		if isModule {
			topic = "devices/" + device + "/modules/" + module + "/messages/events/" + m.bag
		}
		hub.paho(t, m.identity).Publish(topic, 1, false, "{}").Wait()
	}
	for query, want := range map[string][]uint64{
		"module=mod1": {2, 3}, "property=alert": {1, 2, 3}, "property=alert%3Dtrue": {1, 3}, "property=alert=true&property=x": {3},
		"property=content-type=text/plain": {3}, "property=x=": {3}, "property=alert=true&device=dev1": {1}, "device=dev2&module=mod1": {3}, "": {1, 2, 3, 4},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		lines := service.listen(ctx, "/hubsim/messages/stream?"+query, "")
		_, _, answer := service.do("GET", "/hubsim/messages?"+query, "")
		var list []hubsim.Message
		if err := json.Unmarshal([]byte(answer), &list); err != nil || len(list) != len(want) {
			t.Errorf("%s: the list is %s (%v)", query, answer, err)
		}
		for _, sequence := range want {
			if got := event(t, lines); got.Sequence != sequence {
				t.Errorf("%s: got message %d, want %d", query, got.Sequence, sequence)
			}
		}
		cancel()
	}
	for _, query := range []string{"kind=nonsense", "after=then"} {
		if status, code, _ := service.do("GET", "/hubsim/messages/stream?"+query, ""); status != 400 || code != "ArgumentInvalid" {
			t.Errorf("%s: %d %s", query, status, code)
		}
	}
	if _, _, answer := service.do("GET", "/hubsim/messages?after=now", ""); answer != "[]" {
		t.Errorf("from now on there is %s", answer)
	}
}
