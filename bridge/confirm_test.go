package bridge

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

// confirmed is a plant whose set-point is read back, unless who writes it says otherwise.
func confirmed(device Device, later *Later) *Down {
	cfg := boiler(device)
	cfg.Later = later
	set := func(name string, queued time.Duration, by *gateway.Confirm) {
		cfg.Methods = append(cfg.Methods, gateway.Method{
			Identity: "boiler", Name: name, Write: "boiler/setpoint", From: "value", Confirm: by, Queued: queued,
		})
		cfg.Desired = append(cfg.Desired, gateway.Desired{Identity: "boiler", Path: name, Write: "boiler/setpoint", Confirm: by})
	}
	set("asThePoint", 0, nil)
	set("blind", 0, &gateway.Confirm{})
	set("followed", 0, &gateway.Confirm{By: "boiler/flow", Tolerance: gateway.Deadband{Absolute: 2}})
	set("tonight", time.Hour, &gateway.Confirm{By: "boiler/flow"})
	return NewDown(cfg)
}

func TestAWriteIsConfirmedAsItsMethodWantsAndTheAnswerSaysHow(t *testing.T) {
	for name, want := range map[string]struct {
		by        gateway.Confirm
		word, ack string
	}{
		"asThePoint": {gateway.Confirm{By: "boiler/setpoint"}, "read-back", "written and read back"},
		"blind":      {gateway.Confirm{}, "sent", "not read back"},
		"followed":   {gateway.Confirm{By: "boiler/flow", Tolerance: gateway.Deadband{Absolute: 2}}, "boiler/flow", "boiler/flow has the value"},
	} {
		device := &plc{}
		d := confirmed(device, nil)
		reply := call(d, name, `{"value": 65}`)
		if word := answer(t, reply)["confirmed"]; reply.Status != 200 || word != want.word {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
		ack := d.Desired(t.Context(), "boiler", name, []byte("65"))
		if ack.Status != 200 || !strings.Contains(ack.Text, want.ack) {
			t.Errorf("%s: %+v", name, ack)
		}
		if len(device.confirms) != 2 || device.confirms[0] != want.by || device.confirms[1] != want.by {
			t.Errorf("%s: the device was asked for %+v, want %+v", name, device.confirms, want.by)
		}
	}
}

func TestAWriteThatWaitedIsConfirmedAsItsMethodWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := &plc{}
		told := make(chan gateway.Reply, 1)
		later := NewLater(&testkit.Notes{}, []string{"boiler"}, func(_ gateway.IdentityID, _ string, r gateway.Reply) { told <- r })
		d := confirmed(device, later)
		later.Use(d)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- later.Run(ctx) }()
		if reply := call(d, "tonight", `{"value": 65}`); reply.Status != 202 {
			t.Fatalf("%d %s", reply.Status, reply.Body)
		}
		if r := <-told; r.Status != 200 || answer(t, r)["confirmed"] != "boiler/flow" || device.confirms[0].By != "boiler/flow" {
			t.Errorf("%d %s, %+v", r.Status, r.Body, device.confirms)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
