package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	gateway "iothub-gateway"
)

// Store is where messages become durable.
type Store interface {
	// PutWithin makes messages durable, all or none, in the order given. It returns nil once they are.
	// A *gateway.FullError is the exception: the messages of all but its Identities are durable. It may
	// let patience pass since the last write to the disk, so that others share this one.
	PutWithin(ctx context.Context, patience time.Duration, ts ...gateway.Telemetry) error
	// Hurry ends the patience of every call under way.
	Hurry()
}

// Up is the way up: readings in, telemetry out. Its methods may be called by any number of
// goroutines.
type Up struct {
	store  Store
	points map[gateway.PointID]*point // these never change after NewUp
	lanes  map[gateway.IdentityID]*lane
	stats  *upCounts
}

// UpStats counts readings since NewUp, those of the Ups before a Renew included. Samples = Reported + Suppressed + Dropped + Private +
// Refused + Failed.
type UpStats struct {
	Samples    uint64 // readings that came in
	Reported   uint64 // are in a message that is durable
	Suppressed uint64 // said nothing new
	Dropped    uint64 // outside a range whose mapping says drop
	Private    uint64 // of hidden points and local devices
	Refused    uint64 // due, and refused by a full queue
	Failed     uint64 // not durable though due, not judged before ctx ended, or of no point of the plant

	Bad       uint64 // readings that failed or are out of range, whatever became of them
	Messages  uint64 // durable messages
	PutErrors uint64 // calls of Put that failed
	Replaced  uint64 // counters that started over without a wrap (MB-44)
}

// point is a point of the plant with what is known about it.
type point struct {
	gateway.Point
	order int    // its place in the plant
	key   []byte // its field as a JSON string with a colon
	lane  *lane  // nil: read, never reported
	*memory
}

// lane is one identity's stream of messages.
type lane struct {
	identity gateway.Identity
	*turns
}

// reading is a sample as it is understood, with its point. round counts the readings of one point
// in one call: a message holds one reading of a point, the second goes into a second message.
type reading struct {
	*point
	sample gateway.Sample
	round  int
}

// NewUp makes the way up for a plant. Points without an identity and hidden ones are known to Latest
// and never reported. Messages carry the properties of their identity.
func NewUp(points []gateway.Point, identities []gateway.Identity, store Store) *Up {
	return (&Up{store: store, stats: &upCounts{}}).Renew(points, identities, nil)
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	return gateway.TextValue(s).AppendJSON(b)
}

// Accept takes readings in the order they were made and returns nil once everything due among them
// is durable. Each identity gets one message, or more where a point was read more than once or a
// message would grow beyond 64 KiB; all of them go into one Put. After an error from Put, or the end
// of ctx while an earlier message of an identity is being put, nothing of the call is durable and
// nothing counts as reported: the same readings may be handed in again. A full queue that refuses
// some identities is a *gateway.FullError that names their points; all other readings are durable or
// said nothing new. A reading of a point that
// the plant does not have is ErrUnknownPoint; the others of the call are accepted all the same.
func (u *Up) Accept(ctx context.Context, samples []gateway.Sample) error {
	return u.AcceptWithin(ctx, 0, samples)
}

// AcceptWithin is Accept for readings that nobody waits for: where there is much to write they may be up to
// patience on their way to the disk, so that those of several links share the write. Whoever has a
// message of the same identity ends that.
func (u *Up) AcceptWithin(ctx context.Context, patience time.Duration, samples []gateway.Sample) error {
	readings, stats, unknown := u.observe(samples)
	err := u.report(ctx, patience, readings, &stats)
	u.stats.add(stats)
	if err != nil {
		return err
	}
	return unknown
}

// Latest is the reading of a point that came in last, after range and wrap, whether it was reported
// or not; false before the first one. It never waits for the disk.
func (u *Up) Latest(id gateway.PointID) (gateway.Sample, bool) {
	p := u.points[id]
	if p == nil {
		return gateway.Sample{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest, p.seen
}

// observe understands the samples and remembers each as its point's latest. It returns those that
// may be reported.
func (u *Up) observe(samples []gateway.Sample) (readings []reading, stats UpStats, unknown error) {
	readings = make([]reading, 0, len(samples))
	stats.Samples = uint64(len(samples))
	for _, raw := range samples {
		p := u.points[raw.Point]
		if p == nil {
			unknown = fmt.Errorf("bridge: a reading of %q: %w", raw.Point, gateway.ErrUnknownPoint)
			stats.Failed++
			continue
		}
		s, keep, replaced := p.observe(raw)
		if s.Err != nil {
			stats.Bad++
		}
		if replaced {
			stats.Replaced++
		}
		switch {
		case p.lane == nil:
			stats.Private++
		case !keep:
			stats.Dropped++
		default:
			readings = append(readings, reading{point: p, sample: s})
		}
	}
	return readings, stats, unknown
}

// observe understands one sample: range first, as the range speaks of what the device says, then
// the wrap.
func (p *point) observe(raw gateway.Sample) (s gateway.Sample, keep, replaced bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, keep = judge(p.Range, clean(raw))
	s, replaced = p.counter.count(p.Wrap, s)
	p.seen, p.latest = true, s
	return s, keep, replaced
}

// report puts what is due among the readings.
func (u *Up) report(ctx context.Context, patience time.Duration, readings []reading, stats *UpStats) error {
	arrange(readings)
	lanes := lanesOf(readings)
	if err := u.hold(ctx, lanes); err != nil {
		stats.Failed += uint64(len(readings))
		return err
	}
	defer release(lanes)
	due, messages := compose(readings)
	stats.Suppressed += uint64(len(readings) - len(due))
	if len(messages) == 0 {
		return nil
	}
	if slices.ContainsFunc(lanes, (*lane).wanted) {
		patience = 0
	}
	err := u.store.PutWithin(ctx, patience, messages...)
	var full *gateway.FullError
	switch {
	case errors.As(err, &full):
		return settle(due, messages, full, stats)
	case err != nil:
		for _, r := range due {
			r.next = r.reported
		}
		stats.Failed += uint64(len(due))
		stats.PutErrors++
		return fmt.Errorf("bridge: %d readings of %s not stored: %w", len(due), messages[0].Identity, err)
	}
	for _, r := range due {
		r.reported = r.next
	}
	stats.Reported += uint64(len(due))
	stats.Messages += uint64(len(messages))
	return nil
}

// settle is about a Put that a full queue refused in part: what it refused stays due, the rest is
// reported. The error names the refused points.
func settle(due []reading, messages []gateway.Telemetry, full *gateway.FullError, stats *UpStats) error {
	refused := &gateway.FullError{Identities: full.Identities}
	for _, r := range due {
		if !slices.Contains(full.Identities, r.Identity) {
			r.reported = r.next
			stats.Reported++
			continue
		}
		r.next = r.reported
		stats.Refused++
		refused.Points = append(refused.Points, r.ID)
	}
	for _, m := range messages {
		if !slices.Contains(full.Identities, m.Identity) {
			stats.Messages++
		}
	}
	return fmt.Errorf("bridge: %w", refused)
}

// arrange sorts readings by identity, round and place in the plant. Readings of one point stay in
// the order they came.
func arrange(readings []reading) {
	slices.SortStableFunc(readings, func(a, b reading) int {
		return cmp.Or(cmp.Compare(a.lane.order, b.lane.order), cmp.Compare(a.order, b.order))
	})
	repeated := false
	for i := 1; i < len(readings); i++ {
		if readings[i].point == readings[i-1].point {
			readings[i].round = readings[i-1].round + 1
			repeated = true
		}
	}
	if repeated {
		slices.SortStableFunc(readings, func(a, b reading) int {
			return cmp.Or(cmp.Compare(a.lane.order, b.lane.order), cmp.Compare(a.round, b.round))
		})
	}
}

// lanesOf lists the lanes of arranged readings, in the order of all lanes.
func lanesOf(readings []reading) []*lane {
	var lanes []*lane
	for _, r := range readings {
		if len(lanes) == 0 || lanes[len(lanes)-1] != r.lane {
			lanes = append(lanes, r.lane)
		}
	}
	return lanes
}

// hold takes all the lanes, or none. Everybody takes lanes in the same order, so no two calls can
// wait for each other.
func (u *Up) hold(ctx context.Context, lanes []*lane) error {
	for i, l := range lanes {
		if err := u.await(ctx, l); err != nil {
			release(lanes[:i])
			return fmt.Errorf("bridge: %s: an earlier message is not stored yet: %w", l.identity.ID, err)
		}
	}
	return nil
}

// await takes the lane. If somebody holds it, their patience is over.
func (u *Up) await(ctx context.Context, l *lane) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	default:
	}
	l.waiters.Add(1)
	defer l.waiters.Add(-1)
	u.store.Hurry()
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wanted tells whether somebody waits for the lane.
func (l *lane) wanted() bool { return l.waiters.Load() > 0 }

func release(lanes []*lane) {
	for _, l := range lanes {
		<-l.turn
	}
}

// compose judges arranged readings, whose lanes are held, and makes messages of those that are due.
// The due ones are returned too, in the memory of readings.
func compose(readings []reading) (due []reading, messages []gateway.Telemetry) {
	due = readings[:0]
	for _, r := range readings {
		if !r.due() {
			continue
		}
		if n := len(due); n > 0 && (due[n-1].lane != r.lane || due[n-1].round != r.round || r.lane.body.full()) {
			messages = append(messages, due[n-1].lane.message())
		}
		r.next = reportOf(r.sample)
		r.lane.body.add(r.key, r.sample)
		due = append(due, r)
	}
	if n := len(due); n > 0 {
		messages = append(messages, due[n-1].lane.message())
	}
	return due, messages
}

// due tells whether the reading says something that the messages composed so far do not.
func (r reading) due() bool { return due(&r.Point, r.next, r.sample) }

// message closes the message that the lane is collecting.
func (l *lane) message() gateway.Telemetry {
	object, newest := l.body.take()
	return gateway.Telemetry{
		Identity:   l.identity.ID,
		Body:       object,
		Properties: slices.Clip(l.identity.Properties),
		Created:    newest,
	}
}
