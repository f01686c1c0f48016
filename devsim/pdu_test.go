package devsim

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// ask sends one PDU, written in hex with spaces, to the boiler's unit 1.
func ask(t *testing.T, s *Sim, pdu string) string {
	t.Helper()
	request, err := hex.DecodeString(strings.ReplaceAll(pdu, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ToUpper(hex.EncodeToString(s.links[boiler].units[1].answer(nil, request, tickOf(s.now()))))
}

func squeeze(pdu string) string { return strings.ReplaceAll(pdu, " ", "") }

// filled is the boiler with known values.
func filled(t *testing.T, cfg Config) *Sim {
	t.Helper()
	cfg.Plant = boilerPlant()
	s := build(t, cfg)
	set(t, s, "boiler/flow_temp", gateway.FloatValue(61.3))
	set(t, s, "boiler/burner_on", gateway.BoolValue(true))
	set(t, s, "boiler/valve", gateway.BoolValue(true))
	set(t, s, "boiler/alarm_word", gateway.UintValue(0))
	set(t, s, "boiler/hours", gateway.UintValue(0x01020304))
	return s
}

func TestEachFunctionAnswersAsTheStandardSays(t *testing.T) {
	tests := []struct{ name, request, response string }{
		{"coils, packed from the lowest bit", "01 0000 000A", "01 02 1000"},
		{"one coil", "01 0004 0001", "01 01 01"},
		{"discrete inputs", "02 0000 0009", "02 02 0100"},
		{"holding registers", "03 0077 0002", "03 04 0304 0102"},
		{"holding registers with a hole", "03 0008 0003", "03 06 0000 023F 0001"},
		{"the last address", "03 FFFF 0001", "03 02 0000"},
		{"input registers", "04 0000 0001", "04 02 0265"},
		{"one coil on", "05 0003 FF00", "05 0003 FF00"},
		{"one coil off", "05 0003 0000", "05 0003 0000"},
		{"one register", "06 0009 0190", "06 0009 0190"},
		{"several coils", "0F 0003 0002 01 02", "0F 0003 0002"},
		{"several registers", "10 0009 0002 04 0190 0002", "10 0009 0002"},
		{"mask", "16 0009 00F2 0025", "16 0009 00F2 0025"},
		{"write, then read", "17 0009 0002 0009 0001 02 0190", "17 04 0190 0001"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := ask(t, filled(t, Config{}), test.request); got != squeeze(test.response) {
				t.Errorf("%s is answered %s, want %s", test.request, got, squeeze(test.response))
			}
		})
	}
}

func TestWhatIsWrongWithARequestIsWhatTheExceptionSays(t *testing.T) {
	tests := []struct{ name, request, response string }{
		{"unknown function", "2B 0E 01 00", "AB 01"},
		{"function with the exception bit", "83 0000 0001", "83 01"},
		{"FIFO queue", "18 0000", "98 01"},
		{"no coils", "01 0000 0000", "81 03"},
		{"2001 coils", "01 0000 07D1", "81 03"},
		{"no registers", "03 0000 0000", "83 03"},
		{"126 registers", "04 0000 007E", "84 03"},
		{"a request that is too short", "03 0000 00", "83 03"},
		{"a request that is too long", "03 0000 0001 00", "83 03"},
		{"beyond the last address", "03 FFFF 0002", "83 02"},
		{"bits beyond the last address", "02 FFFF 0002", "82 02"},
		{"a quantity counts before an address", "03 FFFF 007E", "83 03"},
		{"a coil half on", "05 0003 FF01", "85 03"},
		{"an empty write of a coil", "05", "85 03"},
		{"a coil that may not be written", "05 0000 FF00", "85 02"},
		{"a register that may not be written", "06 0077 0001", "86 02"},
		{"a hole", "06 0500 0001", "86 02"},
		{"coils beside a writable one", "0F 0004 0002 01 03", "8F 02"},
		{"coils with a wrong byte count", "0F 0003 0002 02 0303", "8F 03"},
		{"1969 coils", "0F 0000 07B1 F7", "8F 03"},
		{"no coils to write", "0F 0003 0000 00", "8F 03"},
		{"registers beside a writable one", "10 0008 0002 04 0001 0002", "90 02"},
		{"registers with a wrong byte count", "10 0009 0002 03 000100", "90 03"},
		{"registers with fewer values", "10 0009 0002 04 0001", "90 03"},
		{"124 registers", "10 0000 007C F8", "90 03"},
		{"write beyond the last address", "10 FFFF 0002 04 0001 0002", "90 02"},
		{"short mask", "16 0009 00F2", "96 03"},
		{"mask of what may not be written", "16 0077 0000 0000", "96 02"},
		{"read-write that reads nothing", "17 0009 0000 0009 0001 02 0190", "97 03"},
		{"read-write of 126", "17 0009 007E 0009 0001 02 0190", "97 03"},
		{"read-write that writes nothing", "17 0009 0001 0009 0000 00", "97 03"},
		{"read-write of 122 values", "17 0009 0001 0009 007A F4", "97 03"},
		{"read-write without values", "17 0009 0001 0009 0001 02", "97 03"},
		{"read-write to a hole", "17 0009 0001 0500 0001 02 0190", "97 02"},
		{"read-write beyond the last address", "17 FFFF 0002 0009 0001 02 0190", "97 02"},
	}
	s := filled(t, Config{})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := ask(t, s, test.request); got != squeeze(test.response) {
				t.Errorf("%s is answered %s, want %s", test.request, got, test.response)
			}
			if got := numberOf(t, s, "boiler/setpoint"); got != 57.5 {
				t.Errorf("a refused request changed the setpoint to %g", got)
			}
		})
	}
}

func TestStrictHolesRefuseToBeRead(t *testing.T) {
	s := filled(t, Config{StrictHoles: true})
	for request, want := range map[string]string{
		"03 0009 0004": squeeze("03 08 023F 0001 3FC0 0000"),
		"03 0008 0002": "8302",
		"03 000C 0002": "8302",
		"04 0001 0001": "8402",
		"01 0003 0002": "010102",
		"01 0003 0003": "8102",
	} {
		if got := ask(t, s, request); got != want {
			t.Errorf("%s is answered %s, want %s", request, got, want)
		}
	}
}

func TestADeviceIsAsPickyAsItsMappingSays(t *testing.T) {
	plant := boilerPlant()
	device := &plant.Links[0].Devices[0]
	device.MaxRead, device.MaxWrite, device.Even = 4, 2, true
	s := build(t, Config{Plant: plant})
	for request, want := range map[string]string{
		"03 0008 0004":                          "83",
		"03 0008 0006":                          "8303",
		"03 0009 0002":                          "8302",
		"03 0008 0003":                          "8302",
		"10 0009 0002 04 0190 0002":             "1000090002",
		"10 0009 0003 06 0190 0002 0000":        "9003",
		"17 0008 0005 0009 0001 02 0190":        "9703",
		"17 0008 0002 0009 0003 06 01900000 00": "9703",
	} {
		got := ask(t, s, request)
		if want == "83" {
			if !strings.HasPrefix(got, "0308") {
				t.Errorf("%s is answered %s, want 4 registers", request, got)
			}
			continue
		}
		if got != want {
			t.Errorf("%s is answered %s, want %s", request, got, want)
		}
	}
	plant.Links[0].Devices = append(plant.Links[0].Devices, modbus.Device{Name: "guest", Unit: 1, MaxRead: 5, MaxWrite: 3})
	s = build(t, Config{Plant: plant})
	if got := ask(t, s, "03 0009 0005"); !strings.HasPrefix(got, "030A") {
		t.Errorf("the more generous of two devices of a unit does not count: %s", got)
	}
}

func TestAWriteReachesOnlyTheBitsThatMayBeWritten(t *testing.T) {
	s := filled(t, Config{})
	for request, want := range map[string]float64{
		"06 0063 FFFF":      0x1000,
		"06 0063 0000":      0,
		"16 0063 0000 FFFF": 0x1000,
	} {
		if got := ask(t, s, request); got != squeeze(request) {
			t.Fatalf("%s is answered %s", request, got)
		}
		if got := numberOf(t, s, "boiler/alarm_word"); got != want {
			t.Errorf("%s leaves %#x, want %#x", request, int(got), int(want))
		}
	}
}

func TestTheMaskIsAppliedToWhatTheRegisterHolds(t *testing.T) {
	s := filled(t, Config{})
	ask(t, s, "06 0009 0012")
	ask(t, s, "16 0009 00F2 0025")
	if words, _ := s.Register("boiler/setpoint"); words[0] != 0x0017 { // the example of the standard
		t.Errorf("%04X, want 0017", words[0])
	}
}

func TestAWrittenPointKeepsItsValue(t *testing.T) {
	s := filled(t, Config{})
	ask(t, s, "10 0009 0004 08 0190 0002 4048 F5C3")
	s.now = func() time.Time { return time.Unix(noon+86400, 0) }
	for id, want := range map[gateway.PointID]gateway.Value{
		"boiler/setpoint": gateway.FloatValue(40),
		"boiler/mode":     gateway.TextValue("manual"),
		"boiler/gain":     gateway.FloatValue(3.14),
	} {
		if got := valueOf(t, s, id); got != want {
			t.Errorf("%s is %v a day later, want %v", id, got, want)
		}
	}
}

func FuzzEveryRequestGetsAnAnswerOfItsOwn(f *testing.F) {
	for _, pdu := range []string{"03 0009 0004", "01 0000 07D0", "10 0009 0001 02 0190", "17 0009 0001 0009 0001 02 0190", "2B 0E 01 00", "16 0063 0000 FFFF"} {
		b, _ := hex.DecodeString(squeeze(pdu))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, pdu []byte) {
		if len(pdu) == 0 || len(pdu) > maxPDU {
			return
		}
		s := build(t, Config{Plant: boilerPlant()})
		u := s.links[boiler].units[1]
		before := u.words(s.points["boiler/setpoint"], 0)
		out := u.answer([]byte("head"), pdu, tickOf(s.now()))
		if !bytes.HasPrefix(out, []byte("head")) || len(out) < 6 || len(out) > 4+maxPDU {
			t.Fatalf("%X is answered %X", pdu, out)
		}
		out = out[4:]
		if out[0] == pdu[0] {
			return
		}
		if out[0] != pdu[0]|0x80 || len(out) != 2 || out[1] < 1 || out[1] > 3 {
			t.Fatalf("%X is refused with %X", pdu, out)
		}
		if after := u.words(s.points["boiler/setpoint"], 0); after[0] != before[0] {
			t.Fatalf("%X is refused and changed the setpoint", pdu)
		}
	})
}

func BenchmarkReadOfThirtyPoints(b *testing.B) {
	points := make([]modbus.Point, 30)
	for i := range points {
		points[i] = at("p"+string(rune('a'+i)), modbus.Holding, uint16(2*i), modbus.Float32)
	}
	s := build(b, Config{Plant: plantOf(points...)})
	u := s.links[boiler].units[1]
	request := binary.BigEndian.AppendUint16([]byte{readHolding, 0, 0}, 60)
	out := make([]byte, 0, maxFrame)
	b.ReportAllocs()
	now := tickOf(s.now())
	for b.Loop() {
		out = u.answer(out[:0], request, now)
		now++
	}
}
