// Package devsim is a plant to try the gateway on: field devices made from the same checked mapping
// that the gateway runs with.
//
// Its promise: every point of the mapping stands at its address in its encoding, and does what such
// a point does in a plant. Measurements swing within their range, counters count, bits toggle, and
// what may be written keeps what was written. A register is the only place where its value stands,
// so points that share a register always agree. What moves depends on the seed and the time alone.
// Every wire of the mapping is spoken: Modbus TCP, Modbus Security, RTU and ASCII over TCP, and serial lines.
// Faults are dials that can be turned, and a script that can be played, while it runs.
//
// What is polled stands in a Sim, behind Modbus servers. What reports by itself over CoAP are
// Sensors, and of them Value says what the last report said.
//
// It knows the mapping's words, never the adapters' code: its Modbus server, its framings, its byte orders, its
// SenML and its scaling are its own, so that a mistake of the adapter is not answered by the same
// mistake here.
package devsim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/mapping"
)

// Config says what plant is simulated and where it listens.
type Config struct {
	// Plant is the checked mapping; New trusts it.
	Plant *mapping.Plant
	// Seed makes the plant: the same seed shows the same values at the same time.
	Seed int64
	// Listen is the host that the servers listen on, without a port; "" means 127.0.0.1.
	Listen string
	// Fixed listens on the ports of the mapping instead of free ones, and puts serial ports at its paths
	// instead of a temporary directory. Two links with one port then cannot be simulated together.
	Fixed bool
	// StrictHoles answers exception 2 to a read that touches an address which no point covers;
	// without it such addresses read as 0.
	StrictHoles bool
	// Faults is the script that is played from the start; see Play.
	Faults Script
	Log    zerolog.Logger
}

// Sim is a simulated plant. Its methods may be called from any goroutine, before, during and after
// Run. Those that take a link by its name in the mapping panic if there is no such link, except Addr
// and Requests.
type Sim struct {
	plant  *mapping.Plant
	log    zerolog.Logger
	papers *Papers // nil: no link has TLS
	links  map[string]*link
	points map[gateway.PointID]*point
	now    func() time.Time
}

// New builds the devices and binds one listener a link, on a free port unless cfg.Fixed; a serial line
// becomes a pseudo-terminal at the line's own pace. It starts no goroutine; connections are answered once
// Run runs, and Run also gives the ports back.
func New(cfg Config) (*Sim, error) {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1"
	}
	s := &Sim{
		plant:  cfg.Plant,
		log:    cfg.Log,
		links:  make(map[string]*link, len(cfg.Plant.Links)),
		points: make(map[gateway.PointID]*point, len(cfg.Plant.Points)),
		now:    time.Now,
	}
	north := make(map[gateway.PointID]gateway.Point, len(cfg.Plant.Points))
	for _, p := range cfg.Plant.Points {
		north[p.ID] = p
	}
	for _, c := range cfg.Plant.Links {
		if err := s.addLink(cfg, c, north); err != nil {
			s.giveBack()
			return nil, err
		}
	}
	if err := s.Play(cfg.Faults); err != nil {
		s.giveBack()
		return nil, err
	}
	return s, nil
}

// giveBack closes what New has bound.
func (s *Sim) giveBack() {
	for _, l := range s.links {
		l.listener.Close()
	}
}

// addLink builds the units of one link and binds its listener.
func (s *Sim) addLink(cfg Config, c modbus.Config, north map[gateway.PointID]gateway.Point) error {
	if s.links[c.Name] != nil {
		return fmt.Errorf("devsim: two links are called %q: give them different names", c.Name)
	}
	listener, err := s.listen(cfg, c)
	if err != nil {
		return fmt.Errorf("devsim: link %s: %w", c.Name, err)
	}
	l := &link{
		name:     c.Name,
		listener: listener,
		wire:     framerOf(c),
		shared:   c.Framing != modbus.MBAP,
		units:    make(map[uint8]*unit),
		now:      func() time.Time { return s.now() },
		log:      cfg.Log.With().Str("link", c.Name).Logger(),
		dials:    make(map[uint8]dial),
		random:   rand.New(rand.NewPCG(uint64(cfg.Seed), uint64(len(s.links)))),
		conns:    make(map[net.Conn]struct{}),
	}
	if c.Serial != nil {
		l.clock = newLineClock(*c.Serial)
	}
	for _, d := range c.Devices {
		u := l.units[d.Unit]
		if u == nil {
			u = newUnit(cfg.StrictHoles)
			l.units[d.Unit] = u
		}
		u.add(d)
		for _, at := range d.Points {
			p := newPoint(at, north[at.ID], cfg.Seed)
			u.place(p)
			s.points[at.ID] = p
		}
	}
	for _, u := range l.units {
		u.settle()
	}
	s.links[c.Name] = l
	return nil
}

// listen binds where a link's clients come in.
func (s *Sim) listen(cfg Config, c modbus.Config) (net.Listener, error) {
	if c.Serial != nil {
		path := ""
		if cfg.Fixed {
			path = c.Address
		}
		return newPort(path)
	}
	port := "0"
	if cfg.Fixed {
		_, fixed, err := net.SplitHostPort(c.Address)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", c.Address, err)
		}
		port = fixed
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(cfg.Listen, port))
	switch {
	case err != nil && cfg.Fixed:
		return nil, fmt.Errorf("%w: end what uses port %s, or listen on free ports", err, port)
	case err != nil || c.TLS == nil:
		return listener, err
	}
	server, err := s.secure(cfg.Listen, c.TLS.Certificate != "")
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return tls.NewListener(listener, server), nil
}

// Run answers requests until ctx ends and then returns nil; by then every connection and listener is
// closed. A Sim runs once: a second Run returns an error.
func (s *Sim) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range s.plant.Links {
		l := s.links[c.Name]
		l.log.Info().Stringer("address", l.listener.Addr()).Int("units", len(l.units)).Msg("simulated devices listen")
		group.Go(func() error { return l.serve(ctx) })
	}
	return group.Wait()
}

// Addr is the host:port that the link of this name listens on, or the path of its serial port; "" if there
// is no such link.
func (s *Sim) Addr(link string) string {
	l := s.links[link]
	if l == nil {
		return ""
	}
	return l.listener.Addr().String()
}

// Requests is how many request frames have arrived on the link, answered or not; 0 if there is no
// such link.
func (s *Sim) Requests(link string) uint64 {
	l := s.links[link]
	if l == nil {
		return 0
	}
	return l.requests.Load()
}

// Register returns the registers of a point as they stand on the wire now; for a bit of a register,
// the register that it is in. The error wraps gateway.ErrUnknownPoint, or says that the point is a
// coil or a discrete input.
func (s *Sim) Register(point gateway.PointID) ([]uint16, error) {
	p, err := s.find(point)
	if err != nil {
		return nil, err
	}
	if p.at.Table.Bits() {
		return nil, fmt.Errorf("devsim: %s: a %s has no registers: ask for its bit", point, p.at.Table)
	}
	return p.unit.words(p, tickOf(s.now())), nil
}

// Bit returns a coil, a discrete input or a bit of a register as it stands on the wire now. The
// error wraps gateway.ErrUnknownPoint, or says that the point takes whole registers.
func (s *Sim) Bit(point gateway.PointID) (bool, error) {
	p, err := s.find(point)
	if err != nil {
		return false, err
	}
	if !p.layout.single() {
		return false, fmt.Errorf("devsim: %s: no single bit: ask for its registers", point)
	}
	return p.layout.unpack(p.unit.words(p, tickOf(s.now()))) != 0, nil
}

// Value is what a point stands at now, in engineering units: a Bool, an Int or Uint (integers that
// are not scaled), a Float, a Text (strings and words of an enum) or an Object (flags). The error
// wraps gateway.ErrUnknownPoint or gateway.ErrNotAvailable.
func (s *Sim) Value(point gateway.PointID) (gateway.Value, error) {
	p, err := s.find(point)
	if err != nil {
		return gateway.Value{}, err
	}
	return p.value(p.unit.words(p, tickOf(s.now())))
}

// Set holds a point at v from now on, writable or not; clients may still write what is writable. A
// number is rounded to what the registers carry. The absent Value stores what the mapping calls "not
// available", or NaN. An enum also takes a raw number, and flags take an Object of booleans or the
// raw number. The error wraps gateway.ErrUnknownPoint or gateway.ErrRange; nothing has changed then.
func (s *Sim) Set(point gateway.PointID, v gateway.Value) error {
	p, err := s.find(point)
	if err != nil {
		return err
	}
	words, err := p.encode(v)
	if err != nil {
		return err
	}
	p.unit.hold(p, words)
	s.log.Info().Str("point", string(point)).Stringer("value", v).Msg("point held")
	return nil
}

func (s *Sim) find(point gateway.PointID) (*point, error) {
	p := s.points[point]
	if p == nil {
		return nil, fmt.Errorf("devsim: %q: %w", point, gateway.ErrUnknownPoint)
	}
	return p, nil
}
