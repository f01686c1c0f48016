package main

import (
	"crypto/x509"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/internal/control"
	"iothub-gateway/mapping"
)

const before = `version: 1
hub: { host: plant7.azure-devices.net, tier: S1, units: 1 }
links: { line: { tcp: 10.0.0.1:502 }, other: { tcp: 10.0.0.2:502 } }
listeners: { field: { coap: 0.0.0.0:5683, allow: [10.0.0.0/8] } }
devices:
  boiler:
    identity: { device: boiler, sas_key: file:boiler, properties: { site: a } }
    modbus: { link: line, unit: 1, addressing: zero }
    points:
      temp: { at: input 0, type: int16, deadband: 1 }
      setpoint: { at: holding 0, type: int16, write: { min: 0, max: 90 } }
    methods: { set: { write: setpoint, from: value } }
    messages: [ { write: setpoint, from: value } ]
  pump:
    identity: { device: pump, sas_key: file:pump }
    modbus: { link: other, unit: 1, addressing: zero }
    points: { speed: { at: holding 5, type: uint16, write: { min: 0, max: 9 } } }
    desired: { speed: { write: speed } }
  room:
    identity: { device: room, sas_key: file:room }
    coap: { listener: field, from: 10.0.0.9, path: /t }
    points: { hum: { senml: hum } }
`

func parsed(t *testing.T, text string) *mapping.Plant {
	t.Helper()
	plant, findings := mapping.Parse("mapping.yaml", []byte(text))
	if plant == nil {
		t.Fatal(findings)
	}
	return plant
}

func TestOnlyWhatChangedCountsAsChanged(t *testing.T) {
	old := parsed(t, before)
	alone := control.Changes{
		Identities: control.Difference{Untouched: 3}, Links: control.Difference{Untouched: 2}, Listeners: control.Difference{Untouched: 1},
		Points: control.Difference{Untouched: 4}, Commands: control.Difference{Untouched: 3},
	}
	one := func(untouched int, name string, why ...string) control.Difference {
		return control.Difference{Changed: []control.Change{{Name: name, Why: why}}, Untouched: untouched}
	}
	for _, c := range []struct {
		what     string
		edits    []string // old and new texts
		expected func(*control.Changes)
	}{
		{"nothing", nil, func(*control.Changes) {}},
		{"a comment and the order of the devices' keys", []string{"version: 1\n", "# plant\nversion: 1\n\n"}, func(*control.Changes) {}},
		{"a deadband", []string{"deadband: 1", "deadband: 2"}, func(c *control.Changes) { c.Points = one(3, "boiler/temp", "report") }},
		{"a limit", []string{"max: 90", "max: 80"}, func(c *control.Changes) { c.Points = one(3, "boiler/setpoint", "write") }},
		{"an address", []string{"input 0", "input 2"}, func(c *control.Changes) {
			c.Points, c.Links = one(3, "boiler/temp", whereItStands), one(1, "line", "device boiler")
		}},
		{"a period", []string{"deadband: 1", "deadband: 1, poll: 7s"}, func(c *control.Changes) {
			c.Points, c.Links = one(3, "boiler/temp", "poll"), one(1, "line", "device boiler")
		}},
		{"another controller's address", []string{"tcp: 10.0.0.1:502", "tcp: 10.0.0.3:502"}, func(c *control.Changes) {
			c.Links = one(1, "line", "settings")
			c.Points = control.Difference{Changed: []control.Change{{Name: "boiler/temp", Why: []string{whereItStands}}, {Name: "boiler/setpoint", Why: []string{whereItStands}}}, Untouched: 2}
		}},
		{"a timeout", []string{"10.0.0.1:502", "10.0.0.1:502, timeout: 7s"}, func(c *control.Changes) { c.Links = one(1, "line", "settings") }},
		{"a key", []string{"file:pump", "file:pump-2"}, func(c *control.Changes) { c.Identities = one(2, "pump", "credential") }},
		{"properties", []string{"site: a", "site: b"}, func(c *control.Changes) { c.Identities = one(2, "boiler", "properties") }},
		{"a will and a model", []string{"file:room", `file:room, will: { state: lost }, model_id: "dtmi:com:example:Room;1"`}, func(c *control.Changes) {
			c.Identities = one(2, "room", "will", "model_id")
		}},
		{"a method", []string{"from: value } }\n", "from: v } }\n"}, func(c *control.Changes) { c.Commands = one(2, "method boiler/set", "rule") }},
		{"a rule of messages", []string{"from: value } ]", "from: v } ]"}, func(c *control.Changes) { c.Commands = one(2, "messages boiler", "rules") }},
		{"no messages", []string{"    messages: [ { write: setpoint, from: value } ]\n", ""}, func(c *control.Changes) {
			c.Commands, c.Identities = control.Difference{Removed: []string{"messages boiler"}, Untouched: 2}, one(2, "boiler", "messages")
		}},
		{"a desired property", []string{"desired: { speed:", "desired: { pace:"}, func(c *control.Changes) {
			c.Commands = control.Difference{Added: []string{"desired pump/pace"}, Removed: []string{"desired pump/speed"}, Untouched: 2}
			c.Identities = one(2, "pump", "desired")
		}},
		{"a sensor's path", []string{"path: /t", "path: /u"}, func(c *control.Changes) {
			c.Points, c.Listeners = one(3, "room/hum", whereItStands), control.Difference{Changed: []control.Change{{Name: "field", Why: []string{"device room"}}}}
		}},
		{"the sources that are heard", []string{"[10.0.0.0/8]", "[10.0.0.0/16]"}, func(c *control.Changes) {
			c.Listeners = control.Difference{Changed: []control.Change{{Name: "field", Why: []string{"settings"}}}}
		}},
		{"a device that moves to another link", []string{"link: other", "link: line", "unit: 1, addressing: zero }\n    points: { speed", "unit: 2, addressing: zero }\n    points: { speed", ", other: { tcp: 10.0.0.2:502 }", ""}, func(c *control.Changes) {
			c.Points = one(3, "pump/speed", whereItStands)
			c.Identities, c.Commands = one(2, "pump", "desired"), one(2, "desired pump/speed", "rule") // what is desired is written there
			c.Links = control.Difference{Changed: []control.Change{{Name: "line", Why: []string{"device pump"}}}, Removed: []string{"other"}}
		}},
	} {
		plant := parsed(t, strings.NewReplacer(append(c.edits, "\x00", "")...).Replace(before))
		want := alone
		c.expected(&want)
		if diff := cmp.Diff(want, compare(old, plant)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
		if keys := needRestart(loaded{plant: old}, loaded{plant: plant}); len(keys) > 0 {
			t.Errorf("%s: %v need a restart", c.what, keys)
		}
	}
}

func TestWhatHoldsForTheWholeProcessNeedsARestart(t *testing.T) {
	old := parsed(t, before)
	for want, edit := range map[string][2]string{
		"hub.host": {"plant7.", "plant8."}, "hub.transport": {"tier: S1", "transport: websocket, tier: S1"}, "hub.tier": {"S1", "S2"}, "hub.units": {"units: 1", "units: 2"},
		"hub.proxy": {"tier: S1", "proxy: http://10.0.0.3:3128, tier: S1"}, "hub.gateway_host": {"tier: S1", "gateway_host: edge-1, tier: S1"},
		"hub.trust": {"tier: S1", "trust: file:ca.pem, tier: S1"}, "buffer": {"links:", "buffer: { max_age: 1d }\nlinks:"},
	} {
		plant := parsed(t, strings.Replace(before, edit[0], edit[1], 1))
		if got := needRestart(loaded{plant: old}, loaded{plant: plant}); len(got) != 1 || got[0] != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
	one, other := x509.NewCertPool(), x509.NewCertPool()
	s := &site{t: t, dir: t.TempDir()}
	text, _ := s.certificate("ca")
	other.AppendCertsFromPEM([]byte(text))
	if got := needRestart(loaded{plant: old, roots: one}, loaded{plant: old, roots: other}); len(got) != 1 {
		t.Errorf("other authorities: %v", got)
	}
	if got := needRestart(loaded{plant: old, roots: one}, loaded{plant: old, roots: x509.NewCertPool()}); len(got) != 0 {
		t.Errorf("the same authorities: %v", got)
	}
}
