package upstream

import (
	"net/url"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
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
