package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// fleet is many identities on one hub, whose every message names its source and is judged as it comes.
type fleet struct {
	*rig
	ids     []gateway.IdentityID
	doors   *doorkeeper
	judging sync.Mutex // guards the fields below
	after   uint64     // the hub's sequence
	lanes   map[string]*judged
	ages    map[string][]time.Duration // of the messages of each identity, from Put to the hub, while they are kept
}

// judged is what is known about one lane at the hub.
type judged struct {
	newest, messages, repeated uint64
	bodies                     [2 * DefaultWindow]string // of the newest, by sequence
}

// doorkeeper reads the hub's log and notes when somebody connects.
type doorkeeper struct {
	mu    sync.Mutex // guards all
	times []time.Time
}

func (d *doorkeeper) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(`: connected"`)) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.times = append(d.times, time.Now())
	}
	return len(line), nil
}

// busiest is how many connected in one second, wherever it begins.
func (d *doorkeeper) busiest() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return busiest(d.times)
}

// newFleet starts a hub with n identities, a queue and, once run is called, a pool.
func newFleet(t *testing.T, n int, cfg hubsim.Config) *fleet {
	t.Helper()
	doors := &doorkeeper{}
	cfg.Log = zerolog.New(doors)
	f := &fleet{rig: newRigAt(t, cfg), doors: doors, lanes: map[string]*judged{}, ages: map[string][]time.Duration{}}
	f.cfg.RetryMost = DefaultRetryMost
	for i := range n {
		f.ids = append(f.ids, gateway.IdentityID(fmt.Sprintf("d%d", i)))
	}
	return f
}

// said is the body of each message.
type said struct {
	ID gateway.IdentityID `json:"id"`
	At int64              `json:"at"` // UnixNano
}

// load puts a message of each of ids at a time, per second, until stop is called, which returns how many
// there were of each.
func (f *fleet) load(ids []gateway.IdentityID, perSecond float64) (stop func() uint64) {
	var n uint64
	end := testkit.Background(f.t, func(ctx context.Context) error {
		tick := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
		defer tick.Stop()
		for {
			if err := f.queue.Put(context.Background(), messagesOf(ids)...); err != nil {
				return err
			}
			n++
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return func() uint64 { end(); return n }
}

// messagesOf is one message of each of ids.
func messagesOf(ids []gateway.IdentityID) (all []gateway.Telemetry) {
	for _, id := range ids {
		now := time.Now()
		body, _ := json.Marshal(said{id, now.UnixNano()}) // nothing in it can fail
		all = append(all, gateway.Telemetry{Identity: id, Body: body, Created: now})
	}
	return all
}

// judge holds everything that has come to the hub since the last call against the promise: in each lane the
// first of each sequence gives 1..n without a hole, repeats are of the last window and have the same bytes, and
// the source that the hub names is the one that the message names.
func (f *fleet) judge() {
	f.t.Helper()
	f.judging.Lock()
	defer f.judging.Unlock()
	for {
		batch := f.hub.Messages(f.after, 5000)
		for i := range batch {
			f.take(&batch[i])
		}
		if len(batch) == 0 {
			return
		}
	}
}

// take judges one message. It needs judging.
func (f *fleet) take(m *hubsim.Message) {
	f.t.Helper()
	if m.Sequence != f.after+1 {
		f.t.Fatalf("the hub forgot messages %d to %d before they were judged", f.after+1, m.Sequence-1)
	}
	f.after = m.Sequence
	if m.Properties["gateway-kind"] == canaryKind {
		return
	}
	seq, err := sequence(*m, f.queue.ID()+"-")
	if err != nil {
		f.t.Fatal(err)
	}
	var s said
	source := strings.TrimSuffix(m.Device+"/"+m.Module, "/")
	if err := json.Unmarshal(m.Body, &s); err != nil || string(s.ID) != source {
		f.t.Fatalf("a message of %q came from %s: %v", s.ID, source, err)
	}
	l := f.lanes[source]
	if l == nil {
		l = &judged{}
		f.lanes[source] = l
	}
	l.messages++
	switch {
	case seq == l.newest+1:
		l.newest, l.bodies[seq%uint64(len(l.bodies))] = seq, string(m.Body)
		f.ages[source] = append(f.ages[source], m.Enqueued.Sub(time.Unix(0, s.At)))
	case seq > l.newest:
		f.t.Fatalf("%s: %d follows %d", source, seq, l.newest)
	case l.newest-seq >= DefaultWindow:
		f.t.Fatalf("%s: %d comes again after %d: more than a window was repeated", source, seq, l.newest)
	case l.bodies[seq%uint64(len(l.bodies))] != string(m.Body):
		f.t.Fatalf("%s: the repeat of %d is %s and was %s", source, seq, m.Body, l.bodies[seq%uint64(len(l.bodies))])
	default:
		l.repeated++
	}
}

// complete judges the rest and wants n messages of each of ids; it returns how many came more than once.
func (f *fleet) complete(n uint64, ids ...gateway.IdentityID) (repeated uint64) {
	f.t.Helper()
	f.judge()
	for _, id := range ids {
		l := f.lanes[string(id)]
		if l == nil || l.newest != n {
			f.t.Fatalf("%s: %+v arrived, %d were put", id, l, n)
		}
	}
	for _, l := range f.lanes {
		repeated += l.repeated
	}
	return repeated
}

// connected tells whether all are.
func (f *fleet) connected() bool {
	for _, l := range f.pool.Stats() {
		if !l.Connected {
			return false
		}
	}
	return true
}

// within waits until check is true, for a time at most, and returns how long it took.
func (f *fleet) within(most time.Duration, what string, check func() bool) time.Duration {
	f.t.Helper()
	start := time.Now()
	for look := time.NewTicker(5 * time.Millisecond); !check(); <-look.C {
		if time.Since(start) > most {
			states := map[State]int{}
			for _, l := range f.pool.Stats() {
				states[l.State]++
			}
			f.t.Fatalf("%s: not within %v; %v, %+v", what, most, states, f.pool.Hubs())
		}
	}
	return time.Since(start)
}

// outage is a hub that is killed and started again, kills times, down in between, while so many identities
// send perSecond messages each and connect at a rate.
type outage struct {
	identities, rate, kills int
	down                    time.Duration
	perSecond               float64
}

func (o outage) play(t *testing.T) {
	identities, rate, kills, down := o.identities, o.rate, o.kills, o.down
	f := newFleet(t, identities, hubsim.Config{Dir: t.TempDir()})
	f.cfg.ConnectRate = float64(rate)
	most := time.Duration(identities/rate)*time.Second + 30*time.Second
	stop := f.run(f.ids...)
	first := f.within(most, "all are connected", f.connected)
	t.Logf("%d identities at %d a second: all connected after %v", identities, rate, first.Round(time.Millisecond))
	unload := f.load(f.ids, o.perSecond)
	for range kills {
		f.killHub()
		f.within(down+time.Minute, "everybody knows that the hub is gone", func() bool {
			for _, l := range f.pool.Stats() {
				if l.Connected {
					return false
				}
			}
			return true
		})
		pause := time.NewTimer(down)
		<-pause.C
		f.reviveHub()
		back := f.within(most, "all are connected again", f.connected)
		t.Logf("all back %v after the hub, at most %v", back.Round(time.Millisecond), most)
	}
	n := unload()
	f.within(time.Minute, "the queue is empty", f.empty)
	stop()
	repeated := f.complete(n, f.ids...)
	if most := uint64(identities * kills * DefaultWindow); repeated > most {
		t.Errorf("%d messages came again, %d connections were lost", repeated, identities*kills)
	}
	if seen := f.doors.busiest(); seen > rate {
		t.Errorf("the hub saw %d connections in one second, the rate is %d", seen, rate)
	}
	t.Logf("%d messages of each of %d identities, 0 lost, %d repeated over %d lost connections; the busiest second saw %d connections",
		n, identities, repeated, identities*kills, f.doors.busiest())
}

func TestAllIdentitiesAreBackSoonAfterTheHubAndNeverFasterThanThePace(t *testing.T) {
	outage{identities: 60, rate: 40, kills: 3, down: 300 * time.Millisecond, perSecond: 5}.play(t)
}
