// Package faultnet is a bad network between any two parts of a test: it forwards TCP connections on
// loopback to a target and does to them, to one or to all, what networks do. It promises that
// what it forwards arrives unchanged and in order, that nothing gets through which a Condition holds
// back, and that when Run returns no connection and no goroutine of it is left.
package faultnet

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Condition is what happens to the bytes on a connection. The zero Condition forwards them at once.
type Condition struct {
	// Stall takes nothing from either side: what is sent is acknowledged by TCP until the buffers are
	// full, and goes no further.
	Stall bool
	// HalfOpen makes the packets of both sides vanish, as behind a router that has forgotten the
	// connection: nothing is acknowledged, and neither learns that the other has gone. Set back to false,
	// what was sent in the meantime arrives, as far as the kernels did not give up.
	HalfOpen bool
	// Rate is how many bytes a second pass in each direction; 0: as many as come.
	Rate int
	// Delay is how much later everything arrives; what is sent meanwhile is not held up by it.
	Delay time.Duration
}

// Net is the network in front of one target. Its methods may be called from any goroutine.
type Net struct {
	listener *net.TCPListener
	accepted atomic.Int64

	mu        sync.Mutex // guards the fields below
	target    string
	condition Condition
	refusing  bool
	conns     []*Conn // oldest first
}

// New takes an address on loopback and forwards to target, host:port, once Run is called.
func New(target string) (*Net, error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("faultnet: %w", err)
	}
	return &Net{listener: l, target: target}, nil
}

// Addr is the host:port to connect to instead of the target.
func (n *Net) Addr() string { return n.listener.Addr().String() }

// Run forwards until ctx ends; then it cuts every connection and returns nil.
func (n *Net) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = n.listener.Close() })()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		near, err := n.listener.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("faultnet: %w", err)
		}
		n.accepted.Add(1)
		conns.Go(func() { n.serve(ctx, near) })
	}
}

// serve forwards one connection to its end.
func (n *Net) serve(ctx context.Context, near *net.TCPConn) {
	n.mu.Lock()
	target, refusing := n.target, n.refusing
	n.mu.Unlock()
	var dialer net.Dialer
	far, err := dialer.DialContext(ctx, "tcp", target)
	if refusing || err != nil {
		if far != nil {
			_ = far.Close()
		}
		reset(near)
		return
	}
	c := newConn(near, far.(*net.TCPConn))
	n.mu.Lock()
	n.conns = append(n.conns, c)
	c.Set(n.condition)
	n.mu.Unlock()
	c.run(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = slices.DeleteFunc(n.conns, func(other *Conn) bool { return other == c })
}

// Set puts all connections into a condition, those to come too.
func (n *Net) Set(condition Condition) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.condition = condition
	for _, c := range n.conns {
		c.Set(condition)
	}
}

// Refuse resets new connections as soon as they are made; false ends that. Those that stand go on.
func (n *Net) Refuse(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refusing = on
}

// Retarget makes new connections go to another host:port, such as that of a peer that came back.
func (n *Net) Retarget(target string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.target = target
}

// Conns are the connections that stand, the oldest first.
func (n *Net) Conns() []*Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.conns)
}

// Accepted is how many connections were made since New, refused ones too.
func (n *Net) Accepted() int { return int(n.accepted.Load()) }

// Cut ends all connections, see Conn.Cut, and returns how many they were.
func (n *Net) Cut() int { return n.each((*Conn).Cut) }

// Reset aborts all connections, see Conn.Reset, and returns how many they were.
func (n *Net) Reset() int { return n.each((*Conn).Reset) }

func (n *Net) each(do func(*Conn)) int {
	conns := n.Conns()
	for _, c := range conns {
		do(c)
	}
	return len(conns)
}
