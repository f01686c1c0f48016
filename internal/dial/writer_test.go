package dial

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestEverythingWrittenArrivesInOrder(t *testing.T) {
	near, far := net.Pipe()
	got := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(far)
		got <- all
	}()
	guarded := Guard(near, time.Second, 300)
	var want bytes.Buffer
	for i := range 5000 {
		piece := bytes.Repeat([]byte{byte(i)}, 1+i%97)
		want.Write(piece)
		if n, err := guarded.Write(piece); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := guarded.Close(); err != nil {
		t.Fatal(err)
	}
	if all := <-got; !bytes.Equal(all, want.Bytes()) {
		t.Errorf("%d bytes arrived of %d, or in another order", len(all), want.Len())
	}
}

// counter counts the writes that reach the connection.
type counter struct {
	net.Conn
	writes int
	gate   chan struct{}
}

func (c *counter) Write(b []byte) (int, error) {
	c.writes++
	<-c.gate
	return c.Conn.Write(b)
}

func TestPacketsThatComeDuringAWriteLeaveTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		c := &counter{Conn: near, gate: make(chan struct{})}
		guarded := Guard(c, time.Second, 300)
		for range 100 {
			if _, err := guarded.Write([]byte{0xc0, 0}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		close(c.gate)
		synctest.Wait()
		if c.writes != 2 {
			t.Errorf("%d writes; the first packet and then the other 99 make 2", c.writes)
		}
		guarded.Close()
		far.Close()
	})
}

func TestAPeerThatStopsReadingIsGivenUpAfterTheWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		guarded := Guard(near, 10*time.Second, 300)
		start := time.Now()
		var err error
		for err == nil {
			_, err = guarded.Write(make([]byte, 1000)) // waits once 64 KiB are unsent
		}
		if waited := time.Since(start); waited != 10*time.Second || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("gave up after %v: %v", waited, err)
		}
		guarded.Close()
	})
}

func TestClosingWaitsOnlyAMomentForAPeerThatStopsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		guarded := Guard(near, 10*time.Second, 300)
		if _, err := guarded.Write([]byte{0xe0, 0}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		start := time.Now()
		guarded.Close()
		if waited := time.Since(start); waited > closeWait {
			t.Errorf("closing took %v", waited)
		}
		if _, err := guarded.Write([]byte{0xc0, 0}); err == nil {
			t.Error("a write after closing succeeded")
		}
	})
}

func TestWhoReadsLearnsThatSendingFailedAndNotThatTheConnectionWasClosedOnPurpose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		guarded := Guard(near, time.Second, 300)
		read := make(chan error, 1)
		go func() {
			_, err := guarded.Read(make([]byte, 1))
			read <- err
		}()
		if _, err := guarded.Write([]byte{0xc0, 0}); err != nil { // nobody takes it
			t.Fatal(err)
		}
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			t.Errorf("the reader hears %v", err)
		}
	})
}
