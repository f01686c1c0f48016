package upstream

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// liveAge is how long a lane's next message may have waited before the lane counts as a backlog.
	liveAge = 10 * time.Second
	// burst is how much unused time the shaper makes up for, so that a coarse timer costs no rate.
	burst = 100 * time.Millisecond
	// leastPause keeps a high rate from being handed out message by message.
	leastPause = time.Millisecond
)

// class is what a lane is while it waits for its turn.
type class uint8

const (
	live class = iota
	backlog
	classes
)

// classOf is the class of a lane whose next message was made at created.
func classOf(created, now time.Time) class {
	if now.Sub(created) < liveAge {
		return live
	}
	return backlog
}

// shares divides what is sent between the two classes: each gets its part while both wait, and all of
// it while the other does not.
type shares struct {
	part [classes]float64 // together 1
	used [classes]float64 // messages sent, divided by the part: who has less is next
}

func newShares(live float64) shares {
	return shares{part: [classes]float64{live, 1 - live}}
}

// next is the class that sends one message now, among those that wait; at least one does. A class that
// did not wait for a while has saved nothing up.
func (s *shares) next(waits [classes]bool) class {
	c := live
	switch {
	case !waits[live]:
		c = backlog
	case waits[backlog] && s.behind(backlog):
		c = backlog
	}
	if other := live + backlog - c; !waits[other] {
		s.used = [classes]float64{}
	} else if s.part[c] > 0 {
		s.used[c] += 1 / s.part[c]
	}
	return c
}

// behind tells whether c has sent less than its part. A class without a part never has.
func (s *shares) behind(c class) bool {
	other := live + backlog - c
	return s.part[other] == 0 || s.part[c] > 0 && s.used[c] < s.used[other]
}

// shaper keeps all lanes together below a rate. A lane asks for its turn before it sends; lanes of one
// class take turns message by message, so that none waits for another's backlog.
type shaper struct {
	rate float64       // messages a second
	wake chan struct{} // capacity 1: somebody has begun to wait

	mu     sync.Mutex // guards the fields below
	shares shares
	queues [classes][]*turn
	tokens float64   // messages that may be sent now
	filled time.Time // when tokens was right
}

// turn is one lane that waits: it wants some messages sent and has been granted a few of them.
type turn struct {
	want, granted int
	ready         chan struct{} // closed when something was granted, and all that could be
}

// newShaper makes a shaper of rate messages a second, of which live, 0 to 1, is the part of the lanes
// without a backlog. Without a rate it is nil, which permits everything.
func newShaper(rate, live float64) *shaper {
	if rate <= 0 {
		return nil
	}
	return &shaper{rate: rate, wake: make(chan struct{}, 1), shares: newShares(live), tokens: 1}
}

// take waits until the lane may send at least one of the want messages it has, and returns how many it
// may; 0 if ctx ended first. It needs run to be running.
func (s *shaper) take(ctx context.Context, c class, want int) int {
	if s == nil {
		return want
	}
	t := &turn{want: want, ready: make(chan struct{})}
	s.mu.Lock()
	s.queues[c] = append(s.queues[c], t)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	select {
	case <-t.ready:
		return t.granted
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queues[c] = slices.DeleteFunc(s.queues[c], func(other *turn) bool { return other == t })
	s.tokens += float64(t.granted) // in the moment between
	return 0
}

// run hands out turns until ctx ends.
func (s *shaper) run(ctx context.Context) {
	if s == nil {
		return
	}
	for {
		pause, some := s.grant(time.Now())
		if some {
			if !wait(ctx, pause) {
				return
			}
			continue
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

// grant hands out what may be sent at time now, and returns how long it takes until more may, if
// somebody still waits for it.
func (s *shaper) grant(now time.Time) (pause time.Duration, some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.filled.IsZero() {
		most := max(1, s.rate*burst.Seconds())
		s.tokens = min(most, s.tokens+s.rate*now.Sub(s.filled).Seconds())
	}
	s.filled = now
	var granted []*turn
	for s.tokens >= 1 && s.waiting() {
		s.tokens--
		c := s.shares.next([classes]bool{len(s.queues[live]) > 0, len(s.queues[backlog]) > 0})
		t := s.queues[c][0]
		s.queues[c] = s.queues[c][1:]
		if t.granted == 0 {
			granted = append(granted, t)
		}
		if t.granted++; t.granted < t.want {
			s.queues[c] = append(s.queues[c], t)
		}
	}
	for c := range s.queues { // who got something does not wait for more: its next turn is as good
		s.queues[c] = slices.DeleteFunc(s.queues[c], func(t *turn) bool { return t.granted > 0 })
	}
	for _, t := range granted {
		close(t.ready)
	}
	pause = time.Duration((1 - s.tokens) / s.rate * float64(time.Second))
	return max(pause, leastPause), s.waiting()
}

func (s *shaper) waiting() bool { return len(s.queues[live])+len(s.queues[backlog]) > 0 }
