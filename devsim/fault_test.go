package devsim

import (
	"bytes"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iothub-gateway/adapters/modbus"
	"iothub-gateway/internal/testkit"
)

func TestAScriptIsReadAsItIsWritten(t *testing.T) {
	script, err := ReadScript(strings.NewReader(`{"hall": [
		{"do": "exception", "code": 3, "unit": 3, "addresses": [40, 45]},
		{"do": "late", "after": "1.2s", "until": "1900ms", "chance": 0.01},
		{"do": "noise", "bytes": 5, "function": 4, "times": 100}], "yard": []}`))
	want := Script{"yard": {}, "hall": {
		{Do: Exception, Code: 3, Unit: ptr(uint8(3)), Addresses: &[2]uint16{40, 45}},
		{Do: Late, After: 1200 * time.Millisecond, Until: 1900 * time.Millisecond, Chance: 0.01},
		{Do: Noise, Bytes: 5, Function: 4, Times: 100},
	}}
	if err != nil || !reflect.DeepEqual(script, want) {
		t.Errorf("%+v, %v", script, err)
	}
	for text, says := range map[string]string{
		`{"hall": [{"do": "silent"}, {"do": "explode"}]}`:  "hall, fault 2",
		`{"hall": [{"do": "late", "after": "soon"}]}`:      "200ms",
		`{"hall": [{"do": "late", "chance": 2}]}`:          "0 to 1",
		`{"hall": [{"do": "silent", "whom": 1}]}`:          "whom",
		`{"hall": [{"do": "silent", "addresses": [9,1]}]}`: "the first and the last",
		`{"hall": [{"do": "short", "bytes": 900}]}`:        "253",
		`[]`: "fault script",
	} {
		if _, err := ReadScript(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want an error that says %q", text, err, says)
		}
	}
}

func TestAFaultIsForTheRequestsThatItNames(t *testing.T) {
	for _, c := range []struct {
		fault Fault
		pdu   string
		fits  bool
	}{
		{Fault{}, "03 0028 0001", true},
		{Fault{Unit: ptr(uint8(7))}, "03 0028 0001", true},
		{Fault{Unit: ptr(uint8(8))}, "03 0028 0001", false},
		{Fault{Function: 3}, "03 0028 0001", true},
		{Fault{Function: 4}, "03 0028 0001", false},
		{Fault{Addresses: &[2]uint16{40, 45}}, "03 0028 0001", true},
		{Fault{Addresses: &[2]uint16{40, 45}}, "03 0027 0001", false},
		{Fault{Addresses: &[2]uint16{40, 45}}, "03 0027 0002", true},
		{Fault{Addresses: &[2]uint16{40, 45}}, "03 002D 0010", true},
		{Fault{Addresses: &[2]uint16{40, 45}}, "03 002E 0010", false},
		{Fault{Addresses: &[2]uint16{40, 45}}, "06 0028 FFFF", true},
		{Fault{Addresses: &[2]uint16{40, 45}}, "06 0027 FFFF", false},
		{Fault{Addresses: &[2]uint16{40, 45}}, "2B 0E 01 00 00", false},
	} {
		if got := c.fault.fits(frame{0, 7, wire(t, c.pdu)}); got != c.fits {
			t.Errorf("%+v, request %s: %v", c.fault, c.pdu, got)
		}
	}
}

// What the faults make of the answer 023F to a read of one register, on each wire.
func TestEveryFaultDoesToAnAnswerWhatItsNameSays(t *testing.T) {
	r := frame{0x1234, 1, wire(t, "03 0009 0001")}
	answer := frame{0x1234, 1, wire(t, "03 02 023F")}
	for _, wired := range []framer{tcpFramer{}, rtuFramer{}, asciiFramer{}} {
		good := wired.pack(nil, answer)
		random := rand.New(rand.NewPCG(1, 2))
		joined := func(f Fault) (out []byte) {
			for _, p := range f.spoil(wired, r, answer, random) {
				out = append(out, p.bytes...)
			}
			return out
		}
		for name, ok := range map[string]bool{
			"silent":     joined(Fault{Do: Silent}) == nil,
			"late":       bytes.Equal(joined(Fault{Do: Late}), good),
			"short":      bytes.Equal(joined(Fault{Do: Short, Bytes: 2}), good[:len(good)-2]),
			"garbage":    len(joined(Fault{Do: Garbage, Bytes: 9})) == 9,
			"noise":      bytes.Equal(joined(Fault{Do: Noise, Bytes: 3})[3:len(good)+3], good),
			"split":      bytes.Equal(joined(Fault{Do: Split, Bytes: 2}), good),
			"echo":       bytes.Equal(joined(Fault{Do: Echo}), append(wired.pack(nil, r), good...)),
			"twice":      bytes.Equal(joined(Fault{Do: Twice}), append(bytes.Clone(good), good...)),
			"hangup":     bytes.Equal(joined(Fault{Do: Hangup}), good[:len(good)/2]),
			"wrong unit": bytes.Equal(joined(Fault{Do: WrongUnit}), wired.pack(nil, frame{0x1234, 2, answer.pdu})),
			"wrong id":   bytes.Equal(joined(Fault{Do: WrongID}), wired.pack(nil, frame{0x1233, 1, answer.pdu})),
		} {
			if !ok {
				t.Errorf("%T: %s", wired, name)
			}
		}
		if pieces := (Fault{Do: Split, Bytes: 2, After: time.Second}).spoil(wired, r, answer, random); len(pieces) != (len(good)+1)/2 || pieces[0].wait != 0 || pieces[1].wait != time.Second {
			t.Errorf("%T: split: %v", wired, pieces)
		}
		for range 200 {
			corrupt := joined(Fault{Do: Corrupt})
			if f, _, err := wired.cut(corrupt); err == nil && bytes.Equal(f.pdu, answer.pdu) || bytes.Equal(corrupt, good) {
				t.Errorf("%T: % X passes for the answer", wired, corrupt)
			}
			p := (Fault{Do: Late, After: time.Second, Until: 2 * time.Second}).spoil(wired, r, answer, random)
			if p[0].wait < time.Second || p[0].wait > 2*time.Second {
				t.Fatalf("late by %s", p[0].wait)
			}
		}
	}
}

func TestAScriptPlaysOnTheWire(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	conn := raw(t, s)
	play := func(faults ...Fault) {
		t.Helper()
		if err := s.Play(Script{boiler: faults}); err != nil {
			t.Fatal(err)
		}
	}
	play(Fault{Do: Exception, Addresses: &[2]uint16{9, 9}, Times: 1}, Fault{Do: WrongUnit, Times: 1}, Fault{Do: WrongID, Times: 1})
	send(t, conn, "0001"+readSetpoint+"0002"+readSetpoint+"0003"+readSetpoint+"0004"+readSetpoint)
	expect(t, conn, "0001 0000 0003 01 83 02")
	expect(t, conn, "0002 0000 0005 02 03 02 023F")
	expect(t, conn, "0002"+setpointIs)
	expect(t, conn, "0004"+setpointIs)
	if got := s.Fired(boiler); !reflect.DeepEqual(got, []int{1, 1, 1}) {
		t.Errorf("fired %v", got)
	}
	play(Fault{Do: Late, After: 60 * time.Millisecond, Times: 1}, Fault{Do: Split, Bytes: 3, Times: 1}, Fault{Do: Silent, Times: 1})
	send(t, conn, "0005"+readSetpoint+"0006"+readSetpoint+"0007"+readSetpoint+"0008"+readSetpoint)
	expect(t, conn, "0006"+setpointIs+"0008"+setpointIs+"0005"+setpointIs)
	play(Fault{Do: Hangup})
	send(t, conn, "0009"+readSetpoint)
	if got, err := io.ReadAll(conn); err != nil || len(got) != (7+4)/2 {
		t.Errorf("after half an answer % X, %v", got, err)
	}
	if err := s.Play(Script{"boilr": nil}); err == nil || !strings.Contains(err.Error(), "boilr") {
		t.Errorf("an unknown link: %v", err)
	}
}

func TestALateAnswerThatMissedItsTimeIsNotSent(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	conn := raw(t, s)
	if err := s.Play(Script{boiler: {{Do: Late, After: 50 * time.Millisecond, Until: 10 * time.Millisecond, Times: 1}}}); err != nil {
		t.Fatal(err)
	}
	send(t, conn, "0001"+readSetpoint)
	testkit.Eventually(t, "the fault is done", func() bool { return s.Fired(boiler)[0] == 1 })
	if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("it was sent")
	}
}

func TestSerialFramingsOverTCPLeaveOutWhoIsNotThere(t *testing.T) {
	for framing, wired := range map[modbus.Framing]framer{modbus.RTU: rtuFramer{}, modbus.ASCII: asciiFramer{}} {
		plant := boilerPlant()
		plant.Links[0].Framing = framing
		s := start(t, Config{Plant: plant})
		conn := raw(t, s)
		text := func(unit byte, pdu string) string {
			return hex.EncodeToString(wired.pack(nil, frame{0, unit, wire(t, pdu)}))
		}
		// Unit 9 is not in the mapping, and unit 0 is all of them: neither answers.
		send(t, conn, text(9, "03 0009 0001")+text(0, "06 0009 0190")+text(1, "03 0009 0001"))
		expect(t, conn, text(1, "03 02 0190"))
		send(t, conn, "FFFF00"+text(1, "03 0009 0001"))
		expect(t, conn, text(1, "03 02 0190"))
	}
}

func TestTheRestOfARequestThatNeverComesIsForgotten(t *testing.T) {
	plant := boilerPlant()
	plant.Links[0].Framing = modbus.RTU
	s := build(t, Config{Plant: plant})
	whole := rtuFramer{}.pack(nil, frame{0, 1, wire(t, "03 0009 0001")})
	synctest.Test(t, func(t *testing.T) {
		converseWith(t, s, func(conn net.Conn) {
			// The length of an unfinished write of 250 bytes would swallow what comes next.
			send(t, conn, "01 10 0000 007B F6")
			<-time.After(restMax + time.Millisecond)
			if _, err := conn.Write(whole); err != nil {
				t.Fatal(err)
			}
			expect(t, conn, hex.EncodeToString(rtuFramer{}.pack(nil, frame{0, 1, wire(t, "03 02 023F")})))
		})
	})
}
