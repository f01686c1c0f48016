package hubsim_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/internal/testkit"
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
	service.change("PATCH", twinPath, `{"properties":{"desired":{"unacknowledged":0}}}`)
	if p := c.expect(packets.Publish); p.FixedHeader.Qos != 1 || p.PacketID < 0x8000 { // nobody sends its PUBACK
		t.Errorf("QoS %d, packet id %d", p.FixedHeader.Qos, p.PacketID)
	}
	_ = c.conn.Close()
	testkit.Eventually(t, "the device has gone", func() bool { return !hub.Connected("dev1") })
	service.change("PATCH", twinPath, `{"properties":{"desired":{"missed":1}}}`)
	c = hub.rawConnected(t, "dev1", false)
	service.change("PATCH", twinPath, `{"properties":{"desired":{"seen":2}}}`)
	c.expectPublish("$iothub/twin/PATCH/properties/desired/?$version=4", 1, `{"seen":2,"$version":4}`) // and nothing of what it missed
	c.publish(twinGet+"1", 0, 0, "")
	c.expectPublish(twinAnswered+"200/?$rid=1", 1, `{"desired":{"missed":1,"seen":2,"unacknowledged":0,"$version":4},"reported":{"$version":1}}`)
}

// Subscribe, GET, and from then on take what is newer than the document (TWIN-15).
func TestTheReconnectFlowMissesNoChange(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	c := hub.rawConnected(t, "dev1", true)
	const last = 60
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range last {
			if status, _, answer := service.do("PATCH", twinPath, fmt.Sprintf(`{"properties":{"desired":{"n":%d}}}`, n+1)); status != 200 {
				t.Errorf("%d %s", status, answer)
			}
		}
	}()
	defer func() { <-done }()
	testkit.Eventually(t, "the twin has changed", func() bool { return service.change("GET", twinPath, "")["version"].(float64) > 5 })
	c.subscribe(1, 0, twinResults, twinDesired)
	c.publish(twinGet+"1", 0, 0, "")
	known := 0 // the version of the document, once it is here
	for n := 0; n < last; {
		p := c.expect(packets.Publish)
		var body struct {
			N       int `json:"n"`
			Version int `json:"$version"`
			Desired struct {
				N       int `json:"n"`
				Version int `json:"$version"`
			} `json:"desired"`
		}
		if err := json.Unmarshal(p.Payload, &body); err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasPrefix(p.TopicName, twinAnswered):
			known, n = body.Desired.Version, body.Desired.N
		case known > 0 && body.Version > known:
			if body.Version != known+1 {
				t.Fatalf("version %d follows %d", body.Version, known)
			}
			known, n = body.Version, body.N
		}
		if known > 0 && n != known-1 {
			t.Fatalf("version %d has n=%d", known, n)
		}
	}
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
