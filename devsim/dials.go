package devsim

import (
	"fmt"
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

// mustLink finds a link. A name that is not in the mapping is a mistake in the calling program: a
// test that turns a dial which does not exist would prove nothing.
func (s *Sim) mustLink(name string) *link {
	l := s.links[name]
	if l == nil {
		panic(fmt.Sprintf("devsim: the mapping has no link %q", name))
	}
	return l
}
