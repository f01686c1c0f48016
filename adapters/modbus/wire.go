package modbus

import (
	"context"
	"errors"
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

// wire is the one goroutine that owns a link and all that was learned about the units behind it.
type wire struct {
	a       *Adapter
	link    *link
	devices []*device
	units   map[uint8]*unit
	log     zerolog.Logger
	// Unbuffered: a job either runs or is still with its caller (MB-50).
	writes, reads chan *job
	stopped       chan struct{} // closed when loop has ended

	opened    int       // link.opened when it was last looked at
	probeFree time.Time // no probe before, for the sake of the units that live
}

// newWire makes a wire without devices.
func newWire(a *Adapter, l *link) *wire {
	w := &wire{
		a: a, link: l, log: a.log, units: map[uint8]*unit{},
		writes: make(chan *job), reads: make(chan *job), stopped: make(chan struct{}),
	}
	l.note = func(change func(*LinkStats)) { a.note(func(s *Stats) { change(&s.Link) }) }
	l.stale = w.noteStale
	return w
}

// add gives the wire a device.
func (w *wire) add(index int) *device {
	dc := w.a.cfg.Devices[index]
	if w.units[dc.Unit] == nil {
		w.units[dc.Unit] = newUnit(dc.Unit, w.link)
	}
	d := newDevice(w.a.cfg, index, w.units[dc.Unit])
	d.wire = w
	w.devices = append(w.devices, d)
	return d
}

// loop works until ctx ends: commands first, then one request of whoever's turn it is.
func (w *wire) loop(ctx context.Context) {
	defer close(w.stopped)
	now := time.Now()
	for _, d := range w.devices {
		d.start(w.a.cfg.Name, now)
	}
	for ctx.Err() == nil {
		w.commands(ctx)
		t := w.next(time.Now())
		if t.due(time.Now()) {
			t.do(ctx)
			continue
		}
		if w.link.cfg.CloseAfterPoll {
			w.link.drop(errDone, true)
		}
		w.idle(ctx, t.at)
	}
	w.link.drop(fmt.Errorf("stopped: %w", context.Cause(ctx)), true)
}

// errDone: a connection was closed because nothing was due.
var errDone = errors.New("closed after the poll")

// commands serves the writes and reads that wait, writes first; but no more than MB-50 allows.
func (w *wire) commands(ctx context.Context) {
	began := time.Now()
	for range commandsMax {
		if ctx.Err() != nil || time.Since(began) >= commandsTime {
			return
		}
		select {
		case j := <-w.writes:
			w.perform(ctx, j)
			continue
		default:
		}
		select {
		case j := <-w.reads:
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
	case j := <-w.writes:
		w.perform(ctx, j)
	case j := <-w.reads:
		w.perform(ctx, j)
	}
}

func (w *wire) perform(ctx context.Context, j *job) {
	defer close(j.done)
	j.do(ctx, w)
}

// connect opens a link that is down. A failure is logged and counted there, and sets the next try.
func (w *wire) connect(ctx context.Context) { w.link.ready(ctx, false) }

// keepAlive asks a unit that nobody has asked for a while. Whether it answers is for the polls to judge.
func (w *wire) keepAlive(ctx context.Context, d *device) { w.read(ctx, d, d.probe(), false) }

// probe asks an offline device whether it is back (MB-84). Its devices share what comes of it. While
// others live, the next probe that may cost a timeout waits for as long as the mapping says.
func (w *wire) probe(ctx context.Context, d *device) {
	began := time.Now()
	_, f := w.read(ctx, d, d.probe(), false)
	alive := f == nil || f.alive()
	switch {
	case alive:
		w.up(d)
	case f.kind == aborted:
		return
	default:
		low, _ := d.retries()
		w.probeFree = began.Add(low)
	}
	now := time.Now()
	for _, o := range w.devices {
		switch {
		case o.unit != d.unit || o.state != Down:
		case alive:
			o.probeAt = now
		default:
			_, high := o.retries()
			o.retry = min(2*o.retry, high)
			o.probeAt = now.Add(o.retry)
		}
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

// noteStale counts a dropped frame for the devices of its unit. Where answers carry no id, one that came
// too late says that the unit needs more time (MB-25).
func (w *wire) noteStale(unit uint8) {
	w.a.noteStale(unit)
	if u := w.units[unit]; u != nil && w.link.silence > 0 && u.late() {
		w.log.Warn().Uint8("unit", unit).Stringer("timeout", u.patience).
			Msg("unit answers later than the link's timeout; it is waited for longer now, set a longer timeout in the mapping")
	}
}
