package coap

import (
	"bytes"
	"encoding/hex"
	"hash/maphash"
	"testing"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

func TestADatagramIsReadAsTheRFCSays(t *testing.T) {
	for _, c := range []struct {
		hex     string
		ok      bool
		token   string
		options int
		payload string
	}{
		{"40020001", true, "", 0, ""},
		{"44020001aabbccdd", true, "aabbccdd", 0, ""},
		{"4802000101020304050607080b", false, "", 0, ""}, // an option of 11 bytes that is cut off
		{"40020001b27631", true, "", 1, ""},
		{"40020001b276", false, "", 0, ""},
		{"40020001b2763101740015ff7b7d", false, "", 0, ""},
		{"40020001b276310174112fff7b7d", true, "", 3, "7b7d"},
		{"40020001ff", false, "", 0, ""},
		{"40020001ff00", true, "", 0, "00"},
		{"40020001d1fbff", true, "", 1, ""},    // an option that ends with the byte of the marker
		{"40020001d1fbffff", false, "", 0, ""}, // the same, and a marker
		{"40020001f0", false, "", 0, ""},       // reserved delta
		{"400200010f", false, "", 0, ""},       // reserved length
		{"40020001e0ffff", false, "", 0, ""},   // option number 65804
		{"4902000101020304050607", false, "", 0, ""},
		{"4402000101", false, "", 0, ""},
		{"00020001", false, "", 0, ""},
		{"400200", false, "", 0, ""},
		{"", false, "", 0, ""},
	} {
		raw, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatal(err)
		}
		p, err := parse(raw)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.hex, err)
			continue
		}
		if c.ok {
			equal(t, c.hex+" token", hex.EncodeToString(p.token), c.token)
			equal(t, c.hex+" options", len(p.options), c.options)
			equal(t, c.hex+" payload", hex.EncodeToString(p.payload), c.payload)
		}
	}
}

func TestAMessageWithTooManyOptionsIsRejected(t *testing.T) {
	datagram := []byte{0x40, 2, 0, 1}
	datagram = append(datagram, bytes.Repeat([]byte{0x00}, maxOptions)...)
	if _, err := parse(append(bytes.Clone(datagram), 0xb0)); err != nil {
		t.Errorf("%d empty options: %v", maxOptions, err)
	}
	for range maxOptions + 1 {
		datagram = append(datagram, 0x10)
	}
	if _, err := parse(datagram); err == nil {
		t.Error("as many options as a datagram holds are taken")
	}
}

func TestWhoWantsWhichAnswer(t *testing.T) {
	with := func(confirmable bool, noResponse int, b *block) request {
		return request{confirmable: confirmable, noResponse: noResponse, block: b}
	}
	for _, c := range []struct {
		what string
		r    request
		want map[codes.Code]bool
	}{
		{"confirmable", with(true, none, nil), map[codes.Code]bool{codes.Changed: true, codes.NotFound: true, codes.ServiceUnavailable: true}},
		{"not confirmable", with(false, none, nil), map[codes.Code]bool{codes.Changed: false, codes.NotFound: false, codes.Continue: true}},
		{"a block", with(false, none, &block{}), map[codes.Code]bool{codes.Changed: true, codes.Continue: true}},
		{"all answers", with(false, 0, nil), map[codes.Code]bool{codes.Changed: true, codes.ServiceUnavailable: true}},
		{"no success", with(true, 2, nil), map[codes.Code]bool{codes.Changed: false, codes.NotFound: true, codes.ServiceUnavailable: true, codes.Continue: true}},
		{"nothing", with(true, 26, nil), map[codes.Code]bool{codes.Changed: false, codes.NotFound: false, codes.ServiceUnavailable: false, unprocessable: false, codes.TooManyRequests: false}},
	} {
		for code, want := range c.want {
			equal(t, c.what+" "+dotted(code), c.r.wants(code), want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range []message.Message{post(1, temp21), post(2, "x", block1(3, true, 2)), post(3, "", message.Option{ID: 9, Value: []byte{1}})} {
		f.Add(encoded(f, m))
	}
	f.Add([]byte{0x40, 0, 0, 1})
	f.Add([]byte{0x40, 2, 0, 1, 0xd1, 0xfb, 0xff, 0xff})
	seed := maphash.MakeSeed()
	f.Fuzz(func(t *testing.T, datagram []byte) {
		if r := rejection(datagram); r != nil && (len(r) != 4 || r[0] != 0x70) {
			t.Fatalf("rejection % x", r)
		}
		p, err := parse(datagram)
		if err != nil {
			return
		}
		r := newRequest(p, datagram, seed)
		if len(r.token) > 8 || len(p.options) > maxOptions || len(r.payload) > len(datagram) {
			t.Fatalf("%+v", r)
		}
		// What was read, written again, is read the same.
		m := message.Message{Type: p.kind, Code: p.code, MessageID: int32(p.mid), Token: p.token, Options: p.options, Payload: p.payload}
		again, err := parse(encoded(t, m))
		if err != nil || again.code != p.code || len(again.options) != len(p.options) || !bytes.Equal(again.payload, p.payload) {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}
