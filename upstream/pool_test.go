package upstream

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/hubsim"
)

func TestMessagesArriveInOrderOverOneConnectionAnIdentity(t *testing.T) {
	r := newRig(t)
	r.put("d1", 50) // waiting before anything connects
	stop := r.run("d1", "d2", "d2/m")
	r.put("d2", 100)
	r.put("d2/m", 100)
	r.put("d1", 50)
	r.eventually("the queue is empty", r.empty)
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": 100, "d2": 100, "d2/m": 100}); repeated != 0 {
		t.Errorf("%d repeats on connections that were never lost", repeated)
	}
	for _, l := range r.pool.Stats() {
		if l.Connects != 1 || l.Acked != 100 || l.Sent != 100 || l.Repeated != 0 {
			t.Errorf("%+v", l)
		}
	}
	m := r.hub.Messages(0, 1)[0]
	if m.System["content-type"] != "application/json" || m.System["content-encoding"] != "utf-8" || len(m.Properties) > 1 {
		t.Errorf("system %v, application %v", m.System, m.Properties)
	}
}

func TestAnEntryIsNotReleasedWithoutThePUBACKOfItsOwnConnection(t *testing.T) {
	r := newRig(t)
	r.cfg.AckTimeout = 300 * time.Millisecond
	r.hub.DropAcks("d1", 1_000_000)
	stop := r.run("d1")
	r.put("d1", 3)
	r.eventually("the connection has been given up and made again twice", func() bool { return r.pool.Stats()[0].Connects >= 3 })
	if entries := r.queue.Stats().Entries; entries != 3 {
		t.Fatalf("%d entries left in the queue although nothing was acknowledged", entries)
	}
	r.hub.DropAcks("d1", 0)
	r.eventually("the queue is empty", r.empty)
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": 3}); repeated < 6 {
		t.Errorf("%d repeats; three messages on at least two lost connections make six", repeated)
	}
}

func TestALostConnectionRewindsByAtMostTheWindow(t *testing.T) {
	r := newRig(t)
	stop := r.run("d1")
	r.eventually("connected", func() bool { return r.hub.Connected("d1") })
	const losses = 10
	for range losses {
		before := r.pool.Stats()[0].Connects
		r.hub.DropAcks("d1", 8)
		r.put("d1", 40)
		r.hub.Kick("d1")
		r.hub.DropAcks("d1", 0)
		r.eventually("connected again", func() bool { return r.pool.Stats()[0].Connects > before })
		r.eventually("the queue is empty", r.empty)
	}
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": 40 * losses}); repeated > losses*DefaultWindow {
		t.Errorf("%d repeats over %d losses", repeated, losses)
	}
}

func TestStoppingWaitsForWhatIsInFlightAndRepeatsNothing(t *testing.T) {
	r := newRig(t)
	r.hub.DelayAcks("", 50*time.Millisecond)
	for range 3 {
		stop := r.run("d1")
		before := r.hub.Received()
		r.put("d1", 60)
		r.eventually("a window is in flight", func() bool { return r.hub.Received() >= before+20 })
		stop()
	}
	r.hub.DelayAcks("", 0)
	stop := r.run("d1")
	r.eventually("the queue is empty", r.empty)
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": 180}); repeated != 0 {
		t.Errorf("%d repeats over clean stops", repeated)
	}
}

func TestOneRefusedIdentityDoesNotDelayTheOthers(t *testing.T) {
	r := newRig(t)
	r.hub.RefuseConnects("bad", 5, 1_000_000)
	r.run("bad", "good")
	r.put("bad", 5)
	r.put("good", 200)
	r.eventually("the good one has delivered", func() bool { return r.queue.Stats().Lanes["good"].Entries == 0 })
	stats := r.pool.Stats()
	if stats[0].Connected || !strings.Contains(stats[0].LastError, "refused") || stats[0].Sent != 0 {
		t.Errorf("the refused identity: %+v", stats[0])
	}
}

func TestARenewalLosesAndRepeatsNothing(t *testing.T) {
	r := newRig(t)
	r.life = 2 * time.Second // renewed after about 1.6 s
	stop := r.run("d1")
	for i := 0; r.pool.Stats()[0].Connects < 3 && i < 2000; i++ {
		r.put("d1", 1)
	}
	r.eventually("the token was renewed twice", func() bool { return r.pool.Stats()[0].Connects >= 3 })
	total := r.queue.Stats().Lanes["d1"].Put
	r.eventually("the queue is empty", r.empty)
	stop()
	if repeated := r.oracle(map[gateway.IdentityID]uint64{"d1": total}); repeated != 0 {
		t.Errorf("%d repeats over renewals", repeated)
	}
}

func TestConnectionsAreOpenedAtTheGivenPace(t *testing.T) {
	r := newRig(t)
	r.cfg.ConnectRate = 20
	var ids []gateway.IdentityID
	for i := range 10 {
		ids = append(ids, gateway.IdentityID(fmt.Sprintf("d%d", i)))
	}
	start := time.Now()
	r.run(ids...)
	r.eventually("all are connected", func() bool {
		for _, l := range r.pool.Stats() {
			if !l.Connected {
				return false
			}
		}
		return true
	})
	if took := time.Since(start); took < 440*time.Millisecond {
		t.Errorf("10 connections at 20 a second were open after %v", took)
	}
}

func TestAHubThatStopsAcknowledgingIsNoticedAfterAQuietTimeToo(t *testing.T) {
	r := newRig(t)
	r.cfg.AckTimeout = 300 * time.Millisecond
	r.run("d1")
	r.put("d1", 1)
	r.eventually("the queue is empty", r.empty)
	quiet := time.Now().Add(3 * r.cfg.AckTimeout)
	r.eventually("it has been quiet for longer than the timeout", func() bool { return time.Now().After(quiet) })
	r.hub.DropAcks("d1", 1_000_000)
	r.put("d1", 1)
	r.eventually("the connection has been given up", func() bool { return r.pool.Stats()[0].Connects > 1 })
}

// brokenLane is one whose next entry cannot be read.
type brokenLane struct{}

func (brokenLane) Next(context.Context, uint64, int) ([]buffer.Entry, error) {
	return nil, fmt.Errorf("entry 7: %w", buffer.ErrDamaged)
}
func (brokenLane) Ack(uint64) {}

func (brokenLane) Dead(context.Context, uint64, string) error { return nil }

func TestALaneThatCannotGoOnLeavesTheCommandsAlone(t *testing.T) {
	r := newRig(t)
	r.lane = func(gateway.IdentityID) Lane { return brokenLane{} }
	r.run("d1")
	r.eventually("the trouble is told", func() bool { return strings.Contains(r.pool.Stats()[0].LastError, "entry 7") })
	if got, err := r.hub.CallMethod(t.Context(), hubsim.MethodCall{Device: "d1", Name: "any", ConnectTimeout: 5 * time.Second}); err != nil || got.Status != 404 {
		t.Errorf("a command: %+v, %v", got, err)
	}
	if l := r.pool.Stats()[0]; l.Connects != 1 || !l.Connected {
		t.Errorf("the connection: %+v", l)
	}
}
