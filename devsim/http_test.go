package devsim

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// call sends one request to the handler and returns status and body.
func call(t *testing.T, s *Sim, method, path, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	answer, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, strings.TrimSpace(string(answer))
}

func TestThePageOfDevicesShowsDialsAndValues(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	set(t, s, "boiler/setpoint", gateway.FloatValue(61.5))
	s.Mute(boiler, 1, true)
	s.Exception(boiler, 2, 6)
	s.Delay(boiler, 2, 250*time.Millisecond)
	status, body := call(t, s, "GET", "/devices", "")
	var got []struct {
		Name, Link, Address, Delay string
		Unit                       int
		Mute                       bool
		Exception                  int
		Points                     []map[string]any
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK || len(got) != 2 {
		t.Fatalf("%d %v %s", status, err, body)
	}
	b, m := got[0], got[1]
	if b.Name != "boiler" || b.Link != boiler || b.Address != s.Addr(boiler) || b.Unit != 1 || !b.Mute || b.Delay != "0s" {
		t.Errorf("boiler: %+v", b)
	}
	if m.Name != "meter" || m.Unit != 2 || m.Mute || m.Exception != 6 || m.Delay != "250ms" {
		t.Errorf("meter: %+v", m)
	}
	points := make(map[any]map[string]any)
	for _, p := range b.Points {
		points[p["id"]] = p
	}
	p := points["boiler/setpoint"]
	if p["value"] != 61.5 || p["table"] != "holding" || p["register"] != 9.0 || p["unit"] != "Cel" || p["writable"] != true {
		t.Errorf("setpoint: %v", p)
	}
	if bit, ok := points["boiler/alarm_word"]["bit"]; ok || points["boiler/pump_fault"]["bit"] != 3.0 {
		t.Errorf("bits: %v, %v", bit, points["boiler/pump_fault"])
	}
	if len(b.Points) != 15 || b.Points[0]["id"] != "boiler/flow_temp" {
		t.Errorf("%d points, the first is %v", len(b.Points), b.Points[0]["id"])
	}
}

func TestAPutHoldsAPointAtTheValue(t *testing.T) {
	plant := boilerPlant()
	probe := with(at("probe", modbus.Input, 50, modbus.Int16), func(p *modbus.Point) { p.NotAvailable = []uint64{0x8000} })
	plant.Links[0].Devices[0].Points = append(plant.Links[0].Devices[0].Points, probe)
	s := build(t, Config{Plant: plant})
	for _, test := range []struct{ path, body, value string }{
		{"/points/boiler/flow_temp", `{"value": 61.5}`, `61.5`},
		{"/points/boiler/burner_on", `{"value": true}`, `true`},
		{"/points/boiler/mode", `{"value": "manual"}`, `"manual"`},
		{"/points/boiler/hours", `{"value": 4294967295}`, `4294967295`},
		{"/points/boiler/status", `{"value": {"run": true}}`, `{"run":true,"fault":false}`},
		{"/points/boiler/probe", `{"value": null}`, `null`},
	} {
		for _, method := range []string{"PUT", "GET"} {
			body := ""
			if method == "PUT" {
				body = test.body
			}
			status, answer := call(t, s, method, test.path, body)
			if status != http.StatusOK || !strings.Contains(answer, `"value":`+test.value+`,`) {
				t.Errorf("%s %s %s: %d %s", method, test.path, body, status, answer)
			}
		}
	}
	if words, err := s.Register("boiler/probe"); err != nil || words[0] != 0x8000 {
		t.Errorf("null stored %04X (%v), want 8000", words, err)
	}
}

func TestAPostTurnsOnlyTheDialsItNames(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	for _, test := range []struct {
		body string
		want dial
	}{
		{`{"mute":true,"exception":2,"delay":"200ms"}`, dial{true, 2, 200 * time.Millisecond}},
		{`{"delay":"0s"}`, dial{true, 2, 0}},
		{`{"mute":false}`, dial{false, 2, 0}},
		{`{"exception":0}`, dial{}},
	} {
		if status, answer := call(t, s, "POST", "/links/boiler/units/1", test.body); status != http.StatusNoContent {
			t.Errorf("%s: %d %s", test.body, status, answer)
		}
		if got := s.links[boiler].dial(1); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.body, got, test.want)
		}
	}
}

func TestAPostDropsTheConnections(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	conn := raw(t, s)
	send(t, conn, "0001"+readSetpoint)
	expect(t, conn, "0001"+setpointIs)
	if status, answer := call(t, s, "POST", "/links/boiler/drop", ""); status != http.StatusNoContent {
		t.Errorf("%d %s", status, answer)
	}
	if !closed(conn) {
		t.Error("the connection stays open")
	}
}

func TestWhatTheHandlerCannotDoItSays(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	for _, test := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/points/boiler/nothing", "", 404, "boiler/nothing"},
		{"PUT", "/points/boiler/nothing", `{"value":1}`, 404, "boiler/nothing"},
		{"PUT", "/points/boiler/setpoint", `{"value":40000}`, 400, "int16 carries"},
		{"PUT", "/points/boiler/setpoint", `{"value":[1]}`, 400, "need a number"},
		{"PUT", "/points/boiler/setpoint", `{}`, 400, "needs a"},
		{"PUT", "/points/boiler/setpoint", `{"valve":1}`, 400, "valve"},
		{"PUT", "/points/boiler/setpoint", ``, 400, "the body"},
		{"PUT", "/points/boiler/setpoint", `{"value":"` + strings.Repeat("x", maxBody) + `"}`, 400, "too large"},
		{"POST", "/links/boilr/units/1", `{}`, 404, "boilr"},
		{"POST", "/links/boilr/drop", ``, 404, "boilr"},
		{"POST", "/links/boiler/units/256", `{}`, 400, "0 to 255"},
		{"POST", "/links/boiler/units/1", `{"delay":"-1s"}`, 400, "200ms"},
		{"POST", "/links/boiler/units/1", `{"delay":"soon"}`, 400, "200ms"},
		{"POST", "/links/boiler/units/1", `{"exception":256}`, 400, "exception"},
		{"POST", "/links/boiler/units/1", `{"silent":true}`, 400, "silent"},
	} {
		status, answer := call(t, s, test.method, test.path, test.body)
		var problem struct{ Error string }
		if err := json.Unmarshal([]byte(answer), &problem); err != nil || status != test.status || !strings.Contains(problem.Error, test.says) {
			t.Errorf("%s %s %.40s: %d %s, want %d that says %q", test.method, test.path, test.body, status, answer, test.status, test.says)
		}
	}
	if got := s.links[boiler].dial(1); got != (dial{}) {
		t.Errorf("a refused request turned a dial: %+v", got)
	}
}

func TestALinkNamedByItsEndpointCanBeReached(t *testing.T) {
	plant := boilerPlant()
	plant.Links[0].Name = "10.7.3.11:502"
	s := build(t, Config{Plant: plant})
	if status, answer := call(t, s, "POST", "/links/10.7.3.11:502/units/1", `{"mute":true}`); status != http.StatusNoContent {
		t.Errorf("%d %s", status, answer)
	}
	if !s.links["10.7.3.11:502"].dial(1).mute {
		t.Error("the dial did not turn")
	}
}
