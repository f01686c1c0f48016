package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/simonvetter/modbus"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// call invokes a direct method through the hub.
func call(t *testing.T, hub *hubsim.Hub, device, method, payload string) (int, map[string]any) {
	t.Helper()
	answer, err := hub.CallMethod(context.Background(), hubsim.MethodCall{
		Device: device, Name: method, Payload: json.RawMessage(payload), ConnectTimeout: 20 * time.Second, ResponseTimeout: 20 * time.Second,
	})
	if err != nil {
		t.Fatalf("%s %s: %v", method, payload, err)
	}
	var body map[string]any
	if err := json.Unmarshal(answer.Payload, &body); err != nil {
		t.Fatalf("%s %s: the answer %s is not a JSON object: %v", method, payload, answer.Payload, err)
	}
	return answer.Status, body
}

func TestARegisterArrivesInTheHubAndAMethodComesBack(t *testing.T) {
	hub, plc := startHub(t), startPLC(t)
	upAndDown(t, newPlant(t, hub, plc.devices("100ms"), plcIdentities...), plc)
}

// The same over Modbus Security: both sides show a certificate of the plant's authority.
func TestARegisterArrivesInTheHubAndAMethodComesBackOverTLS(t *testing.T) {
	authority := issue(t, "plant 7", nil)
	own, client := issue(t, "plc", &authority), issue(t, "gateway", &authority)
	trust, _ := testkit.PEM(t, authority)
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM([]byte(trust))
	plc := startPLCAs(t, modbus.ServerConfiguration{URL: "tcp+tls://", TLSServerCert: &own, TLSClientCAs: clients})
	plant := newPlant(t, startHub(t), plc.devicesAt(fmt.Sprintf(
		"{ tls: %q, timeout: 2s, trust: file:plant-ca.pem, certificate: file:gateway.pem, private_key: file:gateway.key }", plc.address), "100ms"), plcIdentities...)
	certificate, key := testkit.PEM(t, client)
	for name, text := range map[string]string{"plant-ca.pem": trust, "gateway.pem": certificate, "gateway.key": key} {
		plant.write(name, text)
	}
	upAndDown(t, plant, plc)
}

// upAndDown runs a gateway on the plant until the PLC's registers have arrived in the hub and methods have
// written them.
func upAndDown(t *testing.T, plant *plant, plc *plc) {
	t.Helper()
	hub := plant.hub
	plant.start()

	testkit.Within(t, 20*time.Second, "every identity is connected and its readings have arrived", func() bool {
		seen := map[string]bool{}
		for _, m := range hub.Messages(0, 1000) {
			seen[m.Device] = true
		}
		return seen["press"] && seen["cell"] && hub.Connected("broken")
	})
	first := hub.Messages(0, 1)[0]
	if first.System["content-type"] != "application/json" || first.System["content-encoding"] != "utf-8" {
		t.Errorf("system properties %v", first.System)
	}
	for _, m := range hub.Messages(0, 1000) {
		if m.Device == "press" && m.Properties["site"] != "plant7" {
			t.Errorf("application properties %v", m.Properties)
		}
		if m.Device == "cell" && m.Module != "oven" {
			t.Errorf("the module's message came from %q", m.Module)
		}
	}

	for _, c := range []struct {
		method, payload string
		status          int
		registers       map[uint16]uint16
	}{
		{"setSetpoint", `{"value": 65}`, 200, map[uint16]uint16{10: 650}},
		{"setSetpoint", `{"value": 90}`, 400, map[uint16]uint16{10: 650}},
		{"setSetpoint", `{"value": "hot"}`, 400, map[uint16]uint16{10: 650}},
		{"setSetpoint", `{"wert": 65}`, 400, map[uint16]uint16{10: 650}},
		{"setSpeed", `{"value": 123.456}`, 200, map[uint16]uint16{12: 0xE979, 13: 0x42F6}},
		{"noSuchMethod", `{}`, 404, nil},
	} {
		status, body := call(t, hub, "press", c.method, c.payload)
		if status != c.status {
			t.Errorf("%s %s: status %d %v, want %d", c.method, c.payload, status, body, c.status)
		}
		for address, want := range c.registers {
			if got := plc.register(address); got != want {
				t.Errorf("%s %s: holding %d is %d, want %d", c.method, c.payload, address, got, want)
			}
		}
	}
	if status, body := call(t, hub, "press", "setLamp", `{"on": true}`); status != 200 || !plc.coil(3) {
		t.Errorf("setLamp: status %d %v, coil %v", status, body, plc.coil(3))
	}
	status, body := call(t, hub, "press", "readNow", "null")
	values, _ := body["values"].(map[string]any)
	if status != 200 || values["setpoint"] != 65.0 || values["speed"] != 123.456 || values["lamp"] != true {
		t.Errorf("readNow: %d %v", status, body)
	}
	if status, body := call(t, hub, "broken", "setLevel", `{"value": 3}`); status != 500 || !strings.Contains(strings.ToLower(toJSON(t, body)), "device failure") {
		t.Errorf("a device that refuses: %d %v", status, body)
	}

	testkit.Within(t, 10*time.Second, "the written setpoint is reported", func() bool {
		for _, m := range hub.Messages(0, 100000) {
			if v, ok := field[float64](t, m.Body, "setpoint"); ok && v == 65 {
				return true
			}
		}
		return false
	})
	judge(t, hub)
	page, err := plant.status()
	if err != nil || len(page.Identities) != 3 || len(page.Devices) != 3 || page.Queue.Acked == 0 {
		t.Errorf("status: %+v, %v", page, err)
	}
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
