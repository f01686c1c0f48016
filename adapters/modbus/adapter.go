package modbus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
)

// Adapter is one link with its devices. It implements gateway.Adapter. All methods may be called at
// the same time; Run only once.
type Adapter struct {
	cfg     Config
	log     zerolog.Logger
	link    *link // belongs to Run, like the mutable part of the devices
	devices []*device
	points  map[gateway.PointID]pointRef
	out     *outbox

	started atomic.Bool
	stopped chan struct{}
	// Unbuffered: a job either runs or is still with its caller (MB-50).
	writes, reads chan *job

	mu    sync.Mutex // guards stats
	stats Stats
}

// pointRef finds a point.
type pointRef struct {
	d *device
	i int // in Device.Points
}

// New makes the adapter of a checked link; it does nothing until Run. dial opens the connection
// (network "tcp", cfg.Address); nil means a plain TCP dialer with keep-alive.
func New(cfg Config, dial func(ctx context.Context, network, address string) (net.Conn, error), log zerolog.Logger) *Adapter {
	if dial == nil {
		dial = defaultDial()
	}
	a := &Adapter{
		cfg: cfg, log: log.With().Str("link", cfg.Name).Str("address", cfg.Address).Logger(),
		points: map[gateway.PointID]pointRef{}, out: newOutbox(),
		stopped: make(chan struct{}), writes: make(chan *job), reads: make(chan *job),
	}
	a.link = &link{
		address: cfg.Address, timeout: cfg.Timeout, dial: dial, log: a.log, level: zerolog.InfoLevel, random: rand.Float64,
		note:  func(change func(*LinkStats)) { a.note(func(s *Stats) { change(&s.Link) }) },
		stale: a.noteStale,
	}
	a.stats.Link = LinkStats{Name: cfg.Name, Address: cfg.Address}
	units := map[uint8]*unit{}
	for n, dc := range cfg.Devices {
		if units[dc.Unit] == nil {
			units[dc.Unit] = newUnit(dc.Unit, a.link)
		}
		d := newDevice(cfg, n, units[dc.Unit])
		a.devices = append(a.devices, d)
		a.stats.Devices = append(a.stats.Devices, DeviceStats{Name: dc.Name, Unit: dc.Unit})
		for i, p := range dc.Points {
			a.points[p.ID] = pointRef{d, i}
		}
	}
	return a
}

// Run polls the devices and serves Read and Write until ctx ends, then returns nil; the readings
// taken before go to accept for at most two seconds more. All readings of one poll cycle of a device
// come in one call. A reading that accept refuses is tried again, or replaced by a newer one of its
// point and counted. The error says that Run was called twice.
func (a *Adapter) Run(ctx context.Context, accept func(context.Context, []gateway.Sample) error) error {
	if !a.started.CompareAndSwap(false, true) {
		return errors.New("modbus: " + a.cfg.Name + ": an adapter runs only once")
	}
	var delivery sync.WaitGroup
	delivery.Go(func() { a.out.deliver(ctx, a.log, accept) })
	w := &wire{a: a, link: a.link, devices: a.devices, log: a.log}
	w.loop(ctx)
	close(a.stopped)
	close(a.out.ended)
	delivery.Wait()
	return nil
}

// Read fetches points now, ahead of polls, and returns one Sample a point in the order asked. A
// point that fails has Sample.Err; the error wraps ErrUnknownPoint, or ErrNoAnswer and the cause of
// ctx's end. It waits for Run to begin.
func (a *Adapter) Read(ctx context.Context, points []gateway.PointID) ([]gateway.Sample, error) {
	wanted := map[*device][]int{}
	for _, id := range points {
		ref, ok := a.points[id]
		if !ok {
			return nil, fmt.Errorf("modbus: %s: %w %s", a.cfg.Name, gateway.ErrUnknownPoint, id)
		}
		wanted[ref.d] = append(wanted[ref.d], ref.i)
	}
	var found map[gateway.PointID]gateway.Sample
	var whole bool
	j := newJob(ctx)
	j.do = func(run context.Context, w *wire) { found, whole = w.readNow(run, j, wanted) }
	if err := a.submit(a.reads, j); err != nil {
		return nil, fmt.Errorf("modbus: %s: read: %w", a.cfg.Name, err)
	}
	if !whole {
		return nil, fmt.Errorf("modbus: %s: read: %w: %w", a.cfg.Name, gateway.ErrNoAnswer, context.Cause(ctx))
	}
	samples := make([]gateway.Sample, len(points))
	for n, id := range points {
		samples[n] = found[id]
	}
	return samples, nil
}
