package devsim

import (
	"fmt"
	"slices"
	"time"
)

// Mute makes a unit accept requests and neither carry them out nor answer. The unit need not be in
// the mapping: an unknown one is answered with exception 0x0B unless it is muted.
func (s *Sim) Mute(link string, unit uint8, on bool) {
	s.mustLink(link).turn(unit, func(d *dial) { d.mute = on })
}

// Exception makes a unit answer every request with this exception code without carrying it out;
// 0 ends it.
func (s *Sim) Exception(link string, unit uint8, code byte) {
	s.mustLink(link).turn(unit, func(d *dial) { d.exception = code })
}

// Delay makes a unit answer this long after it has carried a request out; 0 ends it. Like a serial
// gateway, a connection answers in order: requests behind a delayed one wait, other connections do
// not.
func (s *Sim) Delay(link string, unit uint8, d time.Duration) {
	s.mustLink(link).turn(unit, func(of *dial) { of.delay = d })
}

// Drop closes every connection of a link once; clients may connect again at once.
func (s *Sim) Drop(link string) {
	l := s.mustLink(link)
	l.drop()
	l.log.Info().Msg("connections dropped")
}

// Play replaces the faults of every link that the script names, and counts anew. The error names a link
// that the mapping does not have; nothing has changed then.
func (s *Sim) Play(script Script) error {
	for name := range script {
		if s.links[name] == nil {
			return fmt.Errorf("devsim: fault script: %q: %w", name, errNoLink)
		}
	}
	for name, faults := range script {
		s.links[name].play(faults)
	}
	return nil
}

// Fired is how often each fault of a link's script has been done since it was played.
func (s *Sim) Fired(link string) []int {
	l := s.mustLink(link)
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.fired)
}

// Line is what a serial link has carried; the zero Line if the link is none.
func (s *Sim) Line(link string) Line {
	if c := s.mustLink(link).clock; c != nil {
		return c.line()
	}
	return Line{}
}

// mustLink finds a link. A name that is not in the mapping is a mistake in the calling program: a
// test that turns a dial which does not exist would prove nothing.
func (s *Sim) mustLink(name string) *link {
	l := s.links[name]
	if l == nil {
		panic(fmt.Sprintf("devsim: the mapping has no link %q", name))
	}
	return l
}
