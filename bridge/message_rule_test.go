package bridge

import (
	"context"
	"testing"

	gateway "iothub-gateway"
)

// messages is the boiler with a rule for each kind of message.
func messages(device Device) *Down {
	cfg := boiler(device)
	when := func(name, value string) gateway.Property { return gateway.Property{Name: name, Value: value} }
	cfg.Messages = []gateway.MessageRule{
		{Identity: "boiler", When: when("command", "mode"), Write: "boiler/mode", From: "mode"},
		{Identity: "boiler", When: when("command", "lamp"), Write: "boiler/lamp", Value: constant(gateway.BoolValue(true))},
		{Identity: "boiler", When: when("command", "hot"), Write: "boiler/setpoint", From: "value"},
		{Identity: "boiler", When: when("command", "flow"), Write: "boiler/flow", From: "value"},
		{Identity: "plain", Write: "boiler/lamp", From: "on"},
	}
	return NewDown(cfg)
}

func TestAMessageIsCarriedOutByTheFirstRuleThatFits(t *testing.T) {
	property := func(name, value string) []gateway.Property {
		return []gateway.Property{{Name: "x", Value: "1"}, {Name: name, Value: value}}
	}
	for _, c := range []struct {
		what       string
		identity   gateway.IdentityID
		properties []gateway.Property
		body       string
		status     int
		written    string
	}{
		{"a field of the body", "boiler", property("command", "mode"), `{"mode":"auto"}`, 200, "boiler/mode=auto"},
		{"names without case (D2C-14)", "boiler", property("Command", "mode"), `{"mode":"off"}`, 200, "boiler/mode=off"},
		{"values with case", "boiler", property("command", "Mode"), `{"mode":"off"}`, 404, ""},
		{"a constant, whatever the body is", "boiler", property("command", "lamp"), `now!`, 200, "boiler/lamp=true"},
		{"a value that is not allowed", "boiler", property("command", "hot"), `{"value":900}`, 400, ""},
		{"no JSON", "boiler", property("command", "hot"), `900`, 400, ""},
		{"a point that nobody may write", "boiler", property("command", "flow"), `{"value":1}`, 403, ""},
		{"no rule fits", "boiler", nil, `{"mode":"auto"}`, 404, ""},
		{"a rule without when", "plain", nil, `{"on":false}`, 200, "boiler/lamp=false"},
		{"an identity without rules", "other", property("command", "mode"), `{"mode":"auto"}`, 404, ""},
	} {
		device := &plc{}
		r := messages(device).Message(t.Context(), gateway.CloudMessage{Identity: c.identity, Properties: c.properties, Body: []byte(c.body)})
		answer(t, r)
		written := ""
		if len(device.written) > 0 {
			written = device.written[0]
		}
		if r.Status != c.status || written != c.written || len(device.written) > 1 {
			t.Errorf("%s: %d %s, written %v", c.what, r.Status, r.Body, device.written)
		}
	}
}

func TestADesiredPropertyIsAcknowledgedAsWhatReallyHappened(t *testing.T) {
	refusal := &gateway.Refusal{Protocol: "modbus", Code: "2", Name: "illegal data address"}
	for _, c := range []struct {
		what, path, raw string
		err             error // of the write
		status          int
		value           string // that is given back; the device has 55
	}{
		{"confirmed", "setpoint", `65`, nil, 200, "65"},
		{"above the limit", "setpoint", `90`, nil, 400, "55"},
		{"an object", "setpoint", `{"v":65}`, nil, 400, "55"},
		{"a list", "setpoint", `[65]`, nil, 400, "55"},
		{"refused by the device", "setpoint", `65`, refusal, 500, "55"},
		{"not confirmed", "setpoint", `65`, gateway.ErrUncertain, 504, "55"},
		{"not reachable", "setpoint", `65`, gateway.ErrNoAnswer, 202, "-"},
		{"too often", "setpoint", `65`, gateway.ErrTooOften, 202, "-"},
		{"a point that nobody may write", "flow", `1`, nil, 403, "-"},
		{"unknown", "nothing", `1`, nil, 404, "-"},
	} {
		device := &plc{
			write: func(context.Context, gateway.PointID, gateway.Value) error { return c.err },
			read: func(_ context.Context, ids []gateway.PointID) ([]gateway.Sample, error) {
				return []gateway.Sample{{Point: ids[0], Value: gateway.IntValue(55)}}, nil
			},
		}
		cfg := boiler(device)
		cfg.Desired = []gateway.Desired{{Identity: "boiler", Path: "setpoint", Write: "boiler/setpoint"}, {Identity: "boiler", Path: "flow", Write: "boiler/flow"}}
		ack := NewDown(cfg).Desired(t.Context(), "boiler", c.path, []byte(c.raw))
		if ack.Status != c.status || ack.Value.String() != c.value || ack.Text == "" {
			t.Errorf("%s: %d %v %q", c.what, ack.Status, ack.Value, ack.Text)
		}
		if wrote := len(device.written) > 0; wrote != (c.err != nil || c.status == 200) {
			t.Errorf("%s: written %v", c.what, device.written)
		}
	}
}

func TestADesiredPropertyIsNotDecidedWhileTheGatewayStops(t *testing.T) {
	device := &plc{write: func(context.Context, gateway.PointID, gateway.Value) error { return gateway.ErrNoAnswer }}
	cfg := boiler(device)
	cfg.Desired = []gateway.Desired{{Identity: "boiler", Path: "setpoint", Write: "boiler/setpoint"}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ack := NewDown(cfg).Desired(ctx, "boiler", "setpoint", []byte(`65`)); ack.Status != 503 {
		t.Errorf("%+v", ack)
	}
}
