package dial

import (
	"bytes"
	"io"
	"net"
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

func FuzzGuard(f *testing.F) {
	f.Add([]byte{0x20, 2, 0, 0}, 1)
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, 3)
	f.Fuzz(func(t *testing.T, wire []byte, n int) {
		g := &guarded{maxPacket: 300}
		n = max(1, n%16)
		var passed int
		for rest := wire; len(rest) > 0; {
			k := min(n, len(rest))
			got, err := g.follow(rest[:k])
			if passed += got; err != nil {
				break
			}
			rest = rest[k:]
		}
		whole := &guarded{maxPacket: 300}
		if got, _ := whole.follow(wire); got != passed {
			t.Fatalf("in one piece %d bytes pass, in pieces of %d it is %d", got, n, passed)
		}
	})
}
