package upstream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
)

const (
	refusedNotAuth  = 5
	refusedBadLogin = 4
)

// LinkStats says how one identity's connection is doing.
type LinkStats struct {
	Identity  gateway.IdentityID
	State     State
	Connected bool
	Since     time.Time // of being connected or not; zero before the first attempt has ended
	Connects  uint64    // connections that the hub accepted
	Sent      uint64    // messages sent, repeats included
	Repeated  uint64    // messages sent again after a loss
	Acked     uint64    // messages that the hub acknowledged
	Dead      uint64    // messages that the hub never takes: they are dead letters
	// Hub, Account and Expires are of the proof of the present connection, or of the last: which hub took
	// it, what that calls the identity, and until when it holds if somebody has to replace it (else zero).
	Hub, Account string
	Expires      time.Time
	LastError    string // why the last connection ended or failed, or why the lane cannot go on; "" if all is well
}

// link is one identity's place in the pool: it outlives connections.
type link struct {
	pool   *Pool
	member Member
	random func() float64
	log    zerolog.Logger
	down
	stop  context.CancelFunc // of keep, once the pool runs it
	ended chan struct{}      // closed when keep and all commands have ended

	history   history       // keep's
	suspicion suspicion     // keep's
	last      *hub          // keep's: which it approached last
	kept      *attempt      // keep's: the place there that a renewal has got; nil: none
	moveAt    time.Time     // keep's: when it asks again where it belongs if that is away; zero after a connection
	refusals  int           // keep's: of credentials in a row, for the next attempt
	failures  int           // keep's: attempts in a row that ended without a connection
	work      crew          // commands and turns in work
	busy      atomic.Int32  // commands in work
	acked     atomic.Uint64 // sequence released last
	highest   atomic.Uint64 // sequence sent last
	sent      atomic.Uint64
	repeated  atomic.Uint64
	received  atomic.Uint64
	dead      atomic.Uint64

	mu        sync.Mutex // guards the fields below
	up        bool
	state     State
	since     time.Time
	connects  uint64
	lastError string
	told      string // the reason that has been logged
	hub       string // these three are LinkStats'
	account   string
	expires   time.Time
}

// keep holds the connection up until ctx ends. When to try again is decided in retry.go.
func (l *link) keep(ctx context.Context) {
	defer l.giveBack()
	for {
		var s *session
		h, place, e := l.approach(ctx)
		if e == nil {
			s, e = l.enter(ctx, h, place)
		}
		if s != nil {
			e = s.deliver()
		}
		if !l.again(ctx, e) {
			return
		}
	}
}

// again waits until the next connection is to be made; false if there is to be none.
func (l *link) again(ctx context.Context, e *ending) bool {
	if ctx.Err() != nil {
		l.noteLost(decision{state: StateOffline})
		return false
	}
	if errors.Is(e.err, errRenew) {
		l.noteLost(decision{state: StateConnecting})
		l.log.Debug().Msg("renewing the token with a new connection")
		return true
	}
	l.giveBack()
	l.giveBack() // it pauses first
	v := l.history.after(*e, l.pool.cfg.RetryMost, l.random())
	l.logLoss(v)
	return l.pause(ctx, v, e.proof)
}

// pause waits before the next attempt; what is healed by setting the clock is tried again once that
// is done, and a proof that was refused, or not to be had, once somebody has put one in its place.
func (l *link) pause(ctx context.Context, v decision, proof *identity.Login) bool {
	switch {
	case aboutClock(v.err):
		return l.pool.clocks.untilSet(ctx, v.pause)
	case proof != nil && (v.state == StateRefused || proof.ClientID == ""):
		return l.untilReplaced(ctx, v.pause, proof)
	}
	return wait(ctx, v.pause)
}

// logLoss says why there is no connection: aloud when that is news.
func (l *link) logLoss(v decision) {
	level := zerolog.DebugLevel
	if l.noteLost(v) {
		level = zerolog.WarnLevel
	}
	l.log.WithLevel(level).Err(v.err).Str("state", string(v.state)).Stringer("retry_in", v.pause.Round(100*time.Millisecond)).
		Msg("no connection to the hub; trying again, later less often")
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

// errTooMany and errTooLate are why a command does not begin.
var (
	errTooMany = errors.New("too many direct methods of the identity are in work")
	errTooLate = errors.New("the connection has ended")
)

// dispatch runs f beside the connection, unless too much is in work already, or the connection is closing,
// which is looked at last: finished looks at what is in work after it has said so.
func (l *link) dispatch(closing *atomic.Bool, f func()) error {
	var no error
	if l.busy.Add(1) > commandBacklog {
		no = errTooMany
	} else if closing.Load() {
		no = errTooLate
	}
	if no != nil {
		l.busy.Add(-1)
		return no
	}
	began := l.work.Go(func() {
		defer l.busy.Add(-1)
		f()
	})
	if !began {
		l.busy.Add(-1)
		return errTooLate
	}
	return nil
}

func (l *link) noteConnected(by identity.Login) {
	l.mu.Lock()
	defer l.mu.Unlock()
	event := l.log.Info()
	switch {
	case l.state == StateConflict, l.told == "" && l.connects > 0:
		event = l.log.Debug() // the conflict has not ended yet; a renewal
	case l.told != "":
		event = event.Stringer("after", time.Since(l.since).Round(time.Second))
	}
	event.Msg("connected to the hub")
	l.up, l.since = true, time.Now()
	l.connects++
	l.hub, l.account, l.expires = by.Hub, by.ClientID, time.Time{}
	if !by.Signed {
		l.expires = by.Expires
	}
	if l.state != StateConflict {
		l.state, l.lastError, l.told = StateConnected, "", ""
	}
}

// noteLost tells whether the reason is another than the one that is known already.
func (l *link) noteLost(v decision) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.up || l.since.IsZero() {
		l.since = time.Now()
	}
	l.up, l.state = false, v.state
	if v.err != nil {
		l.lastError = v.err.Error()
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
	if l.up && l.state == StateConflict && time.Since(l.since) > quickLoss { // the other one has left
		l.state, l.lastError, l.told = StateConnected, "", ""
	}
	return LinkStats{
		Identity: l.member.ID, State: l.state, Connected: l.up, Since: l.since, Connects: l.connects, LastError: l.lastError,
		Hub: l.hub, Account: l.account, Expires: l.expires,
		Sent: l.sent.Load(), Repeated: l.repeated.Load(), Acked: l.received.Load(), Dead: l.dead.Load(),
	}
}
