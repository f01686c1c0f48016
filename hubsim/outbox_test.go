package hubsim

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// openOutbox runs an outbox whose writes the returned pipe end reads; stop ends it.
func openOutbox(limit int) (o *outbox, client net.Conn, stop func()) {
	client, server := net.Pipe()
	o = newOutbox(server, limit)
	end := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { _ = o.run(end) })
	return o, client, func() {
		close(end)
		_ = client.Close()
		running.Wait()
	}
}

// readAck is the packet id of the next PUBACK.
func readAck(t *testing.T, r io.Reader) uint16 {
	t.Helper()
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		t.Fatal(err)
	}
	if b[0] != 0x40 || b[1] != 2 {
		t.Fatalf("%x is no PUBACK", b)
	}
	return binary.BigEndian.Uint16(b[2:])
}

func TestAcknowledgementsLeaveInTheOrderOfThePublishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, client, stop := openOutbox(16)
		defer stop()
		o.ack(pendingAck{packet: 1, sequence: 1})
		o.ack(pendingAck{packet: 2}) // needs no disk, but comes second
		o.ack(pendingAck{packet: 3, sequence: 2})
		o.ack(pendingAck{packet: 4, sequence: 3})
		if got := silence(client); got != "" {
			t.Fatalf("%s left before anything was stored", got)
		}
		o.stored(2)
		got := []uint16{readAck(t, client), readAck(t, client), readAck(t, client)}
		if diff := cmp.Diff([]uint16{1, 2, 3}, got); diff != "" {
			t.Error(diff)
		}
		if got := silence(client); got != "" {
			t.Fatalf("%s left before its message was stored", got)
		}
		o.stored(3)
		if got := readAck(t, client); got != 4 {
			t.Errorf("PUBACK %d, want 4", got)
		}
	})
}

// silence waits a second for a byte; "" means that none came.
func silence(client net.Conn) string {
	_ = client.SetReadDeadline(time.Now().Add(time.Second))
	defer client.SetReadDeadline(time.Time{})
	var b [1]byte
	if n, _ := client.Read(b[:]); n > 0 {
		return "something"
	}
	return ""
}

func TestDelayedAndDroppedAcknowledgements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, client, stop := openOutbox(16)
		defer stop()
		start := time.Now()
		o.ack(pendingAck{packet: 1, due: start.Add(3 * time.Second)})
		o.ack(pendingAck{packet: 2, due: start.Add(time.Second)}) // earlier, but behind 1
		o.ack(pendingAck{packet: 3, drop: true})
		o.ack(pendingAck{packet: 4})
		if got := readAck(t, client); got != 1 || time.Since(start) != 3*time.Second {
			t.Errorf("PUBACK %d after %v", got, time.Since(start))
		}
		if got := []uint16{readAck(t, client), readAck(t, client)}; !cmp.Equal(got, []uint16{2, 4}) {
			t.Errorf("PUBACKs %v, want 2 and 4", got)
		}
	})
}

func TestAFullOutboxHoldsThePublisherBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, client, stop := openOutbox(2)
		defer stop()
		if o.ack(pendingAck{packet: 1, sequence: 1}) {
			t.Error("full with one of two")
		}
		if !o.ack(pendingAck{packet: 2, sequence: 2}) {
			t.Error("not full with two of two")
		}
		closing := make(chan struct{})
		waited := make(chan bool)
		go func() { waited <- o.wait(closing) }()
		synctest.Wait()
		select {
		case <-waited:
			t.Fatal("wait returned while full")
		default:
		}
		o.stored(1)
		if !<-waited {
			t.Error("wait says that the session ends")
		}
		readAck(t, client)
		o.ack(pendingAck{packet: 3, sequence: 3})
		go func() { waited <- o.wait(closing) }()
		synctest.Wait()
		close(closing)
		if <-waited {
			t.Error("wait says that there is room")
		}
	})
}

func TestAClientThatDoesNotReadIsHeldBackAndThenCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		o := newOutbox(server, 16)
		failed := make(chan error, 1)
		start := time.Now()
		go func() { failed <- o.run(make(chan struct{})) }()
		full := false
		for i := 1; !full; i++ {
			full = o.ack(pendingAck{packet: uint16(i)})
			synctest.Wait()
			if i > maxUnwritten {
				t.Fatal("the outbox grows without bound")
			}
		}
		if err := <-failed; err == nil || time.Since(start) != writeLimit {
			t.Errorf("the writer ended with %v after %v", err, time.Since(start))
		}
	})
}
