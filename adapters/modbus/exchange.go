package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	goburrow "github.com/goburrow/modbus"
)

// frameError says why there is no answer.
type frameError struct {
	partial bool // bytes of one have come: where the next frame begins is unknown
	foreign bool // what came is not Modbus
	noise   int  // bytes that were nothing
	err     error
}

func (e *frameError) Error() string { return e.err.Error() }

func (e *frameError) Unwrap() error { return e.err }

// Send carries one request and returns its answer, framed; it implements goburrow's Transporter. With
// the MBAP header it gives the request an id of its own, unique on the connection, in place: every
// goburrow packager counts from 1 for itself, and an answer that came too late must not pass for the
// one to the next request. An error is a *fault.
func (l *link) Send(request []byte) ([]byte, error) {
	if l.conn == nil {
		return nil, &fault{kind: down, err: errors.New("not connected")}
	}
	q := l.framing.query(request)
	if l.cfg.ReadOnly && !reads(q.pdu[0]) {
		return nil, &fault{kind: forbidden, err: fmt.Errorf("the link is read only: function %d was not sent", q.pdu[0])}
	}
	release := l.guard()
	defer release()
	if l.silence > 0 && l.cfg.Framing != MBAP && l.echo == echoUnknown && q.mirrors() {
		if f := l.learnEcho(q); f != nil {
			return nil, f
		}
	}
	answer, f := l.carry(q)
	if f != nil {
		return nil, f
	}
	return answer, nil
}

// reads tells whether a function code cannot change a device.
func reads(fc byte) bool { return fc >= byte(Coil) && fc <= byte(Input) }

// guard makes the end of the exchange's ctx end what waits at the connection, until it is released.
func (l *link) guard() (release func()) {
	conn := l.conn
	past := make(chan struct{})
	stop := context.AfterFunc(l.ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0))
		close(past)
	})
	return func() {
		if !stop() {
			<-past // the deadline of the next request must not be overwritten
		}
	}
}

// learnEcho finds out whether the line returns requests, by a read at the place of a write whose answer
// would look like its echo: a write must not be confirmed by its own echo (MB-27).
func (l *link) learnEcho(q query) *fault {
	read := byte(Holding)
	if q.pdu[0] == fcWriteCoil {
		read = byte(Coil)
	}
	request, err := l.framing.packager(q.unit).Encode(&goburrow.ProtocolDataUnit{FunctionCode: read, Data: []byte{q.pdu[1], q.pdu[2], 0, 1}})
	if err != nil {
		return &fault{kind: impossible, err: err}
	}
	if _, f := l.carry(l.framing.query(request)); f != nil {
		f.sent = false // the write was not
		return f
	}
	if !sleep(l.ctx, l.silence) {
		return &fault{kind: aborted, err: context.Cause(l.ctx)}
	}
	return nil
}

// carry makes one exchange.
func (l *link) carry(q query) ([]byte, *fault) {
	if l.cfg.Framing == MBAP {
		l.id++
		binary.BigEndian.PutUint16(q.adu, l.id)
	}
	_ = l.conn.SetDeadline(time.Now().Add(l.patience)) // one for both ways; a dead connection shows in Write
	if l.ctx.Err() != nil {
		_ = l.conn.SetDeadline(time.Unix(1, 0)) // it may have ended before
	}
	q.echoes = l.echo == echoYes
	l.note(func(s *LinkStats) { s.Requests++ })
	n, err := l.conn.Write(q.adu)
	l.heard = time.Now()
	if err != nil {
		return nil, l.fail(n > 0, &frameError{partial: n > 0, err: err})
	}
	answer, err := l.await(q)
	l.used = time.Now()
	if err != nil {
		return nil, l.fail(true, err)
	}
	l.arrived, l.answered, l.silent = l.used, true, 0
	if l.cfg.IgnoreTransactionID && l.cfg.Framing == MBAP {
		copy(answer, q.adu[:2]) // the packager compares them
	}
	return answer, nil
}

// await reads until the answer comes; other frames are late, or twice, or somebody else's, and dropped
// (MB-112, MB-113). Its error is a *frameError.
func (l *link) await(q query) ([]byte, error) {
	heard, none := echoNo, 0
	for {
		f := l.framing.find(q, l.got)
		switch f.verdict {
		case incomplete:
			if q.over {
				return nil, &frameError{partial: len(l.got) > 0, noise: none, err: os.ErrDeadlineExceeded}
			}
			n, err := l.conn.Read(l.space())
			l.got = l.got[:len(l.got)+n]
			l.heard = time.Now()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				q.over = true
			} else if err != nil && n == 0 {
				return nil, &frameError{partial: len(l.got) > 0, err: err}
			}
			continue
		case answer:
			frame := slices.Clone(l.got[:f.size])
			l.consume(f.size)
			if !q.mirrors() {
				l.echo = heard
			}
			return frame, nil
		case echo:
			heard, q.echoes = echoYes, false
		case stray:
			l.stale(f.unit)
		case noise:
			none += f.size
		case broken:
			return nil, &frameError{partial: true, foreign: true, err: f.err}
		}
		l.consume(f.size)
	}
}

// fail turns the error of an exchange into a fault. It ends the connection unless it is only that no
// answer came in time and the next one can be told from it (MB-80, MB-113).
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
	case timeout && sent && (l.silence > 0 || !frame.partial):
		return l.miss(frame.noise + len(l.got))
	case timeout:
		f.err = fmt.Errorf("the exchange was not complete within %s", l.patience)
	default:
		f.err = fmt.Errorf("the connection broke: %w", err)
		f.closed = l.answered && !frame.partial
	}
	l.drop(f.err, f.closed)
	return f
}

// miss counts a request without an answer.
func (l *link) miss(noise int) *fault {
	err := fmt.Errorf("nothing came within %s", l.patience)
	if noise > 0 {
		err = fmt.Errorf("no answer came within %s, but %d bytes that are none", l.patience, noise)
	}
	l.note(func(s *LinkStats) { s.Timeouts++; s.Noise += uint64(noise) })
	if !l.quiet && l.cfg.Serial == nil { // a serial port does not get better by opening it again
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
