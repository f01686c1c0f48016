package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"iothub-gateway/bridge"
	"iothub-gateway/devsim"
	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// findable makes the hub the one that `gateway hub` asks.
func (w *works) findable() {
	w.t.Helper()
	w.t.Setenv("XDG_CACHE_HOME", w.t.TempDir())
	w.t.Setenv(connectionStringVariable, "")
	remove, err := leaveNote(noteOf(w.hub, nil))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(remove)
}

// reported is what the twin of a device reports at a path below gateway.
func (w *works) reported(device string, path ...string) any {
	w.t.Helper()
	got := hubLine(w.t, "", "twin", "get", device, "--json").wants(w.t, 0)
	var twin struct {
		Properties struct{ Reported map[string]any }
	}
	if err := json.Unmarshal([]byte(got.out), &twin); err != nil {
		w.t.Fatalf("%v: %s", err, got.out)
	}
	var at any = twin.Properties.Reported["gateway"]
	for _, name := range path {
		object, _ := at.(map[string]any)
		at = object[name]
	}
	return at
}

func TestAnIdentityThatChangesIsConnectedAnewAndLosesAndRepeatsNothing(t *testing.T) {
	w := newWorks(t, "a", "b")
	w.findable()
	w.write(w.at("a", ""), w.at("b", ""))
	stop := w.run()
	defer stop()
	w.goesOn("a", "b")
	for i := range 3 {
		w.write(w.at("a", ""), strings.Replace(w.at("b", ""), "device: b,", fmt.Sprintf("device: b, properties: { line: n%d },", i), 1))
		if r, code := w.reload(); code != exitOK || len(r.Changes.Identities.Changed) != 1 || len(r.Changes.Links.Changed) != 0 {
			t.Errorf("exit %d, %v, %+v", code, r.Refused, r.Changes)
		}
		testkit.Eventually(t, "messages carry the new property", func() bool {
			all := w.hub.Messages(0, 0)
			for _, m := range all[max(0, len(all)-5):] {
				if m.Properties["line"] == fmt.Sprintf("n%d", i) {
					return true
				}
			}
			return false
		})
	}
	if w.connects("a") != 1 || w.connects("b") != 1 {
		t.Errorf("connects: %d and, since the last reload, %d", w.connects("a"), w.connects("b"))
	}
	testkit.Eventually(t, "the device's health is reported by its new place", func() bool { return w.reported("b", "devices", "b", "state") == "up" })

	// A device that leaves takes its health with it, though its identity stays.
	second := strings.NewReplacer("device: b, sas_key: file:b", "device: a", "count:", "count2:", "name:", "name2:", "setpoint:", "setpoint2:",
		"write: setpoint", "write: setpoint2", "set:", "set2:", "tonight:", "tonight2:").Replace(w.at("b", ""))
	w.write(w.at("a", ""), second)
	if r, code := w.reload(); code != exitOK {
		t.Errorf("exit %d, %v %v", code, r.Refused, r.Findings)
	}
	testkit.Eventually(t, "the device is reported by its new owner", func() bool { return w.reported("a", "devices", "b", "state") == "up" })
	w.write(w.at("a", ""))
	if _, code := w.reload(); code != exitOK {
		t.Errorf("exit %d", code)
	}
	testkit.Eventually(t, "its health is gone", func() bool { return w.reported("a", "devices", "b") == nil })
	if w.reported("a", "devices", "a", "state") != "up" || w.connects("a") != 1 {
		t.Errorf("%v, %d connects", w.reported("a", "devices"), w.connects("a"))
	}
	stop()
	w.judge()
}

func TestAWriteThatWaitsIsGivenUpAndToldWhenTheMappingLosesIt(t *testing.T) {
	w := newWorks(t, "a")
	w.findable()
	absent := w.device("a", "127.0.0.1:1", "")
	w.write(absent)
	stop := w.run()
	defer stop()
	tonight := func() {
		t.Helper()
		r, err := w.hub.CallMethod(t.Context(), hubsim.MethodCall{Device: "a", Name: "tonight", Payload: []byte(`{"value":42}`), ConnectTimeout: 10 * time.Second})
		if err != nil || r.Status != 202 {
			t.Errorf("%d %s %v", r.Status, r.Payload, err)
		}
	}
	testkit.Eventually(t, "it is connected", func() bool { return w.hub.Connected("a") })
	tonight()
	w.write(strings.Replace(absent, "tonight: {", "tomorrow: {", 1))
	if _, code := w.reload(); code != exitOK { // another method lets it be written later: it waits on
		t.Errorf("exit %d", code)
	}
	if keys := w.service.state.Keys(bridge.WaitingPrefix); len(keys) != 1 {
		t.Errorf("it does not wait: %v", keys)
	}
	w.write(strings.Replace(absent, ", deliver: queued, expires: 1h", "", 1))
	if _, code := w.reload(); code != exitOK {
		t.Errorf("exit %d", code)
	}
	testkit.Eventually(t, "the outcome is told", func() bool { return w.reported("a", "lastCommand", "status") == 404.0 })
	testkit.Eventually(t, "it does not wait any more", func() bool { return len(w.service.state.Keys(bridge.WaitingPrefix)) == 0 })
	w.write(absent)
	if _, code := w.reload(); code != exitOK {
		t.Errorf("exit %d", code)
	}
	tonight()
	stop()
	w.write() // nothing of it is left
	w.edit("devices:", "devices: { b: { identity: { device: a, sas_key: file:a }, modbus: { tcp: \"127.0.0.1:1\", unit: 1, addressing: zero }, points: { x: { at: coil 1 } } } }")
	defer w.run()()
	testkit.Eventually(t, "a start gives it up too", func() bool { return len(w.service.state.Keys(bridge.WaitingPrefix)) == 0 })
}

// sensors are what reports by itself.
func (w *works) sensors(names ...string) string {
	text := "\nlisteners: { field: { coap: \"127.0.0.1:PORT\", allow: [127.0.0.0/8] } }\ndevices:"
	for _, name := range names {
		text += fmt.Sprintf("\n  %s: { identity: { device: %[1]s, sas_key: file:%[1]s }, coap: { listener: field, from: 127.0.0.1, path: /%[1]s, expect_every: 4s }, points: { v: { senml: v, publish: { on: poll } } } }", name)
	}
	return text + "\n"
}

// freePort is a UDP port that nobody has.
func freePort(t *testing.T) (port string, hold net.PacketConn) {
	t.Helper()
	hold, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return portOf(hold.LocalAddr().String()), hold
}

func TestAListenerThatChangesKeepsItsAddressAndOneWhoseAddressIsTakenRefusesAll(t *testing.T) {
	t.Parallel()
	w := newWorks(t, "a", "b")
	port, hold := freePort(t)
	hold.Close()
	put := func(port string, names ...string) {
		w.write()
		w.edit("\ndevices:", strings.Replace(w.sensors(names...), "PORT", port, 1))
	}
	put(port, "a")
	stop := w.run()
	defer stop()
	all := parsed(t, "version: 1\nhub: { host: localhost }"+strings.Replace(w.sensors("a", "b"), "PORT", port, 1))
	devices := devsim.NewSensors(devsim.SensorConfig{Plant: all, Seed: 1, Addr: w.addressOf, Log: zerolog.Nop()})
	testkit.Background(t, func(ctx context.Context) error { return devices.Run(ctx) })
	w.goesOn("a")

	taken, hold := freePort(t)
	defer hold.Close()
	put(taken, "a", "b")
	if r, code := w.reload(); code != exitFailed || len(r.Refused) != 1 || !strings.Contains(r.Refused[0], taken) {
		t.Errorf("exit %d, %v", code, r.Refused)
	}
	w.goesOn("a")
	w.edit("127.0.0.1:"+taken, "192.0.2.1:"+port) // the port is to become free, but not where this machine is not
	if r, code := w.reload(); code != exitFailed || len(r.Refused) != 1 || !strings.Contains(r.Refused[0], "192.0.2.1") {
		t.Errorf("exit %d, %v", code, r.Refused)
	}
	w.goesOn("a")
	put(port, "a", "b")
	if r, code := w.reload(); code != exitOK || len(r.Changes.Listeners.Changed) != 1 {
		t.Errorf("exit %d, %v, %+v", code, r.Refused, r.Changes)
	}
	w.goesOn("a", "b")
	hold.Close()
	put(taken, "a", "b") // another address: it is taken before the old one is given back
	if r, code := w.reload(); code != exitOK {
		t.Errorf("exit %d, %v", code, r.Refused)
	}
	testkit.Eventually(t, "it has its new address", func() bool { return strings.HasSuffix(w.addressOf("field"), ":"+taken) })
	w.goesOn("a", "b")
	if w.connects("a") != 1 || w.connects("b") != 1 {
		t.Errorf("connects: %d, %d", w.connects("a"), w.connects("b"))
	}
	stop()
	w.judge()
}

// addressOf is where a listener really listens.
func (w *works) addressOf(name string) string { return w.service.listenerAddress(name) }

func TestAStopInTheMiddleOfAReloadIsAStop(t *testing.T) {
	t.Parallel()
	w := newWorks(t, "a", "b")
	w.write(w.at("a", ""), w.at("b", ""))
	stop := w.run()
	defer stop()
	w.goesOn("a", "b")
	link := w.plant.Links[1].Name
	w.sim.Delay(link, 1, 10*time.Second)
	go func() { // its answer is not what this is about
		_, _ = w.hub.CallMethod(context.Background(), hubsim.MethodCall{Device: "b", Name: "set", Payload: []byte(`{"value":42}`), ConnectTimeout: time.Second, ResponseTimeout: 20 * time.Second})
	}()
	serving := w.service.now.Load().links[1]
	testkit.Eventually(t, "a command is under way", func() bool { return serving.commands.now() > 0 })
	w.write(w.at("a", ""), w.at("b", "extra: { at: holding 30, type: int16 }"))
	replied := make(chan error, 1)
	go func() {
		_, err := w.service.Reload(context.Background(), false)
		replied <- err
	}()
	testkit.Eventually(t, "the reload waits for the command", func() bool { return w.service.now.Load().number == 2 })
	began := time.Now()
	stop()
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("stopping took %v", took)
	}
	select {
	case <-replied:
	case <-time.After(10 * time.Second):
		t.Error("who asked for the reload waits for ever")
	}
	w.judge()
}
