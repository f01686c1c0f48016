package main

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	gateway "iothub-gateway"
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
	plant       *mapping.Plant
	mappingPath string
	stateDir    string
	// address is hubWay's: where the server called host is; nil follows the mapping.
	address func(host string, port int) string
	roots   *x509.CertPool
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
	cfg       serviceConfig
	way       *hubWay
	queue     *buffer.Queue
	state     *buffer.State
	links     []*modbus.Adapter                 // in the order of the plant's Links
	listeners []*coap.Adapter                   // in the order of its Listeners
	devices   map[gateway.PointID]bridge.Device // who serves each point
	up        *bridge.Up
	down      *bridge.Down
	later     *bridge.Later
	pool      *upstream.Pool
	started   time.Time
	rates     rates // of the lanes
	loads     rates // of the links
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
	s := &service{cfg: cfg, way: way, queue: queue, state: state, started: time.Now(), rates: rates{span: laneSpan}, loads: rates{span: loadSpan}}
	s.stopping, s.stopCommands = context.WithCancel(context.Background())
	s.warnOfOrphans()
	credentials, err := s.credentials()
	if err != nil {
		return nil, errors.Join(err, s.closeStore())
	}
	if s.devices, err = s.buildAdapters(); err != nil {
		return nil, errors.Join(err, s.closeStore())
	}
	var identities []gateway.Identity
	var members []upstream.Member
	for i, id := range cfg.plant.Identities {
		identities = append(identities, id.Identity)
		members = append(members, s.member(id, credentials[i]))
	}
	s.up = bridge.NewUp(cfg.plant.Points, identities, queue)
	s.later = s.newLater()
	s.down = s.newDown()
	s.later.Use(s.down)
	s.pool = upstream.NewPool(upstream.Config{
		Dial: way.toHub, ServerTime: way.time, Limits: hubLimits(cfg.plant.Hub),
		State: state, Message: s.message, Desired: s.desired, Log: cfg.log, RetryMost: cfg.retryMost,
		DrainRate: cfg.plant.Buffer.DrainRate, LiveShare: cfg.plant.Buffer.LiveShare,
	}, members, s.method)
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
	for id, lane := range s.queue.Stats().Lanes {
		if lane.Entries > 0 && !s.knows(id) {
			s.cfg.log.Warn().Str("identity", string(id)).Int64("messages", lane.Entries).
				Msg("messages wait for an identity that the mapping does not have; put it back and they are delivered")
		}
	}
}

// knows tells whether the mapping has the identity.
func (s *service) knows(id gateway.IdentityID) bool {
	return slices.ContainsFunc(s.cfg.plant.Identities, func(i mapping.Identity) bool { return i.ID == id })
}

// buildAdapters makes one adapter a link and one a listener, which takes its address now so that the
// daemon is ready once it says so. It returns who serves each point.
func (s *service) buildAdapters() (map[gateway.PointID]bridge.Device, error) {
	devices := map[gateway.PointID]bridge.Device{}
	for _, link := range s.cfg.plant.Links {
		adapter := modbus.New(link, nil, s.cfg.log)
		s.links = append(s.links, adapter)
		for _, device := range link.Devices {
			for _, point := range device.Points {
				devices[point.ID] = adapter
			}
		}
	}
	for _, listener := range s.cfg.plant.Listeners {
		if !listener.Plain {
			listener.Keys = s.cfg.psk(listener)
		}
		adapter := coap.New(listener.Config, s.cfg.log)
		if err := adapter.Bind(); err != nil {
			return nil, errors.Join(err, s.releaseListeners())
		}
		s.listeners = append(s.listeners, adapter)
		for _, device := range listener.Devices {
			for _, point := range device.Points {
				devices[point.ID] = adapter
			}
		}
	}
	return devices, nil
}

// Run works until ctx ends, then stops in the reverse of the order things flow up: adapters first, the
// queue last. extra tasks run between the queue and upstream.
func (s *service) Run(ctx context.Context, extra ...task) error {
	tasks := []task{{"queue", s.queue.Run}, {"clock", func(ctx context.Context) error { return s.cfg.clock.remember(ctx, s.state) }}}
	tasks = append(tasks, extra...)
	tasks = append(tasks, task{"upstream", s.pool.Run}, task{"drain", s.drain}, task{"health", newHealth(s).Run},
		task{"adapters", s.poll}, task{"commands that wait", s.later.Run})
	return errors.Join(together(ctx, tasks...), s.closeStore())
}

// Close releases the queue of a service that never ran.
func (s *service) Close() error { return errors.Join(s.releaseListeners(), s.closeStore()) }

// listenerAddress is the host:port that the listener called name really has; "" if there is none.
func (s *service) listenerAddress(name string) string {
	for i, listener := range s.cfg.plant.Listeners {
		if listener.Name == name {
			return s.listeners[i].Addr()
		}
	}
	return ""
}

// releaseListeners gives the listeners' addresses back: an adapter whose Run finds its context ended
// does nothing else.
func (s *service) releaseListeners() error {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	var errs []error
	for _, adapter := range s.listeners {
		errs = append(errs, adapter.Run(over, s.up.Accept))
	}
	return errors.Join(errs...)
}

// poll runs every link until ctx ends.
func (s *service) poll(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.stopCommands)()
	group, ctx := errgroup.WithContext(ctx)
	for i, adapter := range s.links {
		patience := patienceOf(s.cfg.plant.Links[i])
		group.Go(func() error {
			return adapter.Run(ctx, func(ctx context.Context, samples []gateway.Sample) error {
				return s.up.AcceptWithin(ctx, patience, samples)
			})
		})
	}
	for _, adapter := range s.listeners {
		group.Go(func() error { return adapter.Run(ctx, s.up.Accept) })
	}
	group.Go(func() error { <-ctx.Done(); return nil }) // a plant without links still runs
	return group.Wait()
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
	for id, lane := range s.queue.Stats().Lanes {
		if s.knows(id) {
			n += lane.Entries
		}
	}
	return n
}

// Status is the page that `gateway status` shows.
func (s *service) Status() control.Status {
	queue := s.queue.Stats()
	page := control.Status{
		Mapping: s.cfg.mappingPath, Hub: s.way.host(), PID: os.Getpid(), Started: s.started,
		Queue: queueStatus(s.queue, queue, s.queueDir()),
	}
	page.Queue.Clock = s.cfg.clock.Synchrony()
	if q := s.pool.Hub().Quota; q.Limit > 0 {
		page.Quota = &control.QuotaStatus{Limit: q.Limit, Used: q.Used, UsedUp: q.Ends}
	}
	for _, link := range s.pool.Stats() {
		lane := queue.Lanes[link.Identity]
		page.Identities = append(page.Identities, control.IdentityStatus{
			Identity: string(link.Identity), Proof: s.proofOf(link), State: string(link.State), Connected: link.Connected, Since: link.Since, LastError: link.LastError,
			Acked: link.Acked, Repeated: link.Repeated, Waiting: lane.Entries, Oldest: lane.Oldest,
		})
	}
	for _, id := range slices.Sorted(maps.Keys(queue.Lanes)) {
		if lane := queue.Lanes[id]; lane.Entries > 0 && !s.knows(id) {
			page.Identities = append(page.Identities, control.IdentityStatus{
				Identity: string(id), Since: s.started, Waiting: lane.Entries, Oldest: lane.Oldest,
				State: string(upstream.StateOffline), LastError: notInMapping,
			})
		}
	}
	for i, adapter := range s.listeners {
		for _, device := range adapter.Stats().Devices {
			page.Devices = append(page.Devices, listenerStatus(s.cfg.plant.Listeners[i].Name, device))
		}
	}
	for _, adapter := range s.links {
		stats := adapter.Stats()
		for _, device := range stats.Devices {
			page.Devices = append(page.Devices, deviceStatus(stats.Link.Name, device))
		}
		page.Links = append(page.Links, s.linkStatus(stats.Link))
	}
	return page
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
