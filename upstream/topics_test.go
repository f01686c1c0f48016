package upstream

import (
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
)

func TestAMessageTopicCarriesItsPropertiesEncodedAsTheHubWants(t *testing.T) {
	created := time.Date(2026, 11, 26, 3, 0, 0, 123_456_789, time.FixedZone("", 3600))
	m := &gateway.Telemetry{Created: created, Properties: []gateway.Property{{Name: "site", Value: "plant 7"}, {Name: "a+b", Value: "x/y=z&w#%:"}}}
	got := string(appendMessageTopic(nil, eventsTopic("press-cell-3/oven"), "q1-42", m))
	want := "devices/press-cell-3/modules/oven/messages/events/%24.mid=q1-42&%24.ct=application%2Fjson&%24.ce=utf-8" +
		"&iothub-creation-time-utc=2026-11-26T02%3A00%3A00.123Z&site=plant%207&a%2Bb=x%2Fy%3Dz%26w%23%25%3A"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if topic := eventsTopic("dev1"); topic != "devices/dev1/messages/events/" {
		t.Errorf("device topic %s", topic)
	}
}

func TestARepeatHasTheSameTopicByteForByte(t *testing.T) {
	m := &gateway.Telemetry{Created: time.Now(), Properties: []gateway.Property{{Name: "a", Value: "1"}}}
	first := string(appendMessageTopic(nil, "e/", "q-1", m))
	if again := string(appendMessageTopic([]byte("old")[:0], "e/", "q-1", m)); again != first {
		t.Errorf("%s\n%s", first, again)
	}
}

func FuzzEscaping(f *testing.F) {
	f.Add("plant 7", "x+y#z/%24&=")
	f.Fuzz(func(t *testing.T, name, value string) {
		bag := string(appendEscaped(append(appendEscaped(nil, name), '='), value))
		if strings.ContainsAny(bag, "+#/&$ :") {
			t.Fatalf("%q has a character that closes connections", bag)
		}
		n, v, _ := strings.Cut(bag, "=")
		back, err1 := url.PathUnescape(n)
		backV, err2 := url.PathUnescape(v)
		if err1 != nil || err2 != nil || back != name || backV != value {
			t.Fatalf("%q=%q became %q", name, value, bag)
		}
	})
}

func TestMethodTopicsAreTakenApartWhateverTheRequestIDLooksLike(t *testing.T) {
	for topic, want := range map[string][3]string{
		"$iothub/methods/POST/reboot/?$rid=1f":                     {"reboot", "1f", "ok"},
		"$iothub/methods/POST/set/?$rid=a-b&c=d":                   {"set", "a-b&c=d", "ok"},
		"$iothub/methods/POST/component*cmd/?$rid=9":               {"component*cmd", "9", "ok"},
		"$iothub/methods/POST//?$rid=1":                            {},
		"$iothub/methods/POST/reboot/?$rid=":                       {},
		"$iothub/methods/POST/reboot":                              {},
		"devices/d/messages/devicebound/%24.mid=1":                 {},
		"$iothub/twin/PATCH/properties/desired/?$version=2&$rid=1": {},
	} {
		name, rid, ok := parseMethodTopic(topic)
		if ok != (want[2] == "ok") || ok && (name != want[0] || rid != want[1]) {
			t.Errorf("%s: %q %q %v", topic, name, rid, ok)
		}
	}
	if topic := methodReplyTopic(200, "1f"); topic != "$iothub/methods/res/200/?$rid=1f" {
		t.Errorf("reply topic %s", topic)
	}
}

func TestRenewalIsStaggeredAndWellBeforeTheEnd(t *testing.T) {
	for _, r := range []float64{0, 0.5, 0.999} {
		if d := renewIn(time.Hour, r); d < 45*time.Minute || d > 51*time.Minute {
			t.Errorf("r=%v: after %v", r, d)
		}
	}
}

// What a message's topic carries is read with the simulated hub's decoder, which shares no code with the
// encoder, and with Go's own for query strings.
func FuzzTelemetryTopic(f *testing.F) {
	f.Add("q-1", int64(1), "site", "plant 7", "a+b", "x/y=z&w#%:")
	f.Add("q-1-64", int64(0), "", "", "$.mid", "\x00\xff")
	f.Fuzz(func(t *testing.T, mid string, created int64, name, value, other, more string) {
		if name == "" || other == "" || strings.EqualFold(name, other) || strings.HasPrefix(name+other, "$.") || strings.HasPrefix(other, "$.") ||
			strings.HasPrefix(strings.ToLower(name), "iothub-") || strings.HasPrefix(strings.ToLower(other), "iothub-") {
			return // mapping refuses them (D2C-13, D2C-17)
		}
		m := &gateway.Telemetry{Properties: []gateway.Property{{Name: name, Value: value}, {Name: other, Value: more}}}
		if created != 0 {
			m.Created = time.UnixMilli(created % 4e12)
		}
		topic := appendMessageTopic(nil, eventsTopic("d/m"), mid, m)
		bag, ok := strings.CutPrefix(string(topic), "devices/d/modules/m/messages/events/")
		if !ok || strings.ContainsAny(bag, "+#/$ :") {
			t.Fatalf("topic %q", topic)
		}
		want := map[string]string{"$.mid": mid, "$.ct": "application/json", "$.ce": "utf-8", name: value, other: more}
		if created != 0 {
			want[creationTimeProperty] = m.Created.UTC().Format(creationTimeFormat)
		}
		hub, err := hubsim.DecodeBag(bag)
		if err != nil || !maps.Equal(hub, want) {
			t.Fatalf("%q is %v at the hub, %v; want %v", bag, hub, err, want)
		}
		query, err := url.ParseQuery(bag)
		for n, v := range want {
			if err != nil || len(query) != len(want) || len(query[n]) != 1 || query[n][0] != v {
				t.Fatalf("%q is %v as a query, %v; want %v", bag, query, err, want)
			}
		}
	})
}
