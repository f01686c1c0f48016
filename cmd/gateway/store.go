package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/control"
)

// What stands in the state directory.
const (
	queueName = "queue"
	stateName = "state.db" // small facts that survive a restart
)

// notInMapping is what stands in the way of a lane whose identity the mapping does not have.
const notInMapping = "not in the mapping; put it back and its messages are delivered"

// openStore opens what the gateway keeps on disk.
func openStore(cfg serviceConfig) (*buffer.Queue, *buffer.State, error) {
	if err := os.MkdirAll(cfg.stateDir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	queue, err := buffer.Open(queueConfig(cfg))
	if errors.Is(err, buffer.ErrInUse) {
		return nil, nil, fmt.Errorf("another gateway works in %s; stop that one or give this one its own --state-dir", cfg.stateDir)
	}
	if err != nil {
		return nil, nil, err
	}
	state, err := buffer.OpenState(filepath.Join(cfg.stateDir, stateName), cfg.log)
	if err != nil {
		return nil, nil, errors.Join(err, queue.Close())
	}
	return queue, state, nil
}

// closeStore gives the files back.
func (s *service) closeStore() error { return errors.Join(s.queue.Close(), s.state.Close()) }

// queueConfig is the queue as the mapping wants it.
func queueConfig(cfg serviceConfig) buffer.Config {
	b := cfg.plant.Buffer
	c := buffer.Config{
		Dir: filepath.Join(cfg.stateDir, queueName), MaxBytes: b.MaxBytes, LaneMaxBytes: b.LaneMaxBytes, MaxAge: b.MaxAge,
		Check: queueFileCheck(), Clock: cfg.clock.Now, Log: cfg.log,
	}
	if b.RefuseNew {
		c.WhenFull = buffer.RefuseNew
	}
	if b.Batch != nil {
		c.Batch = buffer.Batch{MaxBytes: b.Batch.MaxBytes, MaxWait: b.Batch.MaxWait}
	}
	return c
}

func (s *service) queueDir() string { return filepath.Join(s.cfg.stateDir, queueName) }

// sample keeps the rates of the lanes and the loads of the links up to date; it is called every few seconds.
func (s *service) sample(now time.Time) {
	s.rates.sample(laneCounters(s.queue.Stats().Lanes), now)
	s.loads.sample(linkCounters(s.now.Load().links), now)
}

// access is what the control socket can do with the queue.
func (s *service) access() queueAccess {
	q := accessTo(s.queue, s.queueDir())
	q.page = func(context.Context) (control.QueuePage, error) { return s.queuePage(), nil }
	return q
}

// queuePage is the queue with all that is known about its lanes.
func (s *service) queuePage() control.QueuePage {
	page := queuePage(s.queue, s.queueDir())
	page.Clock = s.cfg.clock.Synchrony()
	known, trouble := s.now.Load(), map[string]string{}
	for _, link := range s.pool.Stats() {
		trouble[string(link.Identity)] = link.LastError
	}
	for i := range page.Lanes {
		l := &page.Lanes[i]
		l.In, l.Out = s.rates.of(l.Identity)
		l.LastError = trouble[l.Identity]
		if !known.knows(gateway.IdentityID(l.Identity)) && l.Entries > 0 {
			l.LastError = notInMapping
		}
	}
	return page
}
