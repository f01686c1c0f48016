package upstream

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

// poisonLane makes messages that contain the word larger on the wire than the hub takes: it ends the
// connection on each (CLOSE-8).
type poisonLane struct{ Lane }

func (l poisonLane) Next(ctx context.Context, after uint64, most int) ([]buffer.Entry, error) {
	entries, err := l.Lane.Next(ctx, after, most)
	for i := range entries {
		if e := &entries[i]; e.Gap == nil && bytes.Contains(e.Telemetry.Body, []byte("poison")) {
			e.Telemetry.Body = append(bytes.Clone(e.Telemetry.Body), make([]byte, 300<<10)...)
		}
	}
	return entries, err
}

// poisoned is a rig whose lanes are poisonLanes.
func poisoned(t *testing.T) *rig {
	r := newRig(t)
	plain := r.lane
	r.lane = func(id gateway.IdentityID) Lane { return poisonLane{plain(id)} }
	return r
}

// putPoison makes a message of id durable that the hub does not take.
func (r *rig) putPoison(id gateway.IdentityID) {
	r.t.Helper()
	if err := r.queue.Put(r.t.Context(), gateway.Telemetry{Identity: id, Body: []byte(`{"a":"poison"}`), Created: time.Now()}); err != nil {
		r.t.Fatal(err)
	}
}

// letters are the dead letters of the queue.
func (r *rig) letters() []buffer.DeadLetter {
	r.t.Helper()
	letters, err := r.queue.DeadLetters()
	if err != nil {
		r.t.Fatal(err)
	}
	return letters
}

func TestAPoisonMessageIsIsolatedWithinTenConnectionsAndAllOthersAreDelivered(t *testing.T) {
	r := poisoned(t)
	r.put("d1", 25)
	r.putPoison("d1")
	r.put("d1", 25)
	r.putPoison("d2")
	r.put("d2", 1)
	stop := r.run("d1", "d2", "d3")
	r.eventually("the queue is empty", func() bool {
		if lanes := r.queue.Stats().Lanes; lanes["d1"].Entries+lanes["d2"].Entries > 0 {
			r.put("d3", 1)
		}
		return r.empty()
	})
	stop()
	r.oracle(map[gateway.IdentityID]uint64{"d1": 51, "d2": 2})
	letters := r.letters()
	if len(letters) != 2 {
		t.Fatalf("%d dead letters: %+v", len(letters), letters)
	}
	for _, l := range letters {
		if !strings.Contains(string(l.Telemetry.Body), "poison") || !strings.Contains(l.Reason, "closed the connection") {
			t.Errorf("a dead letter %s, because %q", l.Telemetry.Body, l.Reason)
		}
	}
	for _, l := range r.pool.Stats()[:2] {
		t.Logf("%s: %d connections, %d messages repeated", l.Identity, l.Connects, l.Repeated)
		if l.Connects > 10 || l.Dead != 1 {
			t.Errorf("%+v", l)
		}
	}
	if l := r.pool.Stats()[2]; l.Connects != 1 {
		t.Errorf("an identity without poison suffered: %+v", l)
	}
}

func TestAPackWithAPoisonMessageIsCutUntilItIsAlone(t *testing.T) {
	r := poisoned(t)
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(t.TempDir(), "packs"), Batch: buffer.Batch{MaxBytes: 16 << 10}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { queue.Close() })
	testkit.Background(t, queue.Run)
	r.queue = queue
	r.lane = func(id gateway.IdentityID) Lane { return poisonLane{queue.Lane(id)} }
	const half = 60
	r.put("d1", half)
	r.putPoison("d1")
	r.put("d1", half)
	stop := r.run("d1")
	r.eventually("the queue is empty", r.empty)
	stop()
	if letters := r.letters(); len(letters) != 1 || string(letters[0].Telemetry.Body) != `{"a":"poison"}` {
		t.Errorf("dead letters: %+v", letters)
	}
	if l := r.pool.Stats()[0]; l.Connects > 10 || l.Dead != 1 {
		t.Errorf("%+v", l)
	}
	delivered := map[string]bool{}
	for _, m := range r.hub.Messages(0, 0) {
		for part := range strings.SplitSeq(string(m.Body), `"n":`) {
			if n, _, found := strings.Cut(part, "}"); found {
				delivered[n] = true
			}
		}
	}
	for n := 1; n <= 2*half; n++ {
		if !delivered[fmt.Sprint(n)] {
			t.Fatalf("message %d never arrived", n)
		}
	}
}

func TestAHubThatTakesNothingFromOneIdentityMakesNoDeadLetter(t *testing.T) {
	r := newRig(t)
	for what, set := range map[string]func(on bool){
		"throttled": func(on bool) { r.hub.Throttle("d1", map[bool]float64{true: 0, false: -1}[on]) },
		"exhausted": func(on bool) { r.hub.ExhaustQuota("d1", on) },
	} {
		set(true)
		r.put("d1", 20)
		stop := r.run("d1", "d2")
		r.eventually("it has been cut off many times", func() bool { return r.pool.Stats()[0].Connects > 15 })
		if l := r.pool.Stats()[0]; l.Acked > 0 || l.Dead > 0 {
			t.Errorf("%s: %+v", what, l)
		}
		r.eventually("the state says so", func() bool {
			l := r.pool.Stats()[0]
			return l.State == StateBusy && strings.Contains(l.LastError, "quota")
		})
		r.put("d2", 20)
		r.eventually("the other one delivers", func() bool { return r.queue.Stats().Lanes["d2"].Entries == 0 })
		set(false)
		r.eventually("the queue is empty", r.empty)
		stop()
	}
	if letters := r.letters(); len(letters) > 0 {
		t.Errorf("%d dead letters: %+v", len(letters), letters)
	}
	r.oracle(map[gateway.IdentityID]uint64{"d1": 40, "d2": 40})
}

func TestALossUnderLoadSendsWhatWasInFlightOneByOneAndThenAllAgain(t *testing.T) {
	r := newRig(t)
	r.hub.DelayAcks("d1", 30*time.Millisecond)
	r.put("d1", 100)
	stop := r.run("d1")
	r.eventually("a window is in flight", func() bool { return r.hub.Received() >= DefaultWindow })
	r.hub.Kick("d1")
	r.eventually("the queue is empty", r.empty)
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": 100}); repeated > DefaultWindow {
		t.Errorf("%d repeats over one loss", repeated)
	}
	if canaries := len(r.hub.Messages(0, 0)) - 100; canaries > DefaultWindow {
		t.Errorf("%d messages too many", canaries)
	}
}
