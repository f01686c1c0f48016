package upstream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
	"iothub-gateway/internal/testkit"
)

// worker carries out commands that take their time, and counts them.
type worker struct {
	takes time.Duration
	began atomic.Int64
}

func (w *worker) handle(ctx context.Context, _ gateway.Command) gateway.Reply {
	w.began.Add(1)
	if !wait(ctx, w.takes) {
		return refusal(503, "stopping", "the gateway is stopping")
	}
	return gateway.Reply{Status: 200, Body: []byte("{}")}
}

// answered is how many answers with status the hub has.
func (h *pipeHub) answered(status int) (n int) {
	for _, topic := range h.now().answers {
		if strings.HasPrefix(topic, fmt.Sprintf("%s%d/", methodReply, status)) {
			n++
		}
	}
	return n
}

func TestNoCommandIsRefusedOrLeftUnansweredBecauseOfARenewal(t *testing.T) {
	const life = 4 * time.Minute
	for name, c := range map[string]struct {
		takes, every, unsuback time.Duration
		gap                    time.Duration // the longest without methods
	}{
		"now and then":                 {30 * time.Millisecond, time.Second, 0, 2 * finishLook},
		"always some in work":          {3 * time.Second, time.Second, 0, 3*time.Second + 2*finishLook},
		"a hub that lets go late":      {30 * time.Millisecond, 200 * time.Millisecond, 3 * time.Second, 30*time.Millisecond + 2*finishLook},
		"a hub that does not let go":   {30 * time.Millisecond, 200 * time.Millisecond, time.Hour, 0},
		"at once, and each takes time": {20 * time.Second, 20 * time.Second, 0, 20*time.Second + 2*finishLook},
	} {
		w := &worker{takes: c.takes}
		lane := &shelf{}
		m := member("d", holdsFor("d", life))
		m.Lane = lane
		bubble(t, Config{}, []Member{m}, w.handle, func(hub *pipeHub, pool *Pool) {
			hub.set(func() { hub.unsuback = c.unsuback })
			calls, put := 0, uint64(0)
			for len(hub.now().connects) < 3 && calls < 30_000 {
				if hub.call(fmt.Sprint(calls)) {
					calls++
				}
				lane.put(10)
				put += 10
				later(c.every)
			}
			later(time.Minute)
			if done := hub.answered(200); done != calls || len(hub.now().answers) != calls || w.began.Load() != int64(calls) {
				t.Errorf("%s: %d calls: %d began, %d were done, %d answered", name, calls, w.began.Load(), done, len(hub.now().answers))
			}
			if s := pool.Stats()[0]; lane.delivered() != put || s.Repeated > 0 {
				t.Errorf("%s: %d of %d messages delivered: %+v", name, lane.delivered(), put, s)
			}
			for i, at := range hub.now().connects[1:] {
				if held := at.Sub(hub.now().connects[i]); held > life*85/100+c.takes+min(c.unsuback, DefaultDrainTimeout)+time.Second {
					t.Errorf("%s: a proof was held for %v", name, held)
				}
				if c.unsuback < time.Hour {
					if gap := at.Sub(hub.now().left[i]); gap > c.gap {
						t.Errorf("%s: away for %v", name, gap)
					}
				}
			}
		})
	}
}

func TestACommandThatNeverEndsDoesNotOutliveTheProof(t *testing.T) {
	m := member("d", holdsFor("d", time.Hour))
	lane := m.Lane.(*shelf)
	release := make(chan chan struct{}, 1)
	handle := func(context.Context, gateway.Command) gateway.Reply {
		c := make(chan struct{})
		release <- c
		<-c
		return gateway.Reply{Status: 200, Body: []byte("{}")}
	}
	bubble(t, Config{}, []Member{m}, handle, func(hub *pipeHub, pool *Pool) {
		hub.call("1")
		for put := uint64(1); len(hub.now().connects) < 2 && put < 7200; put++ {
			lane.put(1)
			later(time.Second)
			if now := pool.links[0].current.Load(); now != nil && now.sending.Err() == nil && lane.delivered() != put {
				t.Fatalf("%d of %d messages delivered, although only a command takes long", lane.delivered(), put)
			}
		}
		close(<-release)
		later(time.Minute)
		if held := hub.now().connects[1].Sub(hub.now().connects[0]); held < 94*time.Hour/100 || held > 96*time.Hour/100 {
			t.Errorf("the proof was held for %v", held)
		}
		if lane.delivered() != lane.n || !hub.call("2") {
			t.Errorf("%d of %d messages delivered", lane.delivered(), lane.n)
		}
		close(<-release)
	})
}

func TestACommandThatComesAfterTheHubLetGoIsNotCarriedOutUnanswered(t *testing.T) {
	w := &worker{takes: 3 * time.Second}
	bubble(t, Config{}, []Member{member("d", holdsFor("d", time.Hour))}, w.handle, func(hub *pipeHub, pool *Pool) {
		calls := 0
		for len(hub.now().connects) < 5 && calls < 20_000 {
			hub.set(func() { hub.callLate(fmt.Sprint(calls)) }) // this hub never lets go
			calls++
			later(time.Second)
		}
		later(time.Minute)
		late := calls - hub.answered(200)
		if len(hub.now().connects) < 5 || late < 1 || late > 4*4 || hub.answered(200) != int(w.began.Load()) {
			t.Errorf("%d calls: %d began, %d were done; %d connections", calls, w.began.Load(), hub.answered(200), len(hub.now().connects))
		}
	})
}

func TestAStopRefusesWhatComesUntilTheHubLetsGo(t *testing.T) {
	w := &worker{takes: 3 * time.Second}
	hub := &pipeHub{}
	calls := 0
	bubble(t, Config{}, []Member{member("d", holdsFor("d", time.Hour))}, w.handle, func(h *pipeHub, pool *Pool) {
		hub = h
		hub.set(func() { hub.unsuback = time.Second })
		hub.call("before")
		later(time.Second)
		time.AfterFunc(500*time.Millisecond, func() { hub.call("while it stops") })
		calls = 2
	})
	if hub.answered(503) != calls || len(hub.answers) != calls || len(hub.ended) != 1 || hub.ended[0] != "DISCONNECT" {
		t.Errorf("%d calls: answers %v, ended by %v", calls, hub.answers, hub.ended)
	}
}

func TestALossDuringTheFarewellIsALossLikeAnyOther(t *testing.T) {
	w := &worker{takes: time.Millisecond}
	m := member("d", holdsFor("d", time.Hour))
	lane := m.Lane.(*shelf)
	bubble(t, Config{}, []Member{m}, w.handle, func(hub *pipeHub, pool *Pool) {
		hub.set(func() { hub.unsuback = 3 * time.Second })
		gone := pool.links[0].current.Load()
		for gone.sending.Err() == nil {
			later(100 * time.Millisecond)
		}
		later(time.Second)
		pool.links[0].lose(t)
		lane.put(100)
		later(time.Minute)
		if s := pool.Stats()[0]; !s.Connected || s.Connects != 2 || lane.delivered() != 100 || !hub.call("1") {
			t.Errorf("%+v, %d messages delivered", s, lane.delivered())
		}
		later(time.Second)
		if hub.answered(200) != 1 {
			t.Error("a command after it is not answered")
		}
	})
}

func TestAMessageThatComesDuringTheFarewellIsExecutedOnceAndAcknowledgedOrComesAgain(t *testing.T) {
	executed := map[string]int{}
	var mu sync.Mutex // guards it
	cfg := Config{State: &testkit.Notes{}, Message: func(ctx context.Context, m gateway.CloudMessage) gateway.Reply {
		mu.Lock()
		executed[m.ID]++
		mu.Unlock()
		wait(ctx, 2*time.Second)
		return gateway.Reply{Status: 200, Body: []byte("{}")}
	}}
	m := member("d", holdsFor("d", time.Hour))
	m.Messages = true
	bubble(t, cfg, []Member{m}, nil, func(hub *pipeHub, pool *Pool) {
		hub.set(func() { hub.unsuback = 3 * time.Second })
		first := pool.links[0].current.Load()
		for first.sending.Err() == nil {
			later(100 * time.Millisecond)
		}
		for packet := range uint16(3) { // the second is in work when the connection ends
			hub.push(t, packet+1)
		}
		for len(hub.now().connects) < 2 {
			later(100 * time.Millisecond)
		}
		acked := len(hub.now().acks)
		for packet := uint16(acked); packet < 3; packet++ {
			hub.push(t, packet+1)
		}
		later(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(hub.now().acks) != 3 || acked != 1 || len(executed) != 3 || executed["m1"]+executed["m2"]+executed["m3"] != 3 {
			t.Errorf("executed %v, acknowledged %d before and %d in all", executed, acked, len(hub.now().acks))
		}
	})
}

func TestAStopTakesNoLongerThanDrainingMayAlsoInTheMiddleOfARenewal(t *testing.T) {
	for name, c := range map[string]struct {
		silent   bool // nothing is acknowledged
		unsuback time.Duration
		renewing bool
		most     time.Duration
	}{
		"all is well":                              {most: 2 * finishLook},
		"no acknowledgements":                      {silent: true, most: DefaultDrainTimeout + 2*finishLook},
		"the hub does not let go":                  {unsuback: time.Hour, most: DefaultDrainTimeout + 2*finishLook},
		"a renewal waits for acknowledgements":     {silent: true, renewing: true, most: DefaultDrainTimeout + 2*finishLook},
		"a renewal waits for the hub to let it go": {unsuback: time.Hour, renewing: true, most: DefaultDrainTimeout + 2*finishLook},
		"a renewal waits, but not for long":        {unsuback: time.Second, renewing: true, most: time.Second + 2*finishLook},
	} {
		w := &worker{takes: time.Minute}
		m := member("d", holdsFor("d", 20*time.Second))
		lane := m.Lane.(*shelf)
		bubble(t, Config{}, []Member{m}, w.handle, func(hub *pipeHub, pool *Pool) {
			hub.set(func() { hub.silent, hub.unsuback = c.silent, c.unsuback })
			s := pool.links[0].current.Load()
			for c.renewing && s.sending.Err() == nil {
				lane.put(1)
				later(100 * time.Millisecond)
			}
			lane.put(1)
			hub.call("1")
			later(time.Second / 2)
			if ended := s.sending.Err() != nil; ended != c.renewing || s.ctx.Err() != nil {
				t.Fatalf("%s: sending has ended: %t; the connection: %v", name, ended, s.ctx.Err())
			}
			start := time.Now()
			if err := pool.Remove(context.Background(), "d"); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took > c.most {
				t.Errorf("%s: the stop took %v, at most %v", name, took, c.most)
			}
			if end := hub.now().ended; len(end) == 0 || end[len(end)-1] != "DISCONNECT" {
				t.Errorf("%s: ended by %v", name, end)
			}
			if w.began.Load() != int64(hub.answered(503)) {
				t.Errorf("%s: %d commands began, %d were answered", name, w.began.Load(), hub.answered(503))
			}
		})
	}
}

func TestARenewalWaitsForItsTurnWhileItIsConnected(t *testing.T) {
	const identities, rate = 60, 0.1
	var members []Member
	for i := range identities {
		id := gateway.IdentityID(fmt.Sprintf("d%d", i))
		members = append(members, member(id, proofs(func(a identity.Attempt) (identity.Login, error) {
			now := time.Date(2000, 1, 1, 0, 40, 0, 0, time.UTC) // when the first proofs of all end, in the time of the bubble
			login := identity.Login{Hub: "h", ClientID: string(id), Username: "h/" + string(id), Signed: true, Expires: now}
			if now.Sub(a.Now) < 20*time.Minute {
				login.Expires = a.Now.Add(100 * time.Hour)
			}
			return login, nil
		})))
	}
	bubble(t, Config{ConnectRate: rate}, members, nil, func(hub *pipeHub, pool *Pool) {
		later(2 * time.Hour)
		away := slices.Max(hub.now().away)
		if n := len(hub.now().connects); n != 2*identities || away > time.Second {
			t.Errorf("%d connections of %d identities; one was away for %v", n, identities, away)
		}
		if n := busiest(hub.now().connects); n > 1 {
			t.Errorf("%d connections in a second", n)
		}
	})
}

func TestARenewalDoesNotGiveUpAConnectionWhileTheHubTakesNoNewOnes(t *testing.T) {
	members := []Member{member("a", holdsFor("a", time.Hour)), member("b", holdsFor("b", 100*time.Hour))}
	lane := members[0].Lane.(*shelf)
	bubble(t, Config{}, members, nil, func(hub *pipeHub, pool *Pool) {
		later(40 * time.Minute)
		hub.set(func() { hub.closed = true })
		pool.links[1].lose(t)
		later(20 * time.Minute)
		lane.put(1)
		later(time.Second)
		if s := pool.Stats(); s[0].Connects != 1 || !s[0].Connected || s[1].Connected || lane.delivered() != 1 {
			t.Errorf("while the hub takes no new connections: %+v", s)
		}
		hub.set(func() { hub.closed = false })
		later(2 * probeMost)
		if s := pool.Stats(); s[0].Connects != 2 || !s[0].Connected || s[1].Connects != 2 || !s[1].Connected {
			t.Errorf("once it does: %+v", s)
		}
	})
}
