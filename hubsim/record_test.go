package hubsim

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecordsReadBackAsTheyWere(t *testing.T) {
	want := record{sequence: 5, at: -3, generation: 1 << 63, marks: markRetain | markWill, identity: "dev/mod", bag: []byte("a=1"), body: []byte{0, 1, 2}}
	b := want.append([]byte("before"))
	got, n, err := parseRecord(b[len("before"):])
	if err != nil || n != want.size() || n != len(b)-len("before") {
		t.Fatalf("%d bytes of %d, %v", n, want.size(), err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(record{})); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseRecord(f *testing.F) {
	r := record{sequence: 1, identity: "d", bag: []byte("a"), body: []byte("b")}
	f.Add(r.append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := parseRecord(b)
		if err != nil {
			return
		}
		if again := r.append(nil); !bytes.Equal(again, b[:n]) {
			t.Fatalf("%x reads back as %x", b[:n], again)
		}
	})
}

// The table of D2C-16.
func TestSystemPropertiesHaveTheirHubSideNames(t *testing.T) {
	wire := "%24.mid=1&%24.cid=2&%24.uid=3&%24.to=4&%24.exp=5&%24.ct=6&%24.ce=7&%24.on=8&%24.ifid=9&%24.sub=10&%24.schema=11&%24.ctime=12&%24.diagid=13&%24.diagctx=14"
	want := map[string]string{
		"message-id": "1", "correlation-id": "2", "user-id": "3", "to": "4", "absolute-expiry-time": "5", "content-type": "6",
		"content-encoding": "7", "outputName": "8", "iothub-interface-id": "9", "dt-subject": "10", "iothub-message-schema": "11",
		"iothub-creation-time-utc": "12", "Diagnostic-Id": "13", "Correlation-Context": "14",
	}
	for _, bag := range []string{wire, strings.ReplaceAll(wire, "%24", "$")} {
		r := record{identity: "dev1", bag: []byte(bag)}
		m := r.message("mqtt-retain")
		for name, value := range want {
			if m.System[name] != value {
				t.Errorf("%s = %q, want %q", name, m.System[name], value)
			}
		}
		if len(m.Properties) != 0 {
			t.Errorf("application properties %v", m.Properties)
		}
	}
	plain := record{identity: "dev1", bag: []byte("iothub-message-schema=s&iothub-creation-time-utc=c&iothub-ack=full")} // D2C-17
	if m := plain.message(""); m.System["iothub-message-schema"] != "s" || m.System["iothub-creation-time-utc"] != "c" || m.Properties["iothub-ack"] != "full" {
		t.Errorf("plain names: %+v", m)
	}
}

func TestTheAuthenticationScopeIsTold(t *testing.T) {
	for want, r := range map[string]record{
		`"scope":"device"`: {identity: "d"}, `"scope":"module"`: {identity: "d/m"}, `"scope":"hub"`: {identity: "d", marks: markPolicy},
	} {
		if got := r.message("").System["iothub-connection-auth-method"]; !strings.Contains(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// A client cannot say in the hub's name who it is (D2C-19).
func TestAnnotationsOfTheHubCannotBeForged(t *testing.T) {
	r := record{identity: "d", sequence: 5, bag: []byte("%24.iothub-connection-device-id=x&iothub-enqueuedtime=never")}
	if m := r.message(""); m.System["iothub-connection-device-id"] != "d" || m.System["iothub-enqueuedtime"] == "never" || m.System["x-opt-sequence-number"] != "5" {
		t.Errorf("%+v", m.System)
	}
}
