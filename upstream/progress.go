package upstream

import (
	"errors"
	"time"
)

const (
	// silentAfter is how long a hub that has something to acknowledge may say nothing at all before it is
	// asked for a sign of life, and silentMost when it is given up: a peer that is gone while another
	// machine, such as a proxy, goes on taking what is sent is found within 30 s.
	silentAfter = 10 * time.Second
	silentMost  = 25 * time.Second
	// A message larger than usualSize has so much more time as a line of leastRate bytes a second takes for
	// the rest of it: until it is through, the hub has nothing to say, and a sign of life waits behind it.
	usualSize = 16 << 10
	leastRate = 2 << 10
)

var (
	errAckTimeout = errors.New("no acknowledgement from the hub in time")
	errSilent     = errors.New("the hub is silent, also when it is asked for a sign of life: the connection is half open")
)

// pingRequest is the whole of a PINGREQ (MQTT 3.1.1 section 3.12). The library takes the answer for one
// to its own.
var pingRequest = [...]byte{0xc0, 0}

// firstLook is how long after something was sent into an idle connection progress is judged.
func (c *Config) firstLook() time.Duration { return min(c.AckTimeout, silentAfter) }

// patience is how much longer a message of size bytes may take than others.
func patience(size int) time.Duration {
	return time.Duration(max(0, size-usualSize)) * time.Second / leastRate
}

// judge says what a connection is to do that has had something in flight without an acknowledgement
// since moved, and has heard anything at all at heard: ask for a sign of life, look again after next, or
// end for err. The largest in flight may take more time than others.
func (c *Config) judge(now, moved, heard time.Time, more time.Duration) (ping bool, next time.Duration, err error) {
	quiet := now.Sub(moved)
	if heard.After(moved) {
		quiet = now.Sub(heard)
	}
	left := c.AckTimeout + more - now.Sub(moved)
	switch {
	case left <= 0:
		return false, 0, errAckTimeout
	case quiet >= silentMost+more:
		return false, 0, errSilent
	case quiet >= silentAfter:
		return true, min(left, silentMost+more-quiet), nil
	}
	return false, min(left, silentAfter-quiet), nil
}

// checkProgress ends a connection on which the hub acknowledges nothing, and looks again while
// something is in flight.
func (s *session) checkProgress() {
	moved, some := s.flight.waiting()
	if !some {
		return
	}
	ping, next, err := s.pool.cfg.judge(time.Now(), moved, s.conn.Heard(), patience(s.flight.heaviest()))
	if err == nil && ping {
		_, err = s.conn.Write(pingRequest[:])
	}
	if err != nil {
		s.lose(err)
		return
	}
	s.late.Reset(next)
}
