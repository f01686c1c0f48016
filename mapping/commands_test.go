package mapping

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
)

func TestWhatTheCloudMayDoIsReadFromTheMapping(t *testing.T) {
	plant := good(t, `gateway: { identity: { device: gw, sas_key: env:GW_KEY } }
devices:
  boiler:
    identity:
      device: boiler-plc
      sas_key: env:KEY
      will: { state: lost, by: gateway }
      model_id: dtmi:com:example:Boiler_2;1
    modbus: { tcp: h:502, unit: 1, addressing: zero }
    points:
      setpoint: { at: holding 1, type: int16, unit: Cel, write: { min: 30, max: 85 } }
      mode:     { at: holding 2, type: uint16, enum: { 0: stop, 1: run }, write: true }
      lamp:     { at: coil 1, write: true }
    methods:
      tonight: { write: setpoint, from: value, deliver: queued, expires: 8h }
      now:     { write: setpoint, from: value, deliver: now, require: { mode: stop, lamp: false, setpoint: 40 } }
    desired:
      heating.setpoint: { write: setpoint }
      mode:             { write: mode, apply: always }
    messages:
      - { when: { property: command, equals: mode }, write: mode, from: mode, deliver: queued, expires: 2d }
      - { when: { property: command, equals: lamp }, write: lamp, value: true }
      - { write: setpoint, from: value }
`)
	for i := range plant.Desired {
		if place := &plant.Desired[i].Place; !strings.Contains(*place, " unit ") {
			t.Errorf("%+v is nowhere", plant.Desired[i])
		} else {
			*place = ""
		}
	}
	const boiler = gateway.IdentityID("boiler-plc")
	command := func(value string) gateway.Property { return gateway.Property{Name: "command", Value: value} }
	lit := gateway.BoolValue(true)
	same := cmp.Comparer(func(a, b gateway.Value) bool { return a == b })
	for _, c := range []struct{ what, diff string }{
		{"desired", cmp.Diff([]gateway.Desired{
			{Identity: boiler, Path: "heating.setpoint", Write: "boiler/setpoint"}, {Identity: boiler, Path: "mode", Write: "boiler/mode", Always: true},
		}, plant.Desired)},
		{"messages", cmp.Diff([]gateway.MessageRule{
			{Identity: boiler, When: command("mode"), Write: "boiler/mode", From: "mode", Queued: 48 * time.Hour},
			{Identity: boiler, When: command("lamp"), Write: "boiler/lamp", Value: &lit},
			{Identity: boiler, Write: "boiler/setpoint", From: "value"},
		}, plant.Messages, same)},
		{"waiting", cmp.Diff([]time.Duration{8 * time.Hour, 0}, []time.Duration{plant.Methods[0].Queued, plant.Methods[1].Queued})},
		{"required", cmp.Diff([]gateway.Requirement{
			{Point: "boiler/mode", Value: gateway.TextValue("stop")}, {Point: "boiler/lamp", Value: gateway.BoolValue(false)}, {Point: "boiler/setpoint", Value: gateway.FloatValue(40)},
		}, plant.Methods[1].Require, same)},
		{"will", cmp.Diff(`{"by":"gateway","state":"lost"}`, string(plant.Identities[0].Will))},
		{"model", cmp.Diff("dtmi:com:example:Boiler_2;1", plant.Identities[0].ModelID)},
		{"gateway", cmp.Diff(gateway.IdentityID("gw"), plant.Gateway)},
		{"identities", cmp.Diff([]gateway.IdentityID{boiler, "gw"}, []gateway.IdentityID{plant.Identities[0].ID, plant.Identities[1].ID})},
	} {
		if c.diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, c.diff)
		}
	}
}

func TestTheValueOfADesiredPropertyHasAnotherPlaceWhenItGoesElsewhere(t *testing.T) {
	const text = `devices:
  boiler:
    identity: { device: boiler, sas_key: env:KEY }
    modbus: { tcp: "10.0.0.7:502", unit: 1, addressing: zero }
    poll: 5s
    points:
      setpoint: { at: holding 40, type: int16, write: { min: 0, max: 100 } }
    desired:
      setpoint: { write: setpoint }
`
	placed := func(text string) string { return good(t, text).Desired[0].Place }
	before := placed(text)
	for change, same := range map[string]bool{
		"10.0.0.7=10.0.0.8": false, "unit: 1=unit: 2": false, "holding 40=holding 41": false, "int16=uint16": false,
		"int16=int16, scale: 0.1": false, "poll: 5s=poll: 1s": true, "max: 100=max: 90": true,
	} {
		old, new, _ := strings.Cut(change, "=")
		if after := placed(strings.Replace(text, old, new, 1)); (after == before) != same {
			t.Errorf("%s: %q, and before %q", change, after, before)
		}
	}
}
