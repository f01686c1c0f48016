package dial

import (
	"bytes"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// through sends wire over a guarded pipe in pieces of n bytes and returns what came out and the error.
func through(t *testing.T, wire []byte, n int) ([]byte, error) {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		for len(wire) > 0 {
			k := min(n, len(wire))
			if _, err := far.Write(wire[:k]); err != nil {
				return
			}
			wire = wire[k:]
		}
	}()
	out, err := io.ReadAll(Guard(near, time.Second, 300))
	near.Close()
	return out, err
}

func TestTheGuardPassesGoodPacketsUnchanged(t *testing.T) {
	long := append([]byte{0x30, 0xac, 0x02}, make([]byte, 300)...)
	wire := bytes.Join([][]byte{{0x20, 2, 1, 0}, {0x90, 3, 0, 1, 0}, {0xd0, 0}, long, {0x40, 2, 0, 7}, {0x20, 2, 0, 5}}, nil)
	for n := 1; n <= len(wire); n++ {
		out, err := through(t, wire, n)
		if err != nil || !bytes.Equal(out, wire) {
			t.Fatalf("in pieces of %d: %d of %d bytes, %v", n, len(out), len(wire), err)
		}
	}
}

func TestTheGuardStopsWhatTheLibraryAboveCannotBear(t *testing.T) {
	ping := []byte{0xd0, 0}
	for name, c := range map[string]struct {
		bad  []byte
		pass int // bytes of bad that may come through
		want string
	}{
		"a packet of 268 MB":      {[]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, 4, "announced"},
		"one byte too long":       {[]byte{0x30, 0xad, 0x02}, 2, "announced a packet of 301"},
		"a length of five bytes":  {[]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x01}, 4, "malformed"},
		"CONNACK with code 6":     {[]byte{0x20, 2, 0, 6}, 3, "unknown code 6"},
		"CONNACK without code":    {[]byte{0x20, 1, 0}, 1, "CONNACK of 1"},
		"SUBACK with two codes":   {[]byte{0x90, 4, 0, 1, 0, 0}, 1, "filter"},
		"SUBACK without any code": {[]byte{0x90, 2, 0, 1}, 1, "filter"},
	} {
		for n := 1; n <= 8; n++ {
			out, err := through(t, append(bytes.Clone(ping), c.bad...), n)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, pieces of %d: error %v, want %q", name, n, err, c.want)
			}
			if len(out) > len(ping)+c.pass {
				t.Errorf("%s, pieces of %d: %d bytes got through", name, n, len(out))
			}
		}
	}
}

// receive reads everything from a wire through a Conn whose buffers are filled n bytes at a time.
func receive(wire []byte, n int) (passed []byte, own []uint16, err error) {
	c := Guard(pieces{wire: &wire, n: n}, time.Second, 300)
	c.Acks(func(id uint16) { own = append(own, id) })
	c.Grants(func(id uint16, code byte) { own = append(own, id, uint16(code)) })
	passed, err = io.ReadAll(c)
	return passed, own, err
}

// pieces is a connection that delivers n bytes at a time.
type pieces struct {
	net.Conn
	wire *[]byte
	n    int
}

func (p pieces) Read(b []byte) (int, error) {
	if len(*p.wire) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*p.wire)[:min(p.n, len(*p.wire))])
	*p.wire = (*p.wire)[n:]
	return n, nil
}

func TestOwnAcknowledgementsAreTakenOutOfTheStreamInOrder(t *testing.T) {
	theirs := []byte{0x40, 2, 0x00, 0x07}
	publish := []byte{0x30, 6, 0, 1, 't', 0x40, 2, 0x80} // content that looks like an own PUBACK
	var wire, want []byte
	var ids []uint16
	for i := range uint16(300) {
		id := FirstOwnID + i*109
		wire = append(wire, 0x40, 2, byte(id>>8), byte(id))
		ids = append(ids, id)
		for _, p := range [][]byte{theirs, publish, {0xd0, 0}}[:i%4] {
			wire, want = append(wire, p...), append(want, p...)
		}
	}
	for n := 1; n < 1200; n += 1 + n/7 {
		passed, own, err := receive(bytes.Clone(wire), n)
		if err != nil || !bytes.Equal(passed, want) || !slices.Equal(own, ids) {
			t.Fatalf("in pieces of %d: %d bytes passed of %d, %d acknowledgements of %d, %v", n, len(passed), len(want), len(own), len(ids), err)
		}
	}
}

func TestOwnSubscriptionsAreTakenOutOfTheStreamWithTheirCodes(t *testing.T) {
	theirs := []byte{0x90, 3, 0x00, 0x07, 1}
	wire := bytes.Join([][]byte{{0x90, 3, 0x80, 0, 0}, theirs, {0x90, 3, 0x80, 1, 0x80}, {0xd0, 0}, {0x40, 2, 0x80, 0}}, nil)
	want := append(bytes.Clone(theirs), 0xd0, 0)
	for n := 1; n <= len(wire); n++ {
		rest := bytes.Clone(wire)
		c := Guard(pieces{wire: &rest, n: n}, time.Second, 300)
		codes, acks := map[uint16]byte{}, 0
		c.Grants(func(id uint16, code byte) { codes[id] = code })
		c.Acks(func(uint16) { acks++ })
		out, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(out, want) || len(codes) != 2 || codes[0x8001] != 0x80 || acks != 1 {
			t.Fatalf("in pieces of %d: %x passed, codes %v, %d acknowledgements, %v", n, out, codes, acks, err)
		}
	}
}

func FuzzGuard(f *testing.F) {
	f.Add([]byte{0x20, 2, 0, 0}, 1)
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, 3)
	f.Add([]byte{0x40, 2, 0x80, 1, 0xd0, 0}, 2)
	f.Add([]byte{0x90, 3, 0x80, 1, 0x80, 0x90, 4, 0x80, 1, 0, 0}, 2)
	f.Fuzz(func(t *testing.T, wire []byte, n int) {
		n = max(1, n%16)
		all, ids, err := receive(bytes.Clone(wire), len(wire)+1)
		part, own, err2 := receive(bytes.Clone(wire), n)
		if !bytes.Equal(all, part) || !slices.Equal(ids, own) || (err == nil) != (err2 == nil) {
			t.Fatalf("in one piece %d bytes and %d acknowledgements pass (%v), in pieces of %d it is %d and %d (%v)", len(all), len(ids), err, n, len(part), len(own), err2)
		}
	})
}
