package devsim

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
	"iothub-gateway/internal/testkit"
	"iothub-gateway/mapping"
)

// recordsOf reads a SenML pack in JSON or CBOR as values by name.
func recordsOf(t testing.TB, p post, base string) map[string]any {
	t.Helper()
	var pack []map[string]any
	if p.media == 112 {
		var labelled []map[int]any
		if err := cbor.Unmarshal(p.body, &labelled); err != nil {
			t.Fatalf("% x: %v", p.body, err)
		}
		names := map[int]string{-2: "bn", 0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb"}
		for _, fields := range labelled {
			record := make(map[string]any)
			for label, v := range fields {
				record[names[label]] = v
			}
			pack = append(pack, record)
		}
	} else if err := json.Unmarshal(p.body, &pack); err != nil {
		t.Fatalf("%s: %v", p.body, err)
	}
	if len(pack) == 0 || pack[0]["bn"] != base {
		t.Fatalf("%v does not begin with the base name %s", pack, base)
	}
	found := make(map[string]any)
	for _, record := range pack {
		for _, form := range []string{"v", "vb", "vs"} {
			if v, ok := record[form]; ok {
				found[record["n"].(string)] = v
			}
		}
	}
	return found
}

// means tells whether a decoded value is v, numbers being compared as such.
func means(decoded any, v gateway.Value) bool {
	if f, ok := v.Number(); ok {
		got, err := json.Number(fmt.Sprint(decoded)).Float64()
		return err == nil && got == f
	}
	return fmt.Sprint(decoded) == v.String()
}

func TestASecureSensorReportsWhatItsMappingSays(t *testing.T) {
	field := listenSecure(t, "127.0.0.1:0", map[string]string{"env-17": sensorKey})
	s := sensorsAt(only(fieldPlant(), "env-17"), field.addr)
	s.Mute("env-17", true)
	first := make(map[string]gateway.Value)
	for _, name := range []string{"temperature", "humidity", "battery", "front_door"} {
		first[name] = sensedValue(t, s, gateway.PointID("env-17/"+name))
	}
	testkit.Background(t, s.Run)
	for range 3 {
		if code := reported(t, s, "env-17"); code != "2.04" {
			t.Fatalf("answered %s", code)
		}
	}
	posts := field.wait(t, 3)
	for i, p := range posts {
		if !slices.Equal(p.path, []string{"v1", "t"}) || p.media != 110 || p.psk != "env-17" || p.random != posts[0].random {
			t.Errorf("report %d: path %q, format %d, identity %q, session %x", i, p.path, p.media, p.psk, p.random)
		}
	}
	got := recordsOf(t, posts[0], "urn:dev:sim:env-17:")
	for name, key := range map[string]string{"temperature": "temp", "humidity": "hum", "battery": "batt", "front_door": "door"} {
		if !means(got[key], first[name]) {
			t.Errorf("%s: the first report says %v, Value said %s", name, got[key], first[name])
		}
	}
	got = recordsOf(t, posts[2], "urn:dev:sim:env-17:")
	pressure, _ := sensedValue(t, s, "env-17/pressure").Number()
	if raw := got["p"].(float64); raw*0.01+300-pressure > 1e-9 || pressure-raw*0.01-300 > 1e-9 || len(got) != 5 {
		t.Errorf("%v, want a pressure of %g", got, pressure)
	}
	if acked := s.Acked()["env-17"]; acked != 3 {
		t.Errorf("%d acknowledged", acked)
	}
}

func TestAPlainSensorReportsWhatItsMappingSays(t *testing.T) {
	vlan := listenPlain(t, "127.0.0.1:0")
	s := sensorsAt(fieldPlant(), vlan.addr)
	for _, device := range []string{"env-17", "node", "tank", "probe"} {
		s.Mute(device, true)
	}
	hold(t, s, "tank/label", gateway.TextValue("nord"))
	testkit.Background(t, s.Run)
	for i, device := range []string{"node", "tank", "probe"} {
		if code := reported(t, s, device); code != "2.04" {
			t.Fatalf("%s: answered %s", device, code)
		}
		if p := vlan.wait(t, i+1)[i]; p.from.String() != "127.0.0.1" {
			t.Errorf("%s reports from %s", device, p.from)
		}
	}
	posts := vlan.all()
	if node := posts[0]; !slices.Equal(node.path, []string{"cbor"}) || node.media != 112 {
		t.Errorf("node: path %q, format %d", node.path, node.media)
	}
	found := recordsOf(t, posts[0], "urn:dev:sim:node:")
	for name, decoded := range found {
		if want := sensedValue(t, s, gateway.PointID("node/"+name)); !means(decoded, want) {
			t.Errorf("node/%s: %v, want %s", name, decoded, want)
		}
	}
	if len(found) != 3 {
		t.Errorf("node reports %v", found)
	}
	if tank := posts[1]; !slices.Equal(tank.path, []string{"a", "", "b", ""}) || tank.media != 50 {
		t.Errorf("tank: path %q, format %d", tank.path, tank.media)
	}
	want := fmt.Sprintf(`{"label":"nord","state":{"a/b~c":%s,"level":%s}}`, sensedValue(t, s, "tank/odd"), sensedValue(t, s, "tank/raw"))
	if got := string(posts[1].body); got != want {
		t.Errorf("tank: %s, want %s", got, want)
	}
	if p := posts[2]; len(p.path) != 0 || p.media != 0 || string(p.body) != sensedValue(t, s, "probe/lux").String() {
		t.Errorf("probe: path %q, format %d, %s", p.path, p.media, p.body)
	}
}

func TestAReportOfManyPointsArrivesWhole(t *testing.T) {
	for _, plain := range []bool{true, false} {
		d := coap.Device{Name: "big", PSK: "big", Path: "/v1/t"}
		for i := range 100 {
			d.Points = append(d.Points, sensePoint(fmt.Sprintf("big/p%d", i), coap.FromSenML, fmt.Sprintf("channel-%d", i)))
		}
		plant := &mapping.Plant{Listeners: []mapping.Listener{{Config: coap.Config{Name: "l", Plain: plain, Devices: []coap.Device{d}}}}}
		listener := listenSecure(t, "127.0.0.1:0", map[string]string{"big": sensorKey})
		if plain {
			listener = listenPlain(t, "127.0.0.1:0")
		}
		s := sensorsAt(plant, listener.addr)
		s.Mute("big", true)
		testkit.Background(t, s.Run)
		if code := reported(t, s, "big"); code != "2.04" {
			t.Fatalf("plain %v: answered %s", plain, code)
		}
		p := listener.wait(t, 1)[0]
		if found := recordsOf(t, p, "urn:dev:sim:big:"); len(found) != 100 || len(p.body) < 2048 {
			t.Errorf("plain %v: %d records in %d bytes", plain, len(found), len(p.body))
		}
	}
}
