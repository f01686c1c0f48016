package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
	"iothub-gateway/internal/faultnet"
	"iothub-gateway/internal/testkit"
)

// storm is a whole pool, lanes of a real queue behind it, before a network that does at random to each
// connection what networks do. Everything that the hub offers is used meanwhile.
type storm struct {
	*fleet
	ways   [2]*faultnet.Net // to MQTT, and to WebSocket
	random *rand.Rand
	struck []*faultnet.Conn // under a condition, oldest first
	faults int

	mu       sync.Mutex     // guards the fields below
	executed map[string]int // direct methods and cloud-to-device messages, by payload or id
	answered map[string]bool
	letters  map[gateway.IdentityID]int // sent and accepted by the hub
	newest   map[gateway.IdentityID]int // executed last
	desired  map[gateway.IdentityID]int // written last
}

func newStorm(t *testing.T, identities int, seed uint64) *storm {
	t.Helper()
	s := &storm{
		random: rand.New(rand.NewPCG(seed, 0)), executed: map[string]int{}, answered: map[string]bool{},
		letters: map[gateway.IdentityID]int{}, newest: map[gateway.IdentityID]int{}, desired: map[gateway.IdentityID]int{},
	}
	s.fleet = newFleet(t, identities, hubsim.Config{C2D: hubsim.C2D{LockTimeout: time.Second, FreeRedelivery: true}})
	for i, address := range []string{s.hub.MQTTAddr(), s.hub.HTTPSAddr()} {
		var err error
		if s.ways[i], err = faultnet.New(address); err != nil {
			t.Fatal(err)
		}
		testkit.Background(t, s.ways[i].Run)
	}
	s.life = 2 * time.Second // tokens are renewed all the time
	s.cfg.WriteTimeout, s.cfg.RetryMost, s.cfg.ReportEvery = 500*time.Millisecond, 50*time.Millisecond, 10*time.Millisecond
	s.cfg.Dial = func(ctx context.Context, to identity.Login) (*dial.Conn, error) {
		way := slices.Index(s.ids, gateway.IdentityID(to.ClientID)) % 2 // every other one by WebSocket
		return dial.Hub(ctx, dial.Config{
			Address: s.ways[way].Addr(), WebSocket: way == 1,
			ServerName: "localhost", Roots: s.hub.CAPool(), WriteTimeout: s.cfg.WriteTimeout, MaxPacket: 1 << 20,
		})
	}
	s.cfg.State, s.cfg.Message, s.cfg.Desired, s.handle = &testkit.Notes{}, s.letter, s.write, s.method
	s.member = func(m *Member) {
		m.Messages, m.Desired = true, []gateway.Desired{rule("setpoint")}
	}
	return s
}

// method answers with the call's payload.
func (s *storm) method(_ context.Context, c gateway.Command) gateway.Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.executed[string(c.Payload)]++
	return gateway.Reply{Status: 200, Body: c.Payload}
}

// letter executes a cloud-to-device message; they are numbered from 1.
func (s *storm) letter(_ context.Context, m gateway.CloudMessage) gateway.Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := strconv.Atoi(string(m.Body))
	if err != nil || n != s.newest[m.Identity]+1 {
		s.t.Errorf("%s executes message %s after %d: %v", m.Identity, m.Body, s.newest[m.Identity], err)
	}
	s.newest[m.Identity] = n
	return gateway.Reply{Status: 200, Body: []byte(`{}`)}
}

// write writes a desired value; they only grow.
func (s *storm) write(_ context.Context, id gateway.IdentityID, _ string, value []byte) gateway.Ack {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := strconv.Atoi(string(value))
	if err != nil || n <= s.desired[id] {
		s.t.Errorf("%s writes %s after %d: %v", id, value, s.desired[id], err)
	}
	s.desired[id] = n
	return gateway.Ack{Value: gateway.IntValue(int64(n)), Status: 200, Text: "done"}
}

// call calls direct methods of an identity until ctx ends. Many find it away.
func (s *storm) call(ctx context.Context, id gateway.IdentityID) {
	for n := 1; ctx.Err() == nil; n++ {
		payload := fmt.Sprintf("%q", fmt.Sprintf("%s/%d", id, n))
		got, err := s.hub.CallMethod(context.WithoutCancel(ctx), hubsim.MethodCall{
			Device: string(id), Name: "echo", Payload: json.RawMessage(payload), ConnectTimeout: time.Second, ResponseTimeout: time.Second,
		})
		if err == nil && got.Status == 200 {
			s.mu.Lock()
			if s.answered[payload] = true; string(got.Payload) != payload {
				s.t.Errorf("call %s was answered with %s", payload, got.Payload)
			}
			s.mu.Unlock()
		}
		wait(ctx, 20*time.Millisecond)
	}
}

// send sends cloud-to-device messages to an identity until ctx ends.
func (s *storm) send(ctx context.Context, id gateway.IdentityID) {
	for next := 1; wait(ctx, 50*time.Millisecond); {
		_, err := s.hub.Send(hubsim.CloudMessage{Device: string(id), MessageID: fmt.Sprintf("m%d", next), Body: []byte(strconv.Itoa(next))})
		if err == nil { // else 50 wait already
			s.mu.Lock()
			s.letters[id] = next
			s.mu.Unlock()
			next++
		}
	}
}

// come lets an identity leave the pool and come back, now and then until ctx ends.
func (s *storm) come(ctx context.Context, id gateway.IdentityID) {
	for wait(ctx, 300*time.Millisecond) {
		m := s.pool.find(id).member
		if err := s.pool.Remove(context.WithoutCancel(ctx), id); err != nil {
			s.t.Error(err)
		}
		if err := s.pool.Add(m); err != nil {
			s.t.Error(err)
		}
	}
}

// strike does something to a connection, or ends what was done to one before.
func (s *storm) strike() {
	conns := slices.Concat(s.ways[0].Conns(), s.ways[1].Conns())
	if len(conns) == 0 {
		return
	}
	c := conns[s.random.IntN(len(conns))]
	if len(s.struck) > 2 {
		c, s.struck = s.struck[0], s.struck[1:]
		c.Set(faultnet.Condition{})
	}
	s.faults++
	condition := faultnet.Condition{}
	switch s.random.IntN(6) {
	case 0:
		c.Cut()
		return
	case 1:
		c.Reset()
		return
	case 2:
		condition.Stall = true
	case 3:
		condition.HalfOpen = true
	case 4:
		condition.Rate = 1000 * (1 + s.random.IntN(30))
	case 5:
		condition.Delay = time.Duration(s.random.IntN(100)) * time.Millisecond
	}
	c.Set(condition)
	s.struck = append(s.struck, c)
}

// rage strikes for a while and then lets everything through again.
func (s *storm) rage(span time.Duration) {
	begun := time.Now()
	for n := 1; time.Since(begun) < span; n++ {
		s.strike()
		s.judge()
		if n%4 == 0 {
			s.desire(string(s.ids[s.random.IntN(len(s.ids))]), fmt.Sprintf(`{"setpoint":%d}`, n))
		}
		wait(s.t.Context(), time.Duration(s.random.IntN(60))*time.Millisecond)
		if n%2000 == 0 {
			s.t.Logf("%d faults, %d messages after %v", s.faults, s.after, time.Since(begun).Round(time.Second))
		}
	}
	for _, way := range s.ways {
		way.Set(faultnet.Condition{})
	}
}

// play lets a pool run in a storm and holds it against the promise.
func (s *storm) play(span time.Duration) {
	stop := s.run(s.ids...)
	s.within(time.Minute, "all are connected", s.connected)
	ctx, cancel := context.WithCancel(s.t.Context())
	var callers sync.WaitGroup
	for _, id := range s.ids {
		callers.Go(func() { s.call(ctx, id) })
		callers.Go(func() { s.send(ctx, id) })
	}
	callers.Go(func() { s.come(ctx, s.ids[0]) })
	unload := s.load(s.ids, 50)
	s.rage(span)
	put := unload()
	cancel()
	callers.Wait()
	s.within(time.Minute, "all is delivered", func() bool { s.judge(); return s.empty() })
	s.settle()
	stop()
	s.complete(put, s.ids...)
	s.account(put)
}

// settle waits until the messages are executed and the desired properties applied, and looks at what became
// of the calls.
func (s *storm) settle() {
	for _, id := range s.ids {
		twin := s.rest("GET", "/twins/"+string(id), "")
		want, some := find(twin, "properties.desired.setpoint")
		version, _ := find(twin, "properties.desired.$version")
		s.within(time.Minute, "the messages are executed and the desired value is written and reported", func() bool {
			s.mu.Lock()
			done := s.newest[id] == s.letters[id] && (!some || float64(s.desired[id]) == want)
			s.mu.Unlock()
			if !done || !some {
				return done
			}
			said := strings.Replace(s.reported(string(id), "setpoint"), "as before", "done", 1) // of one that came back
			return said == fmt.Sprintf(`{"ac":200,"ad":"done","av":%v,"value":%v}`, version, want)
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for call, n := range s.executed {
		if n != 1 {
			s.t.Errorf("call %s was executed %d times", call, n)
		}
	}
	for call := range s.answered {
		if s.executed[call] != 1 {
			s.t.Errorf("call %s was answered and executed %d times", call, s.executed[call])
		}
	}
}

// account says how it went, and counts what was repeated.
func (s *storm) account(put uint64) {
	var lost, repeated uint64
	for _, l := range s.pool.Stats() {
		if lost += l.Connects - 1; l.Repeated > (l.Connects-1)*DefaultWindow || l.Dead > 0 {
			s.t.Errorf("%d of %d sent messages of %s were repeats, over %d connections; %d are dead", l.Repeated, l.Sent, l.Identity, l.Connects, l.Dead)
		}
		repeated += l.Repeated
	}
	messages := 0
	for _, n := range s.letters {
		messages += n
	}
	s.t.Logf("%d faults, %d more connections than identities: %d messages of each of %d identities, 0 lost, %d sent again; %d calls executed, %d answered; %d cloud-to-device messages executed, each once",
		s.faults, lost, put, len(s.ids), repeated, len(s.executed), len(s.answered), messages)
	if lost == 0 || len(s.answered) == 0 || messages == 0 {
		s.t.Error("the storm shows nothing")
	}
}

func TestAPoolInAStormLosesNothingAndExecutesEachCommandOnce(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	newStorm(t, 5, seed).play(2 * time.Second)
}
