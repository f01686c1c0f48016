package faultnet

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pieceSize = 16 << 10
	// ahead is how many pieces of a direction may be under way: with a Delay, more would need a window.
	ahead = 64
)

// Conn is one connection that is forwarded.
type Conn struct {
	near, far *net.TCPConn
	end       context.CancelFunc // of ctx, which ends with the connection
	ctx       context.Context

	mu        sync.Mutex // guards the fields below
	condition Condition
	changed   chan struct{} // closed when condition changes
}

func newConn(near, far *net.TCPConn) *Conn {
	c := &Conn{near: near, far: far, changed: make(chan struct{})}
	for _, conn := range []*net.TCPConn{near, far} {
		_ = conn.SetKeepAlive(false) // it would end a half-open connection
	}
	c.ctx, c.end = context.WithCancel(context.Background())
	return c
}

// Set puts the connection into a condition.
func (c *Conn) Set(condition Condition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if condition.HalfOpen != c.condition.HalfOpen {
		deaf(c.near, condition.HalfOpen)
		deaf(c.far, condition.HalfOpen)
	}
	c.condition = condition
	close(c.changed)
	c.changed = make(chan struct{})
}

// Cut ends the connection as a peer does that closes it: each side sees the end of the stream, or an
// error if it had sent what nobody read.
func (c *Conn) Cut() {
	_, _ = c.near.CloseWrite(), c.far.CloseWrite()
	c.end()
}

// Reset aborts the connection as a peer does that has crashed and come back: each side gets an error.
func (c *Conn) Reset() {
	reset(c.near)
	reset(c.far)
	c.end()
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }

// run forwards until the connection or ctx ends.
func (c *Conn) run(ctx context.Context) {
	defer context.AfterFunc(ctx, c.end)()
	defer context.AfterFunc(c.ctx, func() { _, _ = c.near.Close(), c.far.Close() })()
	defer c.end()
	var pumps sync.WaitGroup
	for _, way := range []struct{ from, to *net.TCPConn }{{c.near, c.far}, {c.far, c.near}} {
		pieces := make(chan piece, ahead)
		pumps.Go(func() { c.take(way.from, pieces) })
		pumps.Go(func() { c.give(way.to, pieces) })
	}
	pumps.Wait()
}

// piece is what came in one read, and when.
type piece struct {
	data []byte
	at   time.Time
}

// take reads pieces until the stream or the connection ends. An error of one side becomes one of the other.
func (c *Conn) take(from *net.TCPConn, pieces chan<- piece) {
	defer close(pieces)
	for c.flows() {
		buf := make([]byte, pieceSize)
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case pieces <- piece{buf[:n], time.Now()}:
			case <-c.ctx.Done():
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			c.Reset()
			return
		}
	}
}

// give writes pieces when they are due. The end of one direction leaves the other open; an error ends both.
func (c *Conn) give(to *net.TCPConn, pieces <-chan piece) {
	for p := range pieces {
		now := c.current()
		if !c.pause(time.Until(p.at.Add(now.Delay))) || !c.flows() {
			continue // drain, so that take ends
		}
		if _, err := to.Write(p.data); err != nil {
			c.end()
			continue
		}
		if now.Rate > 0 {
			c.pause(time.Duration(float64(len(p.data)) / float64(now.Rate) * float64(time.Second)))
		}
	}
	_ = to.CloseWrite()
}

func (c *Conn) current() Condition {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.condition
}

// flows waits until bytes may pass; false if the connection has ended.
func (c *Conn) flows() bool {
	for {
		c.mu.Lock()
		held, changed := c.condition.Stall || c.condition.HalfOpen, c.changed
		c.mu.Unlock()
		if !held {
			return c.ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return false
		}
	}
}

// pause waits; false if the connection ended.
func (c *Conn) pause(d time.Duration) bool {
	if d <= 0 {
		return c.ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// reset closes conn with an RST.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// deaf makes the kernel drop every packet that arrives for conn, before TCP sees it, or ends that. A
// socket filter that accepts no byte does it, without rights.
func deaf(conn *net.TCPConn, on bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return // closed: it hears nothing anyway
	}
	_ = raw.Control(func(fd uintptr) {
		if !on {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
			return
		}
		nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	})
}
