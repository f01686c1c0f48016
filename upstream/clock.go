package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
)

const (
	// clockSlack is by how much the clock may differ from the hub's without being to blame (CON-40).
	clockSlack = 5 * time.Minute
	// clockAgain is how long what the hub's clock shows stands for all identities of that hub.
	clockAgain = time.Minute
	// clockTimeout is how long asking for it may take.
	clockTimeout = 10 * time.Second
	// clockLook is how often a link that waits for the clock looks whether somebody has set it, and
	// clockStep what counts as that.
	clockLook = 5 * time.Second
	clockStep = 2 * time.Second
)

// clockError is a refusal whose reason is this machine's clock.
type clockError struct {
	cause  error
	behind time.Duration // negative: ahead
}

func (e *clockError) Error() string {
	way, by := "behind", e.behind
	if by < 0 {
		way, by = "ahead of", -by
	}
	return fmt.Sprintf("this machine's clock is %v %s the hub's: set it, the identity connects once it is right (%v)", by.Round(time.Second), way, e.cause)
}

func (e *clockError) Unwrap() error { return e.cause }

// aboutClock tells whether err is healed by setting the clock.
func aboutClock(err error) bool {
	var wrong *clockError
	return errors.As(err, &wrong) || errors.Is(err, dial.ErrClock) || errors.Is(err, identity.ErrNotYetValid)
}

// hubClocks knows what the clocks of hubs show.
type hubClocks struct {
	ask func(context.Context, identity.Login) (time.Time, error) // nil: nobody can be asked
	now func() time.Time

	mu   sync.Mutex // guards all
	hubs map[string]*hubClock
}

// hubClock is the clock of one hub, as it was asked last.
type hubClock struct {
	turn   chan struct{} // capacity 1: held by the one who asks
	at     time.Time     // zero: never asked
	behind time.Duration // of this machine's
	err    error
}

func newHubClocks(cfg Config) *hubClocks {
	return &hubClocks{ask: cfg.ServerTime, now: cfg.Now, hubs: map[string]*hubClock{}}
}

func (c *hubClocks) of(hub string) *hubClock {
	c.mu.Lock()
	defer c.mu.Unlock()
	clock := c.hubs[hub]
	if clock == nil {
		clock = &hubClock{turn: make(chan struct{}, 1)}
		c.hubs[hub] = clock
	}
	return clock
}

// explain looks whether the clock is why the hub refused login, and says so if it is.
func (c *hubClocks) explain(ctx context.Context, login identity.Login, refused error) error {
	if c.ask == nil {
		return refused
	}
	clock := c.of(login.Hub)
	select {
	case clock.turn <- struct{}{}:
	case <-ctx.Done():
		return refused
	}
	defer func() { <-clock.turn }()
	if clock.at.IsZero() || time.Since(clock.at) >= clockAgain {
		asking, cancel := context.WithTimeout(ctx, clockTimeout)
		defer cancel()
		var theirs time.Time
		theirs, clock.err = c.ask(asking, login)
		clock.at, clock.behind = time.Now(), theirs.Sub(c.now())
	}
	if clock.err != nil || clock.behind.Abs() < clockSlack {
		return refused
	}
	return &clockError{cause: refused, behind: clock.behind}
}

// untilSet waits for d, or until somebody sets the clock; false if ctx ended first.
func (c *hubClocks) untilSet(ctx context.Context, d time.Duration) bool {
	wall, steady := c.now().Round(0), time.Now()
	for left := d; left > 0; left = d - time.Since(steady) {
		if !wait(ctx, min(left, clockLook)) {
			return false
		}
		if moved := c.now().Round(0).Sub(wall); (moved - time.Since(steady)).Abs() > clockStep {
			c.forget()
			return true
		}
	}
	return true
}

// forget makes the next refusal ask again.
func (c *hubClocks) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hubs = map[string]*hubClock{}
}
