package e2e

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// sdkRun is a device of the SDK and the hub that it is connected to.
type sdkRun struct {
	*sdkDevice
	sdkVariant
	hub *hubsim.Hub
	cfg sdkConfig
	// hasTwin tells that it has asked for its twin.
	hasTwin bool
	// letters are the ids of the cloud-to-device messages that it has completed.
	letters []string
}

// Every way of using Microsoft's SDK goes through the same life; what the hub holds is looked at as well
// as what the SDK says.
func TestMicrosoftsSDKFindsAnIoTHub(t *testing.T) {
	var runs []*sdkRun
	for _, v := range sdkVariants() {
		runs = append(runs, &sdkRun{sdkVariant: v, hub: startHubAs(t, hubsim.Config{HostName: sdkName})})
	}
	t.Run("as", func(t *testing.T) {
		for _, r := range runs {
			t.Run(r.String(), func(t *testing.T) {
				t.Parallel()
				r.live(t)
			})
		}
	})
	for _, r := range runs { // feedback takes its time
		r.hasCompleted(t)
	}
}

func (r *sdkRun) live(t *testing.T) {
	r.cfg = r.config(t, r.hub)
	r.sdkDevice = startSDKAt(t, r.hub, r.cfg)
	r.do("open", nil)
	r.sendsTelemetry()
	r.answersMethods()
	r.seesItsTwin()
	r.takesMessages()
	r.comesBackAfterADrop()
	r.losesToAnother()
}

func (r *sdkRun) sendsTelemetry() {
	r.t.Helper()
	r.do("send", fields{
		"body":       `{"temp":21.5}`,
		"system":     fields{"messageId": "msg-1", "correlationId": "corr-1", "userId": "u", "contentType": "application/json", "contentEncoding": "utf-8"},
		"properties": fields{"alert": "true", "sp ace": "a/b=c&d+ü"},
	})
	r.do("send", fields{"body": "raw"})
	want := []hubsim.Message{
		{
			Sequence: 1, Device: "dev1", Module: r.module, Body: []byte(`{"temp":21.5}`),
			Properties: map[string]string{"alert": "true", "sp ace": "a/b=c&d+ü"},
			System: map[string]string{
				"message-id": "msg-1", "correlation-id": "corr-1", "user-id": "u", "content-type": "application/json", "content-encoding": "utf-8",
			},
		},
		{Sequence: 2, Device: "dev1", Module: r.module, Body: []byte("raw"), Properties: map[string]string{}, System: map[string]string{}},
	}
	if r.module != "" {
		r.do("output", fields{"name": "alerts", "body": "out", "properties": fields{"p": "a/b"}})
		want = append(want, hubsim.Message{
			Sequence: 3, Device: "dev1", Module: r.module, Body: []byte("out"), Properties: map[string]string{"p": "a/b"},
			System: map[string]string{"outputName": "alerts"},
		})
	}
	got := r.hub.Messages(0, 10)
	for i := range got {
		got[i].Enqueued = time.Time{}
		for name := range got[i].System {
			if strings.HasPrefix(name, "iothub-") || strings.HasPrefix(name, "x-opt-") { // what the hub adds
				delete(got[i].System, name)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("stored at the hub (-want +got):\n%s", diff)
	}
}

// call invokes a method on the SDK's device.
func (r *sdkRun) call(name string, payload json.RawMessage) (hubsim.MethodResult, error) {
	return r.hub.CallMethod(context.Background(), hubsim.MethodCall{
		Device: "dev1", Module: r.module, Name: name, Payload: payload, ConnectTimeout: 20 * time.Second, ResponseTimeout: 20 * time.Second,
	})
}

func (r *sdkRun) answersMethods() {
	r.t.Helper()
	r.do("method", fields{"name": "reboot", "status": 200})
	r.do("method", fields{"name": "fail", "status": 418})
	for i, c := range []struct {
		name, payload string
		status        int
	}{
		{"reboot", `{"delay":5}`, 200}, {"reboot", `null`, 200}, {"reboot", `"text"`, 200}, {"fail", `[1,2]`, 418},
	} {
		got, err := r.call(c.name, json.RawMessage(c.payload))
		if err != nil {
			r.t.Errorf("%s %s: %v", c.name, c.payload, err)
			continue
		}
		if event := r.event(i+1, "method"); event.Name != c.name || string(event.Payload) != c.payload {
			r.t.Errorf("%s %s: the SDK saw %s %s", c.name, c.payload, event.Name, event.Payload)
		}
		if want := `{"called":` + c.payload + `}`; got.Status != c.status || string(got.Payload) != want {
			r.t.Errorf("%s %s: answered %d %s, want %d %s", c.name, c.payload, got.Status, got.Payload, c.status, want)
		}
	}
	// What comes over REST without a payload it can answer.
	var got hubsim.MethodResult
	serviceOf(r.t, r.hub).do("POST", r.twinPath()+"/methods?api-version=2021-04-12", `{"methodName":"reboot"}`, &got)
	if want := `{"called":null}`; got.Status != 200 || string(got.Payload) != want {
		r.t.Errorf("no payload: answered %d %s, want %s", got.Status, got.Payload, want)
	}
	// A body that is quite empty is beyond this SDK, which says so in its answer.
	if got, err := r.call("reboot", nil); err != nil || got.Status != 400 || !strings.Contains(string(got.Payload), "Invalid request format") {
		r.t.Errorf("an empty body: %d %s, %v", got.Status, got.Payload, err)
	}
}

// twinPath is where the service side has the device or module.
func (r *sdkRun) twinPath() string {
	if r.module != "" {
		return "/twins/dev1/modules/" + r.module
	}
	return "/twins/dev1"
}

// twin is the twin as the SDK has it, and as the hub's service side has it.
type twin struct {
	Desired, Reported map[string]any
}

// ask reads the twin at the service side, or with a body patches it.
func (r *sdkRun) twinAt(method, body string) twin {
	r.t.Helper()
	var all struct{ Properties twin }
	serviceOf(r.t, r.hub).do(method, r.twinPath()+"?api-version=2021-04-12", body, &all)
	delete(all.Properties.Desired, "$metadata")
	delete(all.Properties.Reported, "$metadata")
	return all.Properties
}

func (r *sdkRun) seesItsTwin() {
	r.t.Helper()
	r.twinAt("PATCH", `{"properties":{"desired":{"interval":10,"nested":{"a":1,"b":2}}}}`)
	r.agrees(twin{
		Desired:  map[string]any{"interval": 10.0, "nested": map[string]any{"a": 1.0, "b": 2.0}, "$version": 2.0},
		Reported: map[string]any{"$version": 1.0},
	})
	r.do("report", fields{"patch": fields{"fw": "1.0", "gone": 1}})
	r.do("report", fields{"patch": fields{"gone": nil}})
	r.twinAt("PATCH", `{"properties":{"desired":{"interval":20,"nested":{"a":null}}}}`)
	// The SDK hands out what it was asked for once, then what changes.
	r.hasTwin = true
	if want, got := `{"interval":20,"nested":{"a":null},"$version":3}`, string(r.event(2, "desired").Payload); got != want {
		r.t.Errorf("the change is %s, want %s", got, want)
	}
	r.agrees(twin{
		Desired:  map[string]any{"interval": 20.0, "nested": map[string]any{"b": 2.0}, "$version": 3.0},
		Reported: map[string]any{"fw": "1.0", "$version": 3.0},
	})
	if got := r.answer(r.ask("report", fields{"patch": fields{"bad.name": 1}})); got.Error == "" {
		r.t.Error("a bad property name is reported without an error")
	}
}

// agrees wants the SDK and the service side to see the same twin.
func (r *sdkRun) agrees(want twin) {
	r.t.Helper()
	var mine twin
	if err := json.Unmarshal(r.do("twin", nil), &mine); err != nil {
		r.t.Fatal(err)
	}
	if diff := cmp.Diff(want, r.twinAt("GET", "")); diff != "" {
		r.t.Errorf("the twin at the hub (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, mine); diff != "" {
		r.t.Errorf("the twin at the SDK (-want +got):\n%s", diff)
	}
}

// takesMessages sends cloud-to-device messages, which modules do not get.
func (r *sdkRun) takesMessages() {
	r.t.Helper()
	if r.module != "" {
		return
	}
	// Nothing tells when the SDK has subscribed; what was sent before is dropped.
	r.do("messages", nil)
	testkit.Within(r.t, 20*time.Second, "a first message has come", func() bool {
		if _, err := r.hub.Send(hubsim.CloudMessage{Device: "dev1", MessageID: "probe", Body: []byte("probe")}); err != nil {
			r.t.Fatal(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.ContainsFunc(r.lines, func(l sdkLine) bool { return l.Event == "message" })
	})
	value := "a/b=c&d+ü"
	for _, m := range []hubsim.CloudMessage{
		{MessageID: "letter-1", Properties: map[string]*string{"sp ace": &value}, Body: []byte(`{"open":true}`)}, {MessageID: "letter-2"},
	} {
		r.post(m)
		r.arrived(m)
	}
}

// post sends a message to the device.
func (r *sdkRun) post(m hubsim.CloudMessage) {
	r.t.Helper()
	m.Device, m.Ack = "dev1", "full"
	if _, err := r.hub.Send(m); err != nil {
		r.t.Fatal(err)
	}
	r.letters = append(r.letters, m.MessageID)
}

// arrived wants a message that was posted to come as it is.
func (r *sdkRun) arrived(m hubsim.CloudMessage) {
	r.t.Helper()
	got := r.find(1, m.MessageID+" has come", func(l sdkLine) bool { return l.Event == "message" && l.MessageID == m.MessageID })
	if got.Body != string(m.Body) {
		r.t.Errorf("%s: the body is %q, want %q", m.MessageID, got.Body, m.Body)
	}
	for name, value := range m.Properties {
		if got.Properties[name] != *value {
			r.t.Errorf("%s: the property %q is %q, want %q", m.MessageID, name, got.Properties[name], *value)
		}
	}
}

// hasCompleted wants the hub to have heard that each message was handled, once.
func (r *sdkRun) hasCompleted(t *testing.T) {
	t.Helper()
	want, got := map[string]string{}, map[string]string{}
	for _, id := range r.letters {
		want[id] = "Success"
	}
	testkit.Within(t, 40*time.Second, "the feedback of every message is there", func() bool {
		clear(got)
		for _, f := range r.hub.Feedback(0) {
			for _, record := range f.Records {
				got[record.OriginalMessageID] += record.Status
			}
		}
		return len(got) == len(want)
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("feedback (-want +got):\n%s", diff)
	}
}

// comesBackAfterADrop cuts the connection: at the latest with its next message the SDK connects again, and is
// what it was.
func (r *sdkRun) comesBackAfterADrop() {
	r.t.Helper()
	r.hub.RefuseConnects(r.identity(), 3, 2)
	if !r.hub.Kick(r.identity()) {
		r.t.Fatal("there was no connection to cut")
	}
	away := hubsim.CloudMessage{MessageID: "sent-while-away"}
	if r.letters != nil {
		r.post(away)
	}
	r.isWellWith("after the drop")
	if r.letters != nil {
		r.arrived(away)
	}
}

// losesToAnother connects a client with the same id, which cuts the SDK off. The SDK takes the id back.
func (r *sdkRun) losesToAnother() {
	r.t.Helper()
	lost := make(chan error, 1)
	other := r.rival(lost)
	if err := other.Connect(); !err.WaitTimeout(20*time.Second) || err.Error() != nil {
		r.t.Fatalf("the other client: %v", err.Error())
	}
	defer other.Disconnect(0)
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		r.t.Fatal("the SDK did not take its id back")
	}
	r.isWellWith("after the take-over")
}

// isWellWith sends a message with this body, calls a method and changes the twin.
func (r *sdkRun) isWellWith(body string) {
	r.t.Helper()
	before := r.hub.Messages(0, 1<<20)
	r.do("send", fields{"body": body})
	after := r.hub.Messages(0, 1<<20)[len(before):]
	if len(after) == 0 || slices.ContainsFunc(after, func(m hubsim.Message) bool { return string(m.Body) != body }) { // it may come twice
		r.t.Errorf("%s: what arrived is %+v", body, after)
	}
	testkit.Within(r.t, 30*time.Second, body+" a method is answered", func() bool {
		got, err := r.call("reboot", json.RawMessage("1"))
		return err == nil && got.Status == 200
	})
	if r.hasTwin {
		change := `"step":"` + body + `"`
		r.twinAt("PATCH", `{"properties":{"desired":{`+change+`}}}`)
		r.find(1, body+" a change of the twin", func(l sdkLine) bool {
			return l.Event == "desired" && strings.Contains(string(l.Payload), change)
		})
	}
}

func TestMicrosoftsSDKRenewsItsToken(t *testing.T) {
	for _, transport := range []string{"Mqtt", "MqttWs"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			v := sdkVariant{transport: transport, proof: "sas"}
			var log testkit.Log
			hub := startHubAs(t, hubsim.Config{HostName: sdkName, ExpiryGrace: -1, Log: zerolog.New(&log)})
			cfg := v.config(t, hub)
			cfg.Renewal = &sdkRenewal{Valid: 4, Margin: 2}
			r := &sdkRun{sdkDevice: startSDKAt(t, hub, cfg), sdkVariant: v, hub: hub, cfg: cfg}
			r.do("open", nil)
			r.do("method", fields{"name": "reboot", "status": 200})
			testkit.Within(t, 20*time.Second, "the token was renewed twice", func() bool {
				return strings.Count(log.String(), ": connected") >= 3 && hub.Connected("dev1")
			})
			r.isWellWith("after the renewals")
			if strings.Contains(log.String(), "expired") {
				t.Errorf("a token ran out:\n%s", log.String())
			}
		})
	}
}

func TestMicrosoftsSDKUnderstandsARefusal(t *testing.T) {
	v := sdkVariant{transport: "Mqtt", proof: "sas"}
	hub := startHubAs(t, hubsim.Config{HostName: sdkName})
	cfg := v.config(t, hub)
	d := startSDKAt(t, hub, cfg)
	hub.RefuseConnects("dev1", 5, 1)
	if got := d.answer(d.ask("open", nil)); !strings.Contains(got.Error, "UnauthorizedError") {
		t.Errorf("CONNACK 5: %q, want an UnauthorizedError", got.Error)
	}
	hub.RefuseConnects("dev1", 3, 2)
	d.do("open", nil)
}
