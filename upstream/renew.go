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
	// finishLook is how often a connection that is to end is looked at, and awayLook how often the hub while it
	// takes no new ones.
	finishLook = 5 * time.Millisecond
	awayLook   = time.Second
)

var errRenew = errors.New("the proof of identity is due for renewal")

// renewal ends a connection whose proof is due, or has been replaced: in a moment without commands in work,
// because the identity is away for others while they are waited for. If none comes, it ends all the same. The
// turn to connect again is waited for before that, and a hub that takes no new connections too.
type renewal struct {
	s     *session
	told  string          // why the next proof cannot be had, as it was logged last
	due   time.Time       // when the proof is renewed even if nobody replaces it; zero: never
	next  *identity.Login // another proof, as it was seen once; nil: none
	close time.Time       // until when such a moment is waited for; zero until a renewal is due
	last  time.Time       // until when commands in work are
	turn  sync.Mutex      // held while looking
	timer *time.Timer
	place *attempt // for the next connection

	left  time.Time       // when methods were unsubscribed; zero before
	heard <-chan struct{} // closed when the hub has confirmed it; nil before and after
	gone  bool            // it has
}

// renew starts to look after the proof, until Stop.
func (s *session) renew() *renewal {
	r := &renewal{s: s}
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

// Stop ends looking; sending has ended.
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
	if r.s.sending.Err() != nil {
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
	case !r.s.hub.pace.reachable():
		r.timer.Reset(awayLook)
		return
	case r.s.busy.Load() > 0 && time.Now().Before(r.close):
		r.timer.Reset(finishLook)
		return
	}
	var err error
	if r.place, err = r.s.hub.pace.begin(r.s.sending); err == nil {
		r.s.stop(errRenew)
	}
}

// leave asks the hub for no more commands, the first time, and tells whether it has confirmed it, or had its
// time to: who calls one from then on hears from the hub that the device is away, or waits for it (METH-11,
// METH-14).
func (r *renewal) leave() bool {
	if r.left.IsZero() {
		r.left, r.heard = time.Now(), r.s.client.Unsubscribe(methodFilter).Done()
	}
	return r.gone || time.Since(r.left) > r.s.pool.cfg.DrainTimeout
}

// replaced tells whether another proof is there than the connection was made with, or any if that is due. It
// must have been the same twice in a row: somebody may be writing it.
func (r *renewal) replaced(due bool) bool {
	login, err := r.s.member.Credential.Login(r.s.sending, identity.Attempt{Now: r.s.pool.cfg.Now()})
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
	if told := err.Error(); r.s.sending.Err() == nil && told != r.told {
		r.told = told
		r.s.log.Warn().Err(err).Msg("the next proof of the identity is not good; the connection stands as long as the hub lets it")
	}
	return false
}

// lacking is the login of an attempt that failed, if somebody may put another proof in its place; the zero Login
// if there was none to be had, and nil if nobody does.
func lacking(l identity.Login) *identity.Login {
	if l.ClientID != "" && !l.Watch {
		return nil
	}
	return &l
}

// untilReplaced waits for d, or until another proof is there than refused, which the hub does not take; false if
// ctx ended first.
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

// finish ends what the connection has begun and then returns reason: what is in flight is acknowledged, leave
// is taken, and every command that the hub had sent by then is carried out and answered. For a renewal it has
// until the proof ends, and DrainTimeout once commands end, which is when everything stops.
func (s *session) finish(reason error) error {
	limit := time.NewTimer(max(s.pool.cfg.DrainTimeout, time.Until(s.renewal.last)))
	defer limit.Stop()
	defer context.AfterFunc(s.commands, func() { limit.Reset(s.pool.cfg.DrainTimeout) })()
	look := time.NewTicker(finishLook) // for the commands, whose end nobody tells
	defer look.Stop()
	for !s.finished() {
		select {
		case <-s.renewal.heard:
			s.renewal.gone, s.renewal.heard = true, nil
		case <-s.flight.room:
		case <-look.C:
		case <-limit.C:
			s.closing.Store(true)
			return errDrain
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
	return reason
}

// finished takes the next step of finish, and tells whether it was the last.
func (s *session) finished() bool {
	_, flying := s.flight.waiting()
	if flying && s.commands.Err() == nil {
		return false // a renewal takes leave late: the identity is away for as short as can be
	}
	// What the hub sent before its answer may still be on its way through the library.
	if !s.renewal.leave() || s.taken.Load() != s.conn.Publishes() {
		return false
	}
	s.closing.Store(true)
	return !flying && s.busy.Load() == 0 && s.refused.idle()
}
