package coap

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// pipeDepth is how many datagrams may wait for a session. More are lost, as UDP may lose them.
const pipeDepth = 16

// pipe is the socket as one DTLS session sees it: what the door lets through comes in, what the
// session writes goes out. It implements net.PacketConn.
type pipe struct {
	socket *socket
	in     chan piped
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex    // guards the fields below
	local   netip.Addr    // where the peer sent its latest datagram to
	expired chan struct{} // closed while the read deadline is past
	timer   *time.Timer
}

type piped struct {
	datagram []byte
	from     netip.AddrPort
}

func newPipe(s *socket) *pipe {
	return &pipe{socket: s, in: make(chan piped, pipeDepth), closed: make(chan struct{}), expired: make(chan struct{})}
}

// put hands a datagram in without ever waiting.
func (p *pipe) put(a arrival, datagram []byte) {
	p.mu.Lock()
	p.local = a.local
	p.mu.Unlock()
	select {
	case p.in <- piped{datagram, a.from}:
	default:
	}
}

func (p *pipe) ReadFrom(b []byte) (int, net.Addr, error) {
	p.mu.Lock()
	expired := p.expired
	p.mu.Unlock()
	select {
	case <-p.closed:
		return 0, nil, net.ErrClosed
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	default:
	}
	select {
	case <-p.closed:
		return 0, nil, net.ErrClosed
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	case d := <-p.in:
		return copy(b, d.datagram), net.UDPAddrFromAddrPort(d.from), nil
	}
}

func (p *pipe) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-p.closed:
		return 0, net.ErrClosed
	default:
	}
	addr, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError("not a UDP address")
	}
	p.mu.Lock()
	local := p.local
	p.mu.Unlock()
	if err := p.socket.write(b, addr.AddrPort(), local); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.SetReadDeadline(time.Time{})
}

func (p *pipe) LocalAddr() net.Addr { return p.socket.conn.LocalAddr() }

func (p *pipe) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

// SetReadDeadline makes the present and every later ReadFrom end at t; the zero time takes it back.
func (p *pipe) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	select {
	case <-p.expired:
		p.expired = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	if wait <= 0 {
		close(p.expired)
		return nil
	}
	generation := p.expired
	p.timer = time.AfterFunc(wait, func() { p.expire(generation) })
	return nil
}

// expire ends reads under the deadline of that generation, unless another was set in the meantime.
func (p *pipe) expire(generation chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil && p.expired == generation {
		p.timer = nil
		close(generation)
	}
}

// SetWriteDeadline does nothing: sending a datagram does not wait.
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }
