package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/hubsim"
)

// mustFindWithin is how soon the proof must find a delivery that breaks the promise.
const mustFindWithin = 60 * time.Second

// ackOnSend takes an entry for delivered when it is handed out to be sent.
type ackOnSend struct{ Lane }

func (l ackOnSend) Next(ctx context.Context, after uint64, most int) ([]buffer.Entry, error) {
	entries, err := l.Lane.Next(ctx, after, most)
	if len(entries) > 0 {
		l.Ack(entries[len(entries)-1].Seq)
	}
	return entries, err
}

// reversedResend hands out what was handed out before from its end to its beginning.
type reversedResend struct {
	Lane
	newest atomic.Uint64
}

func (l *reversedResend) Next(ctx context.Context, after uint64, most int) ([]buffer.Entry, error) {
	entries, err := l.Lane.Next(ctx, after, most)
	if len(entries) == 0 {
		return entries, err
	}
	newest := entries[len(entries)-1].Seq
	if entries[0].Seq <= l.newest.Load() {
		slices.Reverse(entries)
	}
	l.newest.Store(max(newest, l.newest.Load()))
	return entries, err
}

func TestTheProofFindsAnAcknowledgementOnSending(t *testing.T) {
	mustFind(t, func(l Lane) Lane { return ackOnSend{l} })
}

func TestTheProofFindsAReversedResend(t *testing.T) {
	mustFind(t, func(l Lane) Lane { return &reversedResend{Lane: l} })
}

func TestTheProofFindsNothingInTheLaneAsItIs(t *testing.T) {
	d := newDelivery(t, func(l Lane) Lane { return l })
	for range 10 {
		d.round()
		if err := d.violation(); err != nil {
			t.Fatal(err)
		}
	}
	if losses := d.pool.Stats()[0].Connects - 1; losses < 5 {
		t.Errorf("only %d connections were lost: the proof proves nothing", losses)
	}
}

func mustFind(t *testing.T, wrap func(Lane) Lane) {
	t.Helper()
	d := newDelivery(t, wrap)
	for begun := time.Now(); time.Since(begun) < mustFindWithin; {
		d.round()
		if err := d.violation(); err != nil {
			t.Logf("found after %v: %v", time.Since(begun).Round(time.Millisecond), err)
			return
		}
	}
	t.Fatalf("not found within %v", mustFindWithin)
}

// delivery is a lane on a hub that loses connections in mid-stream.
type delivery struct {
	*rig
	random *rand.Rand
	rounds int
}

func newDelivery(t *testing.T, wrap func(Lane) Lane) *delivery {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d := &delivery{rig: newRig(t), random: rand.New(rand.NewPCG(seed, 0))}
	d.cfg.AckTimeout = 150 * time.Millisecond // what is alone in flight shows a lost acknowledgement by nothing else
	plain := d.lane
	d.lane = func(id gateway.IdentityID) Lane { return wrap(plain(id)) }
	d.run("d1")
	return d
}

// round puts messages while the connection is lost, and waits until nothing more comes.
func (d *delivery) round() {
	d.rounds++
	connects := d.pool.Stats()[0].Connects
	d.hub.DropAcks("d1", d.random.IntN(9))
	d.hub.CloseOnPublish("d1", 10+d.random.IntN(9))
	d.put("d1", 40)
	d.eventually("the connection was lost and made again", func() bool { return d.pool.Stats()[0].Connects > connects })
	d.hub.DropAcks("d1", 0)
	d.hub.CloseOnPublish("d1", 0)
	d.eventually("the queue is empty", d.empty)
	d.put("d1", 1) // what was lost shows when something follows
	d.eventually("the last message has arrived", func() bool {
		newest, err := d.newest()
		return newest == d.queue.Stats().Put && d.empty() || err != nil
	})
}

// violation is how what is at the hub breaks the promise: keeping the first of each sequence gives 1..n
// without a hole, and the stream goes back only when a connection was lost, once.
func (d *delivery) violation() error {
	_, err := d.newest()
	return err
}

// newest is the highest sequence at the hub, with the violation before it, if there is one.
func (d *delivery) newest() (uint64, error) {
	prefix := d.queue.ID() + "-"
	newest, last, back := uint64(0), uint64(0), uint64(0)
	messages := d.hub.Messages(0, 0)
	losses := d.pool.Stats()[0].Connects - 1
	for _, m := range messages {
		seq, err := sequence(m, prefix)
		if err != nil {
			return 0, err
		}
		if seq > newest+1 {
			return 0, fmt.Errorf("%d follows %d", seq, newest)
		}
		if seq != last+1 {
			back++
		}
		newest, last = max(newest, seq), seq
	}
	if back > losses {
		return 0, fmt.Errorf("the stream goes back %d times over %d lost connections", back, losses)
	}
	return newest, nil
}

func sequence(m hubsim.Message, prefix string) (seq uint64, err error) {
	id := m.System["message-id"]
	if _, err := fmt.Sscan(strings.TrimPrefix(id, prefix), &seq); err != nil {
		return 0, fmt.Errorf("message id %q: %w", id, err)
	}
	return seq, nil
}
