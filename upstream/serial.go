package upstream

import (
	"math"
	"sync"
)

// unlimited is what turns that must not be refused are added with.
const unlimited = math.MaxInt

// crew are the goroutines of a link. Nobody joins it once it disbands: what the library still hands over
// then, or a report that comes at that moment, is not wanted any more.
type crew struct {
	mu   sync.Mutex // guards over, and joining against it
	over bool
	work sync.WaitGroup
}

// Go runs f; false if the crew has disbanded.
func (c *crew) Go(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.work.Go(f)
	return true
}

// disband lets nobody join any more, and waits for who has.
func (c *crew) disband() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.work.Wait()
}

// serial runs functions one after the other, in the order they came. Its goroutine exists only while there
// are some: thousands of idle identities have none.
type serial struct {
	mu      sync.Mutex // guards the fields below
	waiting []func()
	running bool
}

// add makes f the last of at most so many that wait; false if there are as many already, or work, which owns
// the goroutine, has disbanded.
func (s *serial) add(work *crew, most int, f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= most {
		return false
	}
	s.waiting = append(s.waiting, f)
	if !s.running {
		if s.running = work.Go(s.run); !s.running {
			s.waiting = nil
		}
	}
	return s.running
}

// idle tells whether none waits and none runs.
func (s *serial) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.running
}

func (s *serial) run() {
	for {
		s.mu.Lock()
		if len(s.waiting) == 0 {
			s.running, s.waiting = false, nil
			s.mu.Unlock()
			return
		}
		f := s.waiting[0]
		s.waiting = s.waiting[1:]
		s.mu.Unlock()
		f()
	}
}
