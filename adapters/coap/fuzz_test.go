package coap

import (
	"net/netip"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/rs/zerolog"
)

// FuzzGate sends up to four messages of one peer through the whole listener, without the network.
func FuzzGate(f *testing.F) {
	one, two := post(1, "0123456789abcdef", block1(0, true, 0)), post(2, "[]", block1(1, false, 0))
	f.Add(encoded(f, post(1, temp21)), encoded(f, post(1, temp21)), []byte{0x40, 0, 0, 1}, []byte{0x70, 0, 0, 1})
	f.Add(encoded(f, one), encoded(f, two), encoded(f, two), encoded(f, one))
	f.Add(encoded(f, post(1, "x", message.Option{ID: 9, Value: []byte{1}})), []byte{0x50}, []byte{}, []byte{0x60, 0x45, 0, 1})
	socket, err := listen("127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(socket.close)
	// Answers go to the socket itself, where nobody reads them.
	peer := udpPeer{socket, arrival{from: netip.MustParseAddrPort(socket.addr())}}
	f.Fuzz(func(t *testing.T, a, b, c, d []byte) {
		adapter := New(plainConfig(), zerolog.Nop())
		adapter.start(time.Now())
		for _, datagram := range [][]byte{a, b, c, d} {
			adapter.receive(peer, datagram)
		}
		if n := adapter.waiting; n != len(adapter.reports) || n != len(adapter.exchanges.running) {
			t.Fatalf("%d waiting, %d reports, %d running", n, len(adapter.reports), len(adapter.exchanges.running))
		}
		for _, r := range adapter.gather(nil) {
			sane(t, r.samples, time.Now())
			adapter.settle(r, nil, false)
		}
		if adapter.waiting != 0 || adapter.samples != 0 || len(adapter.exchanges.running) != 0 {
			t.Fatalf("left: %d reports, %d samples, %d exchanges", adapter.waiting, adapter.samples, len(adapter.exchanges.running))
		}
		s := adapter.Stats()
		if total := s.Reports + s.Refused + s.Ignored + s.Repeated; total > 4 {
			t.Fatalf("4 messages, but %+v", s)
		}
	})
}
