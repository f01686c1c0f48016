package upstream

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
)

func TestThePropertyBagOfAMessageIsDecoded(t *testing.T) {
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	properties := func(pairs ...string) (all []gateway.Property) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, gateway.Property{Name: pairs[i], Value: pairs[i+1]})
		}
		return all
	}
	for _, c := range []struct {
		bag  string
		want gateway.CloudMessage
	}{
		{"", gateway.CloudMessage{}},
		{"propertyName=propertyValue&%24.to=%2Fdevices%2Fdev_c%2Fmessages%2FdeviceBound", gateway.CloudMessage{Properties: properties("propertyName", "propertyValue")}}, // C2D-18
		{"%24.mid=m1&%24.to=%2Fd&iothub-ack=full&p=a%20b", gateway.CloudMessage{ID: "m1", Properties: properties("p", "a b")}},
		{"$.mid=m1&$.cid=c1", gateway.CloudMessage{ID: "m1"}},
		{"prop1&prop2=&prop3=a%20string", gateway.CloudMessage{Properties: properties("prop1", "", "prop2", "", "prop3", "a string")}}, // C2D-19
		{"a=1+1", gateway.CloudMessage{Properties: properties("a", "1+1")}},                                                            // C2D-20
		{"a%3Db=c%26d%2F%C3%BC/", gateway.CloudMessage{Properties: properties("a=b", "c&d/ü")}},
		{"%24.exp=2026-11-26T12%3A00%3A00.0000000Z", gateway.CloudMessage{Expires: at}},
		{"%24.exp=2026-11-26T14%3A00%3A00%2B02%3A00", gateway.CloudMessage{Expires: at}},
		{"%24.exp=2026-11-26T12%3A00%3A00", gateway.CloudMessage{Expires: at}},
		{"%24.exp=0001-01-01T00%3A00%3A00.0000000", gateway.CloudMessage{}},
	} {
		var got gateway.CloudMessage
		if err := parseBag(c.bag, &got); err != nil {
			t.Errorf("%s: %v", c.bag, err)
		}
		got.Expires = got.Expires.UTC()
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.bag, diff)
		}
	}
	for _, bag := range []string{"&", "a=1&", "=1", "a=%zz", "%=1", "a=1=2", "a=1&a=2", "a=1&A=2", "a/b=1", "%24.exp=soon", "%24.exp"} {
		if err := parseBag(bag, &gateway.CloudMessage{}); err == nil {
			t.Errorf("%q was read, although it can be read in two ways", bag)
		}
	}
}

func FuzzMessageBag(f *testing.F) {
	f.Add("%24.mid=m1&%24.to=%2Fd&iothub-ack=full&p=a%20b")
	f.Add("a&b=&c=%2F/")
	f.Fuzz(func(t *testing.T, bag string) {
		var m gateway.CloudMessage
		if parseBag(bag, &m) != nil {
			return
		}
		// What was understood is what another decoder makes of it.
		reference, err := url.ParseQuery(strings.ReplaceAll(strings.ReplaceAll(strings.TrimSuffix(bag, "/"), "+", "%2B"), ";", "%3B"))
		if err != nil {
			t.Fatalf("%q: %v", bag, err)
		}
		for _, p := range m.Properties {
			if got := reference[p.Name]; len(got) != 1 || got[0] != p.Value {
				t.Errorf("%q: %s is %q, not %q", bag, p.Name, p.Value, got)
			}
		}
	})
}
