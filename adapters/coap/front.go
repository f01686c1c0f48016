package coap

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// front stands between the socket and the gate: nothing on a plain listener, DTLS otherwise.
type front interface {
	// handle takes a datagram from a permitted source; it is the front's only until handle returns.
	handle(a arrival, datagram []byte)
	// sweep is called about once a second.
	sweep(now time.Time)
	// close ends all sessions and waits until they are gone.
	close()
}

func (a *Adapter) front(s *socket) front {
	if a.cfg.Plain {
		return &plain{adapter: a, socket: s}
	}
	f := &secure{adapter: a, socket: s, log: rate.Sometimes{Interval: time.Minute}}
	f.door = newDoor(a.cfg.Limits.Sessions, f.open)
	return f
}

// guarded lets the datagrams of permitted sources through. Nothing of the others is looked at.
func (a *Adapter) guarded(f front) func(arrival, []byte) {
	return func(from arrival, datagram []byte) {
		if !a.cfg.permits(from.from.Addr()) {
			a.mu.Lock()
			a.stats.Denied++
			a.mu.Unlock()
			return
		}
		f.handle(from, datagram)
	}
}

// permits tells whether a source is listened to.
func (c Config) permits(source netip.Addr) bool {
	source = source.WithZone("")
	for _, p := range c.Allow {
		if p.Contains(source) {
			return true
		}
	}
	return len(c.Allow) == 0 && !c.Plain
}

// plain is UDP without security.
type plain struct {
	adapter *Adapter
	socket  *socket
}

func (f *plain) handle(a arrival, datagram []byte) {
	f.adapter.receive(udpPeer{f.socket, a}, datagram)
}

func (f *plain) sweep(time.Time) {}

func (f *plain) close() {}

// secure is DTLS. It owns the goroutine of every session.
type secure struct {
	adapter *Adapter
	socket  *socket
	door    *door
	running sync.WaitGroup
	checked time.Time // when keys were last looked at; owned by sweep

	logging sync.Mutex // guards log
	log     rate.Sometimes
}

func (f *secure) handle(a arrival, datagram []byte) {
	if !f.door.route(a, datagram, time.Now()) {
		f.adapter.ignore(nil, nil)
	}
}

// open starts the session of a handshake that begins; nil if there can be none.
func (f *secure) open(a arrival, h hello) *session {
	s, err := newSession(f.socket, a, f.adapter.cfg.Keys)
	if err != nil {
		f.adapter.log.Error().Err(err).Msg("no session")
		return nil
	}
	s.hello = h
	f.running.Go(func() { f.run(s) })
	return s
}

// run is a session from its first datagram to its last.
func (f *secure) run(s *session) {
	defer s.close()
	defer f.door.leave(s)
	if err := s.handshake(); err != nil {
		f.rejected(s, err)
		return
	}
	others, ok := f.door.establish(s, time.Now())
	if !ok {
		return
	}
	for _, other := range others {
		other.end()
	}
	f.counted(func(n *Stats) { n.Handshakes++; n.Sessions++ })
	defer f.counted(func(n *Stats) { n.Sessions-- })
	s.read(func(message []byte) { f.adapter.receive(s, message) })
}

func (f *secure) counted(change func(*Stats)) {
	f.adapter.mu.Lock()
	defer f.adapter.mu.Unlock()
	change(&f.adapter.stats)
}

// rejected counts a failed handshake and logs one a minute: anybody can cause them.
func (f *secure) rejected(s *session, err error) {
	f.counted(func(n *Stats) { n.Rejected++ })
	f.logging.Lock()
	defer f.logging.Unlock()
	f.log.Do(func() {
		f.adapter.log.Warn().Err(err).Stringer("peer", s.addr).
			Str("identity", shown(s.identity)).Str("reason", s.doubt()).Msg("handshake failed")
	})
}

// sweep ends sessions that are idle, superseded, or whose key is not valid any more.
func (f *secure) sweep(now time.Time) {
	for _, s := range f.door.expire(now, f.adapter.cfg.Limits.Idle) {
		s.end()
	}
	if now.Sub(f.checked) < keysEvery {
		return
	}
	f.checked = now
	for _, s := range f.door.established() {
		if !s.valid(f.adapter.cfg.Keys) {
			f.adapter.log.Info().Str("identity", shown(s.identity)).Msg("session ended: its key was removed or changed")
			s.end()
		}
	}
}

func (f *secure) close() {
	for _, s := range f.door.close() {
		s.end()
	}
	f.running.Wait()
}
