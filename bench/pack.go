package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"iothub-gateway/buffer"
)

// packing is how many readings of a backlog a hub message carries.
func packing(ctx context.Context) (each float64, err error) {
	hub, accounts, stopHub, err := newHub(100)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stopHub()) }()
	dir, err := os.MkdirTemp(".", "bench-pack-")
	if err != nil {
		return 0, err
	}
	queue, err := buffer.Open(buffer.Config{
		Dir: filepath.Join(dir, "queue"), Batch: buffer.Batch{MaxBytes: 64 << 10, MaxWait: time.Second},
	})
	if err != nil {
		return 0, errors.Join(err, os.RemoveAll(dir))
	}
	rig := &gatewayRig{dir: dir, queue: queue, stopQueue: background(queue.Run)}
	err = fill(ctx, queue, lanes(len(accounts)), million)
	rig.connect(accounts, rigOptions{open: dialer(hub), rate: 1e6})
	defer func() { err = errors.Join(err, rig.close()) }()
	if err != nil {
		return 0, err
	}
	if err := poll(ctx, func() bool { return queue.Stats().Entries == 0 }); err != nil {
		return 0, err
	}
	return million / float64(hub.Received()), nil
}
