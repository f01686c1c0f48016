package mapping

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
)

// secure and plain are listeners that tests put their devices under.
const (
	secure = head + "listeners: { l: { coaps: 0.0.0.0:5684, psk_dir: psk } }\n"
	plain  = head + "listeners: { l: { coap: 10.7.4.1:5683, allow: [10.7.4.0/24, 10.8.0.5, fd00::/64] } }\n"
)

// reporter is a plant of one device that reports to l, which is told apart by sender and has these keys.
func reporter(listener, sender, rest string) string {
	return listener + "devices: { d: { local: true, coap: { listener: l, " + sender + ", path: /v1/t }, " + rest + " } }\n"
}

// prefixes compares networks, which cmp cannot look into.
func prefixes() cmp.Option { return cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }) }

func TestADeviceThatReportsGoesToItsListener(t *testing.T) {
	plant := good(t, `listeners:
  vlan4: { coap: "10.7.4.1:5683", allow: [10.7.4.0/24, "fd00::/64"], limits: { body: 16KiB, rate: 0.5 } }
  field: { coaps: "[::]:5684", psk_dir: /etc/psk, allow: [10.0.0.7], limits: { body: 1MiB, rate: 20, sessions: 50, idle: 10m } }
devices:
  env: { local: true, coap: { listener: field, psk: urn:dev:env 17, path: /v1/t, expect_every: 5m, assume: senml+cbor }, points: { t: { senml: "urn:dev:17:temp" } } }
  wind: { local: true, coap: { listener: vlan4, from: 10.7.4.9, path: / }, points: { v: { format: text, scale: 0.1, offset: -3 } } }
  rain: { local: true, coap: { listener: vlan4, from: "fd00::/72", path: /a/, assume: json }, points: { r: { pointer: /rain/0/a~1b }, s: { pointer: /s, format: json } } }
  plc: { local: true, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } }
`)
	field := coap.Config{
		Name: "field", Listen: "[::]:5684", Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")},
		Limits: coap.Limits{Body: 1 << 20, Rate: 20, Sessions: 50, Idle: 10 * time.Minute},
		Devices: []coap.Device{{
			Name: "env", PSK: "urn:dev:env 17", Path: "/v1/t", ExpectEvery: 5 * time.Minute, Assume: coap.SenMLCBOR,
			Points: []coap.Point{{ID: "env/t", Source: coap.FromSenML, Key: "urn:dev:17:temp", Scale: 1}},
		}},
	}
	vlan4 := coap.Config{
		Name: "vlan4", Listen: "10.7.4.1:5683", Plain: true,
		Allow:  []netip.Prefix{netip.MustParsePrefix("10.7.4.0/24"), netip.MustParsePrefix("fd00::/64")},
		Limits: coap.Limits{Body: 16 << 10, Rate: 0.5},
		Devices: []coap.Device{
			{
				Name: "wind", From: netip.MustParsePrefix("10.7.4.9/32"), Path: "/",
				Points: []coap.Point{{ID: "wind/v", Source: coap.FromBody, Scale: 0.1, Offset: -3}},
			},
			{
				Name: "rain", From: netip.MustParsePrefix("fd00::/72"), Path: "/a/", Assume: coap.JSON,
				Points: []coap.Point{
					{ID: "rain/r", Source: coap.FromJSON, Key: "/rain/0/a~1b", Scale: 1},
					{ID: "rain/s", Source: coap.FromJSON, Key: "/s", Scale: 1},
				},
			},
		},
	}
	if len(plant.Listeners) != 2 || plant.Listeners[0].PSKDir != "" || plant.Listeners[1].PSKDir != "/etc/psk" {
		t.Fatalf("%+v", plant.Listeners)
	}
	for i, want := range []coap.Config{vlan4, field} {
		if diff := cmp.Diff(want, plant.Listeners[i].Config, prefixes()); diff != "" {
			t.Error(diff)
		}
	}
	var links []string
	for _, d := range plant.Devices {
		links = append(links, d.Name+" "+d.Link)
	}
	if diff := cmp.Diff([]string{"env field", "wind vlan4", "rain vlan4", "plc h:502"}, links); diff != "" {
		t.Error(diff)
	}
}

// The defaults of the file are made for polling: a report that a device was told is stored is passed on.
func TestEveryReportIsPublishedUnlessItsDeviceOrPointSaysOtherwise(t *testing.T) {
	const defaults = "defaults: { poll: 1s, publish: { on: change, at_least_every: 15m, at_most_every: 1m } }\n"
	for _, c := range []struct {
		device, point string
		want          gateway.Publish
	}{
		{"", "", gateway.Publish{On: gateway.OnPoll}},
		{"", ", publish: { on: report, at_most_every: 5s }", gateway.Publish{On: gateway.OnPoll, AtMostEvery: 5 * time.Second}},
		{"", ", publish: { on: change }", gateway.Publish{}},
		{"", ", publish: { on: change, at_least_every: 1h }, deadband: 1%", gateway.Publish{AtLeastEvery: time.Hour, Deadband: gateway.Deadband{Percent: 1}}},
		{"publish: { on: change, at_least_every: 1h }, ", "", gateway.Publish{AtLeastEvery: time.Hour}},
		{"publish: { on: change, at_least_every: 1h }, ", ", publish: { on: report }", gateway.Publish{On: gateway.OnPoll, AtLeastEvery: time.Hour}},
		{"publish: { at_most_every: 1s }, ", ", deadband: 2, publish: { on: change }", gateway.Publish{AtMostEvery: time.Second, Deadband: gateway.Deadband{Absolute: 2}}},
	} {
		plant := check(t, reporter(secure+defaults, "psk: d", c.device+"points: { x: { senml: x"+c.point+" } }"))
		if plant == nil {
			t.Fatalf("%+v", c)
		}
		if got := plant.Points[0].Publish; got != c.want {
			t.Errorf("%q %q: %+v, want %+v", c.device, c.point, got, c.want)
		}
	}
	for point, want := range map[string]string{
		"deadband: 1":                                                    "E183",
		"publish: { at_least_every: 1h }":                                "E183",
		"publish: { on: report }, deadband: 1":                           "E183",
		"publish: { on: poll, at_least_every: 1h }":                      "E183",
		"publish: { on: change, at_least_every: 1s }":                    "",
		"publish: { on: change, at_least_every: 1s, at_most_every: 2s }": "E182",
	} {
		_, found := Parse("f", []byte(reporter(secure+defaults, "psk: d", "points: { x: { senml: x, "+point+" } }")))
		if got := codes(found); got != want {
			t.Errorf("%s: %s, want %s", point, got, want)
		}
	}
}

// codes are the codes of findings.
func codes(found Findings) string {
	var list []string
	for _, f := range found {
		list = append(list, f.Code)
	}
	return strings.Join(list, " ")
}

func TestWhatAReportedPointMeansIsRead(t *testing.T) {
	plant := check(t, reporter(secure, "psk: d", `points: { x: { senml: x, name: "Füllstand", unit: "%", range: { drop: 0..100 }, wrap: 4096, hidden: true } }`))
	if plant == nil {
		t.FailNow()
	}
	want := gateway.Point{
		ID: "d/x", Field: "Füllstand", Unit: "%", Range: &gateway.Range{Max: 100, Mode: gateway.RangeDrop}, Wrap: 4096, Hidden: true,
		Publish: gateway.Publish{On: gateway.OnPoll},
	}
	if diff := cmp.Diff([]gateway.Point{want}, plant.Points); diff != "" {
		t.Error(diff)
	}
}

func TestAProfileMayBeOneOfDevicesThatReport(t *testing.T) {
	plant := good(t, `listeners: { l: { coaps: 0.0.0.0:5684, psk_dir: psk } }
profiles:
  room:
    coap: { path: /v1/t, assume: senml+json, expect_every: 1h }
    points: { t: { senml: temp, deadband: 0.1 }, h: { senml: hum } }
  bare: { points: { t: { pointer: /t } } }
devices:
  a: { local: true, profile: room, coap: { listener: l, psk: a }, publish: { on: change } }
  b: { local: true, profile: room, only: [h], coap: { listener: l, psk: b, path: /b, assume: text, expect_every: 5s }, points: { b: { format: text } } }
  c: { local: true, profile: bare, coap: { listener: l, psk: c, path: /c } }
`)
	var got []string
	for _, d := range plant.Listeners[0].Devices {
		text := fmt.Sprintf("%s %s %s %s %s", d.Name, d.PSK, d.Path, d.Assume, d.ExpectEvery)
		for _, p := range d.Points {
			text += fmt.Sprintf(" %s=%d:%s", p.ID, p.Source, p.Key)
		}
		got = append(got, text)
	}
	want := []string{
		"a a /v1/t senml+json 1h0m0s a/t=0:temp a/h=0:hum",
		"b b /b text 5s b/h=0:hum b/b=2:",
		"c c /c unset 0s c/t=1:/t",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if plant.Points[0].Publish != (gateway.Publish{Deadband: gateway.Deadband{Absolute: 0.1}}) || plant.Points[2].Publish.On != gateway.OnPoll {
		t.Errorf("%+v", plant.Points)
	}
	_, found := Parse("f", []byte(secure+`profiles: { room: { points: { t: { senml: temp } } } }
devices: { a: { local: true, profile: room, coap: { listener: l, psk: a } } }
`))
	if got := brief(found); len(got) != 1 || got[0] != "5:51 E008" {
		t.Errorf("no path anywhere: %v", found)
	}
}

func TestOneSenderMayReportSeveralDevicesOnPathsOfTheirOwn(t *testing.T) {
	const device = "{ local: true, coap: { listener: l, SENDER, path: PATH }, points: { x: { senml: x } } }"
	for _, c := range []struct{ listener, a, pathA, b, pathB, want string }{
		{secure, "psk: k", "/a", "psk: k", "/b", ""},
		{secure, "psk: k", "/a", "psk: j", "/a", ""},
		{secure, "psk: k", "/a", "psk: k", "/a/", ""},
		{secure, "psk: k", "/a", "psk: k", "/a", "6:47 E206"},
		{plain, "from: 10.7.4.9", "/a", "from: 10.7.4.9", "/b", ""},
		{plain, "from: 10.7.4.9", "/a", "from: 10.7.4.0/24", "/a", ""}, // the narrower network wins
		{plain, "from: 10.7.4.9", "/a", "from: 10.7.4.9/32", "/a", "6:48 E206"},
	} {
		text := c.listener + "devices:\n"
		for i, s := range [][2]string{{c.a, c.pathA}, {c.b, c.pathB}} {
			text += fmt.Sprintf("  %c: %s\n", 'a'+i, strings.NewReplacer("SENDER", s[0], "PATH", s[1]).Replace(device))
		}
		_, found := Parse("f", []byte(text))
		if got := strings.Join(brief(found), " "); got != c.want {
			t.Errorf("%+v: %v", c, found)
		}
		if c.want != "" && !strings.Contains(found[0].Message, "line 5") {
			t.Errorf("%s does not name the other line", found[0].Message)
		}
	}
}

func TestASenderMustBeOneThatThePlainListenerListensTo(t *testing.T) {
	for from, want := range map[string]string{
		"10.7.4.9": "", "10.7.4.0/24": "", "10.7.4.128/25": "", "10.8.0.5": "", "\"fd00::9\"": "", "\"fd00::/64\"": "",
		"10.7.5.9": "E204", "10.7.0.0/16": "E204", "10.8.0.4/31": "E204", "0.0.0.0/0": "E204", "\"fd00::/63\"": "E204", "\"::/0\"": "E204",
		"10.7.4.9/24": "E009", "10.7.4": "E009", "sensor.example": "E009", "10.7.4.9:5683": "E009", "\"::ffff:10.7.4.9\"": "E009", "[10.7.4.9]": "E007",
	} {
		_, found := Parse("f", []byte(reporter(plain, "from: "+from, "points: { x: { senml: x } }")))
		if got := codes(found); got != want {
			t.Errorf("%s: %v, want %s", from, found, want)
		}
	}
}

// Who knocks chooses the identity; the file says which ones exist, and each must be a file of psk_dir.
func TestAPSKIdentityIsTheNameOfAFile(t *testing.T) {
	for psk, want := range map[string]string{
		"env-17": "", "17": "", "urn:dev:ow:10e2": "", "\"a b\"": "", "küche": "", strings.Repeat("k", 128): "",
		"../env": "E203", "a/b": "E203", "'a\\b'": "E203", ".hidden": "E203", "\"a\\0b\"": "E203", strings.Repeat("k", 129): "E203",
		"\"\"": "E007", "{ identity: a }": "E007", "\"" + marker + "\"": "E051",
	} {
		_, found := Parse("f", []byte(reporter(secure, "psk: "+psk, "points: { x: { senml: x } }")))
		if got := codes(found); got != want {
			t.Errorf("%s: %v, want %s", psk, found, want)
		}
	}
}

func TestAPathIsWhatADeviceCanPostTo(t *testing.T) {
	for path, want := range map[string]string{
		"/": "", "/v1/t": "", "/a/": "", "/a b": "", "/küche": "", "/...": "", "/" + strings.Repeat("s", 255): "",
		"v1": "E009", "//": "E009", "/a//b": "E009", "/..": "E009", "/a/./b": "E009", "/a?b=1": "E009", "'/a#b'": "E009", "/a%20b": "E009",
		"[a]": "E007", "coap://h/a": "E009", "\"/a\\tb\"": "E009", "/" + strings.Repeat("s", 256): "E009",
	} {
		text := strings.Replace(reporter(secure, "psk: d", "points: { x: { senml: x } }"), "path: /v1/t", "path: "+path, 1)
		_, found := Parse("f", []byte(text))
		if got := codes(found); got != want {
			t.Errorf("%s: %v, want %s", path, found, want)
		}
	}
}

func TestAKeyLeadsToAValueOfABody(t *testing.T) {
	for source, want := range map[string]string{
		"senml: temp": "", "senml: \"urn:dev:ow:10e2 temp\"": "", "senml: 3303/0/5700": "", "senml: " + strings.Repeat("n", 256): "",
		"senml: \"temp \"": "E009", "senml: \"a\\nb\"": "E009", "senml: " + strings.Repeat("n", 257): "E009", "senml: [a]": "E007", "senml:": "E007",
		"pointer: /": "", "pointer: /a/0/b~1c": "", "pointer: /a, format: json": "", "pointer: /" + strings.Repeat("n", 255): "",
		"pointer: a": "E009", "pointer: /a~": "E009", "pointer: /" + strings.Repeat("n", 256): "E009", "pointer: \"\"": "E007", "pointer: [a]": "E007",
		"format: text": "", "format: json": "E102", "format: senml+json": "E009", "format: text, pointer: /a": "E121",
	} {
		_, found := Parse("f", []byte(reporter(secure, "psk: d", "points: { x: { "+source+" } }")))
		if got := codes(found); got != want {
			t.Errorf("%s: %v, want %s", source, found, want)
		}
	}
}

func TestTwoListenersNeverWantOneSocket(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"10.7.4.1:5684", "10.7.4.1:5684", true},
		{"10.7.4.1:5684", "10.7.4.1:5685", false},
		{"10.7.4.1:5684", "10.7.4.2:5684", false},
		{"0.0.0.0:5684", "10.7.4.1:5684", true},
		{"0.0.0.0:5684", "[fd00::1]:5684", false},
		{"0.0.0.0:5684", "[::]:5684", true},
		{"[::]:5684", "[fd00::1]:5684", true},
		{"[::]:5684", "10.7.4.1:5684", true},
		{"[::]:5684", "10.7.4.1:5683", false},
		{"0.0.0.0:5684", "gateway.example:5684", true},
		{"10.7.4.1:5684", "gateway.example:5684", false},
		{"10.7.4.1:5684", "", false},
	} {
		if oneSocket(c.a, c.b) != c.want || oneSocket(c.b, c.a) != c.want {
			t.Errorf("%s and %s: want %t", c.a, c.b, c.want)
		}
	}
}

func TestAListenerThatNobodyUsesIsDoubtedAndNotOpened(t *testing.T) {
	const device = "devices: { d: { local: true, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } } }\n"
	if plant := check(t, secure+device, "3:14 W206"); plant == nil || len(plant.Listeners) > 0 {
		t.Errorf("%+v", plant)
	}
}

// A body without Content-Format is read as assumed; one that no point can be found in would be refused.
func TestAnAssumedFormatSuitsAPoint(t *testing.T) {
	for _, c := range []struct{ assume, point, want string }{
		{"text", "format: text", ""},
		{"json", "pointer: /a", ""},
		{"senml+json", "senml: a", ""},
		{"senml+cbor", "senml: a", ""},
		{"text", "pointer: /a", "E207"},
		{"json", "senml: a", "E207"},
		{"senml+json", "format: text", "E207"},
		{"senml+cbor", "pointer: /a", "E207"},
		{"json", "senmll: a", "E003"}, // what was meant is not known
	} {
		text := strings.Replace(reporter(secure, "psk: d", "points: { x: { "+c.point+" } }"), "path:", "assume: "+c.assume+", path:", 1)
		_, found := Parse("f", []byte(text))
		if got := codes(found); got != c.want {
			t.Errorf("%+v: %v", c, found)
		}
	}
}

func TestAReportThatSaysNeitherOfThePlacesIsOneFinding(t *testing.T) {
	check(t, head+"devices: { d: { local: true, points: { x: { senml: x }, y: { pointer: /y }, z: { format: text } } } }\n", "3:15 E008")
	check(t, secure+"devices: { d: { local: true, modbus: { tcp: h:502 }, coap: { listener: l, psk: d, path: /d }, points: { x: { senml: x } } } }\n", "4:54 E121")
}
