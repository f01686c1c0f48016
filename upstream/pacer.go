package upstream

import (
	"context"
	"sync"
	"time"
)

const (
	paceWindow = time.Second
	// slowAttempt is how long an attempt may hold its place: one that takes longer does not keep
	// others from beginning theirs.
	slowAttempt = 5 * time.Second
	// unreachableAfter is how many attempts in a row fail to reach the hub until only one at a time looks
	// whether it is back, at most probeMost apart.
	unreachableAfter = 3
	probeMost        = 15 * time.Second
	// recovery is how many accepted connections bring a pace that was halved back to all of it.
	recovery = 100
)

// result is how an attempt to connect ended.
type result uint8

const (
	accepted    result = iota
	busy               // the hub cannot take it now (CONNACK 3)
	unreachable        // no TLS connection came about
	refused            // for another reason, which is the identity's own
	given              // up, because it was no longer wanted
)

// pacer says when connections to one hub may be opened, over all its identities. No second, wherever it begins, sees more
// attempts than the rate, neither here nor at the hub: an attempt counts from its beginning until one
// second after its answer, so that it does not matter how long any of its packets travels. A slow network
// therefore connects more slowly than the rate.
type pacer struct {
	most   float64 // attempts a second
	random func() float64
	turn   chan struct{} // capacity 1: whoever has it decides when the next attempt begins
	moved  chan struct{} // capacity 1: an attempt has ended

	mu       sync.Mutex // guards the fields below
	rate     float64    // of now: halved when the hub is busy, up to most again as it accepts
	halved   time.Time
	began    time.Time  // the last attempt
	attempts []*attempt // that count
	open     int
	failures int    // attempts in a row that did not reach the hub
	missed   uint64 // all that did not
	probeAt  time.Time
}

// attempt is one that counts.
type attempt struct{ began, ended time.Time }

// until is when it no longer counts; zero while that is not known.
func (a *attempt) until() time.Time {
	if a.ended.IsZero() {
		return a.began.Add(slowAttempt + paceWindow)
	}
	return a.ended.Add(paceWindow)
}

func newPacer(rate float64, random func() float64) *pacer {
	return &pacer{most: rate, rate: rate, random: random, turn: make(chan struct{}, 1), moved: make(chan struct{}, 1)}
}

// begin waits until an attempt may begin; whoever asks first is first. end must be called for it. The error
// is ctx's.
func (p *pacer) begin(ctx context.Context) (*attempt, error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.turn }()
	for {
		a, pause := p.admit(time.Now())
		if a != nil {
			return a, nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-p.moved:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// admit begins an attempt at time now, or returns nil and after what pause to ask again, unless an attempt
// ends before that.
func (p *pacer) admit(now time.Time) (*attempt, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := now.Add(slowAttempt + paceWindow) // that one of the attempts no longer counts
	counting := p.attempts[:0]
	for _, a := range p.attempts {
		if until := a.until(); until.After(now) {
			counting = append(counting, a)
			if until.Before(first) {
				first = until
			}
		}
	}
	clear(p.attempts[len(counting):])
	p.attempts = counting
	spaced := p.began.Add(time.Duration(float64(time.Second) / p.rate))
	switch {
	case p.failures >= unreachableAfter && p.open > 0:
		return nil, slowAttempt
	case p.failures >= unreachableAfter && p.probeAt.After(now):
		return nil, p.probeAt.Sub(now)
	case len(p.attempts) >= max(1, int(p.rate)):
		return nil, first.Sub(now)
	case !p.began.IsZero() && spaced.After(now):
		return nil, spaced.Sub(now)
	}
	a := &attempt{began: now}
	p.attempts = append(p.attempts, a)
	p.open++
	p.began = now
	return a, 0
}

// end takes how an attempt went. Only the first call for it counts.
func (p *pacer) end(a *attempt, how result) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !a.ended.IsZero() {
		return
	}
	a.ended = now
	p.open--
	switch how {
	case accepted:
		p.rate = min(p.most, p.rate+p.most/recovery)
	case busy:
		if now.Sub(p.halved) >= paceWindow { // those under way knew nothing of it
			p.rate, p.halved = max(p.rate/2, min(1, p.most)), now
		}
	case unreachable:
		p.missed++
		if p.failures++; p.failures >= unreachableAfter {
			p.probeAt = now.Add(delay(time.Second, p.failures-unreachableAfter, probeMost, p.random()))
		}
	}
	if how != unreachable && how != given {
		p.failures = 0
	}
	select {
	case p.moved <- struct{}{}:
	default:
	}
}

// reachable tells whether the hub is, as far as the last attempts know.
func (p *pacer) reachable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failures < unreachableAfter
}

// unreached counts the attempts, of whomever, that did not reach the hub.
func (p *pacer) unreached() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.missed
}

// pace is how many connections a second are opened now at most.
func (p *pacer) pace() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate
}
