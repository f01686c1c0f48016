package coap

import (
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
)

// The document and the pointers of RFC 6901 section 5, where they lead to a value.
func TestPointersLeadWhereTheRFCSays(t *testing.T) {
	const document = `{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}`
	parsed, err := parseJSON([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"/foo/0": "bar", "/foo/1": "baz", "/": "0", "/a~1b": "1", "/c%d": "2", "/e^f": "3", "/g|h": "4", `/i\j`: "5", `/k"l`: "6", "/ ": "7", "/m~0n": "8",
		"/foo/2": "", "/foo/-": "", "/foo/00": "", "/foo/x": "", "/foo/-1": "", "/foo/bar": "", "/nothing": "", "/a~1b/c": "",
	} {
		if err := CheckPointer(p); err != nil {
			t.Error(err)
		}
		got := ""
		if found, ok := pointerOf(p).follow(parsed); ok {
			v, err := valueOf(found)
			if err != nil {
				t.Errorf("%s: %v", p, err)
			}
			got = v.String()
		}
		equal(t, p, got, want)
	}
	for _, bad := range []string{"foo", "foo/bar", "/a~", "/a~2b", "~1"} {
		if CheckPointer(bad) == nil {
			t.Errorf("%q passes for a pointer", bad)
		}
	}
}

func TestWhatAPointerFindsBecomesAValue(t *testing.T) {
	c := newCatalog([]Point{
		{ID: "a", Source: FromJSON, Key: "/a"},
		{ID: "b", Source: FromJSON, Key: "/b/1", Scale: 0.1},
		{ID: "all", Source: FromJSON, Key: ""},
	})
	for _, x := range []struct{ body, want string }{
		{`{"a":1,"b":[0,25]}`, `a=1 b=2.5 all={"a":1,"b":[0,25]}`},
		{`{"a":9007199254740993}`, `a=9007199254740993 all={"a":9007199254740993}`},
		{`{"a":{"x":1}}`, `a={"x":1} all={"a":{"x":1}}`},
		{`{"a":null}`, `a!not available all={"a":null}`},
		{`{"a":[1]}`, `a!comm all={"a":[1]}`},
		{`{"a":1e999}`, `a!comm all={"a":1e999}`},
		{`{"b":[0,"x"]}`, `b!comm all={"b":[0,"x"]}`},
		{`7`, `all=7`},
	} {
		samples, _, err := c.decode(JSON, []byte(x.body), time.Now())
		if err != nil {
			t.Errorf("%s: %v", x.body, err)
		}
		var got []string
		for _, s := range samples {
			if s.Err != nil {
				got = append(got, string(s.Point)+"!"+gateway.Reason(s.Err))
			} else {
				got = append(got, string(s.Point)+"="+s.Value.String())
			}
		}
		equal(t, x.body, strings.Join(got, " "), x.want)
	}
	for _, bad := range []string{``, `{`, `{"a":1} 2`, `{"a":1}]`, `nan`} {
		if samples, _, err := c.decode(JSON, []byte(bad), time.Now()); err == nil {
			t.Errorf("%q: %v", bad, samples)
		}
	}
}

func TestAWholeTextIsOneValue(t *testing.T) {
	c := newCatalog([]Point{{ID: "p", Source: FromBody}})
	for body, want := range map[string]gateway.Value{
		"21.5":        gateway.FloatValue(21.5),
		" 7\r\n":      gateway.IntValue(7),
		"+7":          gateway.IntValue(7),
		"-0.5":        gateway.FloatValue(-0.5),
		"true":        gateway.BoolValue(true),
		"on":          gateway.TextValue("on"),
		"007":         gateway.TextValue("007"),
		"+-7":         gateway.TextValue("+-7"),
		`"quoted"`:    gateway.TextValue(`"quoted"`),
		"null":        gateway.TextValue("null"),
		"21.5 Cel":    gateway.TextValue("21.5 Cel"),
		"":            gateway.TextValue(""),
		"+":           gateway.TextValue("+"),
		"Grüße":       gateway.TextValue("Grüße"),
		"1e400":       gateway.TextValue("1e400"),
		"{\"a\": 1 }": gateway.TextValue("{\"a\": 1 }"),
	} {
		samples, _, err := c.decode(Text, []byte(body), time.Now())
		if err != nil || len(samples) != 1 || samples[0].Value != want {
			t.Errorf("%q: %v, %v", body, samples, err)
		}
	}
	if _, _, err := c.decode(Text, []byte{0xff, 0xfe}, time.Now()); err == nil {
		t.Error("text that is not UTF-8 is taken")
	}
}

func TestAFormatIsTakenOnlyIfAPointCanStandInIt(t *testing.T) {
	for source, formats := range map[Source][]Format{FromSenML: {SenMLJSON, SenMLCBOR}, FromJSON: {JSON}, FromBody: {Text}} {
		c := newCatalog([]Point{{ID: "p", Source: source}})
		for _, f := range []Format{Unset, Text, JSON, SenMLJSON, SenMLCBOR} {
			want := false
			for _, g := range formats {
				want = want || f == g
			}
			equal(t, f.String(), c.takes(f), want)
		}
	}
	for number, want := range map[int]Format{0: Text, 50: JSON, 110: SenMLJSON, 112: SenMLCBOR, 60: Unset, none: Unset} {
		equal(t, "content-format", formatOf(number), want)
	}
}

func FuzzJSONAndText(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[0,25]}`))
	f.Add([]byte(`21.5`))
	c := newCatalog([]Point{
		{ID: "a", Source: FromJSON, Key: "/a"}, {ID: "b", Source: FromJSON, Key: "/b/1", Scale: 2},
		{ID: "all", Source: FromJSON}, {ID: "text", Source: FromBody},
	})
	now := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, format := range []Format{JSON, Text} {
			samples, _, _ := c.decode(format, body, now)
			sane(t, samples, now)
		}
	})
}
