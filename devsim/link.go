package devsim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// dial is how one unit misbehaves; the zero value is a unit in good health.
type dial struct {
	mute      bool
	exception byte
	delay     time.Duration
}

// link is one Modbus server, or the far end of a serial line, with the units behind it.
type link struct {
	name     string
	listener net.Listener // of a serial line, the port that is plugged in
	wire     framer
	shared   bool            // the units hear every request themselves: there is nobody to answer for those that are not there
	units    map[uint8]*unit // fixed by New
	now      func() time.Time
	log      zerolog.Logger
	requests atomic.Uint64
	clock    *lineClock // of a serial line; nil: as fast as it goes

	mu      sync.Mutex // guards the fields below
	dials   map[uint8]dial
	script  []Fault
	fired   []int // how often each fault was done
	random  *rand.Rand
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
	if err := newSession(l, conn).converse(ctx); errors.Is(err, errNotModbus) {
		l.log.Warn().Err(err).Stringer("peer", conn.RemoteAddr()).Msg("connection closed")
	}
}

// respond is the answer to a request; false if there is none. A unit that is not in the mapping is
// answered for like a serial gateway does for a silent slave (MB-8), but on a line of its own it is silent.
// There, unit 0 is every unit, and none answers (MB-26).
func (l *link) respond(r frame, d dial) (frame, bool) {
	pdu, now := make([]byte, 0, maxPDU), tickOf(l.now())
	u := l.units[r.unit]
	switch {
	case d.exception != 0:
		pdu = appendException(pdu, r.pdu[0], exception(d.exception))
	case l.shared && r.unit == 0:
		for id, u := range l.units {
			if !l.dial(id).mute {
				u.answer(nil, r.pdu, now)
			}
		}
		return frame{}, false
	case u == nil && l.shared:
		return frame{}, false
	case u == nil:
		pdu = appendException(pdu, r.pdu[0], targetNoResponse)
	default:
		pdu = u.answer(pdu, r.pdu, now)
	}
	return frame{r.id, r.unit, pdu}, true
}

// mood is how the unit of a request behaves this time; the fault is nil if nothing is wrong with it.
func (l *link) mood(r frame) (dial, *Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.dials[r.unit]
	if d.mute {
		return d, nil
	}
	for i := range l.script {
		f := &l.script[i]
		done := f.Times > 0 && l.fired[i] >= f.Times
		if done || !f.fits(r) || f.Chance > 0 && l.random.Float64() >= f.Chance {
			continue
		}
		l.fired[i]++
		return d, f
	}
	return d, nil
}

// spoil is Fault.spoil with the link's randomness.
func (l *link) spoil(f *Fault, r, answer frame) []piece {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f.spoil(l.wire, r, answer, l.random)
}

// play replaces the script.
func (l *link) play(script []Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.script, l.fired = slices.Clone(script), make([]int, len(script))
	l.log.Info().Int("faults", len(script)).Msg("fault script")
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
