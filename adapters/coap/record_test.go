package coap

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// dtlsBytes is a record with this type, epoch and body.
func dtlsBytes(kind uint8, epoch uint8, body string) []byte {
	return append([]byte{kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 1, 0, byte(len(body))}, body...)
}

func TestClearTextIsTakenOutOfADatagram(t *testing.T) {
	withCID := append([]byte{cidRecord, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1}, "12345678\x00\x03abc"...)
	for _, c := range []struct {
		what string
		in   [][]byte
		want [][]byte
	}{
		{"nothing", nil, nil},
		{"clear text alone", [][]byte{dtlsBytes(22, 0, "x"), dtlsBytes(20, 0, "\x01")}, nil},
		{"a client's last flight", [][]byte{dtlsBytes(22, 0, "key"), dtlsBytes(20, 0, "\x01"), dtlsBytes(22, 1, "finished")}, [][]byte{dtlsBytes(22, 1, "finished")}},
		{"with a connection id", [][]byte{dtlsBytes(20, 0, "\x01"), withCID, dtlsBytes(23, 1, "data")}, [][]byte{withCID, dtlsBytes(23, 1, "data")}},
		{"cut off", [][]byte{dtlsBytes(23, 1, "data"), dtlsBytes(23, 1, "data")[:10]}, [][]byte{dtlsBytes(23, 1, "data")}},
	} {
		if got, want := protected(bytes.Join(c.in, nil)), bytes.Join(c.want, nil); !bytes.Equal(got, want) {
			t.Errorf("%s: got % x, want % x", c.what, got, want)
		}
	}
}

func TestAClientHelloIsRecognised(t *testing.T) {
	first := firstHello(t)
	r, rest, ok := nextRecord(first)
	if !ok || len(rest) > 0 {
		t.Fatalf("% x", first)
	}
	h, ok := r.helloOf()
	if !ok || !h.first || h.random != string(first[recordHeader+12+2:][:randomSize]) {
		t.Errorf("%v %+v", ok, h)
	}
	for at, value := range map[int]byte{0: 23, 4: 1, recordHeader: 2, recordHeader + 8: 1} {
		other := bytes.Clone(first)
		other[at] = value
		r, _, ok := nextRecord(other)
		if !ok {
			t.Fatalf("byte %d", at)
		}
		if _, ok := r.helloOf(); ok {
			t.Errorf("byte %d is %d: still taken for a ClientHello", at, value)
		}
	}
}

func FuzzRecords(f *testing.F) {
	f.Add(append(dtlsBytes(22, 0, "key"), dtlsBytes(22, 1, "finished")...))
	f.Add(append([]byte{cidRecord, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1}, "12345678\x00\x03abc"...))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		kept := protected(datagram)
		if len(kept) > len(datagram) {
			t.Fatal("more came out than went in")
		}
		if again := protected(kept); !bytes.Equal(again, kept) {
			t.Fatalf("% x became % x", kept, again)
		}
		if r, _, ok := nextRecord(datagram); ok {
			if h, ok := r.helloOf(); ok && len(h.random) != randomSize {
				t.Fatalf("%+v", h)
			}
		}
	})
}

func TestAPipeHonoursItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(nil)
		buffer := make([]byte, 10)
		from := netip.MustParseAddrPort("10.0.0.1:5684")
		p.put(arrival{from: from}, []byte("one"))
		n, addr, err := p.ReadFrom(buffer)
		if err != nil || string(buffer[:n]) != "one" || addr.String() != from.String() {
			t.Fatalf("%q %v %v", buffer[:n], addr, err)
		}
		began := time.Now()
		if err := p.SetReadDeadline(began.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.ReadFrom(buffer); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		p.put(arrival{from: from}, []byte("two"))
		if _, _, err := p.ReadFrom(buffer); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("past the deadline: %v", err)
		}
		if err := p.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if n, _, err := p.ReadFrom(buffer); err != nil || string(buffer[:n]) != "two" {
			t.Errorf("without a deadline: %v", err)
		}
		ended := make(chan error)
		read := func() { _, _, err := p.ReadFrom(buffer); ended <- err }
		go read()
		synctest.Wait()
		if err := p.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a deadline in the past: %v", err)
		}
		for _, later := range []time.Duration{time.Hour, 2 * time.Hour} { // the second takes the first back
			if err := p.SetReadDeadline(time.Now().Add(later)); err != nil {
				t.Fatal(err)
			}
		}
		go read()
		<-time.After(90 * time.Minute)
		select {
		case err := <-ended:
			t.Errorf("ended early: %v", err)
		default:
		}
		_ = p.Close()
		_ = p.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		if _, err := p.WriteTo(buffer, addr); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
}

func TestAPipeNeverWaitsForItsReader(t *testing.T) {
	p := newPipe(nil)
	for range 3 * pipeDepth {
		p.put(arrival{}, []byte("x"))
	}
	equal(t, "datagrams", len(p.in), pipeDepth)
}
