package devsim

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"iothub-gateway/adapters/modbus"
	"iothub-gateway/mapping"
)

func TestEveryLinkListensOnAPortOfItsOwn(t *testing.T) {
	plant := &mapping.Plant{Links: []modbus.Config{
		{Name: "a", Address: "10.0.0.1:502"}, {Name: "b", Address: "10.0.0.2:502"},
	}}
	s := build(t, Config{Plant: plant})
	a, b := s.Addr("a"), s.Addr("b")
	if a == b || !strings.HasPrefix(a, "127.0.0.1:") || !strings.HasPrefix(b, "127.0.0.1:") {
		t.Errorf("listen on %q and %q", a, b)
	}
	if s.Addr("c") != "" || s.Requests("c") != 0 {
		t.Error("a link that is not in the mapping has an address or requests")
	}
}

func TestFixedListensOnThePortsOfTheMapping(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(free.Addr().(*net.TCPAddr).Port)
	plant := &mapping.Plant{Links: []modbus.Config{{Name: "a", Address: "10.7.3.11:" + port}}}
	if _, err := New(Config{Plant: plant, Fixed: true}); err == nil || !strings.Contains(err.Error(), "port "+port) {
		t.Errorf("the port is taken: %v", err)
	}
	free.Close()
	if s := build(t, Config{Plant: plant, Fixed: true}); s.Addr("a") != "127.0.0.1:"+port {
		t.Errorf("listens on %s, want port %s", s.Addr("a"), port)
	}
}

func TestAMappingThatCannotBeSimulatedLeavesNoPortTaken(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first := free.Addr().String()
	free.Close()
	for says, links := range map[string][]modbus.Config{
		`two links are called "a"`: {{Name: "a", Address: first}, {Name: "a", Address: "10.0.0.1:1"}},
		"existing directories":     {{Name: "a", Address: first}, {Name: "b", Address: "/nowhere/ttyS0", Framing: modbus.RTU, Serial: line9600()}},
		"missing port":             {{Name: "a", Address: first}, {Name: "b", Address: "10.0.0.1"}},
	} {
		if _, err := New(Config{Plant: &mapping.Plant{Links: links}, Fixed: true}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want an error that says %q", err, says)
		}
		l, err := net.Listen("tcp", first)
		if err != nil {
			t.Fatalf("%s: the first link's port is still taken: %v", says, err)
		}
		l.Close()
	}
	known := &mapping.Plant{Links: []modbus.Config{{Name: "a", Address: first}}}
	if _, err := New(Config{Plant: known, Fixed: true, Faults: Script{"b": nil}}); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("faults of an unknown link: %v", err)
	}
	l, err := net.Listen("tcp", first)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestADialOfALinkThatDoesNotExistIsAMistakeOfTheProgram(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	for name, turn := range map[string]func(){
		"mute":      func() { s.Mute("boilr", 1, true) },
		"exception": func() { s.Exception("boilr", 1, 2) },
		"delay":     func() { s.Delay("boilr", 1, 1) },
		"drop":      func() { s.Drop("boilr") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s goes unnoticed", name)
				}
			}()
			turn()
		}()
	}
}
