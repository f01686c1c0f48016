package faultnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"iothub-gateway/internal/testkit"
)

// bed is a network in front of a server that sends back what it gets.
type bed struct {
	t      *testing.T
	net    *Net
	server net.Listener
}

func newBed(t *testing.T) *bed {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	b := &bed{t: t, server: echo(t, "")}
	n, err := New(b.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b.net = n
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if left := len(n.Conns()); left > 0 {
			t.Errorf("%d connections are left after Run", left)
		}
	})
	return b
}

// echo serves until the test ends; each answer begins with mark.
func echo(t *testing.T, mark string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				_, _ = io.WriteString(c, mark)
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); conns.Wait() })
	return l
}

// dial connects through the network and returns the connection and its place there.
func (b *bed) dial() (net.Conn, *Conn) {
	b.t.Helper()
	c, err := net.Dial("tcp", b.net.Addr())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	var conn *Conn
	testkit.Eventually(b.t, "it is forwarded", func() bool {
		for _, conn = range b.net.Conns() {
			if conn.near.RemoteAddr().String() == c.LocalAddr().String() {
				return true
			}
		}
		return false
	})
	return c, conn
}

// hears tells whether an answer to what was sent arrives within a time.
func hears(t *testing.T, c net.Conn, within time.Duration) bool {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(within))
	var one [1]byte
	_, err := io.ReadFull(c, one[:])
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Fatal(err)
	}
	return err == nil
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func say(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte{'.'}); err != nil {
		t.Fatal(err)
	}
}

const (
	soon  = 5 * time.Second
	never = 150 * time.Millisecond
)

func TestWhatIsForwardedArrivesUnchanged(t *testing.T) {
	for name, condition := range map[string]Condition{
		"well": {}, "late": {Delay: 20 * time.Millisecond}, "slow": {Rate: 2 << 20, Delay: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.net.Set(condition)
			c, _ := b.dial()
			want := make([]byte, 300<<10)
			r := rand.NewChaCha8([32]byte{1})
			_, _ = r.Read(want)
			var sent sync.WaitGroup
			sent.Go(func() {
				_, _ = c.Write(want)
				_ = c.(*net.TCPConn).CloseWrite()
			})
			got, err := io.ReadAll(c)
			sent.Wait()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d came back, %v", len(got), len(want), err)
			}
		})
	}
}

func TestAStalledConnectionGoesOnWhereItStopped(t *testing.T) {
	b := newBed(t)
	stalled, conn := b.dial()
	other, _ := b.dial()
	conn.Set(Condition{Stall: true})
	say(t, stalled)
	say(t, other)
	if hears(t, stalled, never) || !hears(t, other, soon) {
		t.Error("one connection was to stall, and that one only")
	}
	conn.Set(Condition{})
	if !hears(t, stalled, soon) {
		t.Error("what was held back never arrived")
	}
}

func TestAHalfOpenConnectionAcknowledgesNothing(t *testing.T) {
	b := newBed(t)
	c, conn := b.dial()
	say(t, c)
	if !hears(t, c, soon) {
		t.Fatal("it does not work to begin with")
	}
	testkit.Eventually(b.t, "everything is acknowledged", func() bool { return unacknowledged(t, c) == 0 })
	conn.Set(Condition{HalfOpen: true})
	say(t, c)
	if hears(t, c, never) || unacknowledged(t, c) == 0 {
		t.Error("packets get through")
	}
	conn.Set(Condition{})
	if !hears(t, c, soon) {
		t.Error("what was lost is not sent again")
	}
}

// unacknowledged is how many segments the kernel has sent and not seen acknowledged.
func unacknowledged(t *testing.T, c net.Conn) (n uint32) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Error(err)
			return
		}
		n = info.Unacked
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestARateAndADelayAreKept(t *testing.T) {
	b := newBed(t)
	b.net.Set(Condition{Rate: 64 << 10}) // half a second for 32 KiB each way, of which the ways share most
	c, conn := b.dial()
	began := time.Now()
	var sent sync.WaitGroup
	sent.Go(func() { _, _ = c.Write(make([]byte, 32<<10)) })
	if _, err := io.ReadFull(c, make([]byte, 32<<10)); err != nil {
		t.Fatal(err)
	}
	sent.Wait()
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("32 KiB at 64 KiB a second took %v", took)
	}
	conn.Set(Condition{Delay: 100 * time.Millisecond})
	began = time.Now()
	say(t, c)
	if !hears(t, c, soon) || time.Since(began) < 200*time.Millisecond {
		t.Errorf("there and back took %v", time.Since(began))
	}
}

func TestCutAndResetEndAConnectionInTheirOwnWays(t *testing.T) {
	b := newBed(t)
	kept, _ := b.dial()
	cut, conn := b.dial()
	conn.Cut()
	if n, err := cut.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("cut: %d bytes, %v", n, err)
	}
	broken, conn := b.dial()
	conn.Reset()
	if n, err := broken.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: %d bytes, %v", n, err)
	}
	say(t, kept)
	if !hears(t, kept, soon) {
		t.Error("another connection suffered")
	}
	testkit.Eventually(b.t, "the others are gone", func() bool { return len(b.net.Conns()) == 1 })
	if n := b.net.Cut(); n != 1 {
		t.Errorf("%d connections were cut, want 1", n)
	}
	if _, err := kept.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("all cut: %v", err)
	}
}

func TestAResetOfOneSideIsOneOfTheOther(t *testing.T) {
	b := newBed(t)
	c, conn := b.dial()
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
	select {
	case <-conn.Done():
	case <-time.After(soon):
		t.Error("the connection still stands")
	}
}

func TestNewConnectionsAreRefusedOrSentElsewhere(t *testing.T) {
	b := newBed(t)
	b.net.Refuse(true)
	c, err := net.Dial("tcp", b.net.Addr())
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("refused: %v", err)
	}
	b.net.Refuse(false)
	b.net.Retarget(echo(t, "!").Addr().String())
	other, _ := b.dial()
	if !hears(t, other, soon) {
		t.Error("the new target does not answer")
	}
	if n := b.net.Accepted(); n != 2 {
		t.Errorf("%d connections counted, want 2", n)
	}
}
