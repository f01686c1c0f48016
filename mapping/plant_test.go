package mapping

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// south finds a point as its adapter gets it.

func south(t *testing.T, plant *Plant, id gateway.PointID) modbus.Point {
	t.Helper()
	for _, link := range plant.Links {
		for _, d := range link.Devices {
			for _, p := range d.Points {
				if p.ID == id {
					return p
				}
			}
		}
	}
	t.Fatalf("no point %s", id)
	return modbus.Point{}
}

// north finds a point as the bridge gets it.

func north(t *testing.T, plant *Plant, id gateway.PointID) gateway.Point {
	t.Helper()
	for _, p := range plant.Points {
		if p.ID == id {
			return p
		}
	}
	t.Fatalf("no point %s", id)
	return gateway.Point{}
}

// one is a plant of one device with these points.

func one(t *testing.T, points string) *Plant {
	t.Helper()
	return good(t, "devices:\n  d:\n    local: true\n    modbus: { tcp: h:502, unit: 1, addressing: zero }\n    points:\n      "+
		strings.ReplaceAll(points, "\n", "\n      ")+"\n")
}

// describe is a plant on one line an item, for comparing.

func TestWhatTheFileDoesNotSayIsBuiltIn(t *testing.T) {
	plant := one(t, "x: { at: holding 5, type: int16 }")
	want := modbus.Config{Name: "h:502", Address: "h:502", Timeout: 2 * time.Second, Devices: []modbus.Device{{
		Name: "d", Unit: 1, Gap: 32, MaxRead: 125, MaxWrite: 123,
		Offline: modbus.Offline{After: 3, RetryMin: 5 * time.Second, RetryMax: 2 * time.Minute},
		Points: []modbus.Point{{
			ID: "d/x", Table: modbus.Holding, Address: 5, Bit: modbus.WholeRegister, Type: modbus.Int16, Order: "abcd",
			Scale: 1, Poll: time.Second,
		}},
	}}}
	if diff := cmp.Diff([]modbus.Config{want}, plant.Links); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]gateway.Point{{ID: "d/x", Field: "x", Publish: gateway.Publish{AtLeastEvery: 15 * time.Minute}}}, plant.Points); diff != "" {
		t.Error(diff)
	}
	if plant.Hub != (Hub{Host: "h.example", Transport: "mqtt"}) {
		t.Errorf("%+v", plant.Hub)
	}
}

// A write of a long text takes longer than reading it back: the timeout of a slow line leaves room for both.

func TestTheCloserSettingWins(t *testing.T) {
	plant := good(t, `defaults: { poll: 2s, publish: { on: poll, at_least_every: 1h, at_most_every: 1s }, offline: { after: 5 } }
profiles:
  p:
    modbus: { addressing: one, order: cdab, gap: 5, max_read: 50, even: true }
    points:
      a: { at: holding 11, type: float32 }
      b: { at: holding 13, type: float32, order: dcba, poll: 7s, publish: { on: change } }
devices:
  plain: { local: true, profile: p, modbus: { tcp: h:502, unit: 1 } }
  own:
    local: true
    profile: p
    modbus: { tcp: h:502, unit: 2, order: badc, gap: 0, even: false, max_write: 10, addressing: zero }
    poll: 3s
    publish: { at_least_every: 2h }
    offline: { retry: 1s..10s }
    points:
      c: { at: holding 21, type: int16, publish: { on: change, at_most_every: 5s } }
`)
	for id, want := range map[gateway.PointID]string{
		"plain/a": "plain/a holding 10 bit -1 float32(0) cdab *1+0 poll 2s",
		"plain/b": "plain/b holding 12 bit -1 float32(0) dcba *1+0 poll 7s",
		"own/a":   "own/a holding 10 bit -1 float32(0) badc *1+0 poll 3s", // its page counts from 1
		"own/b":   "own/b holding 12 bit -1 float32(0) dcba *1+0 poll 7s",
		"own/c":   "own/c holding 21 bit -1 int16(0) badc *1+0 poll 3s", // the device counts from 0
	} {
		if got := describeSouth(south(t, plant, id)); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
	for id, want := range map[gateway.PointID]gateway.Publish{
		"plain/a": {On: gateway.OnPoll, AtLeastEvery: time.Hour, AtMostEvery: time.Second},
		"plain/b": {On: gateway.OnChange, AtLeastEvery: time.Hour, AtMostEvery: time.Second},
		"own/a":   {On: gateway.OnPoll, AtLeastEvery: 2 * time.Hour, AtMostEvery: time.Second},
		"own/c":   {On: gateway.OnChange, AtLeastEvery: 2 * time.Hour, AtMostEvery: 5 * time.Second},
	} {
		if got := north(t, plant, id).Publish; got != want {
			t.Errorf("%s: %+v, want %+v", id, got, want)
		}
	}
	plain, own := plant.Links[0].Devices[0], plant.Links[0].Devices[1]
	if plain.Gap != 5 || plain.MaxRead != 50 || plain.MaxWrite != 123 || !plain.Even || plain.Offline.After != 5 || plain.Offline.RetryMin != 5*time.Second {
		t.Errorf("%+v", plain)
	}
	if own.Gap != 0 || own.MaxRead != 50 || own.MaxWrite != 10 || own.Even || own.Offline.After != 5 || own.Offline.RetryMax != 10*time.Second {
		t.Errorf("%+v", own)
	}
}

func TestADeviceChoosesAmongThePointsOfItsProfile(t *testing.T) {
	const profile = `profiles:
  p: { modbus: { addressing: zero }, points: { a: { at: coil 1 }, b: { at: coil 2 }, c: { at: coil 3 } } }
devices:
  d: { local: true, profile: p, modbus: { tcp: h:502, unit: 1 }`
	for choice, want := range map[string]string{
		"":                 "d/a=1 d/b=2 d/c=3",
		", only: [c, a]":   "d/a=1 d/c=3",
		", except: [b]":    "d/a=1 d/c=3",
		", except: [b, c]": "d/a=1",
		", override: true, points: { b: { at: coil 9 }, z: { at: coil 0 } }":   "d/a=1 d/c=3 d/b=9 d/z=0",
		", only: [a], points: { z: { at: coil 0 } }":                           "d/a=1 d/z=0",
		", override: true, only: [a], points: { b: { at: coil 9 } }, poll: 1s": "d/a=1 d/b=9",
	} {
		plant := good(t, profile+choice+" }\n")
		var got []string
		for _, p := range plant.Points {
			got = append(got, fmt.Sprintf("%s=%d", p.ID, south(t, plant, p.ID).Address))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", choice, got, want)
		}
	}
}

func TestSeveralDevicesMayReportAsOneIdentity(t *testing.T) {
	plant := good(t, `devices:
  a: { identity: { device: id, properties: { site: x } }, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: coil 0 }, h: { at: coil 1, hidden: true } } }
  m: { identity: { device: id, module: m, sas_key: env:M }, modbus: { tcp: h:502, unit: 2, addressing: zero }, points: { x: { at: coil 0 } } }
  b: { identity: { device: id, sas_key: credential:id, properties: { line: y, site: x } }, modbus: { tcp: h:502, unit: 3, addressing: zero }, points: { y: { at: coil 0, name: z }, h: { at: coil 1 } } }
  l: { local: true, modbus: { tcp: h:502, unit: 4, addressing: zero }, points: { x: { at: coil 0 } } }
`)
	var got []string
	for _, id := range plant.Identities {
		got = append(got, fmt.Sprintf("%s %s %v", id.ID, id.Key, id.Properties))
	}
	if diff := cmp.Diff([]string{"id credential:id [{site x} {line y}]", "id/m env:M []"}, got); diff != "" {
		t.Error(diff)
	}
	if p := north(t, plant, "b/y"); p.Identity != "id" || p.Field != "z" {
		t.Errorf("%+v", p)
	}
	if p := north(t, plant, "l/x"); p.Identity != "" {
		t.Errorf("a local point belongs to %q", p.Identity)
	}
}

func TestThePlaceOfTheHubIsRead(t *testing.T) {
	const rest = "devices: { d: { local: true, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } } }\n"
	for text, want := range map[string]Hub{
		"{ host: plant7.azure-devices.net }":                         {Host: "plant7.azure-devices.net", Transport: "mqtt"},
		"{ host: localhost:18883, transport: websocket }":            {Host: "localhost", Port: 18883, Transport: "websocket"},
		"{ host: 127.0.0.1, trust: file:/etc/iothub-gateway/ca.pem}": {Host: "127.0.0.1", Transport: "mqtt", Trust: "/etc/iothub-gateway/ca.pem"},
	} {
		if plant := check(t, "version: 1\nhub: "+text+"\n"+rest); plant == nil || plant.Hub != want {
			t.Errorf("%s: %+v", text, plant)
		}
	}
	for _, text := range []string{"https://h.example", "h:0", "h:x", "h:70000", "h:08", "a b", "h.example/x", "-h", "h;x=y"} {
		check(t, "version: 1\nhub: { host: '"+text+"' }\n"+rest, "2:14 E009")
	}
}

func TestRawValuesThatMeanNoValueAreKeptAsTheirBits(t *testing.T) {
	for point, want := range map[string][]uint64{
		"type: int16, not_available: 0x8000":                {0x8000},
		"type: int16, not_available: -32768":                {0x8000},
		"type: uint16, not_available: [65535, 0]":           {0xFFFF, 0},
		"type: float32, not_available: -9999":               {uint64(math.Float32bits(-9999))},
		"type: float32, not_available: 0x7FC00001":          {0x7FC00001},
		"type: float16, not_available: 1":                   {0x3C00},
		"type: bcd16, not_available: [9999, 0xFFFF]":        {0x9999, 0xFFFF},
		"type: sm16, not_available: -32767":                 {0xFFFF},
		"type: int24, not_available: -8388608":              {0x800000},
		"type: uint8h, not_available: 255":                  {0xFF},
		"type: float64, not_available: 1.5":                 {math.Float64bits(1.5)},
		"type: uint64, not_available: 0xFFFFFFFFFFFFFFFF":   {math.MaxUint64},
		"type: uint64, not_available: 18446744073709551615": {math.MaxUint64},
	} {
		if got := south(t, one(t, "x: { at: input 0, unit: V, "+point+" }"), "d/x").NotAvailable; !cmp.Equal(got, want) {
			t.Errorf("%s: %x, want %x", point, got, want)
		}
	}
}

func TestWhatAPointMeansIsRead(t *testing.T) {
	for point, want := range map[string]string{
		"at: holding 1, type: int32, scale: 0.001, offset: -40":                             "d/x holding 1 bit -1 int32(0) abcd *0.001+-40 poll 1s",
		"at: input 2, type: uint16, linear: { raw: 4..20, to: 100..0 }":                     "d/x input 2 bit -1 uint16(0) abcd *1+0 poll 1s linear {[4 20] [100 0]}",
		"at: holding 3, type: string(7), order: badc, poll: startup":                        "d/x holding 3 bit -1 string(7) badc *1+0 poll 0s",
		"at: holding 4, type: uint64, order: cdabghef":                                      "d/x holding 4 bit -1 uint64(0) cdabghef *1+0 poll 1s",
		"at: holding 4, type: uint48, order: efabcd":                                        "d/x holding 4 bit -1 uint48(0) efabcd *1+0 poll 1s",
		"at: holding 4, type: int32, order: bcda":                                           "d/x holding 4 bit -1 int32(0) bcda *1+0 poll 1s",
		"at: holding 4, type: time(unix32), order: bcda":                                    "d/x holding 4 bit -1 time(unix32)(0) bcda *1+0 poll 1s",
		"at: holding 4, type: hex(5)":                                                       "d/x holding 4 bit -1 hex(5) abcd *1+0 poll 1s",
		"at: holding 4, type: uint8h, flags: { 7: top }":                                    "d/x holding 4 bit -1 uint8h(0) abcd *1+0 poll 1s enum [] flags [{7 top}] na []",
		"at: holding 5, type: bool":                                                         "d/x holding 5 bit -1 bool(0) abcd *1+0 poll 1s",
		"at: \"holding 6.13\"":                                                              "d/x holding 6 bit 13 bool(0) abcd *1+0 poll 1s",
		"at: \"%MW6.11\"":                                                                   "d/x holding 6 bit 11 bool(0) abcd *1+0 poll 1s",
		"at: holding 6.12":                                                                  "d/x holding 6 bit 12 bool(0) abcd *1+0 poll 1s",
		"at: holding 7, bit: 0, type: bool":                                                 "d/x holding 7 bit 0 bool(0) abcd *1+0 poll 1s",
		"at: discrete 8, enum: { 0: open, 1: shut }":                                        "d/x discrete 8 bit -1 bool(0) abcd *1+0 poll 1s enum [{0 open} {1 shut}] flags [] na []",
		"at: holding 9, type: int16, enum: { -1: down, 0x10: up, 0: \"off\" }, write: true": "d/x holding 9 bit -1 int16(0) abcd *1+0 poll 1s enum [{-1 down} {16 up} {0 off}] flags [] na [] writable",
		"at: input 10, type: uint32, flags: { 31: last, 0: first }":                         "d/x input 10 bit -1 uint32(0) abcd *1+0 poll 1s enum [] flags [{31 last} {0 first}] na []",
		"at: coil 11, write: true":                                                          "d/x coil 11 bit -1 bool(0) abcd *1+0 poll 1s writable",
		"at: coil 12, write: false":                                                         "d/x coil 12 bit -1 bool(0) abcd *1+0 poll 1s",
	} {
		if got := describeSouth(south(t, one(t, "x: { "+point+" }"), "d/x")); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
	const rest = `as x [] on 0 least 15m0s most 0s band {Absolute:0 Percent:0}`
	for point, want := range map[string]string{
		"name: \"Vorlauf °C\", unit: Cel":             `d/x of "" as Vorlauf °C [Cel] on 0 least 15m0s most 0s band {Absolute:0 Percent:0}`,
		"deadband: 0.5":                               `d/x of "" as x [] on 0 least 15m0s most 0s band {Absolute:0.5 Percent:0}`,
		"deadband: 1.5%":                              `d/x of "" as x [] on 0 least 15m0s most 0s band {Absolute:0 Percent:1.5}`,
		"publish: { on: report, at_least_every: 0s }": `d/x of "" as x [] on 1 least 0s most 0s band {Absolute:0 Percent:0}`,
		"range: -40..85":                              `d/x of "" ` + rest + ` range {Min:-40 Max:85 Mode:0}`,
		"range: { clamp: -0.5..1e3 }":                 `d/x of "" ` + rest + ` range {Min:-0.5 Max:1000 Mode:1}`,
		"range: { drop: -20..-5 }":                    `d/x of "" ` + rest + ` range {Min:-20 Max:-5 Mode:2}`,
		"wrap: 65536":                                 `d/x of "" ` + rest + ` wrap 65536 hidden false`,
		"hidden: true":                                `d/x of "" ` + rest + ` wrap 0 hidden true`,
		"write: { min: -5, max: 5.5 }, scale: 0.5":    `d/x of "" ` + rest + ` write min -5 max 5.5 []`,
		"write: { min: -32768, max: 32767 }":          `d/x of "" ` + rest + ` write min -32768 max 32767 []`,
	} {
		if got := describeNorth(north(t, one(t, "x: { at: holding 0, type: int16, "+point+" }"), "d/x")); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
	if w := north(t, one(t, "x: { at: holding 0, type: uint16, enum: { 2: b, 1: a }, write: true }"), "d/x").Write; !cmp.Equal(w, &gateway.WriteRule{Words: []string{"b", "a"}, Confirm: gateway.Confirm{By: "d/x"}}) {
		t.Errorf("%+v", w)
	}
}

func TestMethodsWritePointsOrReadThem(t *testing.T) {
	plant := good(t, `devices:
  d:
    identity: { device: id, sas_key: env:K }
    modbus: { tcp: h:502, unit: 1, addressing: zero }
    points:
      speed: { at: holding 0, type: int16, unit: 1/min, scale: 0.1, write: { min: 0, max: 3000 } }
      mode: { at: holding 1, type: uint16, enum: { 0: stop, 1: run }, write: true }
      lamp: { at: coil 0, write: true }
      label: { at: holding 2, type: string(8), write: true }
      total: { at: holding 6, type: uint64, unit: "1", write: { min: 0, max: 18446744073709551615 } }
      ratio: { at: holding 10, type: float32, unit: "%", write: { min: 0, max: 100 } }
    methods:
      setSpeed: { write: speed, from: rpm, timeout: 5s }
      fast: { write: speed, value: 0xBB8 }
      half: { write: speed, value: 0.5 }
      run: { write: mode, value: run }
      "off": { write: lamp, value: false }
      name: { write: label, value: pump 7 }
      most: { write: total, value: 18446744073709551615 }
      share: { write: ratio, value: 12.34 }
      look.now: { read: [speed, lamp] }
`)
	value := func(v gateway.Value) *gateway.Value { return &v }
	want := []gateway.Method{
		{Name: "setSpeed", Write: "d/speed", From: "rpm", Timeout: 5 * time.Second},
		{Name: "fast", Write: "d/speed", Value: value(gateway.IntValue(3000))},
		{Name: "half", Write: "d/speed", Value: value(gateway.FloatValue(0.5))},
		{Name: "run", Write: "d/mode", Value: value(gateway.TextValue("run"))},
		{Name: "off", Write: "d/lamp", Value: value(gateway.BoolValue(false))},
		{Name: "name", Write: "d/label", Value: value(gateway.TextValue("pump 7"))},
		{Name: "most", Write: "d/total", Value: value(gateway.UintValue(math.MaxUint64))},
		{Name: "share", Write: "d/ratio", Value: value(gateway.FloatValue(12.34))},
		{Name: "look.now", Read: []gateway.PointID{"d/speed", "d/lamp"}},
	}
	for i := range want {
		want[i].Identity = "id"
	}
	if diff := cmp.Diff(want, plant.Methods, cmp.Comparer(func(a, b gateway.Value) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestIdsMustSuitTheHubAndItsTopics(t *testing.T) {
	const rest = "sas_key: env:K }, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: coil 0 } } } }\n"
	for _, id := range []string{"a", "press-4", "A.b_c*?!(d):=@$'", strings.Repeat("x", 128)} {
		plant := check(t, head+"devices: { d: { identity: { device: \""+id+"\", module: m, "+rest)
		if plant == nil || plant.Identities[0].ID != gateway.IdentityID(id+"/m") {
			t.Errorf("%q: %+v", id, plant)
		}
	}
	for _, id := range []string{"a/b", "a#", "a+b", "100%", "a b", "kühler", strings.Repeat("x", 129)} {
		check(t, head+"devices: { d: { identity: { device: \""+id+"\", "+rest, "3:37 E076")
	}
}

func TestMethodNamesMustSuitTheHubAndItsTopics(t *testing.T) {
	plant := func(name string) string {
		return head + "devices: { d: { identity: { device: d, sas_key: env:K }, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { x: { at: coil 0 } }, methods: { " +
			name + ": { read: [x] } } } }\n"
	}
	for _, name := range []string{"setSpeed", "look.now", "a-b_c", "go!"} {
		check(t, plant(name))
	}
	for _, name := range []string{"a b", "a/b", "a+b", "a#b", "a$", "(a)", "a@b", "a,b", "a:b", "a=b", "ä", "{a}", "a%20"} {
		check(t, plant("'"+name+"'"), "3:151 E077")
	}
}
