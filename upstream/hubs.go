package upstream

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"iothub-gateway/identity"
)

// hub is one of the hubs that the pool's identities belong to (a provisioning service may spread them over
// several): what it takes from all its devices together, and how it does. One that is away, busy or out of
// quota says nothing about another.
type hub struct {
	name     string
	pace     *pacer
	twinPace *rate.Limiter // what requests about twins wait for
	shaper   *shaper       // nil if the hub takes more than the pool sends anyway
	quota    *quota        // nil if the hub's is not known
}

func newHub(name string, cfg *Config) *hub {
	sends := cfg.Limits.Sends
	if cfg.DrainRate > 0 && cfg.DrainRate <= sends {
		sends = 0
	}
	return &hub{
		name: name, pace: newPacer(cfg.ConnectRate, rand.Float64),
		twinPace: rate.NewLimiter(rate.Limit(cfg.TwinRate), int(cfg.TwinRate)),
		shaper:   newShaper(sends, cfg.LiveShare), quota: newQuota(name, cfg.Limits),
	}
}

// run does what the hub needs beside connections, until ctx ends.
func (h *hub) run(ctx context.Context, cfg *Config) {
	var beside sync.WaitGroup
	beside.Go(func() { h.shaper.run(ctx) })
	h.quota.watch(ctx, cfg)
	beside.Wait()
}

// hub is the one called name. Once the pool runs, only a link that runs asks.
func (p *Pool) hub(name string) *hub {
	key := strings.ToLower(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hubs[key]
	if h == nil {
		h = newHub(name, &p.cfg)
		p.hubs[key] = h
		if p.ctx != nil {
			p.running.Go(func() { h.run(p.ctx, &p.cfg) })
		}
	}
	return h
}

// moveAfter is how long an identity waits for a hub that nobody reaches, at most, until it asks again where it
// belongs: the hub may be gone for good. Each asks in its own time, at the earliest after half of it.
const moveAfter = 30 * time.Minute

// approach finds out which hub the identity belongs to, and waits for its turn to connect there. If that does
// not come about it says why.
func (l *link) approach(ctx context.Context) (*hub, *attempt, *ending) {
	for {
		next := l.attempt()
		if now := time.Now(); !now.Before(l.moveAt) {
			next.Away = !l.moveAt.IsZero() && l.last != nil && !l.last.pace.reachable()
			l.moveAt = now.Add(time.Duration((0.5 + 0.5*l.random()) * float64(moveAfter)))
		}
		name, err := l.belongs(ctx, next)
		if err != nil {
			return nil, nil, &ending{err: l.failed(ctx, identity.Login{Hub: name}, err), missed: l.history.missed}
		}
		h := l.pool.hub(name)
		if place := l.kept; place != nil && h == l.last && time.Since(place.began) < slowAttempt {
			l.kept = nil
			return h, place, nil
		}
		l.giveBack()
		if l.last != nil && l.last != h {
			l.suspicion.moved()
		}
		l.last = h
		waiting, cancel := context.WithDeadline(ctx, l.moveAt)
		place, err := h.pace.begin(waiting)
		cancel()
		switch {
		case err == nil:
			return h, place, nil
		case ctx.Err() != nil:
			return nil, nil, &ending{err: err, missed: l.history.missed}
		}
	}
}

// giveBack lets others have the place that a renewal has got.
func (l *link) giveBack() {
	if l.kept != nil {
		l.last.pace.end(l.kept, given)
		l.kept = nil
	}
}

// belongs asks where the identity belongs. A service that has to be asked takes cryptography, whose stack is
// not kept while the identity then waits for its turn.
func (l *link) belongs(ctx context.Context, next identity.Attempt) (name string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		name, err = l.member.Credential.Hub(ctx, next)
	}()
	<-done // Hub watches ctx
	return name, err
}

// attempt is the next one.
func (l *link) attempt() identity.Attempt {
	return identity.Attempt{Now: l.pool.cfg.Now(), Refused: l.refusals, Failed: l.failures}
}

// HubStats says how one hub does, as far as the pool knows.
type HubStats struct {
	// Name is the hub's, as its identities call it.
	Name string
	// Reachable tells whether the last attempts to connect reached it.
	Reachable bool
	// ConnectRate is how many connections a second are opened at most now: less than configured while the
	// hub is busy.
	ConnectRate float64
	// Busy tells whether that is why it is less.
	Busy bool
	// Quota is zero if the hub's is not known.
	Quota Quota
}

// Hubs is a snapshot of the hubs that identities of the pool belong to, or have belonged to, by name.
func (p *Pool) Hubs() []HubStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []HubStats
	for _, h := range p.hubs {
		pace := h.pace.pace()
		all = append(all, HubStats{
			Name: h.name, Reachable: h.pace.reachable(), ConnectRate: pace, Busy: pace < p.cfg.ConnectRate, Quota: h.quota.outlook(p.cfg.Now()),
		})
	}
	slices.SortFunc(all, func(a, b HubStats) int { return cmp.Compare(a.Name, b.Name) })
	return all
}
