package coap

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	gateway "iothub-gateway"
)

// What may be under way.
const (
	maxReports      = 256     // reports that wait for accept
	maxSamples      = 1 << 16 // and their readings together
	refusalsASecond = 50      // answers to endpoints that no device is known for
)

// Adapter is one listener. It implements gateway.Adapter.
type Adapter struct {
	cfg    Config
	log    zerolog.Logger
	roster roster
	points map[gateway.PointID]string // the device's name
	seed   maphash.Seed

	reports chan report // has room for all that may be on their way

	bind   sync.Mutex // guards socket
	socket *socket

	mu         sync.Mutex // guards the fields below and the devices' state
	exchanges  *exchanges
	assembly   *assembly
	strangers  *rate.Limiter // refusals to endpoints without a device
	waiting    int           // reports on their way to accept
	samples    int           // and their readings
	failing    time.Time     // since when accept fails; zero: it does not
	told       bool          // and that was logged
	failureLog rate.Sometimes
	closing    bool
	stats      Stats
}

// Stats counts since New, except where a field says otherwise.
type Stats struct {
	Reports    uint64 // stored durably and answered so
	Failed     uint64 // read, but not stored, because the disk failed or the queue is full: answered 5.03
	Refused    uint64 // answered 4.xx, or 5.05, or dropped for the same reason
	Limited    uint64 // over the device's rate
	Busy       uint64 // refused because too many were on their way
	Repeated   uint64 // retransmissions and other duplicates
	Ignored    uint64 // no requests, or not to be parsed
	Denied     uint64 // from sources that are not on the allow-list
	Unmapped   uint64 // values in reports that belong to no point
	Silences   uint64 // devices that were found silent for too long
	Handshakes uint64 // completed
	Rejected   uint64 // handshakes that failed: wrong key, unknown identity, given up

	Sessions int // DTLS sessions now
	Silent   int // devices now silent for too long

	Devices []DeviceStats // in the order of the Config
}

// DeviceStats is one device's part of Stats.
type DeviceStats struct {
	Name       string
	LastReport time.Time // when the last report that could be read came; zero if none has
	Silent     bool      // for longer than ExpectEvery
}

// New makes an adapter. It opens nothing and starts nothing.
func New(cfg Config, log zerolog.Logger) *Adapter {
	cfg.Limits = cfg.Limits.withDefaults()
	a := &Adapter{
		cfg:        cfg,
		log:        log.With().Str("listener", cfg.Name).Logger(),
		roster:     newRoster(cfg),
		points:     make(map[gateway.PointID]string),
		seed:       maphash.MakeSeed(),
		reports:    make(chan report, maxReports+len(cfg.Devices)),
		exchanges:  newExchanges(),
		assembly:   newAssembly(cfg.Limits.Body),
		strangers:  rate.NewLimiter(refusalsASecond, 2*refusalsASecond),
		failureLog: rate.Sometimes{Interval: time.Minute},
	}
	for _, d := range cfg.Devices {
		for _, p := range d.Points {
			a.points[p.ID] = d.Name
		}
	}
	return a
}

// Bind opens the socket, so that it is known before Run whether the address can be had. It is
// called by Run if nobody else did.
func (a *Adapter) Bind() error {
	a.bind.Lock()
	defer a.bind.Unlock()
	if a.socket != nil {
		return nil
	}
	s, err := listen(a.cfg.Listen)
	if err != nil {
		return fmt.Errorf("coap: listener %s: %s: %w", a.cfg.Name, a.cfg.Listen, err)
	}
	a.socket = s
	return nil
}

// Addr is the bound address, host:port; "" before Bind and after Run.
func (a *Adapter) Addr() string {
	a.bind.Lock()
	defer a.bind.Unlock()
	if a.socket == nil {
		return ""
	}
	return a.socket.addr()
}

// Run listens until ctx ends. Its error says why the address cannot be had. When it returns, every
// request that was read has been answered, the sessions have been told, and the socket is closed.
//
// Reports that arrive while accept is busy are handed on together in its next call; the readings of
// one report are never spread over two. If such a call fails, each report is tried alone, so that
// one that cannot be stored does not take the others with it; what a full queue refuses is not tried
// again: its device is asked to wait.
func (a *Adapter) Run(ctx context.Context, accept func(context.Context, []gateway.Sample) error) error {
	if err := a.Bind(); err != nil {
		return err
	}
	a.bind.Lock()
	socket := a.socket
	a.bind.Unlock()
	a.start(time.Now())
	front := a.front(socket)
	a.log.Info().Str("address", socket.addr()).Bool("dtls", !a.cfg.Plain).Msg("listening")

	var background sync.WaitGroup
	open, shut := context.WithCancel(context.WithoutCancel(ctx))
	background.Go(func() { socket.serve(open, a.guarded(front)) })
	background.Go(func() { a.tend(open, front) })
	a.deliver(ctx, accept)
	shut()
	front.close()
	socket.close()
	background.Wait()

	a.bind.Lock()
	defer a.bind.Unlock()
	a.socket = nil
	return nil
}

// start makes every device's silence begin now.
func (a *Adapter) start(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closing = false
	for _, d := range a.roster.all {
		d.heard = now
	}
}

// Read answers that the devices report by themselves: each Sample's Err wraps ErrNoAnswer.
func (a *Adapter) Read(_ context.Context, points []gateway.PointID) ([]gateway.Sample, error) {
	now := time.Now()
	samples := make([]gateway.Sample, 0, len(points))
	for _, p := range points {
		name, ok := a.points[p]
		if !ok {
			return nil, a.unknown(p)
		}
		err := fmt.Errorf("coap: listener %s: %s reports by itself, it cannot be asked: %w", a.cfg.Name, name, gateway.ErrNoAnswer)
		samples = append(samples, gateway.Sample{Point: p, Time: now, Err: err})
	}
	return samples, nil
}

// Write answers ErrReadOnly: who only reports is not written to (COAP-51).
func (a *Adapter) Write(_ context.Context, p gateway.PointID, _ gateway.Value, _ gateway.Confirm) error {
	name, ok := a.points[p]
	if !ok {
		return a.unknown(p)
	}
	return fmt.Errorf("coap: listener %s: %s only reports: %s: %w", a.cfg.Name, name, p, gateway.ErrReadOnly)
}

func (a *Adapter) unknown(p gateway.PointID) error {
	return fmt.Errorf("coap: listener %s: %s: %w", a.cfg.Name, p, gateway.ErrUnknownPoint)
}

// Stats is what happened so far.
func (a *Adapter) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stats
	for _, d := range a.roster.all {
		if d.silent {
			s.Silent++
		}
		s.Devices = append(s.Devices, DeviceStats{Name: d.Name, LastReport: d.reported, Silent: d.silent})
	}
	return s
}
