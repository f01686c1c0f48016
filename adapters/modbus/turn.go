package modbus

import (
	"context"
	"time"
)

// turn is something for a wire to do at a time.
type turn struct {
	at time.Time // zero: nothing to do
	do func(context.Context)
	// force is when a probe goes ahead of polls that are due.
	force time.Time
}

// due tells whether the time has come.
func (t turn) due(now time.Time) bool { return !t.at.IsZero() && !t.at.After(now) }

// sooner is the turn of both that comes first.
func (t turn) sooner(other turn) turn {
	if t.at.IsZero() || !other.at.IsZero() && other.at.Before(t.at) {
		return other
	}
	return t
}

// next is what the wire is to do next on its own: what keeps an output alive, else a poll, else a
// probe. A probe costs a timeout most of the time, so it takes a moment in which nothing is due, unless it
// has waited for one in vain (MB-53).
func (w *wire) next(now time.Time) turn {
	if w.opened != w.link.opened { // a new connection: whoever was offline may be back
		w.opened = w.link.opened
		w.probeFree = now
		for _, d := range w.devices {
			d.probeAt = now
		}
	}
	poll := w.nextPoll(now)
	if w.link.conn == nil && !w.link.cfg.CloseAfterPoll {
		if len(w.devices) == 0 {
			return turn{}
		}
		return turn{at: later(w.link.nextDial, now), do: w.connect}.sooner(poll)
	}
	keep, probe := w.nextKeepAlive(), w.nextProbe()
	switch {
	case keep.due(now):
		return keep
	case probe.due(now) && (!poll.due(now) || !probe.force.After(now)):
		return probe
	case poll.due(now):
		return poll
	}
	return keep.sooner(probe).sooner(poll)
}

// nextPoll is the next request of a poll cycle. Of the units that have one, the one that was asked the
// longest ago comes first.
func (w *wire) nextPoll(now time.Time) turn {
	var first turn
	var chosen *device
	for _, d := range w.devices {
		at := d.due()
		if d.state == Down || at.IsZero() {
			continue
		}
		t := turn{at: later(at, d.unit.free), do: func(ctx context.Context) { w.poll(ctx, d) }}
		goes := chosen == nil || t.at.Before(first.at)
		if t.due(now) && first.due(now) {
			goes = before(d, chosen)
		}
		if goes {
			first, chosen = t, d
		}
	}
	return first
}

// before tells whether device a, which has something due, comes before b, which has too.
func before(a, b *device) bool {
	if a.unit != b.unit {
		return a.unit.served.Before(b.unit.served)
	}
	if (a.cycle != nil) != (b.cycle != nil) {
		return a.cycle != nil // a cycle that has begun is finished first
	}
	return a.due().Before(b.due())
}

// nextProbe is the next question to an offline device: to the one that has waited longest.
func (w *wire) nextProbe() turn {
	var first turn
	var chosen *device
	for _, d := range w.devices {
		if d.state != Down {
			continue
		}
		low, _ := d.retries()
		t := turn{at: later(d.probeAt, d.unit.free), do: func(ctx context.Context) { w.probe(ctx, d) }}
		if w.othersUp(d) {
			t.at = later(t.at, w.probeFree)
		}
		t.force = t.at.Add(low)
		if chosen == nil || t.at.Before(first.at) || t.at.Equal(first.at) && d.probeAt.Before(chosen.probeAt) {
			first, chosen = t, d
		}
	}
	return first
}

// nextKeepAlive is the next read for the sake of a unit's watchdog (MB-76).
func (w *wire) nextKeepAlive() turn {
	var first turn
	if w.link.cfg.KeepAlive <= 0 {
		return first
	}
	for _, d := range w.devices {
		if u := d.unit; !u.silent && !u.served.IsZero() {
			first = first.sooner(turn{
				at: u.served.Add(w.link.cfg.KeepAlive),
				do: func(ctx context.Context) { w.keepAlive(ctx, d) },
			})
		}
	}
	return first
}

// later is t, but not before other.
func later(t, other time.Time) time.Time {
	if t.Before(other) {
		return other
	}
	return t
}
