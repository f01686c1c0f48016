package devsim

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// Sizes of a Modbus/TCP frame (MB-1, MB-9).
const (
	headerBytes = 7
	maxPDU      = 253
	maxFrame    = headerBytes + maxPDU
)

var errNotModbus = errors.New("not a Modbus/TCP frame")

// dial is how one unit misbehaves; the zero value is a unit in good health.
type dial struct {
	mute      bool
	exception byte
	delay     time.Duration
}

// link is one Modbus TCP server with the units behind it.
type link struct {
	name     string
	listener net.Listener
	units    map[uint8]*unit // fixed by New
	now      func() time.Time
	log      zerolog.Logger
	requests atomic.Uint64

	mu      sync.Mutex // guards the fields below
	dials   map[uint8]dial
	conns   map[net.Conn]struct{}
	stopped bool
}

// serve accepts connections until ctx ends. When it returns every connection is closed and its
// goroutine has ended.
func (l *link) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		<-ctx.Done()
		l.stop()
	})
	for {
		conn, err := l.listener.Accept()
		switch {
		case err == nil:
			running.Go(func() { l.attend(ctx, conn) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("devsim: link %s: %w: a Sim runs once", l.name, err)
		default:
			l.log.Warn().Err(err).Msg("cannot accept a connection, trying again")
			wait(ctx, 100*time.Millisecond) // out of descriptors: others may give theirs back
		}
	}
}

// stop closes the listener and every connection, for good.
func (l *link) stop() {
	l.listener.Close()
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	l.drop()
}

// drop closes every connection there is.
func (l *link) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		conn.Close()
	}
}

// attend serves one connection until it ends.
func (l *link) attend(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	l.mu.Lock()
	stopped := l.stopped
	if !stopped {
		l.conns[conn] = struct{}{}
	}
	l.mu.Unlock()
	if stopped {
		return
	}
	defer func() {
		l.mu.Lock()
		delete(l.conns, conn)
		l.mu.Unlock()
	}()
	if err := l.converse(ctx, conn); errors.Is(err, errNotModbus) {
		l.log.Warn().Err(err).Stringer("peer", conn.RemoteAddr()).Msg("connection closed")
	}
}

// converse answers requests one after the other, in the order they came, until the connection ends.
func (l *link) converse(ctx context.Context, conn io.ReadWriter) error {
	in := bufio.NewReaderSize(conn, 2*maxFrame)
	frame, out := make([]byte, maxFrame), make([]byte, 0, maxFrame)
	for {
		request, err := readFrame(in, frame)
		if err != nil {
			return err
		}
		l.requests.Add(1)
		d := l.dial(request[6])
		if d.mute {
			continue
		}
		out = l.respond(out[:0], request, d)
		if d.delay > 0 && !wait(ctx, d.delay) {
			return ctx.Err()
		}
		if _, err := conn.Write(out); err != nil {
			return err
		}
	}
}

// respond appends the answer to one request frame. A unit that is not in the mapping is answered for
// like a serial gateway does for a silent slave (MB-8).
func (l *link) respond(out, request []byte, d dial) []byte {
	pdu := request[headerBytes:]
	out = append(out, request[:headerBytes]...)
	u := l.units[request[6]]
	switch {
	case d.exception != 0:
		out = appendException(out, pdu[0], exception(d.exception))
	case u == nil:
		out = appendException(out, pdu[0], targetNoResponse)
	default:
		out = u.answer(out, pdu, tickOf(l.now()))
	}
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-headerBytes+1))
	return out
}

// readFrame reads one frame into buf by its length field alone, however the stream is cut into
// segments (MB-9). A header that cannot be one is errNotModbus: there is no way to find the next.
func readFrame(r io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:headerBytes]); err != nil {
		return nil, err
	}
	protocol, length := binary.BigEndian.Uint16(buf[2:]), int(binary.BigEndian.Uint16(buf[4:]))
	if protocol != 0 || length < 2 || length > maxPDU+1 {
		return nil, fmt.Errorf("%w: protocol %d, length %d", errNotModbus, protocol, length)
	}
	frame := buf[:headerBytes+length-1]
	_, err := io.ReadFull(r, frame[headerBytes:])
	return frame, err
}

func (l *link) dial(unit uint8) dial {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dials[unit]
}

// turn changes the dials of one unit.
func (l *link) turn(unit uint8, change func(*dial)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.dials[unit]
	change(&d)
	l.dials[unit] = d
	l.log.Info().Uint8("unit", unit).Bool("mute", d.mute).Uint8("exception", d.exception).
		Dur("delay", d.delay).Msg("dial turned")
}

// wait sleeps for d and tells whether ctx was still alive then.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
