package buffer

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
)

func TestARecordReturnsWhatWasPut(t *testing.T) {
	zone := time.FixedZone("plant", 2*3600)
	tests := map[string]gateway.Telemetry{
		"plain":          {Body: []byte(`{"t":1}`), Created: time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)},
		"empty body":     {Body: []byte{}, Created: time.Unix(0, 0).UTC()},
		"no time":        {Body: []byte(`{}`)},
		"before 1970":    {Body: []byte(`{}`), Created: time.Date(1901, 1, 1, 0, 0, 0, 1, time.UTC)},
		"far future":     {Body: []byte(`{}`), Created: time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)},
		"another zone":   {Body: []byte(`{}`), Created: time.Date(2026, 3, 1, 12, 0, 0, 0, zone)},
		"a property":     {Body: []byte(`{}`), Properties: []gateway.Property{{Name: "site", Value: "north"}}},
		"empty property": {Body: []byte(`{}`), Properties: []gateway.Property{{}, {Name: "x"}, {Value: "y"}}},
		"long property":  {Body: []byte(`{}`), Properties: []gateway.Property{{Name: strings.Repeat("n", 300), Value: strings.Repeat("v", 20000)}}},
		"binary body":    {Body: []byte{0, 1, 2, 255, 0}},
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			in.Identity = "device/module"
			k := makeKey(77, 3)
			r := encodeRecord(kindData, in, stamps{})
			seal(r, k, 42, 9)
			if err := check(k, r); err != nil {
				t.Fatal(err)
			}
			d := decoder{identity: in.Identity}
			got, err := d.decode(r)
			if err != nil {
				t.Fatal(err)
			}
			want := in
			want.Created = in.Created.UTC()
			if diff := cmp.Diff(Entry{First: 42, Seq: 42, Telemetry: want}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestARecordKeepsNothingOfTheCallersMemory(t *testing.T) {
	body := []byte("before")
	r := encodeRecord(kindData, gateway.Telemetry{Body: body}, stamps{})
	copy(body, "after!")
	if !bytes.Contains(r, []byte("before")) {
		t.Error("the record changed with the caller's slice")
	}
}

func TestEveryFlippedBitOfRecordOrKeyIsFound(t *testing.T) {
	k := makeKey(1<<40, 9)
	r := encodeRecord(kindData, gateway.Telemetry{Body: []byte(`{"t":21.5}`), Properties: []gateway.Property{{Name: "a", Value: "b"}}}, stamps{})
	seal(r, k, 7, 9)
	for bit := range 8 * len(r) {
		broken := slices.Clone(r)
		broken[bit/8] ^= 1 << (bit % 8)
		if err := check(k, broken); !errors.Is(err, ErrDamaged) {
			t.Fatalf("record bit %d: %v", bit, err)
		}
	}
	for bit := range 8 * len(k) {
		other := k
		other[bit/8] ^= 1 << (bit % 8)
		if err := check(other, r); !errors.Is(err, ErrDamaged) {
			t.Fatalf("key bit %d: %v", bit, err)
		}
	}
	for n := range len(r) {
		if err := check(k, r[:n]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestARecordOfANewerProgramIsRefusedNotGuessed(t *testing.T) {
	for _, at := range []int{0, atKind} {
		k := makeKey(1, 1)
		r := encodeRecord(kindData, gateway.Telemetry{Body: []byte(`{}`)}, stamps{})
		r[at] += 2
		seal(r, k, 1, 9)
		var d decoder
		if _, err := d.decode(r); !errors.Is(err, ErrFormat) {
			t.Errorf("byte %d raised by two: %v", at, err)
		}
	}
}

func TestEntriesOfALaneShareTheirProperties(t *testing.T) {
	same := gateway.Telemetry{Body: []byte(`1`), Properties: []gateway.Property{{Name: "site", Value: "north"}}}
	other := gateway.Telemetry{Body: []byte(`2`), Properties: []gateway.Property{{Name: "site", Value: "south"}}}
	var d decoder
	var got []Entry
	for i, in := range []gateway.Telemetry{same, same, other, same} {
		r := encodeRecord(kindData, in, stamps{})
		seal(r, makeKey(uint64(i), 1), uint64(i), 9)
		e, err := d.decode(r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(in.Properties, e.Telemetry.Properties); diff != "" {
			t.Fatal(diff)
		}
		got = append(got, e)
	}
	if &got[0].Telemetry.Properties[0] != &got[1].Telemetry.Properties[0] {
		t.Error("equal properties were decoded twice")
	}
}

func TestWhatTheHubCanNeverAcceptIsTooLarge(t *testing.T) {
	body := func(n int) []byte { return bytes.Repeat([]byte("x"), n) }
	text := func(n int) string { return strings.Repeat("v", n) }
	tests := map[string]struct {
		in gateway.Telemetry
		ok bool
	}{
		"the largest body":            {gateway.Telemetry{Body: body(MaxMessage)}, true},
		"a byte more":                 {gateway.Telemetry{Body: body(MaxMessage + 1)}, false},
		"the largest with a property": {gateway.Telemetry{Body: body(MaxMessage - 3), Properties: []gateway.Property{{Name: "ab", Value: "c"}}}, true},
		"a byte more in the name":     {gateway.Telemetry{Body: body(MaxMessage - 3), Properties: []gateway.Property{{Name: "abc", Value: "c"}}}, false},
		"the longest topic":           {gateway.Telemetry{Properties: []gateway.Property{{Name: "a", Value: text(maxTopicProperties - 3)}}}, true},
		"a byte more in the topic":    {gateway.Telemetry{Properties: []gateway.Property{{Name: "a", Value: text(maxTopicProperties - 2)}}}, false},
		"a topic long by escapes":     {gateway.Telemetry{Properties: []gateway.Property{{Name: "a", Value: strings.Repeat(" ", maxTopicProperties/3)}}}, false},
		"nothing":                     {gateway.Telemetry{}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := fits(test.in); (err == nil) != test.ok || err != nil && !errors.Is(err, ErrTooLarge) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAKeyReturnsItsParts(t *testing.T) {
	k := makeKey(math.MaxUint64-1, math.MaxUint32-1)
	global, number, ok := parseKey(k[:])
	if !ok || global != math.MaxUint64-1 || number != math.MaxUint32-1 {
		t.Errorf("got %d %d %v", global, number, ok)
	}
	if _, _, ok := parseKey(k[:11]); ok {
		t.Error("a short key was accepted")
	}
	a, b := makeKey(255, math.MaxUint32), makeKey(256, 0)
	if bytes.Compare(a[:], b[:]) >= 0 {
		t.Error("keys do not sort by global sequence")
	}
}

func FuzzARecordSurvivesEncodingAndDecoding(f *testing.F) {
	f.Add([]byte(`{"t":1}`), "site", "north", uint64(1), uint32(1), int64(1700000000), uint8(1))
	f.Add([]byte{}, "", "", uint64(0), uint32(0), int64(-1), uint8(0))
	f.Fuzz(func(t *testing.T, body []byte, name, value string, seq uint64, number uint32, seconds int64, count uint8) {
		in := gateway.Telemetry{Identity: "d", Body: body, Created: time.Unix(seconds%1e11, int64(number)%1e9).UTC()}
		for range count % 4 {
			in.Properties = append(in.Properties, gateway.Property{Name: name, Value: value})
		}
		k := makeKey(seq, number)
		r := encodeRecord(kindData, in, stamps{})
		seal(r, k, seq, 9)
		if err := check(k, r); err != nil {
			t.Fatal(err)
		}
		d := decoder{identity: "d"}
		e, err := d.decode(r)
		if err != nil {
			t.Fatal(err)
		}
		if in.Body == nil {
			in.Body = []byte{}
		}
		if diff := cmp.Diff(Entry{First: seq, Seq: seq, Telemetry: in}, e); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzNoBytesMakeTheDecoderPanic(f *testing.F) {
	r := encodeRecord(kindData, gateway.Telemetry{Body: []byte(`{}`), Properties: []gateway.Property{{Name: "a", Value: "b"}}}, stamps{})
	f.Add(r)
	f.Add(r[:len(r)-6])
	f.Add(append(slices.Clone(r[:atStamps]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01))
	f.Fuzz(func(t *testing.T, r []byte) {
		var d decoder
		e, err := d.decode(r)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
				t.Fatalf("an error without a kind: %v", err)
			}
			return
		}
		size := len(e.Telemetry.Body)
		for _, p := range e.Telemetry.Properties {
			size += len(p.Name) + len(p.Value)
		}
		if size > len(r) {
			t.Fatalf("%d bytes of content from a record of %d", size, len(r))
		}
	})
}
