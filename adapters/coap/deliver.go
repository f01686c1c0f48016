package coap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"

	gateway "iothub-gateway"
)

// Clock of a listener.
const (
	tickEvery    = 100 * time.Millisecond
	sweepEvery   = time.Second
	keysEvery    = 30 * time.Second
	silenceAgain = 5 * time.Second // a silence that could not be stored is reported again
)

// report is what one request, or the silence of a device, has to say.
type report struct {
	from     endpoint
	exchange *exchange // nil: a silence, which nobody waits for
	device   *device
	samples  []gateway.Sample
}

// deliver hands reports to accept until ctx ends, then refuses what is left.
func (a *Adapter) deliver(ctx context.Context, accept func(context.Context, []gateway.Sample) error) {
	var batch []report
	for {
		select {
		case <-ctx.Done():
			a.refuseWaiting()
			return
		case r := <-a.reports:
			batch = a.gather(append(batch[:0], r))
			a.hand(ctx, accept, batch)
			clear(batch)
		}
	}
}

// gather adds to a batch what else is waiting.
func (a *Adapter) gather(batch []report) []report {
	for {
		select {
		case r := <-a.reports:
			batch = append(batch, r)
		default:
			return batch
		}
	}
}

// hand passes a batch to accept, each report alone if it fails as a whole, and answers.
func (a *Adapter) hand(ctx context.Context, accept func(context.Context, []gateway.Sample) error, batch []report) {
	if len(batch) > 1 {
		var all []gateway.Sample
		for _, r := range batch {
			all = append(all, r.samples...)
		}
		err := accept(ctx, all)
		var full *gateway.FullError
		if err == nil || errors.As(err, &full) {
			a.settleEach(batch, full)
			return
		}
	}
	for _, r := range batch {
		err := accept(ctx, r.samples)
		a.settle(r, err, ctx.Err() != nil)
	}
}

// settleEach answers a batch that was accepted, but for what a full queue refused.
func (a *Adapter) settleEach(batch []report, full *gateway.FullError) {
	refused := map[gateway.PointID]bool{}
	if full != nil {
		for _, p := range full.Points {
			refused[p] = true
		}
	}
	for _, r := range batch {
		var err error
		if slices.ContainsFunc(r.samples, func(s gateway.Sample) bool { return refused[s.Point] }) {
			err = full
		}
		a.settle(r, err, false)
	}
}

// settle answers a report that accept has taken or not.
func (a *Adapter) settle(r report, err error, closing bool) {
	if out := a.outcome(r, err, closing, time.Now()); out != nil {
		r.from.send(out)
	}
}

// outcome notes what became of a report and returns what its sender is to be told.
func (a *Adapter) outcome(r report, err error, closing bool, now time.Time) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.samples -= len(r.samples)
	full := errors.Is(err, gateway.ErrFull)
	if !closing {
		r.device.noteFull(full, now)
	}
	if !closing && !full { // which is no failure of the disk; the queue itself says that it is full
		a.noted(err, now)
	}
	if r.exchange == nil {
		r.device.pending = false
		if err != nil {
			r.device.silent, r.device.quiet = false, now.Add(r.device.again(now))
		}
		return nil
	}
	a.waiting--
	ans := answer{code: codes.Changed}
	switch {
	case err == nil:
		a.stats.Reports++
		r.device.faults = faults{}
	case closing:
		ans = answer{code: codes.ServiceUnavailable, maxAge: waitIfClosing}
	case full:
		ans = answer{code: codes.ServiceUnavailable, maxAge: spread(patience(now.Sub(r.device.full)))}
	default:
		ans = answer{code: codes.ServiceUnavailable, maxAge: spread(patience(now.Sub(a.failing)))}
	}
	if err != nil {
		a.stats.Failed++
	}
	return a.exchanges.finish(r.exchange, ans, now)
}

// noted keeps the time since which nothing can be stored, and logs when that begins and ends.
func (a *Adapter) noted(err error, now time.Time) {
	switch {
	case err == nil:
		if a.told {
			a.log.Info().Stringer("failing", now.Sub(a.failing).Round(time.Millisecond)).Msg("reports are stored again")
		}
		a.failing, a.told = time.Time{}, false
	case a.failing.IsZero():
		a.failing = now
		a.failureLog.Do(func() {
			a.told = true
			a.log.Error().Err(err).Msg("reports cannot be stored, devices are asked to wait")
		})
	}
}

// again is how long a silence that could not be stored waits to be reported again.
func (d *device) again(now time.Time) time.Duration {
	if d.full.IsZero() {
		return silenceAgain
	}
	return time.Duration(patience(now.Sub(d.full))) * time.Second
}

// noteFull keeps the time since which the queue has no room for the device's reports.
func (d *device) noteFull(full bool, now time.Time) {
	switch {
	case !full:
		d.full = time.Time{}
	case d.full.IsZero():
		d.full = now
	}
}

// patience is how many seconds devices are asked to wait when nothing could be stored for so long:
// half of it, within 5 s and 5 min (COAP-62).
func patience(failing time.Duration) uint32 {
	return uint32(min(max(failing/2, waitIfBusy*time.Second), maxWaitIfStuck*time.Second) / time.Second)
}

// refuseWaiting answers what accept has not seen when the listener closes.
func (a *Adapter) refuseWaiting() {
	a.mu.Lock()
	a.closing = true
	a.mu.Unlock()
	for _, r := range a.gather(nil) {
		a.settle(r, context.Canceled, true)
	}
}

// tend keeps the clock until ctx ends.
func (a *Adapter) tend(ctx context.Context, f front) {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	swept := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			for _, o := range a.tick(now) {
				o.to.send(o.datagram)
			}
			if now.Sub(swept) >= sweepEvery {
				swept = now
				a.sweep(now)
				f.sweep(now)
			}
		}
	}
}

// tick reports silences and returns what the message layer has to send.
func (a *Adapter) tick(now time.Time) []outgoing {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.roster.all {
		if d.overdue(now) && !a.closing {
			a.silence(d, now)
		}
	}
	return a.exchanges.tick(now)
}

// sweep forgets what is too old.
func (a *Adapter) sweep(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.exchanges.expire(now)
	a.assembly.expire(now)
}

// silence reports a device that has been silent for too long: a bad reading of every point.
func (a *Adapter) silence(d *device, now time.Time) {
	err := fmt.Errorf("coap: listener %s: %s has not reported since %s, expected every %s: %w",
		a.cfg.Name, d.Name, d.heard.UTC().Format(time.RFC3339), d.ExpectEvery, gateway.ErrNoAnswer)
	r := report{device: d}
	for _, p := range d.Points {
		r.samples = append(r.samples, gateway.Sample{Point: p.ID, Time: now, Err: err})
	}
	a.reports <- r // one a device has room
	a.samples += len(r.samples)
	repeated := d.quiet.After(d.heard)
	d.silent, d.pending = true, true
	if repeated {
		return
	}
	a.stats.Silences++
	a.log.Warn().Str("device", d.Name).Time("heard", d.heard).Msg("silent for too long")
}

// heard notes that a device reported.
func (a *Adapter) heard(d *device, now time.Time) {
	if d.silent {
		a.log.Info().Str("device", d.Name).Time("heard", d.heard).Msg("reports again")
	}
	d.heard, d.reported, d.silent, d.quiet = now, now, false, time.Time{}
}
