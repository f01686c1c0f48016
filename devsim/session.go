package devsim

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// restMax is how long the rest of a request may be under way where no length says that it is to come; what
// has come by then is dropped, like a device does after the silence of a frame (MB-22, MB-29).
const restMax = time.Second

// session is one client's connection, or a serial line.
type session struct {
	l        *link
	conn     net.Conn
	got      []byte // what has come and is no whole request yet
	limited  bool   // the connection has a read deadline
	answers  sync.WaitGroup
	speaking sync.Mutex // one answer at a time
}

func newSession(l *link, conn net.Conn) *session {
	return &session{l: l, conn: conn, got: make([]byte, 0, 2*maxASCII)}
}

// converse answers requests one after the other, in the order they came, until the connection ends. When
// it returns, late answers have been given up.
func (s *session) converse(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.answers.Wait()
	defer cancel()
	for {
		r, err := s.next()
		if err != nil {
			return err
		}
		s.l.requests.Add(1)
		if err := s.serve(ctx, r); err != nil {
			return err
		}
	}
}

// next waits for a request.
func (s *session) next() (frame, error) {
	for {
		r, size, err := s.l.wire.cut(s.got)
		if err != nil {
			return frame{}, err
		}
		r.pdu = slices.Clone(r.pdu)
		s.got = s.got[:copy(s.got, s.got[size:])]
		switch {
		case r.pdu != nil:
			return r, nil
		case size > 0:
			continue
		case len(s.got) == cap(s.got): // a flood of what is none
			s.got = s.got[:0]
		}
		s.limit()
		n, err := s.conn.Read(s.got[len(s.got):cap(s.got)])
		s.got = s.got[:len(s.got)+n]
		if s.l.clock != nil && n > 0 {
			s.l.clock.heard(n, time.Now())
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.got = s.got[:0]
		case err != nil && n == 0:
			return frame{}, err
		}
	}
}

// limit gives the rest of a request its time.
func (s *session) limit() {
	wanted := len(s.got) > 0 && s.l.shared
	switch {
	case wanted:
		_ = s.conn.SetReadDeadline(time.Now().Add(restMax)) // a broken connection shows in Read
	case s.limited:
		_ = s.conn.SetReadDeadline(time.Time{})
	}
	s.limited = wanted
}

// serve carries out one request and answers it.
func (s *session) serve(ctx context.Context, r frame) error {
	came := time.Now()
	d, fault := s.l.mood(r)
	if d.mute || fault != nil && fault.Do == Silent {
		return nil
	}
	if fault != nil && fault.Do == Exception {
		d.exception = fault.code()
	}
	answer, ok := s.l.respond(r, d)
	if !ok {
		return nil
	}
	if d.delay > 0 && !s.rest(ctx, d.delay) {
		return ctx.Err()
	}
	if fault == nil {
		return s.say(ctx, s.l.wire.pack(nil, answer))
	}
	pieces := s.l.spoil(fault, r, answer)
	if fault.Do == Late {
		s.answers.Go(func() { s.sayLate(ctx, pieces[0], came, fault.Until) })
		return nil
	}
	for _, p := range pieces {
		if p.wait > 0 && !wait(ctx, p.wait) {
			return ctx.Err()
		}
		if err := s.say(ctx, p.bytes); err != nil {
			return err
		}
	}
	if fault.Do == Hangup {
		return net.ErrClosed
	}
	return nil
}

// rest waits for d, on a line from the end of the request on.
func (s *session) rest(ctx context.Context, d time.Duration) bool {
	if s.l.clock == nil {
		return wait(ctx, d)
	}
	return waitUntil(ctx, s.l.clock.start(time.Now()).Add(d))
}

// sayLate sends an answer that others overtake, unless it would be later than the script allows.
func (s *session) sayLate(ctx context.Context, p piece, asked time.Time, until time.Duration) {
	if !wait(ctx, p.wait) {
		return
	}
	s.speaking.Lock()
	defer s.speaking.Unlock()
	end := time.Now()
	if s.l.clock != nil {
		end = s.l.clock.endOf(len(p.bytes), end)
	}
	if until == 0 || end.Sub(asked) <= until {
		_ = s.write(ctx, p.bytes) // the connection may have gone by now, which next notices
	}
}

func (s *session) say(ctx context.Context, b []byte) error {
	s.speaking.Lock()
	defer s.speaking.Unlock()
	return s.write(ctx, b)
}

// write sends b, at the pace of the line if there is one. The caller holds speaking.
func (s *session) write(ctx context.Context, b []byte) error {
	if s.l.clock != nil {
		return s.l.clock.send(ctx, s.conn, b)
	}
	_, err := s.conn.Write(b)
	return err
}
