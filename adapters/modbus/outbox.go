package modbus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
)

const (
	// acceptGrace is how long accept may go on after the end of Run's ctx, so that the last
	// readings still get through.
	acceptGrace = 2 * time.Second
	// acceptRetry and acceptRetryMax are the pauses after accept returned an error, doubling.
	acceptRetry    = 100 * time.Millisecond
	acceptRetryMax = 5 * time.Second
)

// outbox stands between the wire and accept. It holds at most one reading of every point, so that
// it is bounded by the plant, and put never waits.
type outbox struct {
	wake  chan struct{} // capacity 1
	ended chan struct{} // closed: nothing will be put any more

	mu       sync.Mutex // guards the fields below
	waiting  []gateway.Sample
	replaced uint64
	lost     uint64
	refused  uint64
}

func newOutbox() *outbox {
	return &outbox{wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// put adds the readings of one poll cycle. A point that still waits gets the newer reading.
func (o *outbox) put(samples []gateway.Sample) {
	if len(samples) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = o.merge(o.waiting, samples)
	o.signal()
}

// putBack returns readings that accept refused, as older than what waits.
func (o *outbox) putBack(samples []gateway.Sample) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = o.merge(samples, o.waiting)
	o.signal()
}

// merge is older and then newer, without the older readings of points that are in newer.
func (o *outbox) merge(older, newer []gateway.Sample) []gateway.Sample {
	if len(older) == 0 {
		return newer
	}
	fresh := make(map[gateway.PointID]bool, len(newer))
	for _, s := range newer {
		fresh[s.Point] = true
	}
	kept := make([]gateway.Sample, 0, len(older)+len(newer))
	for _, s := range older {
		if fresh[s.Point] {
			o.replaced++
			continue
		}
		kept = append(kept, s)
	}
	return append(kept, newer...)
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take removes everything that waits: readings that have been held up together share one write to the
// disk.
func (o *outbox) take() []gateway.Sample {
	o.mu.Lock()
	defer o.mu.Unlock()
	samples := o.waiting
	o.waiting = nil
	return samples
}

func (o *outbox) counts() (replaced, lost, refused uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.replaced, o.lost, o.refused
}

// refuse counts what a full queue refused. That is final: the device's next poll reports again, and
// waiting for room would hold up the other devices of the link. The queue itself says that it is full.
func (o *outbox) refuse(points int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused += uint64(points)
}

// abandon counts what will never be accepted.
func (o *outbox) abandon(samples []gateway.Sample) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost += uint64(len(samples))
}

// deliver hands what waits to accept until the outbox has ended and is empty. What accept fails on is
// tried again; at the end, once. What a full queue refuses is not.
func (o *outbox) deliver(ctx context.Context, log zerolog.Logger, accept func(context.Context, []gateway.Sample) error) {
	late, release := graceful(ctx)
	defer release()
	pause := time.Duration(0)
	for {
		last := isClosed(o.ended) // looked up before take: what was put before the end is seen
		samples := o.take()
		if len(samples) == 0 && last {
			return
		}
		if len(samples) == 0 {
			select {
			case <-o.wake:
			case <-o.ended: // Run always ends it
			}
			continue
		}
		err := accept(late, samples)
		var full *gateway.FullError
		if errors.As(err, &full) {
			o.refuse(len(full.Points))
			err = nil
		}
		switch {
		case err == nil && pause > 0:
			pause = 0
			log.Info().Msg("readings are accepted again")
		case err == nil:
		case last:
			o.abandon(samples)
		default:
			if pause == 0 {
				log.Warn().Err(err).Msg("readings are not accepted, trying again")
			}
			o.putBack(samples)
			pause = min(max(2*pause, acceptRetry), acceptRetryMax)
			if !sleep(ctx, pause) {
				<-o.ended
			}
		}
	}
}

// graceful is a context that ends acceptGrace after ctx, or with release.
func graceful(ctx context.Context) (late context.Context, release func()) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		sleep(late, acceptGrace)
		cancel()
	})
	return late, func() {
		cancel()
		if !stop() {
			<-done
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
