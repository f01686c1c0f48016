package upstream

import (
	"errors"
	"testing"
	"time"
)

func TestAnIdleConnectionIsKeptAliveAndADeadOneIsFound(t *testing.T) {
	bubble(t, Config{}, []Member{member("d", holdsFor("d", 100*time.Hour))}, nil, func(hub *pipeHub, pool *Pool) {
		begin := time.Now()
		later(2 * time.Hour)
		if n := len(hub.now().pings); n < 28 || n > 31 || len(hub.now().connects) != 1 {
			t.Errorf("%d pings in two hours, %d connections", n, len(hub.now().connects))
		}
		for i, at := range hub.now().pings {
			if gap := at.Sub(begin); gap > keepAlive+10*time.Second {
				t.Errorf("ping %d comes after %v", i, gap)
			}
			begin = at
		}
		hub.set(func() { hub.deaf = true })
		later(keepAlive + pingTimeout + 15*time.Second)
		if len(hub.now().ended) != 1 || hub.now().ended[0] != "lost" {
			t.Errorf("a hub that answers no ping is not given up: %v", hub.now().ended)
		}
		hub.set(func() { hub.deaf = false })
		later(DefaultRetryMost)
		if s := pool.Stats()[0]; !s.Connected || s.Connects < 2 {
			t.Errorf("not connected again: %+v", s)
		}
	})
}

func TestAPeerThatVanishesUnderLoadIsFoundWithin30Seconds(t *testing.T) {
	m := member("d", holdsFor("d", time.Hour))
	lane := m.Lane.(*shelf)
	bubble(t, Config{}, []Member{m}, nil, func(hub *pipeHub, pool *Pool) {
		lane.put(1000)
		later(time.Second)
		if lane.delivered() != 1000 {
			t.Fatalf("%d of 1000 delivered", lane.delivered())
		}
		hub.set(func() { hub.deaf = true })
		lane.put(100)
		gone := time.Now()
		for len(hub.now().ended) == 0 && time.Since(gone) < time.Minute {
			later(100 * time.Millisecond)
		}
		if took := time.Since(gone); took > 30*time.Second || took < silentAfter {
			t.Errorf("found after %v", took)
		}
		hub.set(func() { hub.deaf = false })
		later(time.Minute)
		if lane.delivered() != 1100 {
			t.Errorf("%d of 1100 delivered", lane.delivered())
		}
	})
}

func TestAHubThatOnlyTakesItsTimeIsNotGivenUp(t *testing.T) {
	m := member("d", holdsFor("d", time.Hour))
	bubble(t, Config{}, []Member{m}, nil, func(hub *pipeHub, pool *Pool) {
		hub.set(func() { hub.silent = true }) // it acknowledges nothing, and answers pings
		m.Lane.(*shelf).put(1)
		later(DefaultAckTimeout - 2*time.Second)
		if len(hub.now().ended) != 0 || len(hub.now().pings) < 3 {
			t.Errorf("after %d pings: %v", len(hub.now().pings), hub.now().ended)
		}
		later(4 * time.Second)
		if len(hub.now().ended) != 1 {
			t.Error("a message that is never acknowledged holds the connection for ever")
		}
	})
}

func TestProgressIsJudgedByWhatWasHeardAndWhatWasAcknowledged(t *testing.T) {
	cfg := Config{AckTimeout: DefaultAckTimeout}
	now := time.Now()
	for _, c := range []struct {
		moved, heard time.Duration // ago
		size         int
		ping         bool
		next         time.Duration
		err          error
	}{
		{0, 0, 0, false, silentAfter, nil},
		{3 * time.Second, time.Hour, 0, false, 7 * time.Second, nil},
		{silentAfter, silentAfter, usualSize, true, 15 * time.Second, nil},
		{silentMost, silentMost, usualSize, false, 0, errSilent},
		{silentMost, silentMost, usualSize + 10*leastRate, true, 10 * time.Second, nil},
		{silentMost + 10*time.Second, time.Hour, usualSize + 10*leastRate, false, 0, errSilent},
		{silentMost, time.Second, 0, false, 9 * time.Second, nil},
		{silentMost, silentAfter, 0, true, 15 * time.Second, nil},
		{58 * time.Second, time.Second, 0, false, 2 * time.Second, nil},
		{60 * time.Second, time.Second, 0, false, 0, errAckTimeout},
		{60 * time.Second, time.Second, usualSize + 5*leastRate, false, 5 * time.Second, nil},
	} {
		ping, next, err := cfg.judge(now, now.Add(-c.moved), now.Add(-c.heard), patience(c.size))
		if ping != c.ping || next != c.next || !errors.Is(err, c.err) {
			t.Errorf("%+v: %v %v %v", c, ping, next, err)
		}
	}
}
