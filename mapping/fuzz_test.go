package mapping

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
)

func FuzzParse(f *testing.F) {
	f.Add(gateway.ExampleMapping())
	f.Add([]byte(reporter(plain, "from: 10.7.4.9", "points: { x: { pointer: /a/0, scale: 0.1 }, y: { format: text } }")))
	for _, data := range badFiles(f) {
		f.Add(data)
	}
	f.Fuzz(survive)
}

// survive parses data and checks what holds for every input.
func survive(t *testing.T, data []byte) {
	t.Helper()
	plant, found := Parse("f", data)
	if (plant == nil) != (found.Errors() > 0) {
		t.Fatalf("%d errors and plant %v of\n%s", found.Errors(), plant != nil, data)
	}
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.TrimPrefix(string(data), "\ufeff")), "\n")
	for _, x := range found {
		if x.Line < 1 || x.Line > len(lines) || x.Column < 1 || x.Column > 1+len([]rune(lines[x.Line-1])) || !strings.HasPrefix(x.String(), "f:") {
			t.Fatalf("bad finding %+v of\n%s", x, data)
		}
	}
	if plant != nil {
		sane(t, plant)
	}
}

// Damage is what happens to files: parts get lost, copied, swapped or overwritten.
func damage(r *rand.Rand, data []byte) []byte {
	pieces := []string{
		"\n", "  ", "{", "}", "[", "]", ":", ",", "\"", "#", "*x", "&x ", "<<: *x", "-1", "0x", "1e9", "..", "~", "holding 1", "40001",
		"int16", "string(9)", "write: true", "enum: { 0: a }", "at: coil 1", "senml: a", "pointer: /a", "format: text", "coap: {", "10.7.4.0/24", "\t", "\xff", "- ", "? ", "|", "100%", "ä", "999999999999999999999",
	}
	for range 1 + r.IntN(4) {
		from := r.IntN(len(data) + 1)
		to := from + r.IntN(min(40, len(data)-from)+1)
		part := slices.Clone(data[from:to])
		switch r.IntN(4) {
		case 0:
			data = slices.Delete(slices.Clone(data), from, to)
		case 1:
			data = slices.Insert(slices.Clone(data), r.IntN(len(data)+1), part...)
		case 2:
			data = slices.Insert(slices.Clone(data), from, []byte(pieces[r.IntN(len(pieces))])...)
		case 3:
			data = slices.Replace(slices.Clone(data), from, to, []byte(pieces[r.IntN(len(pieces))])...)
		}
	}
	return data
}

func TestADamagedFileNeverPanicsAndNeverBecomesABadPlant(t *testing.T) {
	r := rand.New(rand.NewPCG(62, 0))
	files := [][]byte{gateway.ExampleMapping()}
	for _, path := range slices.Sorted(maps.Keys(badFiles(t))) {
		files = append(files, badFiles(t)[path])
	}
	const rounds = 900
	for i := range rounds {
		survive(t, damage(r, files[i%len(files)]))
	}
}

// sane checks what a Plant promises.
func sane(t *testing.T, plant *Plant) {
	t.Helper()
	identities := map[gateway.IdentityID]bool{"": true}
	for _, id := range plant.Identities {
		if identities[id.ID] || id.Kind == 0 || id.Key == "" && id.Kind != EdgeModule {
			t.Errorf("identity %q twice, or without a key", id.ID)
		}
		identities[id.ID] = true
	}
	points, south := map[gateway.PointID]gateway.Point{}, map[gateway.PointID]bool{}
	for _, p := range plant.Points {
		if _, twice := points[p.ID]; twice || !identities[p.Identity] || p.Field == "" {
			t.Errorf("point %+v", p)
		}
		points[p.ID] = p
	}
	for _, link := range plant.Links {
		if link.Name == "" || link.Address == "" || link.Timeout <= 0 || len(link.Devices) == 0 {
			t.Errorf("link %+v", link)
		}
		for _, d := range link.Devices {
			if d.MaxRead < 1 || d.MaxWrite < 1 || d.Offline.After < 1 || d.Offline.RetryMin <= 0 || len(d.Points) == 0 {
				t.Errorf("device %+v", d)
			}
			for _, p := range d.Points {
				if int(p.Address)+p.Registers() > 65536 || p.Scale == 0 || p.Table == 0 || p.Order == "" {
					t.Errorf("point %+v", p)
				}
				south[p.ID] = p.Writable
			}
		}
	}
	for _, l := range plant.Listeners {
		if l.Name == "" || l.Listen == "" || len(l.Devices) == 0 || l.Plain == (l.PSKDir != "") || l.Plain && len(l.Allow) == 0 {
			t.Errorf("listener %+v", l)
		}
		for _, d := range l.Devices {
			if len(d.Points) == 0 || !strings.HasPrefix(d.Path, "/") || l.Plain != (d.PSK == "") || l.Plain != d.From.IsValid() {
				t.Errorf("device %+v", d)
			}
			for _, p := range d.Points {
				if p.Scale == 0 || (p.Key == "") != (p.Source == coap.FromBody) || coap.CheckPointer(p.Key) != nil && p.Source == coap.FromJSON {
					t.Errorf("point %+v", p)
				}
				south[p.ID] = false
			}
		}
	}
	for id, p := range points {
		if writable, known := south[id]; !known || writable != (p.Write != nil) {
			t.Errorf("%s: north and south do not agree", id)
		}
	}
	if len(south) != len(points) {
		t.Errorf("%d points in the links, %d in the plant", len(south), len(points))
	}
	for _, m := range plant.Methods {
		if m.Write == "" == (len(m.Read) == 0) || m.Write != "" && (m.From == "") == (m.Value == nil) || !identities[m.Identity] {
			t.Errorf("method %+v", m)
		}
	}
}

func TestTheShippedExampleIsSane(t *testing.T) {
	plant, found := Parse("mapping.yaml", gateway.ExampleMapping())
	if plant == nil {
		t.Fatal(found)
	}
	sane(t, plant)
}
