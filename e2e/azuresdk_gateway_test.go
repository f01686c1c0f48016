package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/faultnet"
	"iothub-gateway/internal/testkit"
)

// commandPlant is a PLC whose setpoint and mode the cloud may write in every way, with a bad network between
// gateway and hub.
type commandPlant struct {
	*plant
	app      application
	plc      *plc
	toHub    *faultnet.Net
	setpoint uint16 // register of a temperature in tenths
	mode     uint16
}

func newCommandPlant(t *testing.T) *commandPlant {
	t.Helper()
	hub, plc := serviceHub(t), startPLC(t)
	c := &commandPlant{plc: plc, toHub: badNetwork(t, hub.MQTTAddr()), setpoint: 10, mode: 11}
	c.plant = newPlant(t, hub, fmt.Sprintf(`gateway: { identity: { device: gw, sas_key: "file:keys/gw" } }
links:
  plc: { tcp: %q, timeout: 500ms }
devices:
  press:
    identity: { device: press, sas_key: "file:keys/press", will: { state: lost } }
    modbus: { link: plc, unit: 1, addressing: zero }
    poll: 200ms
    offline: { after: 2, retry: 200ms..500ms }
    points:
      setpoint: { at: holding 10, type: int16, scale: 0.1, unit: Cel, write: { min: 30, max: 85 } }
      mode:     { at: holding 11, type: uint16, enum: { 0: "off", 1: auto, 2: manual }, write: true }
    methods:
      setSetpoint: { write: setpoint, from: value }
      setLater:    { write: setpoint, from: value, deliver: queued, expires: 1h }
      readNow:     { read: [setpoint] }
    desired:
      heating.setpoint: { write: setpoint }
    messages:
      - { when: { property: command, equals: mode }, write: mode, from: mode }
`, plc.address), "press", "gw")
	text, err := os.ReadFile(c.mapping)
	if err != nil {
		t.Fatal(err)
	}
	c.write("mapping.yaml", strings.Replace(string(text), hub.MQTTAddr()[strings.Index(hub.MQTTAddr(), ":"):], c.toHub.Addr()[strings.Index(c.toHub.Addr(), ":"):], 1))
	c.app = startApplication(t, hub)
	return c
}

// badNetwork is a network in front of target, still good.
func badNetwork(t *testing.T, target string) *faultnet.Net {
	t.Helper()
	n, err := faultnet.New(target)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Background(t, n.Run)
	return n
}

// invoke calls a direct method by Microsoft's SDK, waiting for the device to come online.
func (c *commandPlant) invoke(method string, payload any) (status int, body map[string]any) {
	c.t.Helper()
	text := c.app.do("method", fields{"device": "press", "params": fields{
		"methodName": method, "payload": payload, "responseTimeoutInSeconds": 20, "connectTimeoutInSeconds": 20,
	}})
	var answer struct {
		Status  int
		Payload map[string]any
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		c.t.Fatalf("%s: %v", text, err)
	}
	return answer.Status, answer.Payload
}

// desire changes the desired setpoint by Microsoft's SDK.
func (c *commandPlant) desire(value any) {
	c.t.Helper()
	c.app.registry(nil, "updateTwin", "press", fields{"properties": fields{"desired": fields{"heating": fields{"setpoint": value}}}}, "*")
}

// reported is a reported property of a device as Microsoft's SDK reads it.
func (c *commandPlant) reported(device string, path ...string) map[string]any {
	c.t.Helper()
	var twin struct {
		Properties struct{ Reported map[string]any }
	}
	c.app.registry(&twin, "getTwin", device)
	value := twin.Properties.Reported
	for _, name := range path {
		value, _ = value[name].(map[string]any)
	}
	return value
}

// settles waits for the setpoint of the PLC and for its acknowledgement.
func (c *commandPlant) settles(what string, register uint16, value, status any) {
	c.t.Helper()
	testkit.Within(c.t, 40*time.Second, what, func() bool {
		ack := c.reported("press", "heating", "setpoint")
		return c.plc.register(c.setpoint) == register && ack["value"] == value && ack["ac"] == status
	})
}

func TestMicrosoftsServiceSDKDrivesARealRegister(t *testing.T) {
	t.Parallel()
	c := newCommandPlant(t)
	c.desire(60) // before the gateway has ever run
	gateway := c.start()
	c.settles("what was desired before the first connection is written", 600, 60.0, 200.0)
	if status, body := c.invoke("setSetpoint", fields{"value": 65.5}); status != 200 || c.plc.register(c.setpoint) != 655 {
		t.Errorf("a method: %d %v, the register has %d", status, body, c.plc.register(c.setpoint))
	}
	if status, body := c.invoke("setSetpoint", fields{"value": 900}); status != 400 || body["code"] != "bad-argument" || c.plc.register(c.setpoint) != 655 {
		t.Errorf("a method with a value that is not allowed: %d %v", status, body)
	}
	if status, body := c.invoke("noSuchMethod", nil); status != 404 || body["error"] == nil {
		t.Errorf("an unknown method: %d %v", status, body)
	}
	c.desire(900)
	c.settles("a desired value that is not allowed is refused, and what the register has is reported", 655, 65.5, 400.0)

	for i, fault := range []struct {
		what        string
		break_, fix func()
	}{
		{"cut", func() { c.toHub.Cut() }, func() {}},
		{"reset", func() { c.toHub.Refuse(true); c.toHub.Reset() }, func() { c.toHub.Refuse(false) }},
		{"stalled", func() { c.toHub.Set(faultnet.Condition{Stall: true}) }, func() { c.toHub.Set(faultnet.Condition{}) }},
		{"half-open for a moment", func() { c.toHub.Set(faultnet.Condition{HalfOpen: true}) }, func() { c.toHub.Set(faultnet.Condition{}) }},
		{"slow", func() { c.toHub.Set(faultnet.Condition{Delay: 100 * time.Millisecond}) }, func() {}},
	} {
		fault.break_()
		c.desire(40 + i)
		fault.fix()
		c.settles("a desired value arrives over a network that is "+fault.what, uint16(10*(40+i)), float64(40+i), 200.0)
		if status, body := c.invoke("readNow", nil); status != 200 {
			t.Errorf("a method over a network that is %s: %d %v", fault.what, status, body)
		}
	}
	c.toHub.Set(faultnet.Condition{})
	c.awayAndBack()
	testkit.Within(t, 40*time.Second, "the gateway's own identity reports the fleet", func() bool {
		fleet := c.reported("gw", "gateway", "fleet")
		return fleet["identities"] == 2.0 && fleet["connected"] == 2.0 && fleet["devices"] == 1.0
	})
	c.message(gateway)
}

// awayAndBack is a PLC that cannot be reached for a while: nothing is reported as done meanwhile, and what
// waits is written when it is back.
func (c *commandPlant) awayAndBack() {
	c.t.Helper()
	c.plc.off()
	testkit.Within(c.t, 40*time.Second, "the health of the device is reported", func() bool {
		health := c.reported("press", "gateway", "devices", "press")
		return health["state"] == "down" && health["error"] != nil && health["lastGood"] != nil
	})
	if status, body := c.invoke("setSetpoint", fields{"value": 77}); status != 504 || body["code"] != "no-answer" {
		c.t.Errorf("a method without a device: %d %v", status, body)
	}
	before := c.plc.register(c.setpoint)
	c.desire(50)
	testkit.Within(c.t, 40*time.Second, "the desired value waits and is not done", func() bool {
		ack := c.reported("press", "heating", "setpoint")
		return ack["ac"] == 202.0 && ack["value"] == nil && c.plc.register(c.setpoint) == before
	})
	c.plc.on(c.t)
	c.settles("the desired value is written when the device is back", 500, 50.0, 200.0)
	if status, body := c.invoke("setLater", fields{"value": 55}); status != 202 || body["waiting"] != 55.0 {
		c.t.Errorf("a queued method: %d %v", status, body)
	}
	testkit.Within(c.t, 20*time.Second, "the queued write is made and told", func() bool {
		told := c.reported("press", "gateway", "lastCommand")
		return c.plc.register(c.setpoint) == 550 && told["id"] == "setLater" && told["status"] == 200.0
	})
}

// message is a cloud-to-device message that the hub sends again, also after a kill -9: it is executed once.
func (c *commandPlant) message(gateway *process) {
	c.t.Helper()
	command := "mode"
	send := func(id, mode string) {
		_, err := c.hub.Send(hubsim.CloudMessage{
			Device: "press", MessageID: id, Ack: "full", Properties: map[string]*string{"command": &command}, Body: fmt.Appendf(nil, `{"mode":%q}`, mode),
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	executed := func(id string) {
		testkit.Within(c.t, 20*time.Second, id+" is executed and told", func() bool {
			told := c.reported("press", "gateway", "lastMessage")
			return told["id"] == id && told["status"] == 200.0
		})
	}
	send("m1", "auto")
	executed("m1")
	if got := c.plc.register(c.mode); got != 1 {
		c.t.Errorf("mode %d", got)
	}
	// The acknowledgement of the next one is lost with the network, and the gateway with it.
	c.toHub.Set(faultnet.Condition{Delay: time.Second})
	send("m2", "manual")
	testkit.Within(c.t, 20*time.Second, "m2 is written", func() bool { return c.plc.register(c.mode) == 2 })
	gateway.kill()
	c.toHub.Set(faultnet.Condition{})
	c.plc.set(c.mode, 0) // the operator turns it off
	c.start()
	send("m3", "auto")
	executed("m3")
	if writes := c.plc.writesTo(c.mode); writes != 3 {
		c.t.Errorf("%d writes of three messages", writes)
	}
	will := false
	for _, m := range c.hub.Messages(0, 0) {
		will = will || m.Device == "press" && m.Properties["iothub-MessageType"] == "Will" && string(m.Body) == `{"state":"lost"}`
	}
	if !will {
		c.t.Error("no will was sent although connections were lost")
	}
}
