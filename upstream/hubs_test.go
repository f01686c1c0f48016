package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
)

// hubs are two of them: what stands before the dot of a login's Hub tells which.
type hubs struct {
	a, b pipeHub
	away atomic.Bool // a is
	pool *Pool
}

func (h *hubs) dial(ctx context.Context, to identity.Login) (*dial.Conn, error) {
	switch {
	case strings.HasPrefix(to.Hub, "b."):
		return h.b.dial(ctx, to)
	case h.away.Load():
		return nil, errors.New("no route to host")
	}
	return h.a.dial(ctx, to)
}

// of says how the hub with this first letter does.
func (h *hubs) of(t *testing.T, letter string) HubStats {
	t.Helper()
	for _, s := range h.pool.Hubs() {
		if strings.HasPrefix(s.Name, letter) {
			return s
		}
	}
	t.Fatalf("hub %s is not among %+v", letter, h.pool.Hubs())
	return HubStats{}
}

// twoHubs runs a pool at two hubs in a bubble; prepare sets them up before.
func twoHubs(t *testing.T, cfg Config, members []Member, prepare, f func(*hubs)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var h hubs
		prepare(&h)
		cfg.Dial, cfg.Log = h.dial, zerolog.Nop()
		h.pool = NewPool(cfg, members, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- h.pool.Run(ctx) }()
		synctest.Wait()
		f(&h)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// home is the hub of identities, which a test changes.
type home struct {
	mu   sync.Mutex // guards the fields below
	name string
	away bool   // whoever says which
	next string // where it says that they belong once the hub is away; "": there still
}

func (h *home) set(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.name = name
}

// resident proves an identity at home, or where it has been sent since.
type resident struct {
	id gateway.IdentityID
	*home
	moved bool
}

func (r *resident) Hub(_ context.Context, a identity.Attempt) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moved = r.moved || a.Away && r.next != ""
	if r.away {
		return "", errors.New("the service is away")
	}
	return r.at(), nil
}

func (r *resident) Login(context.Context, identity.Attempt) (identity.Login, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return identity.Login{Hub: r.at(), ClientID: string(r.id), Username: r.at() + "/" + string(r.id), Watch: true}, nil
}

// at is where it belongs. It needs mu.
func (r *resident) at() string {
	if r.moved {
		return r.next
	}
	return r.name
}

// fleetAt is n identities at a hub, each with a lane of messages.
func fleetAt(at *home, n int, messages uint64) (members []Member) {
	for i := range n {
		id := gateway.IdentityID(fmt.Sprintf("%c%d", at.name[0], i))
		members = append(members, Member{ID: id, Credential: &resident{id: id, home: at}, Lane: &shelf{n: messages}})
	}
	return members
}

func TestAHubInTroubleSlowsNoConnectionToAnother(t *testing.T) {
	const n, pace = 100, 20
	for name, trouble := range map[string]func(*hubs){
		"away":    func(h *hubs) { h.away.Store(true) },
		"busy":    func(h *hubs) { h.a.code = 3 },
		"refuses": func(h *hubs) { h.a.code = refusedNotAuth },
	} {
		members := append(fleetAt(&home{name: "a.example"}, n, 0), fleetAt(&home{name: "b.example"}, n, 0)...)
		twoHubs(t, Config{ConnectRate: pace}, members, trouble, func(h *hubs) {
			later(n / pace * time.Second)
			if got := len(h.b.now().connects); got != n {
				t.Errorf("hub a %s: %d of %d identities of hub b connected within %d s", name, got, n, n/pace)
			}
			later(10 * time.Minute)
			for letter, hub := range map[string]*pipeHub{"a": &h.a, "b": &h.b} {
				if most := busiest(hub.now().connects); most > pace {
					t.Errorf("hub a %s: %d connections in one second at hub %s", name, most, letter)
				}
			}
			if b := h.of(t, "b"); !b.Reachable || b.Busy || b.ConnectRate != pace {
				t.Errorf("hub a %s: hub b %+v", name, b)
			}
			if a := h.of(t, "a"); a.Reachable == (name == "away") || a.Busy != (name == "busy") {
				t.Errorf("hub a %s: %+v", name, a)
			}
			up := map[bool]int{}
			for _, s := range h.pool.Stats() {
				up[s.Connected]++
			}
			if up[true] != n {
				t.Errorf("hub a %s: %d identities are connected", name, up[true])
			}
		})
	}
}

func TestAServiceThatIsAwaySlowsNoConnectionOfThoseItHasAssigned(t *testing.T) {
	const n, pace = 100, 20
	lost := &home{name: "b.example", away: true}
	members := append(fleetAt(lost, n, 0), fleetAt(&home{name: "a.example"}, n, 0)...)
	twoHubs(t, Config{ConnectRate: pace, RetryMost: time.Minute}, members, func(*hubs) {}, func(h *hubs) {
		later(n / pace * time.Second)
		if got := len(h.a.now().connects); got != n {
			t.Errorf("%d of %d identities connected within %d s", got, n, n/pace)
		}
		if s := h.pool.Stats()[0]; s.State != StateOffline || !strings.Contains(s.LastError, "the service is away") {
			t.Errorf("one that is not assigned: %+v", s)
		}
		later(2 * moveAfter)
		lost.mu.Lock()
		lost.away = false
		lost.mu.Unlock()
		later(2 * time.Minute)
		if b := h.b.now().connects; len(b) != n || busiest(b) > pace {
			t.Errorf("%d connections once it is back, %d in one second", len(b), busiest(b))
		}
	})
}

func TestAnIdentityThatIsAssignedToAnotherHubCountsThere(t *testing.T) {
	const n, pace = 40, 2
	at := &home{name: "A.example"}
	members := fleetAt(at, n, 1)
	twoHubs(t, Config{ConnectRate: pace, Limits: Limits{Daily: 1000, Connects: 100}, State: &memory{}}, members, func(*hubs) {}, func(h *hubs) {
		later(n / pace * time.Second)
		before := h.of(t, "A").Quota.Used
		if got := len(h.a.now().got); got != n || before < n || len(h.pool.Hubs()) != 1 {
			t.Fatalf("%d messages, %+v", got, h.pool.Hubs())
		}
		at.set("b.example")
		for _, m := range members {
			m.Lane.(*shelf).put(1)
		}
		later(time.Second) // they are still at the first
		before = h.of(t, "A").Quota.Used
		later(watchEvery + n/pace*time.Second)
		for _, m := range members {
			m.Lane.(*shelf).put(1)
		}
		later(time.Second)
		b := h.b.now()
		if len(b.connects) != n || len(b.got) != n || busiest(b.connects) > pace {
			t.Errorf("%d connections to the new hub, %d in one second, %d messages", len(b.connects), busiest(b.connects), len(b.got))
		}
		if used := h.of(t, "A").Quota.Used; used != before {
			t.Errorf("%d messages counted at the old hub", used-before)
		}
		if used := h.of(t, "b").Quota.Used; used < n {
			t.Errorf("%d messages counted at the new one", used)
		}
	})
}

func TestIdentitiesLeaveAHubThatIsGoneForGood(t *testing.T) {
	const n, pace = 100, 20
	at := &home{name: "a.example"}
	twoHubs(t, Config{ConnectRate: pace}, fleetAt(at, n, 0), func(h *hubs) { h.away.Store(true) }, func(h *hubs) {
		later(moveAfter/2 - time.Minute)
		if all := h.pool.Hubs(); len(all) != 1 {
			t.Fatalf("they look elsewhere after less than %v: %+v", moveAfter/2, all)
		}
		at.mu.Lock()
		at.next = "b.example"
		at.mu.Unlock()
		later(moveAfter)
		if got := h.b.now().connects; len(got) != n || busiest(got) > pace {
			t.Errorf("%d of %d identities are at the other hub, %d in one second", len(got), n, busiest(got))
		}
	})
}

func TestEachHubTakesItsOwnRateAndTheLineAllOfThem(t *testing.T) {
	const sends, span = 10, 20
	for drain, want := range map[float64][2]int{0: {2 * sends * span, sends * span}, 30: {2 * sends * span, sends * span}, 12: {12 * span, 12 * span}} {
		members := append(fleetAt(&home{name: "a.example"}, 3, 10_000), fleetAt(&home{name: "b.example"}, 3, 10_000)...)
		cfg := Config{Limits: Limits{Sends: sends}, DrainRate: drain, LiveShare: 0.5}
		twoHubs(t, cfg, members, func(*hubs) {}, func(h *hubs) {
			later(span * time.Second)
			a, b := len(h.a.now().got), len(h.b.now().got)
			if all, most := want[0], want[1]; a+b < all*9/10 || a+b > all*11/10 || a > most*11/10 || b > most*11/10 {
				t.Errorf("drain rate %g: %d and %d messages in %d s, want %d together", drain, a, b, span, all)
			}
		})
	}
}

func TestTwinsAreAskedForAtAPaceOfEachHub(t *testing.T) {
	const n = 10
	members := append(fleetAt(&home{name: "a.example"}, n, 0), fleetAt(&home{name: "b.example"}, n, 0)...)
	for i := range members {
		members[i].Desired = []gateway.Desired{{Identity: members[i].ID, Path: "x"}}
	}
	cfg := Config{TwinRate: 1, State: &memory{}}
	var start time.Time
	twoHubs(t, cfg, members, func(*hubs) { start = time.Now() }, func(h *hubs) {
		for _, seconds := range []int{n / 2, n + 1} {
			later(time.Duration(seconds)*time.Second - time.Since(start))
			for letter, hub := range map[string]*pipeHub{"a": &h.a, "b": &h.b} {
				if got, want := len(hub.now().twins), min(n, seconds+1); got != want {
					t.Errorf("hub %s: %d twins in %d s, want %d", letter, got, seconds, want)
				}
			}
		}
	})
}

func TestWhatOneHubDidIsNoEvidenceAtAnother(t *testing.T) {
	var s suspicion
	for range deadAfter {
		s.lost([]uint64{7}, true)
	}
	e := &buffer.Entry{Seq: 7}
	if m := s.next(e, true); m != bury {
		t.Fatalf("after %d losses: %d", deadAfter, m)
	}
	s.moved()
	if m := s.next(e, true); m != send || s.upTo != 7 {
		t.Errorf("at another hub: %d, alone up to %d", m, s.upTo)
	}
}
