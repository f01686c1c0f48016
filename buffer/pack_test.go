package buffer

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
)

// entryOf is an entry of the queue q with a body of size bytes and one property.
func entryOf(seq uint64, size int, property string) Entry {
	return Entry{Queue: "q", First: seq, Seq: seq, Telemetry: gateway.Telemetry{
		Identity: "boiler", Body: []byte(`{"v":"` + strings.Repeat("x", size-8) + `"}`),
		Properties: []gateway.Property{{Name: "site", Value: property}},
		Created:    time.Date(2026, 3, 1, 12, 0, int(seq), 0, time.UTC),
	}}
}

func gapItem(first, last uint64) Entry {
	e := entryOf(last, 20, "a")
	e.First, e.Gap = first, &Gap{First: first, Last: last}
	return e
}

func TestACutFallsWhereAPackIsFullOrTheNextEntryDiffers(t *testing.T) {
	other := entryOf(3, 20, "a")
	other.Queue = "older"
	for name, c := range map[string]struct {
		entries []Entry
		max     int
		whole   bool
		want    []uint64
	}{
		"nothing is decided while it may grow":    {[]Entry{entryOf(1, 20, "a"), entryOf(2, 20, "a")}, 1000, false, nil},
		"what is left is cut when it is whole":    {[]Entry{entryOf(1, 20, "a"), entryOf(2, 20, "a")}, 1000, true, []uint64{2}},
		"other properties begin another pack":     {[]Entry{entryOf(1, 20, "a"), entryOf(2, 20, "b"), entryOf(3, 20, "b")}, 1000, false, []uint64{1}},
		"a gap stands alone":                      {[]Entry{entryOf(1, 20, "a"), gapItem(2, 9), entryOf(10, 20, "a")}, 1000, false, []uint64{1, 9}},
		"a large entry goes alone":                {[]Entry{entryOf(1, 2000, "a"), entryOf(2, 20, "a")}, 1000, false, []uint64{1}},
		"a large entry does not join":             {[]Entry{entryOf(1, 20, "a"), entryOf(2, 2000, "a"), entryOf(3, 20, "a")}, 1000, false, []uint64{1, 2}},
		"another queue's number begins a pack":    {[]Entry{entryOf(1, 20, "a"), entryOf(2, 20, "a"), other}, 1000, true, []uint64{2, 3}},
		"a full pack is cut though more may come": {[]Entry{entryOf(1, 400, "a"), entryOf(2, 400, "a"), entryOf(3, 400, "a")}, 1000, false, []uint64{2}},
	} {
		if got := planCuts(c.entries, c.max, c.whole); !slices.Equal(got, c.want) {
			t.Errorf("%s: cuts %v, want %v", name, got, c.want)
		}
	}
}

func TestNoPackIsLargerThanItsLimitUnlessOneEntryIs(t *testing.T) {
	var entries []Entry
	for seq := range uint64(500) {
		entries = append(entries, entryOf(seq+1, 20+int(seq*7919%300), "a"))
	}
	const limit = 4096
	from := 0
	for _, end := range planCuts(entries, limit, true) {
		to := slices.IndexFunc(entries, func(e Entry) bool { return e.Seq == end }) + 1
		if body := pack(entries[from:to]).Telemetry.Body; len(body) > limit {
			t.Fatalf("the pack of %d..%d has %d bytes", entries[from].Seq, end, len(body))
		}
		from = to
	}
	if from != len(entries) {
		t.Fatalf("%d of %d entries were packed", from, len(entries))
	}
}

func TestAPackIsAnArrayOfObjectsThatKeepTheirTimes(t *testing.T) {
	entries := []Entry{entryOf(4, 20, "a"), entryOf(5, 20, "a"), entryOf(6, 20, "a")}
	entries[1].Telemetry.Body = []byte(` {} `)
	entries[2].Telemetry.Body = []byte(`17`)
	entries[2].Telemetry.Created = entries[0].Telemetry.Created.Add(-time.Hour) // the clock was set back
	got := pack(entries)
	var objects []map[string]any
	if err := json.Unmarshal(got.Telemetry.Body, &objects); err != nil {
		t.Fatalf("%s: %v", got.Telemetry.Body, err)
	}
	want := []map[string]any{
		{"time": "2026-03-01T12:00:04.000Z", "v": strings.Repeat("x", 12)},
		{"time": "2026-03-01T12:00:05.000Z"},
		{"time": "2026-03-01T11:00:04.000Z", "value": 17.0},
	}
	for i := range want {
		if len(objects) != 3 || len(objects[i]) != len(want[i]) {
			t.Fatalf("got %v, want %v", objects, want)
		}
		for k, v := range want[i] {
			if objects[i][k] != v {
				t.Errorf("object %d: %s is %v, want %v", i, k, objects[i][k], v)
			}
		}
	}
	if got.ID() != "q-4-6" || got.Packed != 3 || !got.Telemetry.Created.Equal(entries[1].Telemetry.Created) {
		t.Errorf("id %s, %d packed, created %v", got.ID(), got.Packed, got.Telemetry.Created)
	}
	if !slices.Equal(got.Telemetry.Properties, entries[0].Telemetry.Properties) {
		t.Errorf("properties %v", got.Telemetry.Properties)
	}
}

func TestAPackOfOneAndAGapAreArraysToo(t *testing.T) {
	one := pack([]Entry{entryOf(7, 20, "a")})
	if one.ID() != "q-7-7" || !bytes.HasPrefix(one.Telemetry.Body, []byte(`[{"time":`)) {
		t.Errorf("%s %s", one.ID(), one.Telemetry.Body)
	}
	g := gapItem(2, 9)
	g.Telemetry.Body = []byte(`{"gap":{}}`)
	gap := pack([]Entry{g})
	if gap.ID() != "q-2-9" || string(gap.Telemetry.Body) != `[{"gap":{}}]` || gap.Packed != 0 {
		t.Errorf("%s %s", gap.ID(), gap.Telemetry.Body)
	}
}

func TestAPackWaitsNoLongerThanItsFirstEntryMay(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for age, want := range map[time.Duration]time.Duration{
		0: time.Second, 300 * time.Millisecond: 700 * time.Millisecond, time.Second: 0, time.Hour: 0,
		-time.Hour: time.Second, // created in the future, says the clock
	} {
		if got := growth(now.Add(-age), now, time.Second); got != want {
			t.Errorf("age %v: waits %v, want %v", age, got, want)
		}
	}
}
