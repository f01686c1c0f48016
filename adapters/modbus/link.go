package modbus

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/rs/zerolog"
)

const (
	backoffFirst = time.Second     // MB-81
	backoffLast  = 2 * time.Minute // MB-81
	backoffReset = time.Minute     // MB-81: up for so long, the next trouble starts from the first delay
	// pauseMin is the least time between the end of a connection and the next one: a PLC with one
	// socket needs it (MB-81).
	pauseMin = 100 * time.Millisecond
	// silentMax is how many requests in a row, over all units, may stay without an answer (MB-80).
	silentMax = 3
	// idleCheck is how long a connection may rest before it is asked whether the peer still has it.
	idleCheck = 20 * time.Millisecond
	// peekTime is how long that question takes.
	peekTime = time.Millisecond
)

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// link is one connection to one address, and what comes after it ends: the transporter under the
// clients of all units (MB-110, MB-111). It belongs to one goroutine.
type link struct {
	address string
	timeout time.Duration
	dial    dialFunc
	log     zerolog.Logger
	note    func(func(*LinkStats))
	stale   func(unit uint8)
	random  func() float64

	conn     net.Conn // nil: not connected
	in       *bufio.Reader
	id       uint16 // transaction id of the last request; starts at random (MB-10)
	answered bool   // the connection has carried an answer
	silent   int    // requests without an answer, in a row
	since    time.Time
	used     time.Time
	opened   int // connections so far

	tries    int // delays since the link was well
	nextDial time.Time
	ended    time.Time     // when the last connection ended
	failed   bool          // a dial has failed since then
	why      error         // why there is no connection
	level    zerolog.Level // of the log line about the next one

	ctx     context.Context // of the exchange that runs; aborts it
	quiet   bool            // the exchange that runs asks a unit known to be silent
	arrived time.Time       // when the last answer was complete
}

// defaultDial opens a TCP connection with explicit keep-alive (MB-16).
func defaultDial() dialFunc {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3,
	}}
	return d.DialContext
}

// backoff is the delay before the dial that follows tries earlier ones: full jitter over 1 s·2^tries,
// at most 2 min, at least 100 ms (MB-81). r is in [0, 1).
func backoff(tries int, r float64) time.Duration {
	limit := backoffLast
	if tries < 7 { // 1 s << 7 is beyond the limit
		limit = min(backoffFirst<<max(tries, 0), backoffLast)
	}
	return max(time.Duration(r*float64(limit)), pauseMin)
}

// ready makes sure that there is a connection. An urgent caller does not wait for the backoff, only
// for the pause that a PLC needs.
func (l *link) ready(ctx context.Context, urgent bool) *fault {
	if l.conn != nil && time.Since(l.used) > idleCheck {
		l.checkPeer()
	}
	if l.conn != nil {
		return nil
	}
	wait := time.Until(l.nextDial)
	if urgent {
		wait = min(wait, time.Until(l.ended.Add(pauseMin)))
		if !sleep(ctx, wait) {
			return &fault{kind: aborted, err: context.Cause(ctx)}
		}
	} else if wait > 0 {
		brief := !l.failed && time.Since(l.ended) < backoffFirst
		return &fault{kind: down, waiting: brief, err: fmt.Errorf("not connected: %w", l.why)}
	}
	return l.connect(ctx)
}

func (l *link) connect(ctx context.Context) *fault {
	limited, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	conn, err := l.dial(limited, "tcp", l.address)
	if err != nil {
		if ctx.Err() != nil {
			return &fault{kind: aborted, err: context.Cause(ctx)}
		}
		if !l.failed {
			l.log.Warn().Err(err).Msg("cannot connect")
			l.level = zerolog.InfoLevel
		}
		l.failed, l.why = true, err
		l.retreat()
		l.note(func(s *LinkStats) { s.LastError = err.Error() })
		return &fault{kind: down, err: err}
	}
	l.conn, l.in = conn, bufio.NewReaderSize(conn, 512)
	l.id = uint16(rand.Uint32())
	l.answered, l.silent, l.failed = false, 0, false
	l.since = time.Now()
	l.used = l.since
	l.opened++
	l.log.WithLevel(l.level).Str("local", conn.LocalAddr().String()).Msg("connected")
	l.note(func(s *LinkStats) { s.Up, s.Since, s.Connects = true, l.since, s.Connects+1 })
	return nil
}

// retreat sets when the next dial may be.
func (l *link) retreat() {
	l.nextDial = time.Now().Add(backoff(l.tries, l.random()))
	l.tries++
}

// checkPeer drops a connection that the peer has ended while nobody looked. Bytes that wait stay in
// the reader.
func (l *link) checkPeer() {
	_ = l.conn.SetReadDeadline(time.Now().Add(peekTime))
	if _, err := l.in.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		l.drop(fmt.Errorf("the peer closed the connection: %w", err), l.answered)
	}
}

// drop ends the connection. After free, the peer ended one that had worked, the next dial need not
// wait.
func (l *link) drop(why error, free bool) {
	if l.conn == nil {
		return
	}
	_ = l.conn.Close() // the connection is given up whatever this says
	l.conn, l.in = nil, nil
	now := time.Now()
	up := now.Sub(l.since)
	switch {
	case up >= backoffReset:
		l.tries = 0
	case l.answered: // it works in between: trouble now and then must not add up to minutes
		l.tries = min(l.tries, 1)
	}
	l.ended, l.nextDial, l.why = now, now, why
	if !free {
		l.retreat()
	}
	level := zerolog.WarnLevel
	l.level = zerolog.InfoLevel
	switch {
	case free: // some peers do so after each answer
		level, l.level = zerolog.DebugLevel, zerolog.DebugLevel
	case l.ctx != nil && l.ctx.Err() != nil:
		level = zerolog.InfoLevel // we are stopping
	}
	l.log.WithLevel(level).Err(why).Stringer("up", up.Round(time.Millisecond)).Msg("connection ended")
	l.note(func(s *LinkStats) { s.Up, s.Since, s.LastError = false, now, why.Error() })
}

// Send carries one request and returns the answer with its transaction id; it implements goburrow's
// Transporter. It gives the request an id of its own, unique on the connection, in place: every
// goburrow packager counts from 1 for itself, and an answer that came too late must not pass for
// the one to the next request. An error is a *fault.
func (l *link) Send(request []byte) ([]byte, error) {
	if l.conn == nil {
		return nil, &fault{kind: down, err: errors.New("not connected")}
	}
	l.id++
	binary.BigEndian.PutUint16(request, l.id)
	conn := l.conn
	_ = conn.SetDeadline(time.Now().Add(l.timeout)) // one for both ways; a dead connection shows in Write
	past := make(chan struct{})
	stop := context.AfterFunc(l.ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0))
		close(past)
	})
	defer func() {
		if !stop() {
			<-past // the deadline of the next request must not be overwritten
		}
	}()
	l.note(func(s *LinkStats) { s.Requests++ })
	n, err := conn.Write(request)
	if err != nil {
		return nil, l.fail(n > 0, &frameError{err: err})
	}
	answer, err := l.await()
	l.used = time.Now()
	if err != nil {
		return nil, l.fail(true, err)
	}
	l.arrived, l.answered, l.silent = l.used, true, 0
	return answer, nil
}

// await reads frames until the answer to the last request comes; others are late or duplicate and
// dropped (MB-112).
func (l *link) await() ([]byte, error) {
	for {
		frame, err := readFrame(l.in)
		if err != nil {
			return nil, err
		}
		if transaction(frame) == l.id {
			return frame, nil
		}
		l.stale(unitOf(frame))
	}
}

// fail turns the error of an exchange into a fault, and ends the connection unless nothing of an
// answer came in time (MB-80).
func (l *link) fail(sent bool, err error) *fault {
	frame := new(frameError)
	errors.As(err, &frame)
	timeout := errors.Is(err, os.ErrDeadlineExceeded)
	f := &fault{kind: lost, sent: sent}
	switch {
	case l.ctx.Err() != nil:
		f.kind, f.err = aborted, fmt.Errorf("given up: %w", context.Cause(l.ctx))
	case frame.foreign:
		return l.violation(err)
	case timeout && sent && !frame.partial:
		return l.miss()
	case timeout:
		f.err = fmt.Errorf("the exchange was not complete within %s", l.timeout)
	default:
		f.err = fmt.Errorf("the connection broke: %w", err)
		f.closed = l.answered && !frame.partial
	}
	l.drop(f.err, f.closed)
	return f
}

// miss counts a request without an answer.
func (l *link) miss() *fault {
	err := fmt.Errorf("nothing came within %s", l.timeout)
	l.note(func(s *LinkStats) { s.Timeouts++ })
	if !l.quiet {
		l.silent++
	}
	if l.silent >= silentMax {
		l.drop(fmt.Errorf("%d requests in a row without an answer", l.silent), false)
	}
	return &fault{kind: silent, sent: true, err: err}
}

// violation ends the connection because of an answer that is none (MB-92, MB-95, MB-96).
func (l *link) violation(err error) *fault {
	l.note(func(s *LinkStats) { s.Violations++ })
	l.drop(err, false)
	return &fault{kind: violated, sent: true, err: err}
}

// sleep waits for d and tells whether it was not cut short by ctx.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
