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

// errStopped: Run has ended.
var errStopped = errors.New("the link is stopped")

// submit hands a job to the wire and waits until it is done. Its error wraps ErrNoAnswer if the
// caller's ctx or the adapter ended before a write left, ErrUncertain if ctx ended after.
func (a *Adapter) submit(to chan<- *job, j *job) error {
	if j.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", gateway.ErrNoAnswer, context.Cause(j.ctx))
	}
	select {
	case to <- j:
	case <-a.stopped:
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
	here := func() bool { return j.ctx.Err() == nil }
	for _, d := range w.devices {
		points := wanted[d]
		if len(points) == 0 {
			continue
		}
		slices.Sort(points)
		points = slices.Compact(points)
		c := &cycle{w: w, d: d, urgent: true, budget: 2 * len(points), before: here}
		c.run(run, d.planOf(points))
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
