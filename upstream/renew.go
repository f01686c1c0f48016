package upstream

import (
	"context"
	"errors"
	"sync"
	"time"

	"iothub-gateway/identity"
)

const (
	// watchEvery is how often a proof that somebody else replaces is looked at.
	watchEvery = time.Minute
	// replacedClose is how long a proof that was replaced waits for a moment without commands in work, and
	// then for those in work to end.
	replacedClose = time.Minute
	// replacedLook is how soon a proof that was replaced is looked at again: somebody may be writing it.
	replacedLook = time.Second
	// finishLook is how often a connection that is to end is looked at, and finishPatience how long it waits
	// for a moment without commands in work before no more begin.
	finishLook     = 5 * time.Millisecond
	finishPatience = time.Second
)

var errRenew = errors.New("the proof of identity is due for renewal")

// renewal ends a connection whose proof is due, or has been replaced: in a moment without commands in work,
// so that each is answered on the connection it came on. If none comes, no more commands begin, and if
// those in work do not end either, the connection ends all the same.
type renewal struct {
	s     *session
	stop  context.CancelCauseFunc
	ctx   context.Context // ends with the connection
	told  string          // why the next proof cannot be had, as it was logged last
	due   time.Time       // when the proof is renewed even if nobody replaces it; zero: never
	next  *identity.Login // another proof, as it was seen once; nil: none
	close time.Time       // when no more commands begin; zero until a renewal is due
	last  time.Time       // when the connection ends at the latest
	turn  sync.Mutex      // held while looking
	timer *time.Timer
}

// renew starts to look after the proof, until Stop; ctx is that of sending, which stop ends.
func (s *session) renew(ctx context.Context, stop context.CancelCauseFunc) *renewal {
	r := &renewal{s: s, stop: stop, ctx: ctx}
	if s.login.Signed {
		r.due = s.since.Add(renewIn(s.login.Expires.Sub(s.since), s.random()))
	}
	if r.due.IsZero() && !s.login.Watch {
		return r
	}
	r.turn.Lock() // a short life could overtake the assignment
	defer r.turn.Unlock()
	r.timer = time.AfterFunc(r.pause(), r.look)
	return r
}

// pause is how long nothing is to be done about the proof.
func (r *renewal) pause() time.Duration {
	left, look := time.Until(r.due), watchIn(r.s.random())
	switch {
	case r.next != nil:
		return replacedLook
	case !r.s.login.Watch:
		return left
	case left > 0:
		return min(left, look)
	}
	return look
}

// Stop ends looking; the context has ended.
func (r *renewal) Stop() {
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
}

// look renews now, or says when to look again.
func (r *renewal) look() {
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.ctx.Err() != nil {
		return
	}
	due := !r.due.IsZero() && !time.Now().Before(r.due)
	switch {
	case !r.close.IsZero():
	case r.s.login.Watch && !r.replaced(due):
		r.timer.Reset(r.pause())
		return
	case due:
		life := r.s.login.Expires.Sub(r.s.since)
		r.close, r.last = r.s.login.Expires.Add(-15*life/100), r.s.login.Expires.Add(-life/20)
	default:
		r.close, r.last = time.Now().Add(replacedClose), time.Now().Add(2*replacedClose)
	}
	switch {
	case r.s.busy.Load() == 0:
		r.s.closing.Store(false) // until what is in flight is acknowledged
		r.stop(errRenew)
		return
	case !time.Now().Before(r.last):
		r.stop(errRenew)
		return
	}
	if !time.Now().Before(r.close) {
		r.s.closing.Store(true)
	}
	r.timer.Reset(finishLook)
}

// replaced tells whether another proof is there than the connection was made with, or any if that is due. It
// must have been the same twice in a row: somebody may be writing it.
func (r *renewal) replaced(due bool) bool {
	login, err := r.s.member.Credential.Login(r.ctx, identity.Attempt{Now: r.s.pool.cfg.Now()})
	before := r.next
	r.next = nil
	if err == nil {
		r.told = ""
		if login.Same(r.s.login) {
			return due
		}
		r.next = &login
		return before != nil && login.Same(*before)
	}
	if told := err.Error(); r.ctx.Err() == nil && told != r.told {
		r.told = told
		r.s.log.Warn().Err(err).Msg("the next proof of the identity is not good; the connection stands as long as the hub lets it")
	}
	return false
}

// replaceable is a login whose proof somebody may replace; nil if nobody does.
func replaceable(l identity.Login) *identity.Login {
	if !l.Watch {
		return nil
	}
	return &l
}

// untilReplaced waits for d, or until another proof is there than the one that the hub refused; false if ctx
// ended first.
func (l *link) untilReplaced(ctx context.Context, d time.Duration, refused *identity.Login) bool {
	for d > 0 {
		step := min(d, watchIn(l.random()))
		if !wait(ctx, step) {
			return false
		}
		if d -= step; d > 0 {
			login, err := l.member.Credential.Login(ctx, identity.Attempt{Now: l.pool.cfg.Now()})
			if err == nil && !login.Same(*refused) {
				return true
			}
		}
	}
	return true
}

// renewIn is when to renew a proof that holds for life: between 75 and 85 % of it, so that thousands of
// identities do not renew together (CON-49).
func renewIn(life time.Duration, r float64) time.Duration {
	return time.Duration((0.75 + 0.10*r) * float64(life))
}

// watchIn is when to look at a proof that somebody else replaces: each identity in its own time.
func watchIn(r float64) time.Duration {
	return time.Duration((0.5 + 0.5*r) * float64(watchEvery))
}

// finish ends what the connection has begun and then returns reason. First what is in flight is
// acknowledged and the commands in work are answered; then the hub is asked for no more commands, and those
// that it had sent by then are refused: who calls one from now on hears from the hub that the device is
// away, or waits for it (METH-10).
func (s *session) finish(reason error) error {
	limit := time.NewTimer(s.pool.cfg.DrainTimeout)
	defer limit.Stop()
	look := time.NewTicker(finishLook) // for the commands, whose end nobody tells
	defer look.Stop()
	var drained time.Time        // when nothing was in flight any more; zero before
	var farewell <-chan struct{} // closed when the hub has heard it; nil before it is said
	for {
		if _, some := s.flight.waiting(); !some && farewell == nil {
			if drained.IsZero() {
				drained = time.Now()
			}
			if s.close(time.Since(drained) < finishPatience) {
				farewell = s.client.Unsubscribe(methodFilter).Done()
			}
		}
		select {
		case <-farewell:
			// What the hub sent before its answer may still be on its way through the library.
			if s.taken.Load() == s.conn.Publishes() && s.refused.idle() {
				return reason
			}
			if !s.rest(look, limit) {
				return errDrain
			}
		case <-s.flight.room:
		case <-look.C:
		case <-limit.C:
			return errDrain
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// rest waits until it is worth looking again; false if the time is over.
func (s *session) rest(look *time.Ticker, limit *time.Timer) bool {
	select {
	case <-look.C:
		return true
	case <-limit.C:
		return false
	}
}

// close lets no more commands begin; false if some are in work. If patient, it then lets them begin after
// all, unless a renewal has closed already.
func (s *session) close(patient bool) bool {
	already := s.closing.Swap(true)
	if s.busy.Load() == 0 {
		return true
	}
	if patient && !already {
		s.closing.Store(false)
	}
	return false
}
