package mapping

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/profiles"
)

// dump is a device as a golden file describes it: what stands in its registers and what its points must read.
type dump struct {
	cells map[[2]int]uint16 // by table and address
	want  map[gateway.PointID]string
	d     modbus.Device
	odd   []string // requests that the device would have refused
	mu    sync.Mutex
}

// goldenDump reads profiles/testdata/NAME.golden: lines of "input 0x0034 4366 3334 power = 230.2".
func goldenDump(t *testing.T, name string) *dump {
	t.Helper()
	text, err := os.ReadFile("../profiles/testdata/" + name + ".golden")
	if err != nil {
		t.Fatal(err)
	}
	g := &dump{cells: map[[2]int]uint16{}, want: map[gateway.PointID]string{}}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		left, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		words := strings.Fields(left)
		table := tableOf(words[0])
		address, err := strconv.ParseInt(words[1], 0, 32)
		point := words[len(words)-1]
		for i, word := range words[2 : len(words)-1] {
			n, wrong := strconv.ParseUint(word, 16, 16)
			if err != nil || wrong != nil || table == 0 {
				t.Fatalf("%s: %s", name, line)
			}
			g.cells[[2]int{int(table), int(address) + i}] = uint16(n)
		}
		g.want[gateway.PointID("d/"+point)] = value
	}
	return g
}

// serve answers the reads of one connection as the device would.
func (g *dump) serve(c net.Conn) {
	defer c.Close()
	for {
		header := make([]byte, 7)
		if _, err := io.ReadFull(c, header); err != nil {
			return
		}
		pdu := make([]byte, int(binary.BigEndian.Uint16(header[4:]))-1)
		if _, err := io.ReadFull(c, pdu); err != nil {
			return
		}
		answer := g.answer(pdu)
		binary.BigEndian.PutUint16(header[4:], uint16(len(answer)+1))
		if _, err := c.Write(append(header, answer...)); err != nil {
			return
		}
	}
}

func (g *dump) answer(pdu []byte) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	fc, start, quantity := int(pdu[0]), int(binary.BigEndian.Uint16(pdu[1:])), int(binary.BigEndian.Uint16(pdu[3:]))
	bits := modbus.Table(fc).Bits()
	if fc > 4 || !bits && (quantity > g.d.MaxRead || g.d.Even && (start%2 != 0 || quantity%2 != 0)) {
		g.odd = append(g.odd, hex.EncodeToString(pdu))
		return []byte{pdu[0] | 0x80, 2}
	}
	var data []byte
	if bits {
		data = make([]byte, (quantity+7)/8)
	}
	for i := range quantity {
		v := g.cells[[2]int{fc, start + i}]
		if bits {
			data[i/8] |= byte(v) << (i % 8)
		} else {
			data = binary.BigEndian.AppendUint16(data, v)
		}
	}
	return append([]byte{pdu[0], byte(len(data))}, data...)
}

// Every point of every shipped profile is read through the plan, as the gateway does it, from the registers of a
// dump that something else made.
func TestEveryShippedProfileReadsItsGoldenDump(t *testing.T) {
	tested := 0
	for _, name := range profiles.Names() {
		if name == "senml-env" {
			continue
		}
		tested++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := goldenDump(t, name)
			plant := good(t, "devices:\n  d: { local: true, profile: "+name+", modbus: { tcp: h:502, unit: 1 } }\n")
			g.d = plant.Links[0].Devices[0]
			for _, p := range g.d.Points {
				if g.want[p.ID] == "" {
					t.Errorf("%s has no golden value", p.ID)
				}
			}
			for _, s := range g.poll(t, plant.Links[0]) {
				if got := s.Value.String(); got != g.want[s.Point] {
					t.Errorf("%s: %s (%v), want %s", s.Point, got, s.Err, g.want[s.Point])
				}
				delete(g.want, s.Point)
			}
			if len(g.want) > 0 || len(g.odd) > 0 {
				t.Errorf("not read: %v; requests that the device refuses: %v", g.want, g.odd)
			}
		})
	}
	if tested != 8 {
		t.Errorf("%d profiles of polled devices", tested)
	}
}

// poll runs the adapter of the link until its first poll cycle is over.
func (g *dump) poll(t *testing.T, link modbus.Config) (samples []gateway.Sample) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var serving sync.WaitGroup
	dial := func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		serving.Go(func() { g.serve(theirs) })
		return ours, nil
	}
	err := modbus.New(link, dial, zerolog.Nop()).Run(ctx, func(_ context.Context, batch []gateway.Sample) error {
		if samples == nil {
			samples = batch
		}
		cancel()
		return nil
	})
	serving.Wait()
	if err != nil || len(samples) == 0 {
		t.Fatalf("%d readings, %v", len(samples), err)
	}
	return samples
}

func TestEveryShippedProfileSaysWhereItComesFromAndHasNoFindings(t *testing.T) {
	names := profiles.Names()
	if len(names) < 9 {
		t.Fatalf("only %v", names)
	}
	for i, name := range names {
		text, _ := profiles.Get(name)
		for _, key := range []string{"\nsource: ", "\nverified: "} {
			if !strings.Contains(string(text), key) {
				t.Errorf("%s has no %s", name, strings.TrimSpace(key))
			}
		}
		how := fmt.Sprintf("modbus: { tcp: h:502, unit: %d }", i+1)
		if name == "senml-env" {
			how = "coap: { listener: l, psk: k, path: /t }"
		}
		_, found := Parse("f.yaml", []byte("version: 1\nhub: { host: h.example }\nlisteners: { l: { coaps: 0.0.0.0:5684, psk_dir: psk } }\ndevices:\n  d: { local: true, profile: "+name+", "+how+" }\n"))
		for _, f := range found {
			if f.Code != "W206" { // the listener, where it is not used
				t.Errorf("%s: %v", name, f)
			}
		}
	}
}

// RFC 8428: the records of a room sensor.
func TestTheSensorProfileTakesTheUsualRecords(t *testing.T) {
	plant := good(t, "listeners: { l: { coaps: 0.0.0.0:5684, psk_dir: psk } }\ndevices:\n  d: { local: true, profile: senml-env, coap: { listener: l, psk: k, path: /t } }\n")
	got := map[string]string{}
	for _, p := range plant.Listeners[0].Devices[0].Points {
		got[p.Key] = string(p.ID)
	}
	for key, point := range map[string]string{"temp": "d/temperature", "hum": "d/humidity", "baro": "d/pressure", "batt": "d/battery"} {
		if got[key] != point {
			t.Errorf("%s is %q, want %s", key, got[key], point)
		}
	}
}

func TestAProfileOfTheMappingWinsOverAShippedOneOfTheSameName(t *testing.T) {
	plant := good(t, "profiles: { xy-md02: { modbus: { addressing: zero }, points: { own: { at: holding 7, type: int16 } } } }\n"+
		"devices:\n  d: { local: true, profile: xy-md02, modbus: { tcp: h:502, unit: 1 } }\n")
	if p := plant.Links[0].Devices[0].Points; len(p) != 1 || p[0].ID != "d/own" {
		t.Errorf("%+v", p)
	}
}

func TestAFindingAboutAShippedProfileNamesItAndCountsOnce(t *testing.T) {
	_, found := Parse("f.yaml", []byte("version: 1\nhub: { host: h.example }\ndevices:\n"+
		"  a: { local: true, profile: schneider-pm5000, modbus: { tcp: h:502, unit: 1, max_read: 1 } }\n"+
		"  b: { local: true, profile: schneider-pm500, modbus: { tcp: h:502, unit: 2 } }\n"+
		"  c: { local: true, profile: xy-md02, modbus: { tcp: h:502, unit: 3 } }\n"+
		"  d: { local: true, profile: xy-md02, modbus: { tcp: h:502, unit: 3 } }\n"))
	if len(found) == 0 || found.Errors() != len(found)-found.Warnings() {
		t.Fatal(found)
	}
	for _, want := range []string{"profile schneider-pm5000:", "E151", `did you mean schneider-pm5000?`, "f.yaml:7:"} {
		if !strings.Contains(fmt.Sprint(found), want) {
			t.Errorf("%v lacks %s", found, want)
		}
	}
}
