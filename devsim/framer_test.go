package devsim

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	burrow "github.com/goburrow/modbus"
)

// packagers are another library's frames for the same wires.
func packagers(unit byte) map[string]struct {
	wire  framer
	other burrow.Packager
} {
	tcp, rtu, ascii := burrow.NewTCPClientHandler(""), burrow.NewRTUClientHandler(""), burrow.NewASCIIClientHandler("")
	tcp.SlaveId, rtu.SlaveId, ascii.SlaveId = unit, unit, unit
	return map[string]struct {
		wire  framer
		other burrow.Packager
	}{"TCP": {tcpFramer{}, tcp}, "RTU": {rtuFramer{}, rtu}, "ASCII": {asciiFramer{}, ascii}}
}

// requests are PDUs of every function, known and unknown.
func requests() map[string]string {
	return map[string]string{
		"FC 1": "01 0013 0025", "FC 2": "02 00C4 0016", "FC 3": "03 006B 0003", "FC 4": "04 0008 0001", "FC 5": "05 00AC FF00",
		"FC 6": "06 0001 0003", "FC 15": "0F 0013 000A 02 CD01", "FC 16": "10 0001 0002 04 000A 0102", "FC 22": "16 0004 00F2 0025",
		"FC 23": "17 0003 0006 000E 0003 06 00FF 00FF 00FF", "FC 43": "2B 0E 01 00", "FC 17": "11", "FC 8": "08 0000 A537",
	}
}

func TestFramesAreThoseOfAnotherLibraryBothWays(t *testing.T) {
	for kind, p := range packagers(17) {
		for name, text := range requests() {
			pdu := wire(t, text)
			adu, err := p.other.Encode(&burrow.ProtocolDataUnit{FunctionCode: pdu[0], Data: pdu[1:]})
			if err != nil {
				t.Fatal(err)
			}
			r, size, err := p.wire.cut(adu)
			if err != nil || size != len(adu) || r.unit != 17 || !bytes.Equal(r.pdu, pdu) {
				t.Errorf("%s, %s: unit %d, PDU % X, %d of % X (%v)", kind, name, r.unit, r.pdu, size, adu, err)
			}
			if got := p.wire.pack(nil, r); !bytes.Equal(got, adu) {
				t.Errorf("%s, %s: packed % X, want % X", kind, name, got, adu)
			}
			answer, err := p.other.Decode(p.wire.pack(nil, r))
			if err != nil || answer.FunctionCode != pdu[0] || !bytes.Equal(answer.Data, pdu[1:]) {
				t.Errorf("%s, %s: the other library reads %+v (%v)", kind, name, answer, err)
			}
		}
	}
}

func TestNoPartOfARequestIsOne(t *testing.T) {
	for kind, p := range packagers(17) {
		for name, text := range requests() {
			whole := p.wire.pack(nil, frame{1, 17, wire(t, text)})
			for n := range whole {
				if r, size, err := p.wire.cut(whole[:n]); err != nil || r.pdu != nil || size > 0 {
					t.Errorf("%s, %s: %d of %d bytes are % X, %d (%v)", kind, name, n, len(whole), r.pdu, size, err)
				}
			}
		}
	}
}

func TestNoiseInFrontOfARequestIsPassedOver(t *testing.T) {
	for kind, p := range packagers(17) {
		if kind == "TCP" {
			continue // a stream without errors
		}
		whole := p.wire.pack(nil, frame{0, 17, wire(t, "03 006B 0003")})
		broken := slices.Clone(whole)
		broken[len(broken)/2] ^= 1
		for name, noise := range map[string][]byte{"bytes": {0xFF, 0, 17}, "a broken request": broken, "half a request": whole[:len(whole)/2]} {
			got := slices.Concat(noise, whole, whole[:3])
			var all [][]byte
			for {
				r, size, err := p.wire.cut(got)
				if err != nil {
					t.Fatal(err)
				}
				if size == 0 {
					break
				}
				if r.pdu != nil {
					all = append(all, r.pdu)
				}
				got = got[size:]
			}
			if len(all) != 1 || !bytes.Equal(got, whole[:3]) {
				t.Errorf("%s: behind %s stand %d requests, and % X is left", kind, name, len(all), got)
			}
		}
	}
}

func FuzzAStreamIsCutWithoutLoss(f *testing.F) {
	for _, kind := range []uint8{0, 1, 2} {
		wire := []framer{tcpFramer{}, rtuFramer{}, asciiFramer{}}[kind]
		f.Add(kind, wire.pack(nil, frame{1, 1, []byte{3, 0, 9, 0, 1}}))
	}
	f.Fuzz(func(t *testing.T, kind uint8, stream []byte) {
		wire := []framer{tcpFramer{}, rtuFramer{}, asciiFramer{}}[kind%3]
		for {
			r, size, err := wire.cut(stream)
			if err != nil && !errors.Is(err, errNotModbus) || size < 0 || size > len(stream) || len(r.pdu) > 2*len(stream) {
				t.Fatalf("%d of % X: %v", size, stream, err)
			}
			if size == 0 {
				return
			}
			if again := wire.pack(nil, r); r.pdu != nil && kind%3 < 2 && !bytes.Equal(again, stream[:size]) {
				t.Fatalf("% X was cut out of % X", again, stream[:size])
			}
			stream = stream[size:]
		}
	})
}
