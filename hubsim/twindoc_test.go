package hubsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parsed(t testing.TB, text string) object {
	t.Helper()
	o, err := parseObject([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
}

func TestAPatchAddsReplacesMergesAndDeletes(t *testing.T) {
	for _, c := range []struct{ old, patch, want string }{
		{`{}`, `{"a":1}`, `{"a":1}`},
		{`{"a":1,"b":2}`, `{"a":3}`, `{"a":3,"b":2}`},
		{`{"a":1,"b":2}`, `{"a":null}`, `{"b":2}`},
		{`{"a":{"x":1,"y":2}}`, `{"a":{"y":3,"z":4}}`, `{"a":{"x":1,"y":3,"z":4}}`},
		{`{"a":{"x":1,"y":2}}`, `{"a":{"x":null}}`, `{"a":{"y":2}}`},
		{`{"a":{"x":1}}`, `{"a":null}`, `{}`},
		{`{"a":{"x":1}}`, `{"a":5}`, `{"a":5}`},
		{`{"a":5}`, `{"a":{"x":1}}`, `{"a":{"x":1}}`},
		{`{"a":[1,2,3]}`, `{"a":[4]}`, `{"a":[4]}`},
		{`{}`, `{"a":null,"b":{"c":null,"d":1}}`, `{"b":{"d":1}}`}, // a null never creates a member
		{`{"a":1}`, `{}`, `{"a":1}`},
		{`{"n":1.50}`, `{"m":10000000000000.25}`, `{"m":10000000000000.25,"n":1.50}`}, // numbers stay as written
		{`{"a<b":"x&y"}`, `{}`, `{"a<b":"x&y"}`},
	} {
		old := parsed(t, c.old)
		got, err := appendObject(nil, merge(old, parsed(t, c.patch)), 0)
		if err != nil || string(got) != c.want {
			t.Errorf("%s + %s = %s (%v), want %s", c.old, c.patch, got, err, c.want)
		}
		if diff := cmp.Diff(parsed(t, c.old), old); diff != "" {
			t.Errorf("%s + %s changed the old object: %s", c.old, c.patch, diff)
		}
	}
}

func TestOnlyAJSONObjectIsAPatch(t *testing.T) {
	for _, text := range []string{"", " ", "{", `{"t":`, "null", "[]", "1", `"x"`, `{"a":1}x`, `{"a":1}{}`, `{"a":tru}`, "{\"a\":\"\xff\"}", `{'a':1}`} {
		if o, err := parseObject([]byte(text)); err == nil {
			t.Errorf("%q is %v", text, o)
		}
	}
}

// nested is n objects inside one another.
func nested(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }

func TestWhatATwinDoesNotTakeIsNamed(t *testing.T) {
	long := strings.Repeat("x", 4097)
	for _, c := range []struct{ patch, want string }{
		{`{"$version":1}`, "names that begin with $ are the hub's"},
		{`{"a":{"$x":1}}`, `reported.a has a property "$x"`},
		{`{"a.b":1}`, "not allowed in a name"},
		{`{"a b":1}`, "not allowed in a name"},
		{`{"a$b":1}`, "not allowed in a name"},
		{`{"a\u0007":1}`, "not allowed in a name"},
		{`{"a\u0085":1}`, "not allowed in a name"},
		{`{"":1}`, "a property name of 0 bytes"},
		{`{"` + long[:1025] + `":1}`, "a property name of 1025 bytes"},
		{`{"a.b":null}`, "not allowed in a name"},
		{`{"s":"` + long + `"}`, "reported.s is a string of 4097 bytes"},
		{`{"l":["` + long[:4096] + `","x"]}`, "reported.l has 4097 bytes"},
		{`{"l":[1,{"b c":1}]}`, `reported.l[1] has a property "b c"`},
		{`{"n":4503599627370496}`, "integers reach from -4503599627370496 to 4503599627370495"},
		{`{"n":-4503599627370497}`, "reported.n is -4503599627370497"},
		{`{"n":99999999999999999999}`, "integers reach"},
		{`{"n":1e999}`, "not a number of 64 bits"},
		{nested(12), "is nested deeper than 10 levels"},
		{`{"a":` + strings.Repeat("[", 11) + strings.Repeat("]", 11) + `}`, "is nested deeper than 10 levels"},
	} {
		if err := checkPatch(parsed(t, c.patch), "reported"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60s: %v, want %q", c.patch, err, c.want)
		}
	}
	for _, patch := range []string{
		`{"s":"` + long[:4096] + `"}`, `{"` + long[:1024] + `":1}`, `{"n":4503599627370495,"m":-4503599627370496,"f":1.5e300}`,
		`{"größe":true,"a-b_c":[1,"x",null,{"y":false}],"o":{}}`, nested(11), `{"a":null}`, `{}`,
	} {
		if err := checkPatch(parsed(t, patch), "reported"); err != nil {
			t.Errorf("%.60s: %v", patch, err)
		}
	}
}

func TestATwinsSizeCountsNamesAndValuesOnly(t *testing.T) {
	for text, want := range map[string]int{
		`{}`: 0, `{"a":1}`: 9, `{"ab":true}`: 6, `{"a":"xyz"}`: 4, `{"ü":"ü"}`: 4, `{"a":{"b":{"c":1}}}`: 11,
		`{"a":[1,2,"x"]}`: 18, `{"a":"x\u0007\ny\u0085"}`: 3, `{"a":1234567890123456}`: 9, `{"a":{}}`: 1,
	} {
		if got := measure(parsed(t, text)); got != want {
			t.Errorf("%s has %d bytes, want %d", text, got, want)
		}
	}
}

func TestWhatDoesNotCountTowardsTheSizeIsBoundedToo(t *testing.T) {
	for name, patch := range map[string]func(i int) string{
		"control characters": func(i int) string { return fmt.Sprintf(`{"k%d":"%s"}`, i, strings.Repeat(`\u0001`, 4000)) },
		"empty arrays":       func(i int) string { return fmt.Sprintf(`{"k%d":[%s[]]}`, i, strings.Repeat(`[],`, 4000)) },
		"nulls":              func(i int) string { return fmt.Sprintf(`{"k%d":[%snull]}`, i, strings.Repeat(`null,`, 4000)) },
	} {
		state, i := freshTwin(), 0
		for {
			if _, err := state.report([]byte(patch(i)), nil, time.Time{}); err != nil {
				break
			}
			if i++; i > 30 {
				t.Fatalf("%s: the twin grows for ever", name)
			}
		}
		if i < 2 {
			t.Errorf("%s: only %d patches fit", name, i)
		}
	}
}

func TestMetadataMirrorsTheTreeWithTimesAndVersions(t *testing.T) {
	at := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	var s section
	var err error
	for i, patch := range []string{`{"a":{"x":1,"y":2},"b":1,"c":[{"z":1}]}`, `{"a":{"y":3},"b":null}`} {
		if s, err = s.change(parsed(t, patch), false, at(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.withMetadata()
	if err != nil {
		t.Fatal(err)
	}
	const one, two = `"$lastUpdated":"2026-01-01T00:00:00Z","$lastUpdatedVersion":1`, `"$lastUpdated":"2026-01-02T00:00:00Z","$lastUpdatedVersion":2`
	want := `{"$metadata":{` + two + `,"a":{` + two + `,"x":{` + one + `},"y":{` + two + `}},"c":{` + one + `}},` +
		`"a":{"x":1,"y":3},"c":[{"z":1}],"$version":2}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Long names around many values: what the check costs follows the patch, not one times the other.
func TestAPatchIsCheckedWithinTheMemoryOfItsSize(t *testing.T) {
	open := `{"` + strings.Repeat("k", 1000) + `":`
	text := strings.Repeat(open, 9) + "[" + strings.Repeat("0,", 100_000) + "0]" + strings.Repeat("}", 9)
	patch := parsed(t, text)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := checkPatch(patch, "reported")
	runtime.ReadMemStats(&after)
	if err == nil || !strings.HasPrefix(err.Error(), "reported.kkk") || !strings.Contains(err.Error(), "k has 800008 bytes") {
		t.Errorf("%.40v", err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 20<<20 {
		t.Errorf("%d bytes were allocated for a patch of %d", n, len(text))
	}
}

// Whatever a device patches: the twin is within its limits, survives being stored, and a patch is
// refused as a whole or shows in what is read back.
func FuzzReportedPatch(f *testing.F) {
	for _, seed := range []string{`{"t":1}`, `{"a":{"b":null}}`, `{"t":`, `{"a":[1,{"b":"c"}]}`, nested(11), `{"$version":3}`, `{"n":1e400}`} {
		f.Add([]byte(`{"a":{"b":1}}`), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		state := freshTwin()
		for _, text := range [][]byte{first, second} {
			before, _ := json.Marshal(state)
			version := state.Reported.Version
			if _, err := state.report(text, nil, time.Unix(0, 0)); err != nil {
				if after, _ := json.Marshal(state); !bytes.Equal(before, after) {
					t.Fatalf("%q was refused (%v) and changed the twin", text, err)
				}
				continue
			}
			if state.Reported.Version != version+1 || measure(state.Reported.Values) > maxSection {
				t.Fatalf("%q: version %d after %d, %d bytes", text, state.Reported.Version, version, measure(state.Reported.Values))
			}
		}
		stored, err := json.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		var loaded twinState
		if err := loaded.load(stored); err != nil {
			t.Fatal(err)
		}
		was, err := state.properties()
		if err != nil || !json.Valid(was) {
			t.Fatalf("%s: %v", was, err)
		}
		if is, err := loaded.properties(); err != nil || !bytes.Equal(was, is) {
			t.Fatalf("stored %s, loaded %s (%v)", was, is, err)
		}
	})
}
