package modbus

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
)

const (
	// commandsMax and commandsTime bound what goes ahead of a poll that is due (MB-50).
	commandsMax  = 8
	commandsTime = 500 * time.Millisecond
	// extraMax is how many requests of one cycle may search for what a device refuses (MB-46).
	extraMax = 8
)

// wire is the one goroutine that owns the link and all that was learned about its devices.
type wire struct {
	a       *Adapter
	link    *link
	devices []*device
	log     zerolog.Logger
	opened  int  // link.opened when it was last looked at
	probed  bool // the last turn was a probe
}

// turn is something to do at a time.
type turn struct {
	at time.Time // zero: nothing to do
	do func(context.Context)
}

// sooner prefers t to other.
func (t turn) sooner(other turn) bool {
	return !t.at.IsZero() && (other.at.IsZero() || t.at.Before(other.at))
}

// loop works until ctx ends: commands first, then polls by due time, then probes.
func (w *wire) loop(ctx context.Context) {
	now := time.Now()
	for _, d := range w.devices {
		d.start(w.a.cfg.Name, now)
	}
	for ctx.Err() == nil {
		t := w.next(time.Now())
		if t.at.IsZero() || t.at.After(time.Now()) {
			w.idle(ctx, t.at)
			continue
		}
		t.do(ctx)
	}
	w.link.drop(fmt.Errorf("stopped: %w", context.Cause(ctx)), true)
}

// commands serves the writes and reads that wait, writes first; but no more than MB-50 allows.
func (w *wire) commands(ctx context.Context) {
	began := time.Now()
	for range commandsMax {
		if ctx.Err() != nil || time.Since(began) >= commandsTime {
			return
		}
		select {
		case j := <-w.a.writes:
			w.perform(ctx, j)
			continue
		default:
		}
		select {
		case j := <-w.a.reads:
			w.perform(ctx, j)
		default:
			return
		}
	}
}

// idle waits until a time, a command or the end. A zero time never comes.
func (w *wire) idle(ctx context.Context, until time.Time) {
	var due <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
	case <-due:
	case j := <-w.a.writes:
		w.perform(ctx, j)
	case j := <-w.a.reads:
		w.perform(ctx, j)
	}
}

func (w *wire) perform(ctx context.Context, j *job) {
	defer close(j.done)
	j.do(ctx, w)
}

// next is what the wire is to do next on its own. A probe costs a timeout most of the time: two never
// follow each other while a poll is due (MB-53).
func (w *wire) next(now time.Time) turn {
	if w.opened != w.link.opened { // a new connection: whoever was offline may be back
		w.opened = w.link.opened
		for _, d := range w.devices {
			d.probeAt = now
		}
	}
	var poll, probe turn
	for _, d := range w.devices {
		switch {
		case d.state != Down:
			if t := (turn{d.due(), func(ctx context.Context) { w.poll(ctx, d) }}); t.sooner(poll) {
				poll = t
			}
		case w.link.conn != nil:
			if t := (turn{d.probeAt, func(ctx context.Context) { w.probe(ctx, d) }}); t.sooner(probe) {
				probe = t
			}
		}
	}
	if w.link.conn == nil && len(w.devices) > 0 {
		connect := turn{later(w.link.nextDial, now), w.connect}
		if connect.sooner(poll) || !connect.at.After(now) {
			return connect
		}
	}
	if !probe.at.IsZero() && !probe.at.After(now) && !w.probed {
		return probe
	}
	if probe.sooner(poll) && (poll.at.IsZero() || poll.at.After(now)) {
		return probe
	}
	return poll
}

// later is t, but not before now.
func later(t, now time.Time) time.Time {
	if t.Before(now) {
		return now
	}
	return t
}

func (w *wire) connect(ctx context.Context) {
	w.commands(ctx)
	w.link.ready(ctx, false) // a failure is logged and counted there, and sets the next try
}

// probe asks an offline device whether it is back (MB-84).
func (w *wire) probe(ctx context.Context, d *device) {
	w.probed = true
	w.commands(ctx)
	_, f := w.read(ctx, d, d.probe(), false)
	switch {
	case f == nil || f.alive():
		w.up(d)
	case f.kind == aborted:
	default:
		_, high := d.retries()
		d.retry = min(2*d.retry, high)
		d.probeAt = time.Now().Add(d.retry)
	}
}

// up notes that the device answered. One that was offline is read at once, and what was learned
// about it is learned anew: it may have been exchanged (MB-46).
func (w *wire) up(d *device) {
	d.fails = 0
	if d.state == Up {
		return
	}
	if d.state == Down {
		d.lore = newLore()
		w.showRefused(d)
		d.replan()
		now := time.Now()
		for _, g := range d.groups {
			if !g.due.IsZero() {
				g.due = now
			}
		}
	}
	w.turnTo(d, Up, nil)
}

// down notes that the device counts as offline, and returns one bad reading of every point that is
// not known to be bad yet; a startup point that was read stays good.
func (w *wire) down(d *device, why *fault) []gateway.Sample {
	d.retry, _ = d.retries()
	now := time.Now()
	d.probeAt = now.Add(d.retry)
	w.turnTo(d, Down, why)
	var samples []gateway.Sample
	for i, p := range d.Points {
		if d.missed[i] >= d.Offline.After || p.Poll == 0 && d.read[i] {
			continue
		}
		d.missed[i] = d.Offline.After
		samples = append(samples, d.failed(d.pointBlock(i), now, why.readErr())...)
	}
	return samples
}

func (w *wire) turnTo(d *device, s State, why *fault) {
	d.state = s
	w.a.note(func(all *Stats) { all.Devices[d.index].State = s })
	if s == Down {
		w.log.Warn().Str("device", d.Name).Uint8("unit", d.Unit).Err(why).Msg("device is offline")
		return
	}
	w.log.Info().Str("device", d.Name).Uint8("unit", d.Unit).Msg("device answers")
}
