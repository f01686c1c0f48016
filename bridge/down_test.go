package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
)

// plc is a device that does what its functions say and remembers what was written.
type plc struct {
	write func(context.Context, gateway.PointID, gateway.Value) error
	read  func(context.Context, []gateway.PointID) ([]gateway.Sample, error)

	mu       sync.Mutex // guards the fields below
	written  []string
	confirms []gateway.Confirm // what the writes were to be confirmed by
	reads    [][]gateway.PointID
}

func (p *plc) Write(ctx context.Context, id gateway.PointID, v gateway.Value, by gateway.Confirm) error {
	p.mu.Lock()
	p.confirms = append(p.confirms, by)
	p.written = append(p.written, fmt.Sprintf("%s=%v", id, v))
	p.mu.Unlock()
	if p.write == nil {
		return nil
	}
	return p.write(ctx, id, v)
}

func (p *plc) Read(ctx context.Context, ids []gateway.PointID) ([]gateway.Sample, error) {
	p.mu.Lock()
	p.reads = append(p.reads, ids)
	p.mu.Unlock()
	return p.read(ctx, ids)
}

func limit(f float64) *float64 { return &f }

func constant(v gateway.Value) *gateway.Value { return &v }

// boiler is a plant with every kind of method on the identity "boiler".
func boiler(device Device) DownConfig {
	setpoint, mode, lamp, flow := field("boiler", "setpoint"), field("boiler", "mode"), field("boiler", "lamp"), field("boiler", "flow")
	setpoint.Write = &gateway.WriteRule{Min: limit(30), Max: limit(85), Confirm: gateway.Confirm{By: setpoint.ID}}
	mode.Write = &gateway.WriteRule{Words: []string{"off", "auto"}}
	lamp.Write = &gateway.WriteRule{}
	method := func(name string, m gateway.Method) gateway.Method {
		m.Identity, m.Name = "boiler", name
		return m
	}
	return DownConfig{
		Points: []gateway.Point{setpoint, mode, lamp, flow},
		Methods: []gateway.Method{
			method("setSetpoint", gateway.Method{Write: setpoint.ID, From: "value", Timeout: 5 * time.Second}),
			method("setMode", gateway.Method{Write: mode.ID, From: "mode"}),
			method("setLamp", gateway.Method{Write: lamp.ID, From: "on"}),
			method("lampOn", gateway.Method{Write: lamp.ID, Value: constant(gateway.BoolValue(true))}),
			method("tooHot", gateway.Method{Write: setpoint.ID, Value: constant(gateway.IntValue(90))}),
			method("setFlow", gateway.Method{Write: flow.ID, From: "value"}),
			method("readNow", gateway.Method{Read: []gateway.PointID{flow.ID, setpoint.ID, flow.ID}}),
		},
		Device: func(gateway.PointID) Device { return device },
	}
}

func call(d *Down, name, payload string) gateway.Reply {
	return d.Handle(context.Background(), gateway.Command{Identity: "boiler", Name: name, Payload: []byte(payload)})
}

// answer decodes a reply's body, which must be a JSON object.
func answer(t *testing.T, r gateway.Reply) map[string]any {
	t.Helper()
	var body map[string]any
	if err := json.Unmarshal(r.Body, &body); err != nil {
		t.Fatalf("status %d, body %s: %v", r.Status, r.Body, err)
	}
	return body
}

func TestAConfirmedWriteSaysWhatWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock says 2000-01-01T00:00:00Z
		for _, c := range []struct{ name, payload, written, body string }{
			{"setSetpoint", `{"value": 65, "by": "anna"}`, "boiler/setpoint=65", `{"point":"boiler/setpoint","written":65,"confirmed":"read-back","t":"2000-01-01T00:00:00.000Z"}`},
			{"setSetpoint", `{"value": 30}`, "boiler/setpoint=30", `{"point":"boiler/setpoint","written":30,"confirmed":"read-back","t":"2000-01-01T00:00:00.000Z"}`},
			{"setSetpoint", `{"value": 84.5}`, "boiler/setpoint=84.5", `{"point":"boiler/setpoint","written":84.5,"confirmed":"read-back","t":"2000-01-01T00:00:00.000Z"}`},
			{"setMode", `{"mode": "auto"}`, "boiler/mode=auto", `{"point":"boiler/mode","written":"auto","confirmed":"sent","t":"2000-01-01T00:00:00.000Z"}`},
			{"setLamp", `{"on": false}`, "boiler/lamp=false", `{"point":"boiler/lamp","written":false,"confirmed":"sent","t":"2000-01-01T00:00:00.000Z"}`},
			{"lampOn", ``, "boiler/lamp=true", `{"point":"boiler/lamp","written":true,"confirmed":"sent","t":"2000-01-01T00:00:00.000Z"}`},
			{"lampOn", ` null `, "boiler/lamp=true", `{"point":"boiler/lamp","written":true,"confirmed":"sent","t":"2000-01-01T00:00:00.000Z"}`},
			{"lampOn", `""`, "boiler/lamp=true", `{"point":"boiler/lamp","written":true,"confirmed":"sent","t":"2000-01-01T00:00:00.000Z"}`},
			{"lampOn", `{ }`, "boiler/lamp=true", `{"point":"boiler/lamp","written":true,"confirmed":"sent","t":"2000-01-01T00:00:00.000Z"}`},
		} {
			device := &plc{}
			r := call(NewDown(boiler(device)), c.name, c.payload)
			if r.Status != 200 || string(r.Body) != c.body {
				t.Errorf("%s %s: %d %s", c.name, c.payload, r.Status, r.Body)
			}
			if len(device.written) != 1 || device.written[0] != c.written {
				t.Errorf("%s %s: wrote %v", c.name, c.payload, device.written)
			}
		}
	})
}

func TestABadArgumentIsRefusedByNameAndNothingIsWritten(t *testing.T) {
	device := &plc{}
	d := NewDown(boiler(device))
	for _, c := range []struct{ name, payload, text string }{
		{"setSetpoint", `{"value": 90}`, `value 90 is above the maximum 85`},
		{"setSetpoint", `{"value": 85.0000001}`, `value 85.0000001 is above the maximum 85`},
		{"setSetpoint", `{"value": -3}`, `value -3 is below the minimum 30`},
		{"setSetpoint", `{"value": "65"}`, `value "65" is not a number`},
		{"setSetpoint", `{"value": true}`, `value true is not a number`},
		{"setSetpoint", `{"value": null}`, `"value" is null; send {"value": 30}`},
		{"setSetpoint", `{"value": [65]}`, `"value" is [65]; send {"value": 30}`},
		{"setSetpoint", `{"value": 1e999}`, `"value" is 1e999; send {"value": 30}`},
		{"setSetpoint", `{"Value": 65}`, `the payload has no "value"; send {"value": 30}`},
		{"setSetpoint", `{"value": 65, "value": 85}`, `the payload has "value" twice; send {"value": 30}`},
		{"setSetpoint", `65`, `the payload is not a JSON object; send {"value": 30}`},
		{"setSetpoint", `[{"value": 65}]`, `the payload is not a JSON object; send {"value": 30}`},
		{"setSetpoint", `null`, `the payload is not a JSON object; send {"value": 30}`},
		{"setSetpoint", ``, `the payload is empty; send {"value": 30}`},
		{"setSetpoint", `{"value": 65`, `the payload is not JSON; send {"value": 30}`},
		{"setSetpoint", `{"value": 65} {}`, `the payload is not JSON; send {"value": 30}`},
		{"setMode", `{"mode": "manual"}`, `value "manual" is not one of "off", "auto"`},
		{"setMode", `{"mode": 1}`, `value 1 is not one of "off", "auto"`},
		{"setMode", `{}`, `the payload has no "mode"; send {"mode": "off"}`},
		{"setLamp", `{"on": 1}`, `value 1 is not true or false, and the mapping allows no number here`},
		{"setLamp", `{}`, `the payload has no "on"; send {"on": true}`},
		{"lampOn", `{"value": false}`, `method "lampOn" takes no argument; send none, or {}`},
		{"lampOn", `{`, `the payload is not JSON; method "lampOn" takes no argument, send none`},
		{"tooHot", ``, `value 90 is above the maximum 85`},
	} {
		r := call(d, c.name, c.payload)
		body := answer(t, r)
		if r.Status != 400 || body["code"] != "bad-argument" || body["error"] != c.text {
			t.Errorf("%s %s: %d %s\nwant %s", c.name, c.payload, r.Status, r.Body, c.text)
		}
	}
	if len(device.written) != 0 {
		t.Errorf("wrote %v", device.written)
	}
}

func TestAReadTakesNoArgumentEither(t *testing.T) {
	if r := call(NewDown(boiler(&plc{})), "readNow", `{"points":["flow"]}`); r.Status != 400 {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

func TestEveryOutcomeOfAWriteHasItsStatus(t *testing.T) {
	place := func(err error) error { return fmt.Errorf("modbus: 10.0.0.7:502 unit 3 holding 9: %w", err) }
	refusal := &gateway.Refusal{Protocol: "modbus", Code: "2", Name: "illegal data address"}
	at := "modbus: 10.0.0.7:502 unit 3 holding 9: "
	for _, c := range []struct {
		err    error
		status int
		code   string
		text   string
	}{
		{place(gateway.ErrRange), 400, "bad-argument", at + "value not allowed"},
		{place(gateway.ErrTooOften), 429, "busy", at + "written too often"},
		{place(gateway.ErrReadOnly), 403, "read-only", at + "the point cannot be written"},
		{place(gateway.ErrUnknownPoint), 404, "unknown", at + "unknown point"},
		{place(refusal), 500, "refused", at + "exception 2 (illegal data address)"},
		{place(gateway.ErrRefused), 500, "refused", at + "the device refused"},
		{place(gateway.ErrNoAnswer), 504, "no-answer", at + "no answer; nothing was sent"},
		{place(gateway.ErrUncertain), 504, "uncertain", at + "sent, but not confirmed; the device may have executed it"},
		{fmt.Errorf("%w: %w", gateway.ErrNoAnswer, gateway.ErrUncertain), 504, "uncertain", "no answer: sent, but not confirmed; the device may have executed it"},
		{context.DeadlineExceeded, 504, "uncertain", "sent, but not confirmed; the device may have executed it: context deadline exceeded"},
		{errors.New("surprise"), 504, "uncertain", "sent, but not confirmed; the device may have executed it: surprise"},
	} {
		device := &plc{write: func(context.Context, gateway.PointID, gateway.Value) error { return c.err }}
		r := call(NewDown(boiler(device)), "setSetpoint", `{"value":65}`)
		body := answer(t, r)
		if r.Status != c.status || body["code"] != c.code || body["error"] != c.text || body["point"] != "boiler/setpoint" {
			t.Errorf("%v: %d %s", c.err, r.Status, r.Body)
		}
		var refusal *gateway.Refusal
		if _, named := body["exception"]; named != errors.As(c.err, &refusal) {
			t.Errorf("%v: %s", c.err, r.Body)
		}
	}
}

func TestARefusalNamesTheExceptionOfTheDevice(t *testing.T) {
	device := &plc{write: func(context.Context, gateway.PointID, gateway.Value) error {
		return fmt.Errorf("coap: %w", &gateway.Refusal{Protocol: "coap", Code: "4.05", Name: "method not allowed"})
	}}
	r := call(NewDown(boiler(device)), "lampOn", ``)
	want := `{"error":"coap: exception 4.05 (method not allowed)","code":"refused","point":"boiler/lamp",` +
		`"exception":{"protocol":"coap","code":"4.05","name":"method not allowed"}}`
	if r.Status != 500 || string(r.Body) != want {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

func TestWhatTheMappingDoesNotOfferIsNotDone(t *testing.T) {
	device := &plc{}
	d := NewDown(boiler(device))
	for _, c := range []gateway.Command{
		{Identity: "boiler", Name: "setsetpoint", Payload: []byte(`{"value":65}`)},
		{Identity: "press", Name: "setSetpoint", Payload: []byte(`{"value":65}`)},
		{Identity: "boiler", Name: ""},
	} {
		if r := d.Handle(context.Background(), c); r.Status != 404 || answer(t, r)["code"] != "unknown" {
			t.Errorf("%s %s: %d %s", c.Identity, c.Name, r.Status, r.Body)
		}
	}
	for id, want := range map[gateway.IdentityID]string{"boiler": "setSetpoint", "press": "it has none"} {
		if r := d.Handle(context.Background(), gateway.Command{Identity: id, Name: "other"}); !strings.Contains(fmt.Sprint(answer(t, r)["error"]), want) {
			t.Errorf("%s does not say which methods there are: %s", id, r.Body)
		}
	}
	if r := call(d, "setFlow", `{"value":1}`); r.Status != 403 || answer(t, r)["code"] != "read-only" {
		t.Errorf("a point without a write rule: %d %s", r.Status, r.Body)
	}
	cfg := boiler(nil)
	cfg.Device = func(gateway.PointID) Device { return nil }
	if r := call(NewDown(cfg), "setSetpoint", `{"value":65}`); r.Status != 404 {
		t.Errorf("without an adapter: %d %s", r.Status, r.Body)
	}
	if len(device.written) != 0 {
		t.Errorf("wrote %v", device.written)
	}
}

func TestADeviceThatNeverAnswersIsGivenItsTimeAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := &plc{write: func(ctx context.Context, _ gateway.PointID, _ gateway.Value) error {
			<-ctx.Done()
			return fmt.Errorf("modbus: %w: %w", gateway.ErrNoAnswer, ctx.Err())
		}}
		cfg := boiler(device)
		for _, c := range []struct {
			name, payload string
			timeout, want time.Duration
		}{
			{"setSetpoint", `{"value":65}`, 0, 5 * time.Second},
			{"lampOn", ``, 0, 25 * time.Second},
			{"lampOn", ``, 7 * time.Second, 7 * time.Second},
		} {
			cfg.Timeout = c.timeout
			start := time.Now()
			r := call(NewDown(cfg), c.name, c.payload)
			if took := time.Since(start); r.Status != 504 || took != c.want {
				t.Errorf("%s: %d after %v", c.name, r.Status, took)
			}
		}
	})
}

func TestACommandDuringShutdownIsTruthful(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	device := &plc{}
	c := gateway.Command{Identity: "boiler", Name: "lampOn"}
	if r := NewDown(boiler(device)).Handle(ended, c); r.Status != 503 || len(device.written) != 0 {
		t.Errorf("%d %s, wrote %v", r.Status, r.Body, device.written)
	}
	for _, outcome := range []struct {
		err    error
		status int
	}{
		{nil, 200}, {gateway.ErrNoAnswer, 503}, {gateway.ErrUncertain, 504}, {context.Canceled, 504}, {gateway.ErrRefused, 500},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		device := &plc{write: func(context.Context, gateway.PointID, gateway.Value) error {
			cancel()
			return outcome.err
		}}
		if r := NewDown(boiler(device)).Handle(ctx, c); r.Status != outcome.status {
			t.Errorf("%v: %d %s", outcome.err, r.Status, r.Body)
		}
	}
}

func TestTooManyCommandsOfOneIdentityAreRefusedNotQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finish := make(chan struct{})
		device := &plc{write: func(context.Context, gateway.PointID, gateway.Value) error {
			<-finish
			return nil
		}}
		cfg := boiler(device)
		cfg.InWork = 2
		other := cfg.Methods[3]
		other.Identity = "press"
		cfg.Methods = append(cfg.Methods, other)
		d := NewDown(cfg)
		replies := make(chan gateway.Reply, 3)
		for _, identity := range []gateway.IdentityID{"boiler", "boiler", "press"} {
			go func() { replies <- d.Handle(context.Background(), gateway.Command{Identity: identity, Name: "lampOn"}) }()
		}
		synctest.Wait()
		if r := call(d, "setLamp", `{"on":true}`); r.Status != 429 || answer(t, r)["code"] != "busy" {
			t.Errorf("the third: %d %s", r.Status, r.Body)
		}
		if len(device.written) != 3 {
			t.Errorf("wrote %v", device.written)
		}
		close(finish)
		for range 3 {
			if r := <-replies; r.Status != 200 {
				t.Errorf("%d %s", r.Status, r.Body)
			}
		}
		if r := call(d, "lampOn", ``); r.Status != 200 {
			t.Errorf("after the others: %d %s", r.Status, r.Body)
		}
	})
}
