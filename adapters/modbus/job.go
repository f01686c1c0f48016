package modbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	gateway "iothub-gateway"
)

// The states of a job, as far as a write's outcome depends on them.
const (
	unsent    int32 = iota // nothing has left that could change the device
	committed              // a write has left, or is about to
	abandoned              // the caller has gone; nothing may leave any more
)

// job is work that a caller hands to the wire and waits for.
type job struct {
	ctx   context.Context // the caller's
	do    func(run context.Context, w *wire)
	done  chan struct{} // closed when do has returned
	state atomic.Int32
}

func newJob(ctx context.Context) *job { return &job{ctx: ctx, done: make(chan struct{})} }

// commit is asked right before a write leaves; false if the caller has gone.
func (j *job) commit() bool {
	return j.ctx.Err() == nil && (j.state.Load() == committed || j.state.CompareAndSwap(unsent, committed))
}

// retract says that the write which left was not executed.
func (j *job) retract() { j.state.CompareAndSwap(committed, unsent) }

// wait waits until t, and tells whether the caller is still there then.
func (j *job) wait(run context.Context, t time.Time) bool {
	if time.Until(t) > 0 {
		ctx, cancel := context.WithCancel(run)
		defer cancel()
		defer context.AfterFunc(j.ctx, cancel)()
		sleep(ctx, time.Until(t))
	}
	return j.ctx.Err() == nil && run.Err() == nil
}

// errStopped: Run has ended.
var errStopped = errors.New("the link is stopped")

// submit hands a job to the wire and waits until it is done. Its error wraps ErrNoAnswer if the
// caller's ctx or the adapter ended before a write left, ErrUncertain if ctx ended after.
func (w *wire) submit(to chan<- *job, j *job) error {
	if j.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", gateway.ErrNoAnswer, context.Cause(j.ctx))
	}
	select {
	case to <- j:
	case <-w.stopped:
		return fmt.Errorf("%w: %w", gateway.ErrNoAnswer, errStopped)
	case <-j.ctx.Done():
		return fmt.Errorf("%w: %w", gateway.ErrNoAnswer, context.Cause(j.ctx))
	}
	select {
	case <-j.done:
		return nil
	case <-j.ctx.Done():
	}
	switch {
	case isClosed(j.done):
		return nil
	case j.state.CompareAndSwap(unsent, abandoned):
		return fmt.Errorf("%w: %w", gateway.ErrNoAnswer, context.Cause(j.ctx))
	default:
		return fmt.Errorf("%w: %w", gateway.ErrUncertain, context.Cause(j.ctx))
	}
}

// readNow reads points of several devices. A point of which nothing came has a Sample with Err. It is
// false if the caller had gone before everything was tried.
func (w *wire) readNow(run context.Context, j *job, wanted map[*device][]int) (map[gateway.PointID]gateway.Sample, bool) {
	found := map[gateway.PointID]gateway.Sample{}
	here := func() bool { return j.ctx.Err() == nil && run.Err() == nil }
	for _, d := range w.devices {
		points := wanted[d]
		if len(points) == 0 {
			continue
		}
		slices.Sort(points)
		points = slices.Compact(points)
		c := &cycle{w: w, d: d, urgent: true, budget: 2 * len(points), blocks: d.planOf(points), tries: w.link.cfg.Retries}
		for j.wait(run, d.unit.free) && c.step(run) {
		}
		if c.answered {
			w.up(d)
		}
		if c.end == nil && !here() {
			return nil, false
		}
		for _, i := range points {
			if c.end != nil {
				found[d.Points[i].ID] = d.failed(d.pointBlock(i), time.Now(), c.end.readErr())[0]
			}
		}
		for _, s := range c.samples {
			found[s.Point] = s
		}
	}
	return found, true
}
