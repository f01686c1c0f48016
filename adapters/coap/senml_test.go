package coap

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	gateway "iothub-gateway"
)

// read decodes a body for points that take every name asked for, and writes each reading as
// "name=value@seconds", seconds counted from now.
func read(t testing.TB, f Format, body []byte, now time.Time, names ...string) (string, error) {
	t.Helper()
	var points []Point
	for _, n := range names {
		points = append(points, Point{ID: gateway.PointID(n), Key: n})
	}
	samples, _, err := newCatalog(points).decode(f, body, now)
	var out []string
	for _, s := range samples {
		at := strings.TrimSuffix(fmt.Sprintf("@%.3f", s.Time.Sub(now).Seconds()), "@0.000")
		if s.Err != nil {
			out = append(out, fmt.Sprintf("%s!%s%s", s.Point, gateway.Reason(s.Err), at))
			continue
		}
		out = append(out, fmt.Sprintf("%s=%s%s", s.Point, s.Value, at))
	}
	return strings.Join(out, " "), err
}

// The examples of RFC 8428 section 5.
func TestTheExamplesOfTheRFCAreRead(t *testing.T) {
	const dev = "urn:dev:ow:10e2073a01080063"
	for _, c := range []struct {
		section string
		now     int64
		body    string
		names   []string
		want    string
	}{
		{"5.1.1", 1e9, `[{"n":"` + dev + `","u":"Cel","v":23.1}]`, []string{dev}, dev + "=23.1"},
		{"5.1.2", 1e9, `[{"bn":"` + dev + `:","n":"voltage","u":"V","v":120.1},{"n":"current","u":"A","v":1.2}]`,
			[]string{"current", dev + ":voltage"}, dev + ":voltage=120.1 current=1.2"},
		{"5.1.2, time series", 1276020080, `[
			{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},
			{"n":"current","t":-5,"v":1.2},{"n":"current","t":-4,"v":1.3},{"n":"current","t":-3,"v":1.4},
			{"n":"current","t":-2,"v":1.5},{"n":"current","t":-1,"v":1.6},{"n":"current","v":1.7}]`,
			[]string{"voltage", "current"},
			"voltage=120.1@-3.999 current=1.2@-8.999 current=1.3@-7.999 current=1.4@-6.999 current=1.5@-5.999 current=1.6@-4.999 current=1.7@-3.999"},
		{"5.1.3", 1320067500, `[{"bn":"` + dev + `","bt":1.320067464e+09,"bu":"%RH","v":20},{"t":60,"v":20.3},{"t":120,"v":20.7},{"u":"EL","t":150,"v":98}]`,
			[]string{dev}, dev + "=20@-36.000 " + dev + "=20.3@24.000 " + dev + "=20.7@84.000 " + dev + "=98@114.000"},
		{"5.2", 1e9, `[{"bn":"` + dev + `:","n":"temp","u":"Cel","v":23.1},{"n":"label","vs":"Machine Room"},{"n":"open","vb":false},{"n":"nfc-reader","vd":"aGkgCg"}]`,
			[]string{"temp", "label", "open", "nfc-reader"}, "temp=23.1 label=Machine Room open=false nfc-reader=aGkgCg"},
		{"5.3", 1320078430, `[{"bn":"2001:db8::2/","bt":1.320078429e+09,"n":"temperature","u":"Cel","v":27.2},{"n":"humidity","u":"%RH","v":80},
			{"bn":"2001:db8::1/","n":"temperature","u":"Cel","v":12.3},{"n":"humidity","u":"%RH","v":67}]`,
			[]string{"2001:db8::2/temperature", "2001:db8::1/humidity"}, "2001:db8::2/temperature=27.2@-1.000 2001:db8::1/humidity=67@-1.000"},
		{"4.1 base value", 1e9, `[{"bn":"a","bv":20,"v":3},{"v":0.5},{"bv":0,"v":1},{"n":"b","bv":1}]`, []string{"a"}, "a=23 a=20.5 a=1"},
		{"4.2 sum only", 1e9, `[{"n":"a","s":5},{"n":"a","v":1,"s":6,"ut":10}]`, []string{"a"}, "a=1"},
		{"4.4 unknown fields", 1e9, `[{"n":"a","v":1,"ext":{"x":[1]},"u":"Cel"}]`, []string{"a"}, "a=1"},
	} {
		t.Run(c.section, func(t *testing.T) {
			got, err := read(t, SenMLJSON, []byte(c.body), time.Unix(c.now, 0), c.names...)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "readings", got, c.want)
		})
	}
}

// The example of RFC 8428 section 6: the time series of section 5.1.2 in CBOR.
func TestTheCBORExampleOfTheRFCIsRead(t *testing.T) {
	const example = `87
a7 21 781b 75726e3a6465763a6f773a3130653230373361303130383030363a 22 fb41d303a15b001062 23 6141 20 05
   00 67766f6c74616765 01 6156 02 fb405e066666666666
a3 00 6763757272656e74 06 24 02 fb3ff3333333333333
a3 00 6763757272656e74 06 23 02 fb3ff4cccccccccccd
a3 00 6763757272656e74 06 22 02 fb3ff6666666666666
a3 00 6763757272656e74 06 21 02 f93e00
a3 00 6763757272656e74 06 20 02 fb3ff999999999999a
a3 00 6763757272656e74 06 00 02 fb3ffb333333333333`
	body, err := hex.DecodeString(strings.Join(strings.Fields(example), ""))
	if err != nil {
		t.Fatal(err)
	}
	got, err := read(t, SenMLCBOR, body, time.Unix(1276020080, 0), "voltage", "current")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "readings", got, "voltage=120.1@-3.999 current=1.2@-8.999 current=1.3@-7.999 current=1.4@-6.999 current=1.5@-5.999 current=1.6@-4.999 current=1.7@-3.999")
}

func TestCBORNumbersOfEveryFormAreRead(t *testing.T) {
	for _, c := range []struct {
		v    any
		want string
	}{
		{uint64(0), "a=0"},
		{-7, "a=-7"},
		{uint64(math.MaxUint64), "a=18446744073709551615"},
		{int64(math.MinInt64), "a=-9223372036854775808"},
		{float32(1.5), "a=1.5"},
		{1e300, "a=1e+300"},
		{cbor.Tag{Number: 4, Content: []int{-2, 27315}}, "a=273.15"},
		{cbor.Tag{Number: 4, Content: []int{2, 5}}, "a=500"},
		{math.NaN(), "a!not available"},
		{math.Inf(-1), "a!not available"},
	} {
		body, err := cbor.Marshal([]map[int]any{{0: "a", 2: c.v}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := read(t, SenMLCBOR, body, time.Unix(1e9, 0), "a")
		if err != nil {
			t.Errorf("%v: %v", c.v, err)
		}
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%v: got %s, want %s", c.v, got, c.want)
		}
	}
	body, err := cbor.Marshal([]map[int]any{{0: "a", 8: []byte("hi \n")}, {0: "a", 3: "x"}, {0: "a", 4: true}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := read(t, SenMLCBOR, body, time.Unix(1e9, 0), "a")
	if err != nil {
		t.Error(err)
	}
	equal(t, "other values", got, "a=aGkgCg a=x a=true")
}

func TestWhatIsNotSenMLIsRefusedAsAWhole(t *testing.T) {
	for _, body := range []string{
		``, `{}`, `1`, `[1]`, `[null]`, `[{"n":"a","v":1}`, `[{"n":"a","v":1}]]`, `[{"n":"a","v":1}] x`, `[{"n":"a","v":1},]`,
		`[{"n":"a","v":"1"}]`, `[{"n":"a","v":true}]`, `[{"n":"a","vb":1}]`, `[{"n":"a","vb":"x"}]`, `[{"n":"a","vs":true}]`,
		`[{"n":1,"v":1}]`, `[{"bn":null,"v":1}]`, `[{"n":"a","t":"1","v":1}]`, `[{"bver":11,"n":"a","v":1}]`,
		`[{"n":"a","v":1,"vs":"b"}]`, `[{"n":"a","v":1,"must_":0}]`, `[{"n":"a","v":1e999}]`, `[{"n":"a","v":NaN}]`,
		`[` + strings.Repeat(`{},`, maxRecords) + `{}]`, strings.Repeat("[", 20000),
	} {
		if got, err := read(t, SenMLJSON, []byte(body), time.Unix(1e9, 0), "a"); err == nil {
			t.Errorf("%.60s: read as %q", body, got)
		}
	}
	for _, body := range []string{
		"", "a0", "80ff", "8101", "9f", "81a10061", // nothing, no array, more, no map, cut off
		"81a20061610261", "81a2006161006162", // cut off, a key twice
		"81a200616102c249010000000000000000", // a big number
		"81a20061610282616101",               // a list
		"9b7fffffffffffffff",                 // an array of 2^63 elements
	} {
		raw, err := hex.DecodeString(body)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(t, SenMLCBOR, raw, time.Unix(1e9, 0), "a"); err == nil && got != "" {
			t.Errorf("%s: read as %q", body, got)
		}
	}
	must, err := cbor.Marshal([]map[any]any{{0: "a", 2: 1, "must_": 0}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, SenMLCBOR, must, time.Unix(1e9, 0), "a"); err == nil {
		t.Errorf("a field that must be understood: %q", got)
	}
}

func TestADevicesTimeIsBelievedIfItCanBeRight(t *testing.T) {
	now := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what    string
		seconds float64
		want    time.Duration // from now
	}{
		{"none", 0, 0},
		{"a minute ago", -60, -time.Minute},
		{"in a minute", 60, time.Minute},
		{"in an hour", 3600, 0},
		{"absolute", float64(now.Unix() - 7200), -2 * time.Hour},
		{"a clock that is slightly ahead", float64(now.Unix() + 240), 4 * time.Minute},
		{"a clock that is far ahead", float64(now.Unix() + 86400), 0},
		{"a clock that starts at 1970", 1 << 27, 0},
		{"a clock that starts at 2000", 946684800, 0},
		{"a month late", -30 * 86400, -30 * 24 * time.Hour},
		{"years late", -800 * 86400, 0},
		{"not a number", math.NaN(), 0},
		{"infinite", math.Inf(1), 0},
		{"beyond all", -1e300, 0},
	} {
		equal(t, c.what, believed(c.seconds, now).Sub(now), c.want)
	}
}

func TestScaleAndOffsetKeepDecimals(t *testing.T) {
	for _, c := range []struct {
		p    Point
		v    gateway.Value
		want string
		err  error
	}{
		{Point{}, gateway.IntValue(3), "3", nil},
		{Point{}, gateway.TextValue("x"), "x", nil},
		{Point{Scale: 0.1}, gateway.IntValue(3), "0.3", nil},
		{Point{Scale: 0.1, Offset: -40}, gateway.IntValue(615), "21.5", nil},
		{Point{Offset: 1}, gateway.FloatValue(0.1), "1.1", nil},
		{Point{Scale: 10}, gateway.TextValue("x"), "-", gateway.ErrRange},
		{Point{Scale: 1e300}, gateway.FloatValue(1e300), "-", gateway.ErrNotAvailable},
		{Point{}, gateway.FloatValue(math.NaN()), "-", gateway.ErrNotAvailable},
	} {
		got, err := c.p.scaled(c.v)
		if got.String() != c.want || !errors.Is(err, c.err) {
			t.Errorf("%v * %v + %v: got %s, %v, want %s, %v", c.v, c.p.Scale, c.p.Offset, got, err, c.want, c.err)
		}
	}
}

// sane fails for readings that nobody can use.
func sane(t *testing.T, samples []gateway.Sample, now time.Time) {
	t.Helper()
	for _, s := range samples {
		f, number := s.Value.Number()
		switch {
		case number && (math.IsNaN(f) || math.IsInf(f, 0)):
			t.Fatalf("%+v: not a number", s)
		case (s.Err == nil) == (s.Value.Kind() == gateway.Absent):
			t.Fatalf("%+v: neither good nor bad", s)
		case s.Time.Before(now.Add(-maxBehind)) || s.Time.After(now.Add(maxAhead)):
			t.Fatalf("%+v: not a plausible time", s)
		}
	}
	if len(samples) > maxRecords {
		t.Fatalf("%d samples", len(samples))
	}
}

func FuzzSenMLJSON(f *testing.F) {
	f.Add([]byte(`[{"bn":"a","bt":1.7e9,"bv":1,"v":23.1},{"n":"x","vs":"y","t":-5},{"vb":true},{"vd":"aGk"}]`))
	f.Add([]byte(`[{"n":"a","v":1e308,"bv":1e308}]`))
	fuzzSenML(f, SenMLJSON)
}

func FuzzSenMLCBOR(f *testing.F) {
	for _, pack := range []any{
		[]map[int]any{{-2: "a", -3: 1.7e9, -5: 1, 2: 23.1}, {0: "x", 3: "y", 6: -5}, {4: true}, {8: []byte("hi")}},
		[]map[int]any{{0: "a", 2: cbor.Tag{Number: 4, Content: []int{-400, math.MaxInt64}}}},
	} {
		body, err := cbor.Marshal(pack)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	fuzzSenML(f, SenMLCBOR)
}

func fuzzSenML(f *testing.F, format Format) {
	c := newCatalog([]Point{{ID: "d/a", Key: "a"}, {ID: "d/scaled", Key: "ax", Scale: 3, Offset: 1}, {ID: "d/none", Key: ""}})
	now := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, body []byte) {
		samples, unmapped, err := c.decode(format, body, now)
		if err != nil && len(samples)+unmapped > 0 {
			t.Fatalf("%v and %d samples", err, len(samples))
		}
		sane(t, samples, now)
	})
}
