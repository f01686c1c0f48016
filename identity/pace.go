package identity

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// ProvisioningRate is how many devices a second ask one provisioning service at most, on a Pace of its own: a
// service takes 1000 registrations a minute, of all its sites together.
const ProvisioningRate = 10

// Pace is how often a provisioning service is asked, over all devices: evenly spaced, and by nobody before the
// time that the service named when it had too much to do (DPS-11). A nil Pace never waits.
type Pace struct {
	turns *rate.Limiter

	mu    sync.Mutex
	after time.Time // guarded by mu
}

// NewPace makes a Pace of that many devices a second.
func NewPace(perSecond float64) *Pace {
	return &Pace{turns: rate.NewLimiter(rate.Limit(perSecond), 1)}
}

// wait returns when the next device may ask. The error is ctx's.
func (p *Pace) wait(ctx context.Context) error {
	if p == nil {
		return nil
	}
	for {
		p.mu.Lock()
		pause := time.Until(p.after)
		p.mu.Unlock()
		if pause <= 0 {
			return p.turns.Wait(ctx)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// busy makes everybody wait who has not asked yet.
func (p *Pace) busy(d time.Duration) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if after := time.Now().Add(d); after.After(p.after) {
		p.after = after
	}
}
