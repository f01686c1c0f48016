// Package adaptertest is the suite that every gateway.Adapter passes. It knows no protocol: whoever
// runs it brings an adapter that is connected to a device, real or simulated, and says what the
// device can do. The suite holds the adapter to the words of the interface:
//
//   - readings arrive with a value and a time, and a reading that fails is a Sample, not an error;
//   - accept is called by one goroutine at a time, only while Run runs, and what it fails on is not
//     lost silently; what a full queue refuses holds up nothing else;
//   - Run returns nil soon after its ctx ended and leaves no goroutine behind;
//   - Read and Write say what the errors of the root package mean, and a confirmed write shows.
package adaptertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	gateway "iothub-gateway"
)

const (
	// patience is how long the suite waits for anything that must happen.
	patience = 5 * time.Second
	// soon is how long Run may take to return once its ctx has ended.
	soon = 4 * time.Second
	// unknown is a point that no plant has.
	unknown gateway.PointID = "adaptertest/no such point"
)

// Setup is one adapter, not yet running, with the device behind it. What is left zero the adapter
// or the device cannot do, and the suite does not ask for it.
type Setup struct {
	Adapter gateway.Adapter
	// Good is a point that gives good readings, again and again, with Want as the value. Required.
	Good gateway.PointID
	Want gateway.Value
	// Bad is a point whose readings fail.
	Bad gateway.PointID
	// Once is a point of which the device's reading comes once, and is not repeated unless it was
	// refused.
	Once gateway.PointID
	// Report makes the device report Good, Bad and Once now, and returns when it is done or has
	// failed; nil if the adapter asks on its own. The suite calls it again as long as it waits.
	Report func()
	// Readable says that Read fetches Good, and Bad if it is set.
	Readable bool
	// Writable is a point that can be written and, with Readable, read: Values are two different
	// values that it takes, Misfit one that it cannot take (ErrRange).
	Writable gateway.PointID
	Values   [2]gateway.Value
	Misfit   gateway.Value
	// ReadOnly is a point that exists and cannot be written.
	ReadOnly gateway.PointID
}

// Run runs the suite. newAdapter is called once for each part; it cleans up with t.Cleanup.
func Run(t *testing.T, newAdapter func(t *testing.T) Setup) {
	t.Helper()
	for _, part := range []struct {
		name string
		run  func(*testing.T, Setup)
	}{
		{"ReadingsArriveWithValueAndTime", readingsArrive},
		{"AFailedReadingIsASample", failedReading},
		{"AcceptIsCalledOneAtATime", oneAtATime},
		{"WhatAcceptRefusesIsNotLost", refusedByAccept},
		{"AFullQueueSlowsNothingDown", fullQueue},
		{"RunEndsWithItsContext", runEnds},
		{"RunEndsWhileAcceptWaits", runEndsWhileAcceptWaits},
		{"UnknownPoints", unknownPoints},
		{"ReadsKeepTheOrder", readsKeepTheOrder},
		{"ReadOnlyPointsStay", readOnly},
		{"AWriteShows", writeShows},
		{"AMisfitIsRefused", misfit},
		{"CallsEndWithTheirContext", callsEnd},
		{"CallsAfterTheEnd", callsAfterTheEnd},
		{"ManyCallersAtOnce", manyCallers},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, newAdapter(t)) })
	}
}

// running is an adapter at work and what it handed over.
type running struct {
	Setup
	stop func() error // ends Run and returns what it returned; the second call does nothing

	mu      sync.Mutex
	samples []gateway.Sample
}

// start runs the adapter until the test ends. accept sees the readings first; nil takes them all.
func start(t *testing.T, s Setup, accept func(context.Context, []gateway.Sample) error) *running {
	t.Helper()
	r := &running{Setup: s}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.Adapter.Run(ctx, func(ctx context.Context, batch []gateway.Sample) error {
			if accept != nil {
				if err := accept(ctx, batch); err != nil {
					return err
				}
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.samples = append(r.samples, batch...)
			return nil
		})
	}()
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(soon):
			return errors.New("Run has not returned " + soon.String() + " after its context ended")
		}
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// find is the first reading so far that fits.
func (r *running) find(fits func(gateway.Sample) bool) (gateway.Sample, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.samples {
		if fits(s) {
			return s, true
		}
	}
	return gateway.Sample{}, false
}

// await waits for a reading that fits.
func (r *running) await(t *testing.T, what string, fits func(gateway.Sample) bool) gateway.Sample {
	t.Helper()
	var s gateway.Sample
	r.until(t, what, func() (ok bool) { s, ok = r.find(fits); return ok })
	return s
}

// until waits for ok, and lets the device report meanwhile.
func (r *running) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
		if r.Report != nil {
			r.Report()
		}
	}
}

func isGood(id gateway.PointID) func(gateway.Sample) bool {
	return func(s gateway.Sample) bool { return s.Point == id && s.Err == nil }
}

// within is a context for one call.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}
