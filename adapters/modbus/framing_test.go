package modbus

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	goburrow "github.com/goburrow/modbus"
)

// unhex reads hexadecimal text with spaces.
func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sealRTU ends unit and PDU with their CRC.
func sealRTU(b []byte) []byte {
	crc := crc16(b)
	return append(slices.Clone(b), byte(crc), byte(crc>>8))
}

// sealASCII makes a line of unit and PDU.
func sealASCII(b []byte) []byte {
	sum := byte(0)
	for _, x := range b {
		sum -= x
	}
	return []byte(":" + strings.ToUpper(hex.EncodeToString(append(slices.Clone(b), sum))) + "\r\n")
}

// sealMBAP puts the header in front of unit and PDU.
func sealMBAP(id uint16, b []byte) []byte {
	return append([]byte{byte(id >> 8), byte(id), 0, 0, byte(len(b) >> 8), byte(len(b))}, b...)
}

func TestTheChecksumIsTheOneOfTheStandard(t *testing.T) {
	if crc := crc16(unhex(t, "01 03 00 00 00 0A")); crc != 0xCDC5 { // MB-37: C5 CD on the wire
		t.Errorf("%04X", crc)
	}
	h := goburrow.NewRTUClientHandler("")
	h.SlaveId = 17
	adu, err := h.Encode(&goburrow.ProtocolDataUnit{FunctionCode: 3, Data: []byte{0, 107, 0, 3}})
	if err != nil || !sealed(adu, len(adu)) {
		t.Errorf("% X %v", adu, err)
	}
}

// all takes everything that is found in got, as text: A answer, E echo, S stray, a point for each byte of
// noise, ? what may become something, ! broken.
func all(f framing, q query, got []byte) string {
	var out strings.Builder
	for len(got) > 0 {
		found := f.find(q, got)
		switch found.verdict {
		case incomplete:
			return out.String() + "?"
		case broken:
			return out.String() + "!"
		case noise:
			out.WriteString(strings.Repeat(".", found.size))
		case echo:
			q.echoes = false
			out.WriteString("E")
		default:
			out.WriteString(string("?.ESA!"[found.verdict]))
		}
		got = got[found.size:]
	}
	return out.String()
}

// What every framing makes of the frames that may come, after unit 7 was asked for two holding registers
// at 10, or told to write 5 to register 10.
func TestAnAnswerIsFoundByWhatItMustBe(t *testing.T) {
	read, write := unhex(t, "07 03 000A 0002"), unhex(t, "07 06 000A 0005")
	several, mask := unhex(t, "07 10 000A 0002 04 00010002"), unhex(t, "07 16 000A 00F2 0025")
	coils := unhex(t, "07 01 0000 000A")
	for _, c := range []struct {
		name   string
		asked  []byte
		frame  string // unit and PDU
		serial string // what RTU and ASCII make of it
	}{
		{"the answer", read, "07 03 04 000A 000B", "A"},
		{"an exception", read, "07 83 02", "A"},
		{"an exception without a code", read, "07 83 00", "S"},
		{"another unit's", read, "08 03 04 000A 000B", "S"},
		{"another function's", read, "07 04 04 000A 000B", "S"},
		{"another function's exception", read, "07 84 02", "S"},
		{"too short", read, "07 03 02 000A", "S"},
		{"too long", read, "07 03 06 000A 000B 000C", "S"},
		{"empty", read, "07 03 00", "S"},
		{"its echo", read, "07 03 000A 0002", "E"},
		{"bits", coils, "07 01 02 FF03", "A"},
		{"too many bits", coils, "07 01 03 FF0303", "S"},
		{"a write's", write, "07 06 000A 0005", "A"},
		{"of another register", write, "07 06 000B 0005", "S"},
		{"of another value", write, "07 06 000A 0006", "S"},
		{"of several registers", several, "07 10 000A 0002", "A"},
		{"of a write elsewhere", several, "07 10 000B 0002", "S"},
		{"its echo, of several", several, "07 10 000A 0002 04 00010002", "E"},
		{"of a mask", mask, "07 16 000A 00F2 0025", "A"},
		{"of another mask", mask, "07 16 000A 00F2 0024", "S"},
	} {
		adu := unhex(t, c.frame)
		for name, f := range map[string]struct {
			framing
			seal func([]byte) []byte
		}{"RTU": {rtu{}, sealRTU}, "ASCII": {ascii{}, sealASCII}} {
			q := f.query(f.seal(c.asked))
			if q.unit != 7 || !bytes.Equal(q.pdu, c.asked[1:]) {
				t.Fatalf("%s: %+v", name, q)
			}
			frame := f.seal(adu)
			if got := all(f, q, frame); got != c.serial {
				t.Errorf("%s, %s: %s, want %s", name, c.name, got, c.serial)
			}
			if c.serial != "E" {
				continue
			}
			if got := all(f, q, append(slices.Clone(frame), f.seal(unhex(t, "07 83 06"))...))[:1]; got != "E" {
				t.Errorf("%s, %s and more: %s", name, c.name, got)
			}
		}
		id := mbap{ignoreID: true}
		want := strings.ReplaceAll(c.serial, "E", "S") // no line, no echo
		if got := all(id, id.query(sealMBAP(9, c.asked)), sealMBAP(0, adu)); got != want {
			t.Errorf("MBAP without id, %s: %s, want %s", c.name, got, want)
		}
		if got := all(mbap{}, mbap{}.query(sealMBAP(9, c.asked)), append(sealMBAP(8, adu), sealMBAP(9, adu)...)); got != "SA" {
			t.Errorf("MBAP, %s: %s", c.name, got)
		}
	}
}

func TestTheEchoOfAWriteIsNotItsAnswerOnALineThatEchoes(t *testing.T) {
	write := unhex(t, "07 06 000A 0005")
	for _, f := range []framing{rtu{}, ascii{}} {
		seal := sealRTU
		if f == (ascii{}) {
			seal = sealASCII
		}
		q := f.query(seal(write))
		q.echoes = true
		if got := all(f, q, seal(write)); got != "E" {
			t.Errorf("%T: one copy is %s", f, got)
		}
		if got := all(f, q, slices.Concat(seal(write), seal(write))); got != "EA" {
			t.Errorf("%T: two copies are %s", f, got)
		}
	}
}

func TestNoiseAroundAnAnswerIsPassedOver(t *testing.T) {
	q := rtu{}.query(sealRTU(unhex(t, "03 03 000A 0001"))) // unit 3, function 3: the start is ambiguous
	good := sealRTU(unhex(t, "03 03 02 1234"))
	foreign := sealRTU(unhex(t, "04 03 04 0303 0203"))
	for _, c := range []struct {
		got  []byte
		want string
	}{
		{good, "A"},
		{slices.Concat([]byte{0xFF}, good), ".A"},
		{slices.Concat([]byte{0x00, 0x55}, good), "..A"},
		{slices.Concat(foreign, good), "SA"},
		{slices.Concat(foreign[:6], good), "......A"},
		{slices.Concat(good, good), "AA"},
		{good[:4], "?"},
		{good[:1], "?"},
		{[]byte{3, 3, 7}, "..."},
		{[]byte{3, 3, 7, 1}, "...."},
		{slices.Concat(good[:6], []byte{good[6] ^ 1}), "......."},
		{slices.Concat([]byte{3}, good), ".A"},
	} {
		if got := all(rtu{}, q, c.got); got != c.want {
			t.Errorf("% X: %s, want %s", c.got, got, c.want)
		}
	}
	q.over = true
	for _, c := range []struct {
		got  []byte
		want string
	}{
		{good[:6], "......"},
		{nil, ""},
	} {
		if got := all(rtu{}, q, c.got); got != c.want {
			t.Errorf("at the end, % X: %s, want %s", c.got, got, c.want)
		}
	}
}

// An answer whose data look like another answer is taken whole, however it is cut.
func TestDataThatLookLikeAnAnswerAreNotOne(t *testing.T) {
	inner := sealRTU(unhex(t, "07 03 06 0001 0002 0003"))
	outer := sealRTU(slices.Concat(unhex(t, "07 03"), []byte{byte(2 * 8)}, inner, unhex(t, "00 00 00 00 00")))
	q := rtu{}.query(sealRTU(unhex(t, "07 03 0000 0008")))
	q3 := rtu{}.query(sealRTU(unhex(t, "07 03 0000 0003")))
	for n := range outer {
		if got := all(rtu{}, q, outer[:n]); n > 0 && got != "?" {
			t.Errorf("%d bytes: %s", n, got)
		}
	}
	if got := all(rtu{}, q, outer); got != "A" {
		t.Errorf("%s", got)
	}
	if got := all(rtu{}, q3, outer); got != "S" {
		t.Errorf("the answer to another question: %s", got)
	}
}

func TestALineIsReadWholeOrNotAtAll(t *testing.T) {
	q := ascii{}.query(sealASCII(unhex(t, "07 03 000A 0001")))
	good := string(sealASCII(unhex(t, "07 03 02 1234")))
	for got, want := range map[string]string{
		good:                                     "A",
		strings.ToLower(good):                    "A",
		"xy" + good:                              "..A",
		good[:5] + good:                          ".....A", // a colon begins anew
		good[:9]:                                 "?",
		good + good[:3]:                          "A?",
		strings.Replace(good, "1234", "1235", 1): strings.Repeat(".", len(good)),
		strings.Replace(good, "\r", "", 1):       strings.Repeat(".", len(good)-1),
		":\r\n":                                  "...",
		":0703\r\n" + good:                       ".......A",
		":" + strings.Repeat("0", asciiMax+1):    strings.Repeat(".", asciiMax+2),
	} {
		if found := all(ascii{}, q, []byte(got)); found != want {
			t.Errorf("%q: %s, want %s", got, found, want)
		}
	}
}

func TestAHeaderThatCannotBeIsNotWaitedFor(t *testing.T) {
	frame := sealMBAP(1, unhex(t, "07 03 02 0009"))
	q := mbap{}.query(sealMBAP(1, unhex(t, "07 03 0000 0001")))
	for n := range frame {
		if f := (mbap{}).find(q, frame[:n]); f.verdict != incomplete {
			t.Errorf("%d bytes: %+v", n, f)
		}
	}
	if f := (mbap{}).find(q, append(slices.Clone(frame), 0xAA)); f.verdict != answer || f.size != len(frame) {
		t.Errorf("%+v", f)
	}
	for at, to := range map[int]byte{2: 1, 3: 1, 4: 1, 5: 1} {
		b := slices.Clone(frame)
		b[at] = to
		if got := all(mbap{}, q, b); got != "!" {
			t.Errorf("byte %d is %d: %s", at, to, got)
		}
	}
}

// A device that says more bytes than it sends, and then answers another request: the connection has no checksum, but
// what is left of the second frame is no header.
func TestAnAnswerFilledUpByTheNextFrameIsNone(t *testing.T) {
	q := mbap{}.query(sealMBAP(1, unhex(t, "07 03 0000 0002")))
	frame, next := sealMBAP(1, unhex(t, "07 03 04 00090008")), sealMBAP(2, unhex(t, "07 03 04 00070006"))
	if got := all(mbap{}, q, slices.Concat(frame, next)); got != "AS" {
		t.Errorf("whole frames: %s", got)
	}
	for missing := 1; missing <= 8; missing++ {
		if got := all(mbap{}, q, slices.Concat(frame[:len(frame)-missing], next)); got != "!" {
			t.Errorf("%d bytes missing: %s", missing, got)
		}
	}
}

// Whatever comes, every byte is taken once, nothing is an answer that is not one, and a search ends.
func FuzzFind(f *testing.F) {
	read := []byte{7, 3, 0, 10, 0, 1}
	for _, b := range [][]byte{
		sealRTU([]byte{7, 3, 2, 0, 9}), sealASCII([]byte{7, 3, 2, 0, 9}), sealMBAP(1, []byte{7, 3, 2, 0, 9}),
		[]byte("HTTP/1.1 400 Bad Request\r\n"), sealRTU(read), sealASCII(read), {7, 3, 2},
	} {
		for kind := range byte(4) {
			f.Add(kind, b, true)
			f.Add(kind, slices.Concat([]byte{0}, b, b), false)
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, got []byte, over bool) {
		fr := []framing{rtu{}, ascii{}, mbap{}, mbap{ignoreID: true}}[kind%4]
		seal := []func([]byte) []byte{sealRTU, sealASCII, func(b []byte) []byte { return sealMBAP(1, b) }}[min(kind%4, 2)]
		q := fr.query(seal(read))
		q.over = over
		for len(got) > 0 {
			found := fr.find(q, got)
			if found.verdict == incomplete || found.verdict == broken {
				return
			}
			if found.size < 1 || found.size > len(got) {
				t.Fatalf("%d of %d bytes", found.size, len(got))
			}
			if found.verdict == answer && kind%4 != 2 {
				frame := got[:found.size]
				pdu := fr.query(frame).pdu
				if !bytes.Equal(pdu[:2], []byte{3, 2}) && (pdu[0] != 0x83 || pdu[1] == 0 || len(pdu) != 2) {
					t.Fatalf("% X is an answer", frame)
				}
			}
			got = got[found.size:]
		}
	})
}
