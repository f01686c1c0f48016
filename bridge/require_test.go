package bridge

import (
	"context"
	"testing"

	gateway "iothub-gateway"
)

func TestAMethodWritesOnlyWhileWhatItRequiresIsSo(t *testing.T) {
	for _, c := range []struct {
		what       string
		mode, lamp gateway.Value
		err        error // of reading the mode
		status     int
		code       any
	}{
		{"all is so", gateway.TextValue("off"), gateway.BoolValue(false), nil, 200, nil},
		{"the first is not", gateway.TextValue("auto"), gateway.BoolValue(false), nil, 409, "not-met"},
		{"the second is not", gateway.TextValue("off"), gateway.BoolValue(true), nil, 409, "not-met"},
		{"it cannot be read", gateway.Value{}, gateway.BoolValue(false), gateway.ErrNoAnswer, 504, "no-answer"},
	} {
		device := &plc{read: func(_ context.Context, ids []gateway.PointID) ([]gateway.Sample, error) {
			return []gateway.Sample{{Point: ids[0], Value: c.mode, Err: c.err}, {Point: ids[1], Value: c.lamp}}, nil
		}}
		cfg := boiler(device)
		cfg.Methods = append(cfg.Methods, gateway.Method{
			Identity: "boiler", Name: "careful", Write: "boiler/setpoint", From: "value",
			Require: []gateway.Requirement{{Point: "boiler/mode", Value: gateway.TextValue("off")}, {Point: "boiler/lamp", Value: gateway.BoolValue(false)}},
		})
		r := call(NewDown(cfg), "careful", `{"value":40}`)
		if body := answer(t, r); r.Status != c.status || body["code"] != c.code {
			t.Errorf("%s: %d %s", c.what, r.Status, r.Body)
		}
		if wrote := len(device.written) > 0; wrote != (c.status == 200) {
			t.Errorf("%s: written %v", c.what, device.written)
		}
	}
	if !equal(gateway.IntValue(7), gateway.FloatValue(7)) || equal(gateway.TextValue("7"), gateway.IntValue(7)) {
		t.Error("numbers are equal whatever their kind, and nothing else")
	}
}
