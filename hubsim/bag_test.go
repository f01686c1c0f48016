package hubsim

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// properties are the pairs of a bag in order, "name=value".
func (b *bag) properties() (all []string) {
	for _, p := range b.pairs {
		all = append(all, string(p.name)+"="+string(p.value))
	}
	return all
}

func TestPropertyBagsThatTheHubTakes(t *testing.T) {
	for raw, want := range map[string][]string{
		"":                                     nil,
		"a=1":                                  {"a=1"},
		"a=1/":                                 {"a=1"},                    // Node, with an output name (D2C-4)
		"?a=1":                                 {"a=1"},                    // D2C-5
		"a&b=&c=a%20string":                    {"a=", "b=", "c=a string"}, // null, empty, value (D2C-11)
		"%24.mid=m1&$.ct=application%2Fjson":   {"$.mid=m1", "$.ct=application/json"},
		"%24.ct=application%2fjson":            {"$.ct=application/json"}, // C writes small hex
		"sp%20ace=a%2Fb%3Dc%26d%2B%C3%BC":      {"sp ace=a/b=c&d+ü"},
		"a=1&b=2&a=3":                          {"a=3", "b=2"}, // the last counts (D2C-13)
		"Alarm=1&alarm=2":                      {"alarm=2"},    // names are matched without case
		"%24.exp=1970-01-01T00%3A00%3A00.000Z": {"$.exp=1970-01-01T00:00:00.000Z"},
		"a=1&":                                 {"a=1"},
		"x=!'()*-._~":                          {"x=!'()*-._~"},
	} {
		var b bag
		if err := b.parse([]byte(raw)); err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if diff := cmp.Diff(want, b.properties()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", raw, diff)
		}
	}
}

func TestPropertyBagsThatCloseTheConnection(t *testing.T) {
	for raw, want := range map[string]string{
		"a=b+c":    "must be %2B",
		"a=b:c":    "must be %3A",
		"a=b/c":    "must be %2F",
		"a=b//":    "must be %2F",
		"a=#":      "must be %23",
		"a=b c":    "must be %20",
		"a=b,c":    "must be %2C",
		"a=b;c":    "must be %3B",
		"a=b@c":    "must be %40",
		"a=\"x\"":  "must be %22",
		"a=\x00":   "must be %00",
		"a=ü":      "must be %C3",
		"=1":       "no name",
		"a=1&=2":   "no name",
		"&a=1":     "begins with &",
		"a=1&&b=2": "begins with &",
		"a=1=2":    "second =",
		"a=%":      "two hex digits",
		"a=%4":     "two hex digits",
		"a=%zz":    "two hex digits",
		"a%=1":     "two hex digits",
		"??a=1":    "must be %3F",
	} {
		var b bag
		err := b.parse([]byte(raw))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", raw, err, want)
		}
	}
}

func TestOneOfManyPropertiesIsFoundWithoutCaseToo(t *testing.T) {
	var raw []string
	for i := range 4 * fewPairs {
		raw = append(raw, fmt.Sprintf("name%d=%d", i, i))
	}
	for i := range 4 * fewPairs {
		var b bag
		if err := b.parse([]byte(strings.Join(raw, "&") + fmt.Sprintf("&NAME%d=new", i))); err != nil {
			t.Fatal(err)
		}
		if len(b.pairs) != len(raw) || !b.repeated || string(b.pairs[i].value) != "new" {
			t.Fatalf("%d: %d pairs, repeated %v, %s", i, len(b.pairs), b.repeated, b.pairs[i].value)
		}
		if err := b.parse([]byte("name1=x&name2=y")); err != nil || len(b.pairs) != 2 || b.repeated { // nothing is left of it
			t.Fatalf("%d pairs, repeated %v, %v", len(b.pairs), b.repeated, err)
		}
	}
}

func TestABagSaysWhatItTolerated(t *testing.T) {
	for raw, want := range map[string][2]bool{
		"a=1&b=2":   {false, false},
		"a=1&A=2":   {true, false},
		"a=%C3%BC":  {false, true},
		"a%0a=1":    {false, true},
		"a=1&a=%00": {true, true},
	} {
		var b bag
		if err := b.parse([]byte(raw)); err != nil {
			t.Fatal(raw, err)
		}
		if got := [2]bool{b.repeated, b.unprintable}; got != want {
			t.Errorf("%s: repeated, unprintable = %v, want %v", raw, got, want)
		}
	}
}

// D2C-24: names and values of application properties count, of system properties only the values.
func TestABagCountsTowardsTheSizeOfItsMessage(t *testing.T) {
	for raw, want := range map[string]int{"": 0, "ab=cde": 5, "%24.mid=abc": 3, "a=%20&%24.ct=x": 3, "a": 1} {
		var b bag
		if err := b.parse([]byte(raw)); err != nil || b.size() != want {
			t.Errorf("%s: size %d, want %d (%v)", raw, b.size(), want, err)
		}
	}
}

func TestABagIsUsedAgain(t *testing.T) {
	var b bag
	for i := range 100 {
		raw := fmt.Sprintf("%%24.mid=%d&%s=v", i, strings.Repeat("x", i+1))
		if err := b.parse([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		if want := []string{fmt.Sprintf("$.mid=%d", i), strings.Repeat("x", i+1) + "=v"}; !cmp.Equal(want, b.properties()) {
			t.Fatalf("%s gave %v", raw, b.properties())
		}
	}
	raw := []byte("%24.mid=1&a=b&c=d")
	if allocs := testing.AllocsPerRun(100, func() { _ = b.parse(raw) }); allocs > 0 {
		t.Errorf("parsing a bag allocates %v times", allocs)
	}
}

func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
