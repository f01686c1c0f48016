package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	gateway "iothub-gateway"
)

// Adapter is one link with its devices. It implements gateway.Adapter. All methods may be called at
// the same time; Run only once.
type Adapter struct {
	cfg    Config
	log    zerolog.Logger
	wires  []*wire // one a connection; they belong to Run, like the mutable part of the devices
	points map[gateway.PointID]pointRef
	out    *outbox

	started   atomic.Bool
	writeRate *rate.Limiter // nil: no limit

	mu    sync.Mutex // guards stats
	stats Stats
}

// pointRef finds a point.
type pointRef struct {
	d *device
	i int // in Device.Points
	// writeRate is the point's own; nil: no limit.
	writeRate *rate.Limiter
}

// New makes the adapter of a checked link; it does nothing until Run. dial opens the connection to a
// TCP server (network "tcp", cfg.Address), below TLS if that is asked for; nil means a plain TCP dialer
// with keep-alive. A serial port is opened by the adapter itself.
func New(cfg Config, dial func(ctx context.Context, network, address string) (net.Conn, error), log zerolog.Logger) *Adapter {
	a := &Adapter{
		cfg: cfg, log: log.With().Str("link", cfg.Name).Str("address", cfg.Address).Logger(),
		points: map[gateway.PointID]pointRef{}, out: newOutbox(), writeRate: limiter(cfg.WriteRate),
	}
	a.stats.Link = LinkStats{Name: cfg.Name, Address: cfg.Address}
	carriers := map[uint8]*wire{} // of the units
	a.wires = []*wire{newWire(a, newLink(cfg, dial, a.log))}
	for n, dc := range cfg.Devices {
		if carriers[dc.Unit] == nil {
			if k := len(carriers); k > 0 && k < cfg.MaxConnections {
				a.wires = append(a.wires, newWire(a, newLink(cfg, dial, a.log)))
			}
			carriers[dc.Unit] = a.wires[len(carriers)%len(a.wires)]
		}
		d := carriers[dc.Unit].add(n)
		a.stats.Devices = append(a.stats.Devices, DeviceStats{Name: dc.Name, Unit: dc.Unit})
		for i, p := range dc.Points {
			a.points[p.ID] = pointRef{d, i, limiter(p.WriteRate)}
		}
	}
	return a
}

// limiter lets so many writes a second through; nil lets all.
func limiter(perSecond float64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
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
	var working sync.WaitGroup
	for _, w := range a.wires {
		working.Go(func() { w.loop(ctx) })
	}
	working.Wait()
	close(a.out.ended)
	delivery.Wait()
	return nil
}

// Read fetches points now, ahead of polls, and returns one Sample a point in the order asked. A
// point that fails has Sample.Err; the error wraps ErrUnknownPoint, or ErrNoAnswer and the cause of
// ctx's end. It waits for Run to begin.
func (a *Adapter) Read(ctx context.Context, points []gateway.PointID) ([]gateway.Sample, error) {
	wanted := map[*wire]map[*device][]int{}
	for _, id := range points {
		ref, ok := a.points[id]
		if !ok {
			return nil, fmt.Errorf("modbus: %s: %w %s", a.cfg.Name, gateway.ErrUnknownPoint, id)
		}
		if wanted[ref.d.wire] == nil {
			wanted[ref.d.wire] = map[*device][]int{}
		}
		wanted[ref.d.wire][ref.d] = append(wanted[ref.d.wire][ref.d], ref.i)
	}
	found := map[gateway.PointID]gateway.Sample{}
	for w, part := range wanted {
		var some map[gateway.PointID]gateway.Sample
		var whole bool
		j := newJob(ctx)
		j.do = func(run context.Context, w *wire) { some, whole = w.readNow(run, j, part) }
		if err := w.submit(w.reads, j); err != nil {
			return nil, fmt.Errorf("modbus: %s: read: %w", a.cfg.Name, err)
		}
		if !whole {
			return nil, fmt.Errorf("modbus: %s: read: %w: %w", a.cfg.Name, gateway.ErrNoAnswer, cmp.Or(context.Cause(ctx), errStopped))
		}
		maps.Copy(found, some)
	}
	samples := make([]gateway.Sample, len(points))
	for n, id := range points {
		samples[n] = found[id]
	}
	return samples, nil
}
