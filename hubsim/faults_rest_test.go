package hubsim_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/hubsim"
)

func TestFaultsAreDialledOverREST(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	c := hub.rawConnected(t, "dev1", true)
	set := func(body, want string) {
		t.Helper()
		if status, _, answer := service.do("POST", "/hubsim/faults", body); status != 200 || answer != want {
			t.Errorf("%s: %d %s", body, status, answer)
		}
	}
	set(`{"identity":"dev1","dropAcks":1,"delayAcks":"1ms","refuseConnects":{"code":3,"count":1},"closeOnPublish":3}`, `{"kicked":false}`)
	c.publish(dev1Events, 1, 1, "x")
	c.publish(dev1Events, 1, 2, "x")
	c.expectPuback(2)
	c.publish(dev1Events, 1, 3, "x")
	c.expectClosed()
	refused := hub.raw(t)
	refused.sendPacket(hub.connectPacket(t, "dev1", true))
	if p, err := refused.next(); err != nil || p.ReasonCode != 3 {
		t.Errorf("CONNACK %d, %v", p.ReasonCode, err)
	}
	c = hub.rawConnected(t, "dev1", true)
	set(`{"kick":true}`, `{"kicked":true}`)
	c.expectClosed()
	for _, body := range []string{`{"delayAcks":"soon"}`, `{"failTwins":{"status":200,"count":1}}`, `{"dropAcks":"x"}`, `{"dropAck":1}`, `{"refuseConnects":{"code":6,"count":1}}`} {
		if status, code, _ := service.do("POST", "/hubsim/faults", body); status != 400 || code != "ArgumentInvalid" {
			t.Errorf("%s: %d %s", body, status, code)
		}
	}
	c = hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, twinResults)
	set(`{"failTwins":{"status":503,"count":1}}`, `{"kicked":false}`)
	c.publish(twinGet+"1", 0, 0, "")
	if p := c.expect(packets.Publish); p.TopicName != twinAnswered+"503/?$rid=1" {
		t.Errorf("a twin request that is to fail: %s", p.TopicName)
	}
	set(`{"identity":"dev1","throttle":0}`, `{"kicked":false}`)
	c.publish(dev1Events, 1, 1, "x")
	c.expectClosed()
	set(`{"identity":"dev1","throttle":-1,"exhaustQuota":true}`, `{"kicked":false}`)
	c = hub.rawConnected(t, "dev1", true)
	c.publish(dev1Events, 1, 1, "x")
	c.expectClosed()
	set(`{"identity":"dev1","exhaustQuota":false,"cutMidPacket":true}`, `{"kicked":false}`)
	refused = hub.raw(t)
	refused.sendPacket(hub.connectPacket(t, "dev1", true))
	if p, err := refused.next(); err == nil {
		t.Errorf("a whole packet of type %d came", p.FixedHeader.Type)
	}
	c = hub.rawConnected(t, "dev1", true)
	set(`{"identity":"dev1","expireTokens":true}`, `{"kicked":true}`)
	c.expectClosed()
}

func TestConnectionEventsAreListed(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	c := hub.rawConnected(t, "dev1/mod1", true)
	hub.Kick("dev1/mod1")
	c.expectClosed()
	for after, want := range map[string]int{"": 2, "?after=1": 1, "?after=2": 0} {
		status, _, answer := service.do("GET", "/hubsim/events"+after, "")
		var list []hubsim.ConnectionEvent
		if err := json.Unmarshal([]byte(answer), &list); err != nil || status != 200 || len(list) != want {
			t.Fatalf("%q: %d %s (%v), want %d events", after, status, answer, err, want)
		}
		if diff := cmp.Diff(hub.ConnectionEvents(uint64(2-want)), list); diff != "" {
			t.Errorf("%q (-raised +listed):\n%s", after, diff)
		}
		if want == 2 && (list[0].Device != "dev1" || list[0].Module != "mod1" || list[1].Description != "cut by a dial") {
			t.Errorf("%+v", list)
		}
	}
	if status, code, _ := service.do("GET", "/hubsim/events?after=x", ""); status != 400 || code != "ArgumentInvalid" {
		t.Errorf("a bad sequence: %d %s", status, code)
	}
}

func TestArmedFaultsAreListedAndCleared(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	const (
		dev1 = `{"identity":"dev1","dropAcks":3,"delayAcks":"2s","refuseConnects":{"code":3,"count":2},"closeOnPublish":5,"cutMidPacket":true,"failTwins":{"status":429,"count":1}}`
		all  = `{"identity":"","throttle":2.5,"exhaustQuota":true}`
	)
	ask := func(method, query, want string) {
		t.Helper()
		if status, _, answer := service.do(method, "/hubsim/faults"+query, ""); status != 200 || answer != want {
			t.Errorf("%s %s: %d %s, want %s", method, query, status, answer, want)
		}
	}
	ask("GET", "", "[]")
	for _, body := range []string{dev1, all} {
		if status, _, answer := service.do("POST", "/hubsim/faults", body); status != 200 {
			t.Fatalf("%s: %d %s", body, status, answer)
		}
	}
	ask("GET", "", "["+all+","+dev1+"]")
	ask("DELETE", "?identity=", "{}")
	ask("GET", "", "["+dev1+"]")
	ask("DELETE", "?identity=dev1", "{}")
	ask("GET", "", "[]")
	hub.Throttle("dev1", 0)
	ask("DELETE", "", "{}")
	if left := hub.ArmedFaults(); len(left) != 0 {
		t.Errorf("after all is cleared there is %+v", left)
	}
	c := hub.rawConnected(t, "dev1", true) // and nothing of it is felt
	c.publish(dev1Events, 1, 1, "x")
	c.expectPuback(1)
}
