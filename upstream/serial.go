package upstream

import (
	"math"
	"sync"
)

// unlimited is what turns that must not be refused are added with.
const unlimited = math.MaxInt

// serial runs functions one after the other, in the order they came. Its goroutine exists only while there
// are some: thousands of idle identities have none.
type serial struct {
	mu      sync.Mutex // guards the fields below
	waiting []func()
	running bool
}

// add makes f the last of at most so many that wait; false if there are as many already. work owns the
// goroutine.
func (s *serial) add(work *sync.WaitGroup, most int, f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= most {
		return false
	}
	s.waiting = append(s.waiting, f)
	if !s.running {
		s.running = true
		work.Go(s.run)
	}
	return true
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
