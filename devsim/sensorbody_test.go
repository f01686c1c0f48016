package devsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
)

// bodyOf is the report of a device with these points, one value each.
func bodyOf(t testing.TB, f coap.Format, source coap.Source, values map[string]gateway.Value, keys ...string) []byte {
	t.Helper()
	r := report{format: f}
	for _, key := range keys {
		p := r.placeOf(sensePoint("d/"+key, source, key), gateway.Point{}, 1)
		p.sent = values[key]
	}
	body, err := r.body("urn:dev:sim:d:")
	if err != nil {
		t.Fatal(err)
	}
	return body
}

var everyValue = map[string]gateway.Value{
	"whole":    gateway.IntValue(21),
	"below":    gateway.IntValue(-500),
	"broken":   {},
	"fraction": gateway.FloatValue(21.53),
	"tiny":     gateway.FloatValue(-2.5e-7),
	"largest":  gateway.UintValue(math.MaxUint64),
	"on":       gateway.BoolValue(true),
	"off":      gateway.BoolValue(false),
	"word":     gateway.TextValue(`grün "1"`),
}

var everyKey = []string{"broken", "whole", "below", "fraction", "tiny", "largest", "on", "off", "word"}

func TestASenMLReportInJSONIsAPackOfRecords(t *testing.T) {
	got := string(bodyOf(t, coap.SenMLJSON, coap.FromSenML, everyValue, everyKey...))
	want := `[{"bn":"urn:dev:sim:d:","n":"whole","v":21},{"n":"below","v":-500},{"n":"fraction","v":21.53},` +
		`{"n":"tiny","v":-2.5e-07},{"n":"largest","v":18446744073709551615},` +
		`{"n":"on","vb":true},{"n":"off","vb":false},{"n":"word","vs":"grün \"1\""}]`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string(bodyOf(t, coap.SenMLJSON, coap.FromSenML, nil, "a", "b")); got != "[]" {
		t.Errorf("with no value at all: %s", got)
	}
}

func TestASenMLReportInCBORSaysTheSame(t *testing.T) {
	body := bodyOf(t, coap.SenMLCBOR, coap.FromSenML, everyValue, everyKey...)
	var got []map[int]any
	if err := cbor.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	want := []map[int]any{
		{-2: "urn:dev:sim:d:", 0: "whole", 2: uint64(21)},
		{0: "below", 2: int64(-500)},
		{0: "fraction", 2: 21.53},
		{0: "tiny", 2: -2.5e-7},
		{0: "largest", 2: uint64(math.MaxUint64)},
		{0: "on", 4: true},
		{0: "off", 4: false},
		{0: "word", 3: `grün "1"`},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestARecordHasTheUnitOfWhatIsSent(t *testing.T) {
	s := still(only(fieldPlant(), "env-17"))
	body, err := s.sensors[0].report.body("b:")
	if err != nil {
		t.Fatal(err)
	}
	var pack []struct{ N, U string }
	if err := json.Unmarshal(body, &pack); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"Cel", "%RH", "V", "", ""} { // the pressure is not sent in hPa
		if pack[i].U != want {
			t.Errorf("%s is in %q, want %q", pack[i].N, pack[i].U, want)
		}
	}
}

func TestAJSONReportHasEachValueWhereItsPointerLeads(t *testing.T) {
	for _, test := range []struct {
		keys []string
		want string
	}{
		{[]string{""}, `21`},
		{[]string{"/a"}, `{"a":21}`},
		{[]string{"/"}, `{"":21}`},
		{[]string{"/a/b", "/a/c/d", "/e"}, `{"a":{"b":21,"c":{"d":21}},"e":21}`},
		{[]string{"/a/0/v"}, `{"a":{"0":{"v":21}}}`},
		{[]string{"/a~1b", "/~01", `/"`}, `{"\"":21,"a/b":21,"~1":21}`},
		{[]string{"/a", "/a/b"}, `{"a":{"b":21}}`},
	} {
		values := make(map[string]gateway.Value)
		for _, key := range test.keys {
			values[key] = gateway.IntValue(21)
		}
		if got := string(bodyOf(t, coap.JSON, coap.FromJSON, values, test.keys...)); got != test.want {
			t.Errorf("%q: %s, want %s", test.keys, got, test.want)
		}
	}
	values := map[string]gateway.Value{"/n": gateway.FloatValue(1.5), "/t": gateway.TextValue("x"), "/on": gateway.BoolValue(true)}
	got := string(bodyOf(t, coap.JSON, coap.FromJSON, values, "/n", "/t", "/on", "/none"))
	if want := `{"n":1.5,"none":null,"on":true,"t":"x"}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestATextReportIsTheValueAlone(t *testing.T) {
	for want, v := range map[string]gateway.Value{
		"21.5": gateway.FloatValue(21.5), "-3": gateway.IntValue(-3), "true": gateway.BoolValue(true), "auto": gateway.TextValue("auto"),
	} {
		if got := string(bodyOf(t, coap.Text, coap.FromBody, map[string]gateway.Value{"": v}, "")); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestTheFirstPointSaysHowADeviceWrites(t *testing.T) {
	for _, test := range []struct {
		source coap.Source
		assume coap.Format
		want   coap.Format
		media  int
	}{
		{coap.FromSenML, coap.Unset, coap.SenMLJSON, 110},
		{coap.FromSenML, coap.SenMLJSON, coap.SenMLJSON, 110},
		{coap.FromSenML, coap.Text, coap.SenMLJSON, 110},
		{coap.FromSenML, coap.SenMLCBOR, coap.SenMLCBOR, 112},
		{coap.FromJSON, coap.SenMLCBOR, coap.JSON, 50},
		{coap.FromBody, coap.Unset, coap.Text, 0},
	} {
		got := formatOf(coap.Device{Assume: test.assume, Points: []coap.Point{{Source: test.source}, {Source: coap.FromSenML}}})
		if got != test.want || int(mediaOf(got)) != test.media {
			t.Errorf("source %d, assume %s: %s (%d)", test.source, test.assume, got, mediaOf(got))
		}
	}
}

// Whatever is put in comes out of decoders that know nothing of the encoder.
func FuzzBothSenMLFormsSayTheSame(f *testing.F) {
	f.Add("temp", "auto", int64(-1), 21.5)
	f.Add(strings.Repeat("k", 300), "\"\\\x00", int64(math.MinInt64), math.MaxFloat64)
	f.Add("", strings.Repeat("long ", 20000), int64(1<<40), 5e-324)
	f.Fuzz(func(t *testing.T, key, text string, i int64, number float64) {
		if !utf8.ValidString(key) || !utf8.ValidString(text) || math.IsNaN(number) || math.IsInf(number, 0) {
			return
		}
		keys := []string{key, key + "1", key + "2"}
		values := map[string]gateway.Value{keys[0]: gateway.TextValue(text), keys[1]: gateway.IntValue(i), keys[2]: gateway.FloatValue(number)}
		var inJSON []map[string]any
		decoder := json.NewDecoder(bytes.NewReader(bodyOf(t, coap.SenMLJSON, coap.FromSenML, values, keys...)))
		decoder.UseNumber()
		if err := decoder.Decode(&inJSON); err != nil {
			t.Fatal(err)
		}
		var inCBOR []map[int]any
		if err := cbor.Unmarshal(bodyOf(t, coap.SenMLCBOR, coap.FromSenML, values, keys...), &inCBOR); err != nil {
			t.Fatal(err)
		}
		if len(inJSON) != 3 || len(inCBOR) != 3 {
			t.Fatalf("%d and %d records", len(inJSON), len(inCBOR))
		}
		for n, key := range keys {
			if inJSON[n]["n"] != key || inCBOR[n][0] != key {
				t.Fatalf("record %d is called %q and %q, want %q", n, inJSON[n]["n"], inCBOR[n][0], key)
			}
		}
		if inJSON[0]["vs"] != text || inCBOR[0][3] != text {
			t.Errorf("texts %q and %q, want %q", inJSON[0]["vs"], inCBOR[0][3], text)
		}
		if got := fmt.Sprint(inJSON[1]["v"], " ", inCBOR[1][2]); got != fmt.Sprint(i, " ", i) {
			t.Errorf("whole numbers %s, want %d", got, i)
		}
		if got, err := inJSON[2]["v"].(json.Number).Float64(); err != nil || got != number || inCBOR[2][2] != number {
			t.Errorf("numbers %v and %v, want %v", got, inCBOR[2][2], number)
		}
	})
}
