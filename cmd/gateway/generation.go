package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/bridge"
	"iothub-gateway/internal/control"
	"iothub-gateway/mapping"
	"iothub-gateway/upstream"
)

// generation is one mapping at work, with the parts that it shares with the one before. It never changes: a reload
// puts the next one in its place.
type generation struct {
	loaded
	number     int       // 1 is the one of the start
	at         time.Time // when it was taken over
	links      []*part   // in the order of the plant's Links
	listeners  []*part   // in the order of its Listeners
	devices    map[gateway.PointID]*part
	identities map[gateway.IdentityID]mapping.Identity
	owners     map[string]gateway.IdentityID // of devices, by name
	joined     map[gateway.IdentityID]int    // the generation with which each began its place in the pool
	commands   map[gateway.IdentityID]*usage // under way by this mapping
	up         *bridge.Up
	down       *bridge.Down
	points     pointAccess
}

// transition leads from one generation to the next.
type transition struct {
	old, next *generation
	leaving   []gateway.IdentityID
	joining   []upstream.Member
	retiring  []*part
	starting  []*part
}

// nothing is the generation before the first.
func (s *service) nothing() *generation {
	return &generation{loaded: loaded{plant: &mapping.Plant{}}, up: bridge.NewUp(nil, nil, s.queue)}
}

// prepare makes the generation of a mapping that differs from the old one by c, and takes the addresses of new
// listeners. Nothing that runs has changed when it returns, whether with an error or not.
func (s *service) prepare(old *generation, l loaded, c control.Changes) (*transition, error) {
	g := &generation{
		loaded: l, number: old.number + 1, at: time.Now(), devices: map[gateway.PointID]*part{}, identities: map[gateway.IdentityID]mapping.Identity{},
		owners: map[string]gateway.IdentityID{}, joined: map[gateway.IdentityID]int{}, commands: map[gateway.IdentityID]*usage{},
	}
	t := &transition{old: old, next: g}
	var identities []gateway.Identity
	var errs []error
	news := namesOf(c.Identities, true)
	for _, id := range l.plant.Identities {
		identities = append(identities, id.Identity)
		g.identities[id.ID], g.commands[id.ID], g.joined[id.ID] = id, &usage{}, old.joined[id.ID]
		if !news[string(id.ID)] {
			continue
		}
		g.joined[id.ID] = g.number
		credential, err := s.credential(l.plant, id)
		errs = append(errs, err)
		t.joining = append(t.joining, s.member(l.plant, id, credential))
	}
	for id := range namesOf(c.Identities, false) {
		t.leaving = append(t.leaving, gateway.IdentityID(id))
	}
	for _, d := range l.plant.Devices {
		g.owners[d.Name] = d.Identity
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	again := anew(c.Points)
	g.up = old.up.Renew(l.plant.Points, identities, func(id gateway.PointID) bool { return again[id] })
	if err := s.staff(t, c); err != nil {
		return nil, err
	}
	g.down = s.newDown(g)
	g.points = pointsOf(l.plant.Points, g.device)
	return t, nil
}

// namesOf are the names of what is new or changed, or else of what has gone or is changed.
func namesOf(d control.Difference, new bool) map[string]bool {
	names := map[string]bool{}
	for _, c := range d.Changed {
		names[c.Name] = true
	}
	list := d.Removed
	if new {
		list = d.Added
	}
	for _, name := range list {
		names[name] = true
	}
	return names
}

// staff gives the next generation its parts: those that stay, and new ones. A new listener takes its address
// now; if that is in use and one that goes has the same port, as soon as it is free.
func (s *service) staff(t *transition, c control.Changes) error {
	g, log := t.next, s.cfg.log
	links, listeners := t.staying(t.old.links, c.Links), t.staying(t.old.listeners, c.Listeners)
	ports := map[string]bool{} // of listeners that go
	for _, p := range t.retiring {
		if p.listener != nil {
			ports[portOf(p.listener.Addr())] = true
		}
	}
	for _, link := range g.plant.Links {
		p := links[link.Name]
		if p == nil {
			p = t.begin(linkPart(link, log))
		}
		g.links = append(g.links, p)
		for _, d := range link.Devices {
			for _, point := range d.Points {
				g.devices[point.ID] = p
			}
		}
	}
	for _, l := range g.plant.Listeners {
		p := listeners[l.Name]
		if p == nil {
			p = t.begin(listenerPart(l, s.keysOf(l), log))
			err := p.listener.Bind()
			if err != nil && !(ports[portOf(l.Listen)] && errors.Is(err, syscall.EADDRINUSE)) {
				return errors.Join(err, t.giveUp())
			}
		}
		g.listeners = append(g.listeners, p)
		for _, d := range l.Devices {
			for _, point := range d.Points {
				g.devices[point.ID] = p
			}
		}
	}
	return nil
}

// staying are the parts that stay as they are, by name; the others retire.
func (t *transition) staying(parts []*part, d control.Difference) map[string]*part {
	gone, stay := namesOf(d, false), map[string]*part{}
	for _, p := range parts {
		if gone[p.name] {
			t.retiring = append(t.retiring, p)
		} else {
			stay[p.name] = p
		}
	}
	return stay
}

// begin makes p one of the parts that start.
func (t *transition) begin(p *part) *part {
	p.up.Store(t.next.up)
	t.starting = append(t.starting, p)
	return p
}

// keysOf finds the keys of a listener's devices.
func (s *service) keysOf(l mapping.Listener) func(string) ([]byte, bool) {
	if l.Plain {
		return nil
	}
	return s.cfg.psk(l)
}

func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return port
}

// giveUp gives back what prepare took.
func (t *transition) giveUp() error {
	var errs []error
	for _, p := range t.starting {
		errs = append(errs, p.release())
	}
	return errors.Join(errs...)
}

// carryOut makes the next generation the one that works. Commands go to it from the beginning, and wait where a
// link that serves them is not there yet. What goes finishes its commands and hands in what it has read.
func (s *service) carryOut(ctx context.Context, t *transition) error {
	s.later.Use(nil)
	s.now.Store(t.next)
	for _, p := range slices.Concat(t.next.links, t.next.listeners) {
		p.up.Store(t.next.up)
	}
	var field, going sync.WaitGroup
	field.Go(func() {
		for _, p := range t.retiring {
			going.Go(func() { s.crew.retire(ctx, p) })
		}
		going.Wait()
		for _, p := range t.starting {
			s.crew.start(p)
		}
	})
	err := s.exchange(ctx, t)
	field.Wait()
	s.later.Use(t.next.down)
	return err
}

// exchange lets the identities go that leave, and takes those that join.
func (s *service) exchange(ctx context.Context, t *transition) error {
	var leaving sync.WaitGroup
	for _, id := range t.leaving {
		leaving.Go(func() {
			grace, cancel := context.WithTimeout(ctx, commandGrace)
			defer cancel()
			t.old.commands[id].idle(grace)
			_ = s.pool.Remove(ctx, id) // only an end of ctx stops it, and then everything ends
		})
	}
	leaving.Wait()
	var errs []error
	for _, m := range t.joining {
		errs = append(errs, s.pool.Add(m))
	}
	return errors.Join(errs...)
}

// device is who serves a point; nil if nobody does.
func (g *generation) device(id gateway.PointID) bridge.Device {
	if p := g.devices[id]; p != nil {
		return p
	}
	return nil
}

// knows tells whether the mapping has the identity.
func (g *generation) knows(id gateway.IdentityID) bool {
	_, ok := g.identities[id]
	return ok
}

// place is an identity's place in the pool; the zero place if it has none.
func (g *generation) place(id gateway.IdentityID) place {
	if !g.knows(id) {
		return place{}
	}
	return place{id, g.joined[id]}
}

// begin counts a command of an identity until end is called.
func (g *generation) begin(id gateway.IdentityID) (end func()) {
	if u := g.commands[id]; u != nil {
		return u.begin()
	}
	return func() {}
}

// page says which mapping this is.
func (g *generation) page(refused *string) control.Loaded {
	page := control.Loaded{At: g.at, Reloads: g.number - 1}
	if refused != nil {
		page.Refused = *refused
	}
	return page
}
