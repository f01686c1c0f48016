package hubsim_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/hubsim"
)

func TestCommandsAreSentPurgedAndLookedAtOverREST(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	c := hub.rawConnected(t, "dev1", false)
	c.subscribe(1, 1, "devices/dev1/messages/devicebound/#")
	status, _, answer := service.do("POST", "/hubsim/devices/dev1/messages",
		`{"messageId":"m1","ack":"full","contentType":"application/json","properties":{"a":"b","n":null},"body":{"setpoint": 5}}`)
	if status != 200 || answer != `{"messageId":"m1"}` {
		t.Fatalf("%d %s", status, answer)
	}
	p := c.expect(packets.Publish)
	const want = "devices/dev1/messages/devicebound/%24.mid=m1&%24.to=%2Fdevices%2Fdev1%2Fmessages%2FdeviceBound&%24.ct=application%2Fjson&iothub-ack=full&a=b&n"
	if p.TopicName != want || string(p.Payload) != `{"setpoint": 5}` || p.FixedHeader.Qos != 1 {
		t.Errorf("%s %s", p.TopicName, p.Payload)
	}
	if status, _, answer = service.do("POST", "/hubsim/devices/dev1/messages", `{"bodyBase64":"AAH/"}`); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	if p := c.expect(packets.Publish); string(p.Payload) != "\x00\x01\xff" {
		t.Errorf("%q", p.Payload)
	}
	if _, _, answer = service.do("GET", "/devices/dev1?api-version=2021-04-12", ""); !strings.Contains(answer, `"cloudToDeviceMessageCount":2`) {
		t.Errorf("the registry says %s", answer)
	}
	status, _, answer = service.do("DELETE", "/devices/dev1/commands?api-version=2021-04-12", "")
	if status != 200 || answer != `{"totalMessagesPurged":2,"deviceId":"dev1","moduleId":null}` {
		t.Errorf("purge: %d %s", status, answer)
	}
	_, _, answer = service.do("GET", "/hubsim/devices/dev1/deadletters", "")
	var dead []hubsim.DeadLetter
	if err := json.Unmarshal([]byte(answer), &dead); err != nil || len(dead) != 2 || dead[0].Message.MessageID != "m1" || dead[0].Reason != "Purged" {
		t.Errorf("dead letters %s (%v)", answer, err)
	}
	if status, _, answer = service.do("GET", "/hubsim/feedback?after=0", ""); status != 200 || answer != "[]" { // 15 s are not over
		t.Errorf("feedback: %d %s", status, answer)
	}
}

func TestCommandsThatCannotBeAreRefusedOverREST(t *testing.T) {
	hub := startHub(t, hubConfig())
	if _, err := hub.Register("dev1", "mod1"); err != nil {
		t.Fatal(err)
	}
	service := hub.rest(t)
	got := map[string]int{}
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/hubsim/devices/dev9/messages", `{}`},
		{"POST", "/hubsim/devices/dev1/modules/mod1/messages", `{}`},
		{"POST", "/hubsim/devices/dev1/messages", `{"ack":"maybe"}`},
		{"POST", "/hubsim/devices/dev1/messages", `{"bodyBase64":"` + strings.Repeat("AAAA", 65536/3+1) + `"}`},
		{"DELETE", "/devices/dev9/commands?api-version=2021-04-12", ""},
		{"DELETE", "/devices/dev1/commands", ""},
		{"GET", "/hubsim/devices/dev9/deadletters", ""},
		{"GET", "/hubsim/feedback?after=x", ""},
	} {
		status, code, _ := service.do(c.method, c.path, c.body)
		got[c.method+" "+c.path+" "+c.body[:min(len(c.body), 15)]+" "+code] = status
	}
	if diff := cmp.Diff(map[string]int{
		"POST /hubsim/devices/dev9/messages {} DeviceNotFound":                 404,
		"POST /hubsim/devices/dev1/modules/mod1/messages {} ArgumentInvalid":   400,
		`POST /hubsim/devices/dev1/messages {"ack":"maybe"} ArgumentInvalid`:   400,
		`POST /hubsim/devices/dev1/messages {"bodyBase64":" MessageTooLarge`:   413,
		"DELETE /devices/dev9/commands?api-version=2021-04-12  DeviceNotFound": 404,
		"DELETE /devices/dev1/commands  InvalidProtocolVersion":                400,
		"GET /hubsim/devices/dev9/deadletters  DeviceNotFound":                 404,
		"GET /hubsim/feedback?after=x  ArgumentInvalid":                        400,
	}, got); diff != "" {
		t.Error(diff)
	}
}

func TestCommandsThatComeTooFastGetTooManyRequests(t *testing.T) {
	cfg := hubConfig()
	cfg.Limits = hubsim.Limits{Commands: 1, Backlog: 1}
	hub := startHub(t, cfg)
	if _, err := hub.Register("dev1", ""); err != nil {
		t.Fatal(err)
	}
	service := hub.rest(t)
	got := map[int]int{}
	for range 4 {
		status, _, _ := service.do("POST", "/hubsim/devices/dev1/messages", `{}`)
		got[status]++
	}
	if got[200] == 0 || got[429] == 0 || len(got) != 2 {
		t.Errorf("statuses %v", got)
	}
}
