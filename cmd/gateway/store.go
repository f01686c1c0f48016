package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"iothub-gateway/buffer"
)

// What stands in the state directory.
const (
	queueName = "queue"
	stateName = "state.db" // small facts that survive a restart
)

// openStore opens what the gateway keeps on disk.
func openStore(cfg serviceConfig) (*buffer.Queue, *buffer.State, error) {
	if err := os.MkdirAll(cfg.stateDir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	queue, err := buffer.Open(queueConfig(cfg))
	if errors.Is(err, buffer.ErrInUse) {
		return nil, nil, fmt.Errorf("another gateway works in %s; stop that one or give this one its own --state-dir", cfg.stateDir)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, fmt.Errorf("state directory %s cannot be written by user %d: %w; give it to that user, or choose another with --state-dir", cfg.stateDir, os.Getuid(), fs.ErrPermission)
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
