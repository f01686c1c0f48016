package devsim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
	"iothub-gateway/mapping"
)

// SensorConfig says which sensors are simulated and how they find their listeners.
type SensorConfig struct {
	// Plant is the checked mapping; NewSensors trusts it.
	Plant *mapping.Plant
	// Seed makes the plant: the same seed shows the same values at the same time.
	Seed int64
	// Addr is the host:port at which the listener of this name really listens, "" while it does not.
	// It is asked whenever a sensor connects, by several goroutines at once.
	Addr func(listener string) string
	// Key is the pre-shared key of a PSK identity, nil if there is none. It is asked like Addr.
	Key func(psk string) []byte
	Log zerolog.Logger
}

// Sensors are the devices of a mapping that report by themselves, over CoAP (RFC 7252). Each POSTs
// all of its points as one confirmable report, again and again: four times within the silence that
// the mapping expects at most, but not more often than once a second and at least every 30 s.
//
// What a sensor sends depends on its first point; points that such a body has no place for are never
// reported. A sensor whose report is not answered connects anew, sooner at first and later less
// often; one that is answered with an error reports again when its time has come.
//
// The methods may be called from any goroutine, before, during and after Run. Mute panics if the
// mapping has no such device.
type Sensors struct {
	cfg     SensorConfig
	sensors []*sensor // in the order of the mapping
	points  map[gateway.PointID]*sensed
	now     func() time.Time
	pace    pace
	clock   clock
	started atomic.Bool
	ended   chan struct{} // closed at the end of Run

	mu sync.Mutex // guards what the places hold
}

// NewSensors builds the devices of every listener. It starts no goroutine and opens no socket.
func NewSensors(cfg SensorConfig) *Sensors {
	s := &Sensors{
		cfg:    cfg,
		points: make(map[gateway.PointID]*sensed),
		now:    time.Now,
		pace:   pace{ack: 2 * time.Second, handshake: 10 * time.Second, retry: time.Second},
		ended:  make(chan struct{}),
	}
	north := make(map[gateway.PointID]gateway.Point, len(cfg.Plant.Points))
	for _, p := range cfg.Plant.Points {
		north[p.ID] = p
	}
	for _, l := range cfg.Plant.Listeners {
		for _, d := range l.Devices {
			s.sensors = append(s.sensors, s.newSensor(l.Config, d, north))
		}
	}
	return s
}

// newSensor builds one device and gives its points their places in its report. Points of one key
// share a place, so they always agree.
func (s *Sensors) newSensor(l coap.Config, d coap.Device, north map[gateway.PointID]gateway.Point) *sensor {
	seed := seedOf(s.cfg.Seed, d.Name)
	o := &sensor{
		of: s, at: d, listener: l.Name, plain: l.Plain, seed: seed,
		period: periodOf(d.ExpectEvery),
		first:  time.Duration(fraction(seed) * float64(time.Second)),
		asks:   make(chan chan<- outcome),
		log:    s.cfg.Log.With().Str("sensor", d.Name).Str("listener", l.Name).Logger(),
	}
	o.report.format = formatOf(d)
	now := tickOf(s.now())
	for _, at := range d.Points {
		p := &sensed{at: at, sensor: o, unit: north[at.ID].Unit}
		if at.Source == d.Points[0].Source && !inside(at, d.Points) {
			p.place = o.report.placeOf(at, north[at.ID], seedOf(s.cfg.Seed, string(at.ID)))
			p.place.sent = p.place.read(now)
		}
		s.points[at.ID] = p
	}
	return o
}

// Run reports until ctx ends and then returns nil; by then every session is closed. Sensors run
// once: a second Run returns an error.
func (s *Sensors) Run(ctx context.Context) error {
	if !s.started.CompareAndSwap(false, true) {
		return errors.New("devsim: sensors run once: make new ones")
	}
	defer close(s.ended)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { s.clock.run(ctx, s.pace.ack/8) })
	for _, o := range s.sensors {
		running.Go(func() { o.run(ctx) })
	}
	return nil
}

// Value is what a point stood at when its device last sent a report, in engineering units: what the
// gateway must make of it. Before the first report it is what that one will say. Whole numbers that
// are not scaled are Int, or Uint beyond its range; all others Float. The error wraps
// gateway.ErrUnknownPoint, or gateway.ErrNotAvailable if the report has no value for the point.
func (s *Sensors) Value(point gateway.PointID) (gateway.Value, error) {
	p, err := s.find(point)
	if err != nil {
		return gateway.Value{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.value()
}

// Set holds a point at v from the next report on: a number, a Bool or a Text; a scaled point only at
// a number. The absent Value stands for a broken probe: its SenML record is left out, a JSON member
// is null, a text cannot say it. Points of one key are held together. The error wraps
// gateway.ErrUnknownPoint or gateway.ErrRange; nothing has changed then.
func (s *Sensors) Set(point gateway.PointID, v gateway.Value) error {
	p, err := s.find(point)
	if err != nil {
		return err
	}
	raw, err := p.encode(v)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.place.held = &raw
	if !p.sensor.report.begun {
		p.place.sent = raw
	}
	p.sensor.log.Info().Str("point", string(point)).Stringer("value", v).Msg("point held")
	return nil
}

// Report makes a device send one report now, muted or not, and returns the code of the answer, such
// as "2.04". It needs Run: without it, it waits for Run to begin or ctx to end. The error says that
// the mapping has no such device, that Run or ctx has ended, or why no answer came.
func (s *Sensors) Report(ctx context.Context, device string) (code string, err error) {
	o := s.sensor(device)
	if o == nil {
		return "", fmt.Errorf("devsim: %q: %w", device, errNoSensor)
	}
	answer := make(chan outcome, 1)
	select {
	case o.asks <- answer:
	case <-s.ended:
		return "", fmt.Errorf("devsim: sensor %s: not reported: Run has ended", device)
	case <-ctx.Done():
		return "", fmt.Errorf("devsim: sensor %s: not reported: %w", device, ctx.Err())
	}
	select {
	case got := <-answer:
		return got.code, got.err
	case <-ctx.Done():
		return "", fmt.Errorf("devsim: sensor %s: waiting for the answer: %w", device, ctx.Err())
	}
}

// Acked counts for each device the reports that were answered 2.04.
func (s *Sensors) Acked() map[string]uint64 {
	acked := make(map[string]uint64, len(s.sensors))
	for _, o := range s.sensors {
		acked[o.at.Name] = o.acked.Load()
	}
	return acked
}

// Mute makes a device stop reporting of its own accord, or start again. It keeps its session, and
// Report still makes it report.
func (s *Sensors) Mute(device string, on bool) {
	o := s.sensor(device)
	if o == nil {
		panic(fmt.Sprintf("devsim: the mapping has no sensor %q", device))
	}
	o.mute.Store(on)
	o.log.Info().Bool("mute", on).Msg("dial turned")
}

var errNoSensor = errors.New("the mapping has no such sensor")

func (s *Sensors) sensor(device string) *sensor {
	for _, o := range s.sensors {
		if o.at.Name == device {
			return o
		}
	}
	return nil
}

func (s *Sensors) find(point gateway.PointID) (*sensed, error) {
	p := s.points[point]
	if p == nil {
		return nil, fmt.Errorf("devsim: %q: %w", point, gateway.ErrUnknownPoint)
	}
	return p, nil
}
