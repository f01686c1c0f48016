package mapping

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
	"iothub-gateway/adapters/modbus"
)

func TestTheShippedExampleHasNoFindings(t *testing.T) {
	plant, found := Parse("mapping.yaml", gateway.ExampleMapping())
	if plant == nil || len(found) > 0 {
		t.Fatalf("%v", found)
	}
	onDisk, found, err := Load("../mapping.yaml")
	if err != nil || len(found) > 0 || len(onDisk.Points) != len(plant.Points) {
		t.Errorf("%v, %v", found, err)
	}
}

func describe(plant *Plant) string {
	var b strings.Builder
	fmt.Fprintf(&b, "hub %+v\n", plant.Hub)
	fmt.Fprintf(&b, "buffer %+v\n", plant.Buffer)
	for _, id := range plant.Identities {
		fmt.Fprintf(&b, "identity %s %+v %v\n", id.ID, id.Credential, id.Properties)
	}
	for _, d := range plant.Devices {
		fmt.Fprintf(&b, "device %+v\n", d)
	}
	for _, l := range plant.Links {
		fmt.Fprintf(&b, "link %s %s %s\n", l.Name, l.Address, l.Timeout)
		for _, d := range l.Devices {
			fmt.Fprintf(&b, "  device %s unit %d gap %d max %d/%d even %t offline %+v\n", d.Name, d.Unit, d.Gap, d.MaxRead, d.MaxWrite, d.Even, d.Offline)
			for _, p := range d.Points {
				fmt.Fprintf(&b, "    %s\n", describeSouth(p))
			}
		}
	}
	for _, l := range plant.Listeners {
		fmt.Fprintf(&b, "listener %s %s plain %t allow %v keys in %q limits %+v\n", l.Name, l.Listen, l.Plain, l.Allow, l.PSKDir, l.Limits)
		for _, d := range l.Devices {
			fmt.Fprintf(&b, "  device %s psk %q from %v path %s every %s assume %s\n", d.Name, d.PSK, d.From, d.Path, d.ExpectEvery, d.Assume)
			for _, p := range d.Points {
				fmt.Fprintf(&b, "    %s\n", describeReported(p))
			}
		}
	}
	for _, p := range plant.Points {
		fmt.Fprintf(&b, "point %s\n", describeNorth(p))
	}
	for _, m := range plant.Methods {
		fmt.Fprintf(&b, "method %s %s write %q from %q value %v read %v timeout %s\n", m.Identity, m.Name, m.Write, m.From, m.Value, m.Read, m.Timeout)
	}
	return b.String()
}

func describeSouth(p modbus.Point) string {
	text := fmt.Sprintf("%s %s %d bit %d %s(%d) %s *%g+%g poll %s", p.ID, p.Table, p.Address, p.Bit, p.Type, p.Length, p.Order, p.Scale, p.Offset, p.Poll)
	if p.Linear != nil {
		text += fmt.Sprintf(" linear %v", *p.Linear)
	}
	if p.Enum != nil || p.Flags != nil || p.NotAvailable != nil {
		text += fmt.Sprintf(" enum %v flags %v na %x", p.Enum, p.Flags, p.NotAvailable)
	}
	if p.Writable {
		text += " writable"
	}
	return text
}

func describeReported(p coap.Point) string {
	return fmt.Sprintf("%s source %d %q *%g+%g", p.ID, p.Source, p.Key, p.Scale, p.Offset)
}

func describeNorth(p gateway.Point) string {
	text := fmt.Sprintf("%s of %q as %s [%s] on %d least %s most %s band %+v", p.ID, p.Identity, p.Field, p.Unit,
		p.Publish.On, p.Publish.AtLeastEvery, p.Publish.AtMostEvery, p.Publish.Deadband)
	if p.Range != nil {
		text += fmt.Sprintf(" range %+v", *p.Range)
	}
	if p.Wrap != 0 || p.Hidden {
		text += fmt.Sprintf(" wrap %g hidden %t", p.Wrap, p.Hidden)
	}
	if w := p.Write; w != nil {
		text += " write"
		if w.Min != nil {
			text += fmt.Sprintf(" min %g", *w.Min)
		}
		if w.Max != nil {
			text += fmt.Sprintf(" max %g", *w.Max)
		}
		text += fmt.Sprintf(" %v", w.Words)
	}
	return text
}

func TestTheShippedExampleMeansThisPlant(t *testing.T) {
	want, err := os.ReadFile("testdata/example.golden")
	if err != nil {
		t.Fatal(err)
	}
	plant, found := Parse("mapping.yaml", gateway.ExampleMapping())
	if plant == nil {
		t.Fatal(found)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(describe(plant), "\n")); diff != "" {
		t.Errorf("testdata/example.golden (-want +found):\n%s", diff)
	}
}
