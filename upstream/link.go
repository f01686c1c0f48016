package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
)

const (
	refusalFactor   = 3 // credentials rarely heal by themselves, but they do (CON-37)
	stableAfter     = 60 * time.Second
	quickLoss       = 30 * time.Second // a connection that ends sooner, conflictAfter times in a row,
	conflictAfter   = 3                // is most likely taken over by somebody else (CON-45)
	refusedNotAuth  = 5
	refusedBadLogin = 4
)

// LinkStats says how one identity's connection is doing.
type LinkStats struct {
	Identity  gateway.IdentityID
	Connected bool
	Since     time.Time // of the present state; zero before the first attempt has ended
	Connects  uint64    // connections that the hub accepted
	Sent      uint64    // messages sent, repeats included
	Repeated  uint64    // messages sent again after a loss
	Acked     uint64    // messages that the hub acknowledged
	LastError string    // why the last connection ended or failed, or why the lane cannot go on; "" if all is well
}

// link is one identity's place in the pool: it outlives connections.
type link struct {
	pool   *Pool
	member Member
	random func() float64
	log    zerolog.Logger
	down

	refusals int            // keep's: of credentials in a row, for the next attempt
	failures int            // keep's: attempts in a row that ended without a connection
	work     sync.WaitGroup // commands and turns in work
	busy     atomic.Int32   // commands in work
	acked    atomic.Uint64  // sequence released last
	highest  atomic.Uint64  // sequence sent last
	sent     atomic.Uint64
	repeated atomic.Uint64
	received atomic.Uint64

	mu        sync.Mutex // guards the fields below
	up        bool
	since     time.Time
	connects  uint64
	lastError string
	told      string // the reason that has been logged
}

// keep holds the connection up until ctx ends. All knowledge of when to try again is here.
func (l *link) keep(ctx context.Context) {
	quick := 0 // connections in a row that ended soon after they were made
	for tries := 0; ; {
		if l.pool.pace.Wait(ctx) != nil {
			return
		}
		before, start, connects := l.received.Load(), time.Now(), l.stats().Connects
		err := l.serve(ctx)
		if ctx.Err() != nil {
			l.noteLost(nil)
			return
		}
		if errors.Is(err, errRenew) {
			l.noteLost(err)
			l.log.Debug().Msg("renewing the token with a new connection")
			tries, quick = 0, 0
			continue
		}
		if quick++; l.stats().Connects == connects || time.Since(start) > quickLoss {
			quick = 0
		}
		if quick >= conflictAfter {
			err = fmt.Errorf("%w, again and again just after connecting: does another gateway or tool use this identity?", err)
		}
		if time.Since(start) >= stableAfter && l.received.Load() > before {
			tries = 0
		}
		pause := delay(tries, l.mostPause(err), l.random())
		l.logLoss(err, pause)
		tries++
		if !l.pause(ctx, pause, err) {
			return
		}
	}
}

// pause waits before the next attempt; what is healed by setting the clock is tried again once that
// is done.
func (l *link) pause(ctx context.Context, d time.Duration, err error) bool {
	if aboutClock(err) {
		return l.pool.clocks.untilSet(ctx, d)
	}
	return wait(ctx, d)
}

// logLoss says why there is no connection: aloud when that is news.
func (l *link) logLoss(err error, pause time.Duration) {
	level := zerolog.DebugLevel
	if l.noteLost(err) {
		level = zerolog.WarnLevel
	}
	l.log.WithLevel(level).Err(err).Stringer("retry_in", pause.Round(100*time.Millisecond)).Msg("no connection to the hub; trying again, later less often")
}

// mostPause is how far the backoff grows after err.
func (l *link) mostPause(err error) time.Duration {
	var refused *refusedError
	if errors.As(err, &refused) && refused.credentials() && !aboutClock(err) {
		return refusalFactor * l.pool.cfg.RetryMost
	}
	return l.pool.cfg.RetryMost
}

// wait pauses for d; false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// dispatch runs f beside the connection; false if too much is in work already.
func (l *link) dispatch(f func()) bool {
	if l.busy.Add(1) > commandBacklog {
		l.busy.Add(-1)
		return false
	}
	l.work.Go(func() {
		defer l.busy.Add(-1)
		f()
	})
	return true
}

func (l *link) noteConnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	event := l.log.Info()
	switch {
	case l.told != "":
		event = event.Stringer("after", time.Since(l.since).Round(time.Second))
	case l.connects > 0:
		event = l.log.Debug() // a renewal
	}
	event.Msg("connected to the hub")
	l.up, l.since, l.lastError, l.told = true, time.Now(), "", ""
	l.connects++
}

// noteLost tells whether err is another reason than the one that is known already.
func (l *link) noteLost(err error) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.up || l.since.IsZero() {
		l.since = time.Now()
	}
	l.up = false
	if err != nil && !errors.Is(err, errRenew) {
		l.lastError = err.Error()
	}
	news = l.lastError != l.told
	l.told = l.lastError
	return news
}

// noteTrouble is about the lane: the connection stands.
func (l *link) noteTrouble(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lastError != err.Error() {
		l.log.Error().Err(err).Msg("the queue cannot deliver; commands still work")
	}
	l.lastError = err.Error()
}

func (l *link) noteSent(seq uint64) {
	l.sent.Add(1)
	if seq <= l.highest.Load() {
		l.repeated.Add(1)
		return
	}
	l.highest.Store(seq)
}

func (l *link) noteAcked(seq uint64) {
	l.acked.Store(seq)
	l.received.Add(1)
}

func (l *link) stats() LinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return LinkStats{
		Identity: l.member.ID, Connected: l.up, Since: l.since, Connects: l.connects, LastError: l.lastError,
		Sent: l.sent.Load(), Repeated: l.repeated.Load(), Acked: l.received.Load(),
	}
}
