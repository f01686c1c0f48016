package main

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"iothub-gateway/adapters/coap"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/bridge"
	"iothub-gateway/buffer"
	"iothub-gateway/identity"
	"iothub-gateway/internal/control"
	"iothub-gateway/mapping"
	"iothub-gateway/upstream"
)

// maxPacket is the hub's largest message and its topic.
const maxPacket = 320 * 1024

// serviceConfig is what a gateway is made of, once the mapping has been checked.
type serviceConfig struct {
	plant       *mapping.Plant // of the start
	mappingPath string
	stateDir    string
	// address is hubWay's: where the server called host is; nil follows the mapping.
	address func(host string, port int) string
	roots   *x509.CertPool
	// load reads the mapping again; nil: it cannot be.
	load func() (loaded, error)
	// secrets finds keys and certificates. If keys is set, each identity proves itself with the device key
	// that it returns instead.
	secrets identity.Source
	keys    func(mapping.Identity) (identity.Secret, error)
	// environment is that of an IoT Edge module; nil is os.LookupEnv.
	environment func(name string) (string, bool)
	// psk finds the keys of a listener's devices.
	psk func(mapping.Listener) func(identity string) ([]byte, bool)
	// retryMost is upstream's; 0 is its own.
	retryMost time.Duration
	// drain is how long stopping waits for the queue to run empty; 0 only for what is in flight.
	drain time.Duration
	clock *clock
	log   zerolog.Logger
}

// service is a running gateway: field side, bridge, queue and upstream, wired by hand.
type service struct {
	cfg     serviceConfig
	way     *hubWay
	queue   *buffer.Queue
	state   *buffer.State
	later   *bridge.Later
	pool    *upstream.Pool
	crew    *crew
	now     atomic.Pointer[generation]
	reloads chan reloadCall
	refused atomic.Pointer[string] // why the last reload was not carried out; nil if it was
	started time.Time
	rates   rates // of the lanes
	loads   rates // of the links
	// stopping ends when the adapters begin to stop: from then on commands are refused.
	stopping     context.Context
	stopCommands context.CancelFunc
}

// newService opens the queue and builds every part; nothing runs yet. Close it if Run is not called.
func newService(cfg serviceConfig) (*service, error) {
	way, err := newHubWay(cfg)
	if err != nil {
		return nil, err
	}
	queue, state, err := openStore(cfg)
	if err != nil {
		return nil, err
	}
	cfg.clock.recall(state)
	s := &service{
		cfg: cfg, way: way, queue: queue, state: state, crew: newCrew(), reloads: make(chan reloadCall), started: time.Now(),
		rates: rates{span: laneSpan}, loads: rates{span: loadSpan},
	}
	s.stopping, s.stopCommands = context.WithCancel(context.Background())
	s.later = s.newLater()
	empty := s.nothing()
	t, err := s.prepare(empty, loaded{plant: cfg.plant, roots: cfg.roots}, compare(empty.plant, cfg.plant))
	if err != nil {
		return nil, errors.Join(err, s.closeStore())
	}
	s.now.Store(t.next)
	s.later.Use(t.next.down)
	s.warnOfOrphans()
	s.pool = upstream.NewPool(upstream.Config{
		Dial: way.toHub, ServerTime: way.time, Limits: hubLimits(cfg.plant.Hub),
		State: state, Message: s.message, Desired: s.desired, Log: cfg.log, RetryMost: cfg.retryMost,
		DrainRate: cfg.plant.Buffer.DrainRate, LiveShare: cfg.plant.Buffer.LiveShare,
	}, t.joining, s.method)
	return s, nil
}

// hubLimits are what the hub takes, as far as the mapping says; it allows no tier that upstream does not know.
func hubLimits(hub mapping.Hub) upstream.Limits {
	limits, err := upstream.TierLimits(hub.Tier, hub.Units)
	if err != nil {
		return upstream.Limits{}
	}
	return limits
}

// warnOfOrphans names the lanes that hold messages of identities that the mapping no longer has: they
// stay in the queue until the identity is back in the mapping.
func (s *service) warnOfOrphans() {
	g := s.now.Load()
	for id, lane := range s.queue.Stats().Lanes {
		if lane.Entries > 0 && !g.knows(id) {
			s.cfg.log.Warn().Str("identity", string(id)).Int64("messages", lane.Entries).
				Msg("messages wait for an identity that the mapping does not have; put it back and they are delivered")
		}
	}
}

// Run works until ctx ends, then stops in the reverse of the order things flow up: adapters first, the
// queue last. extra tasks run between the queue and upstream.
func (s *service) Run(ctx context.Context, extra ...task) error {
	tasks := []task{{"queue", s.queue.Run}, {"clock", func(ctx context.Context) error { return s.cfg.clock.remember(ctx, s.state) }}}
	tasks = append(tasks, extra...)
	tasks = append(tasks, task{"upstream", s.pool.Run}, task{"drain", s.drain}, task{"health", newHealth(s).Run},
		task{"adapters", s.poll}, task{"commands that wait", s.later.Run}, task{"reload", s.serveReloads})
	return errors.Join(together(ctx, tasks...), s.closeStore())
}

// Close releases the queue of a service that never ran.
func (s *service) Close() error {
	var errs []error
	for _, p := range s.now.Load().listeners {
		errs = append(errs, p.release())
	}
	return errors.Join(errors.Join(errs...), s.closeStore())
}

// listenerAddress is the host:port that the listener called name really has; "" if there is none.
func (s *service) listenerAddress(name string) string {
	for _, p := range s.now.Load().listeners {
		if p.name == name {
			return p.listener.Addr()
		}
	}
	return ""
}

// poll runs every link and listener until ctx ends.
func (s *service) poll(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.stopCommands)()
	g := s.now.Load()
	return s.crew.run(ctx, slices.Concat(g.links, g.listeners))
}

// mostPatience is how long readings that nobody waits for are on their way to the disk at most.
const mostPatience = 500 * time.Millisecond

// patienceOf is how long a link's readings may wait for those of others to share a write to the disk: half
// of its shortest poll period, so that no reading gets much older than it may be anyway.
func patienceOf(link modbus.Config) time.Duration {
	patience := mostPatience
	for _, device := range link.Devices {
		for _, point := range device.Points {
			if point.Poll > 0 {
				patience = min(patience, point.Poll/2)
			}
		}
	}
	return patience
}

// drain does nothing until ctx ends, which is when the adapters have stopped; then it gives upstream
// time to empty the queue.
func (s *service) drain(ctx context.Context) error {
	<-ctx.Done()
	deadline := time.NewTimer(s.cfg.drain)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for s.undelivered() > 0 {
		select {
		case <-deadline.C:
			return nil
		case <-look.C:
		}
	}
	return nil
}

// undelivered is how many messages wait that could be delivered.
func (s *service) undelivered() (n int64) {
	g := s.now.Load()
	for id, lane := range s.queue.Stats().Lanes {
		if g.knows(id) {
			n += lane.Entries
		}
	}
	return n
}

// Status is the page that `gateway status` shows.
func (s *service) Status() control.Status {
	queue, g := s.queue.Stats(), s.now.Load()
	page := control.Status{
		Mapping: s.cfg.mappingPath, Loaded: g.page(s.refused.Load()), Hub: s.way.host(), PID: os.Getpid(), Started: s.started,
		Queue: queueStatus(s.queue, queue, s.queueDir()),
	}
	page.Queue.Clock = s.cfg.clock.Synchrony()
	for _, hub := range s.pool.Hubs() {
		page.Hubs = append(page.Hubs, hubStatus(hub))
	}
	for _, link := range s.pool.Stats() {
		lane := queue.Lanes[link.Identity]
		page.Identities = append(page.Identities, control.IdentityStatus{
			Identity: string(link.Identity), Proof: s.proofOf(link), State: string(link.State), Connected: link.Connected, Since: link.Since, LastError: link.LastError,
			Acked: link.Acked, Repeated: link.Repeated, Waiting: lane.Entries, Oldest: lane.Oldest,
		})
	}
	for _, id := range slices.Sorted(maps.Keys(queue.Lanes)) {
		if lane := queue.Lanes[id]; lane.Entries > 0 && !g.knows(id) {
			page.Identities = append(page.Identities, control.IdentityStatus{
				Identity: string(id), Since: s.started, Waiting: lane.Entries, Oldest: lane.Oldest,
				State: string(upstream.StateOffline), LastError: notInMapping,
			})
		}
	}
	for _, p := range g.listeners {
		for _, device := range p.listener.Stats().Devices {
			page.Devices = append(page.Devices, listenerStatus(p.name, device))
		}
	}
	for _, p := range g.links {
		stats := p.link.Stats()
		for _, device := range stats.Devices {
			page.Devices = append(page.Devices, deviceStatus(stats.Link.Name, device))
		}
		page.Links = append(page.Links, s.linkStatus(stats.Link))
	}
	return page
}

// hubStatus is how a hub does.
func hubStatus(h upstream.HubStats) control.HubStatus {
	row := control.HubStatus{Hub: h.Name, Reachable: h.Reachable, Busy: h.Busy, Connects: h.ConnectRate}
	if q := h.Quota; q.Limit > 0 {
		row.Quota = &control.QuotaStatus{Limit: q.Limit, Used: q.Used, UsedUp: q.Ends}
	}
	return row
}

// linkStatus is the row of a link.
func (s *service) linkStatus(l modbus.LinkStats) control.LinkStatus {
	row := control.LinkStatus{
		Link: l.Name, Address: l.Address, Up: l.Up, Since: l.Since, Requests: l.Requests, Timeouts: l.Timeouts,
		Stale: l.StaleFrames, Noise: l.Noise, Violations: l.Violations,
	}
	if !l.Up {
		row.Error = l.LastError
	}
	if busy, skips := s.loads.of(l.Name); busy != nil {
		load, perMinute := *busy/float64(time.Second), *skips*60
		row.Load, row.SkippedPerMinute = &load, &perMinute
	}
	return row
}

// deviceStatus is the row of a polled device. Its error is what is wrong now.
func deviceStatus(link string, d modbus.DeviceStats) control.DeviceStatus {
	row := control.DeviceStatus{Device: d.Name, Link: link, State: d.State.String(), LastGood: d.LastGood, Skipped: d.Skipped}
	if d.State != modbus.Up {
		row.Error = d.LastError
	}
	for _, id := range d.Refused {
		row.Refused = append(row.Refused, string(id))
	}
	for _, hole := range d.Holes {
		row.Holes = append(row.Holes, hole.String())
	}
	return row
}

// listenerStatus is the row of a device that reports by itself.
func listenerStatus(listener string, d coap.DeviceStats) control.DeviceStatus {
	row := control.DeviceStatus{Device: d.Name, Link: listener, State: "up", LastGood: d.LastReport}
	switch {
	case d.Silent:
		row.State, row.Error = "down", "silent for longer than it should be"
	case d.LastReport.IsZero():
		row.State = "unknown"
	}
	return row
}
