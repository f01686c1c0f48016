package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/bridge"
	"iothub-gateway/mapping"
)

const (
	// commandGrace is how long a change of the mapping waits for commands that are under way.
	commandGrace = 30 * time.Second
	// bindRetry is the pause before a listener that was restarted tries to get its address again.
	bindRetry = time.Second
)

// part is a link or a listener at work. It outlives mappings that leave it as it is.
type part struct {
	name     string
	adapter  gateway.Adapter
	link     *modbus.Adapter // nil: it is a listener
	listener *coap.Adapter   // nil: it is a link
	patience time.Duration   // of its readings
	probe    *probe          // of a link
	log      zerolog.Logger
	up       atomic.Pointer[bridge.Up] // who takes its readings
	commands usage                     // reads and writes under way

	stop  context.CancelFunc // of run; nil before
	ended chan struct{}      // closed when run has ended
}

// linkPart is a link of the plant.
func linkPart(config modbus.Config, log zerolog.Logger) *part {
	link := modbus.New(config, nil, log)
	p := &part{name: config.Name, adapter: link, link: link, patience: patienceOf(config), log: log, ended: make(chan struct{})}
	p.probe = &probe{
		name: "link " + config.Name, limit: stuckAfter + 4*config.Timeout,
		// A read of nothing comes by the goroutine that owns the wire; an error of it is not about life.
		beat: func(ctx context.Context) error { _, _ = link.Read(ctx, nil); return nil },
	}
	p.probe.last.Store(time.Now().UnixNano())
	return p
}

// listenerPart is a listener of the plant; keys finds those of its devices.
func listenerPart(l mapping.Listener, keys func(string) ([]byte, bool), log zerolog.Logger) *part {
	l.Keys = keys
	listener := coap.New(l.Config, log)
	return &part{name: l.Name, adapter: listener, listener: listener, log: log, ended: make(chan struct{})}
}

// Read implements bridge.Device.
func (p *part) Read(ctx context.Context, points []gateway.PointID) ([]gateway.Sample, error) {
	defer p.commands.begin()()
	return p.adapter.Read(ctx, points)
}

// Write implements bridge.Device.
func (p *part) Write(ctx context.Context, point gateway.PointID, v gateway.Value, by gateway.Confirm) error {
	defer p.commands.begin()()
	return p.adapter.Write(ctx, point, v, by)
}

// run works until ctx ends.
func (p *part) run(ctx context.Context) error {
	if p.listener != nil {
		return p.listen(ctx)
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	p.probe.last.Store(time.Now().UnixNano())
	beside.Go(func() { p.probe.run(ctx) })
	return p.link.Run(ctx, func(ctx context.Context, samples []gateway.Sample) error {
		return p.up.Load().AcceptWithin(ctx, p.patience, samples)
	})
}

// listen gets the listener's address, unless it has it, and runs it.
func (p *part) listen(ctx context.Context) error {
	for told := false; ; {
		err := p.listener.Bind()
		if err == nil {
			break
		}
		if !told {
			told = true
			p.log.Error().Err(err).Msg("a listener cannot have its address; trying again every second")
		}
		if !sleep(ctx, bindRetry) {
			return nil
		}
	}
	return p.listener.Run(ctx, func(ctx context.Context, samples []gateway.Sample) error { return p.up.Load().Accept(ctx, samples) })
}

// release gives the address back that a listener has and never used: an adapter whose Run finds its context ended does
// nothing else.
func (p *part) release() error {
	if p.listener == nil || p.listener.Addr() == "" {
		return nil
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	return p.listener.Run(over, p.up.Load().Accept)
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// usage counts what is under way.
type usage struct {
	mu    sync.Mutex // guards the fields below
	n     int
	empty chan struct{} // closed when n becomes 0; nil: nobody waits
}

// begin counts one more, until end is called.
func (u *usage) begin() (end func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.n++
	return u.end
}

func (u *usage) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n--; u.n == 0 && u.empty != nil {
		close(u.empty)
		u.empty = nil
	}
}

// now is how many there are.
func (u *usage) now() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.n
}

// idle waits until nothing is under way; false if ctx ended first.
func (u *usage) idle(ctx context.Context) bool {
	u.mu.Lock()
	if u.n == 0 {
		u.mu.Unlock()
		return ctx.Err() == nil
	}
	if u.empty == nil {
		u.empty = make(chan struct{})
	}
	empty := u.empty
	u.mu.Unlock()
	select {
	case <-empty:
		return true
	case <-ctx.Done():
		return false
	}
}

// crew runs the parts.
type crew struct {
	ready chan struct{} // closed when the first parts run

	ctx     context.Context // of those that run
	running sync.WaitGroup
	failed  chan error // capacity 1
}

func newCrew() *crew { return &crew{ready: make(chan struct{}), failed: make(chan error, 1)} }

// run runs parts and those that start adds, until ctx ends or one of them fails.
func (c *crew) run(ctx context.Context, parts []*part) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.running.Wait()
	defer cancel()
	c.ctx = ctx
	for _, p := range parts {
		c.start(p)
	}
	close(c.ready)
	select {
	case err := <-c.failed:
		return err
	case <-ctx.Done(): // a plant without links still runs
		return nil
	}
}

// start runs a part until retire or the end of run's context. Whoever calls it has seen ready, and ends before run
// is told to.
func (c *crew) start(p *part) {
	ctx, stop := context.WithCancel(c.ctx)
	p.stop = stop
	c.running.Go(func() {
		defer close(p.ended)
		defer stop()
		if err := p.run(ctx); err != nil {
			select {
			case c.failed <- fmt.Errorf("%s: %w", p.name, err):
			default:
			}
		}
	})
}

// retire stops a part once the commands that it carries out are over, and returns when it has handed in its last
// readings. Nobody gives it new ones any more.
func (c *crew) retire(ctx context.Context, p *part) {
	grace, cancel := context.WithTimeout(ctx, commandGrace)
	defer cancel()
	p.commands.idle(grace)
	p.stop()
	select {
	case <-p.ended:
	case <-ctx.Done(): // everything stops
	}
}
