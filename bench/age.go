package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/bridge"
	"iothub-gateway/buffer"
	"iothub-gateway/devsim"
	"iothub-gateway/mapping"
	"iothub-gateway/upstream"
)

// agePlant is one device that is polled every 20 ms and reports every reading.
func agePlant() *mapping.Plant {
	const device = "dev0000"
	point := modbus.Point{
		ID: device + "/count", Table: modbus.Holding, Bit: modbus.WholeRegister, Type: modbus.Uint32, Order: "abcd",
		Scale: 1, Poll: agePoll,
	}
	return &mapping.Plant{
		Links: []modbus.Config{{Name: "link", Timeout: time.Second, Devices: []modbus.Device{{
			Name: device, Unit: 1, MaxRead: modbus.MaxReadRegisters, MaxWrite: modbus.MaxWriteRegisters,
			Offline: modbus.Offline{After: 3, RetryMin: time.Second, RetryMax: time.Second}, Points: []modbus.Point{point},
		}}}},
		Points: []gateway.Point{{ID: point.ID, Identity: device, Field: "count", Publish: gateway.Publish{On: gateway.OnPoll}}},
	}
}

// watchedLane notes when entries are acknowledged, less when they were read.
type watchedLane struct {
	upstream.Lane
	mu      sync.Mutex // guards the fields below
	created map[uint64]time.Time
	ages    []time.Duration
}

func (l *watchedLane) Next(ctx context.Context, after uint64, most int) ([]buffer.Entry, error) {
	entries, err := l.Lane.Next(ctx, after, most)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		l.created[e.Seq] = e.Telemetry.Created
	}
	return entries, err
}

func (l *watchedLane) Ack(seq uint64) {
	l.mu.Lock()
	l.ages = append(l.ages, time.Since(l.created[seq]))
	delete(l.created, seq)
	l.mu.Unlock()
	l.Lane.Ack(seq)
}

// agePoll is the period of the point that age reads.
const agePoll = 20 * time.Millisecond

// age is how long it takes from the arrival of a register's value to the PUBACK of the message that
// carries it, through adapter, bridge, queue on disk and TLS.
func age(ctx context.Context) (p50, p99 time.Duration, err error) {
	hub, accounts, stopHub, err := newHub(1)
	if err != nil {
		return 0, 0, err
	}
	dir, err := os.MkdirTemp(".", "bench-age-")
	if err != nil {
		return 0, 0, errors.Join(err, stopHub())
	}
	defer os.RemoveAll(dir)
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(dir, "queue")})
	if err != nil {
		return 0, 0, errors.Join(err, stopHub())
	}
	plant := agePlant()
	devices, err := devsim.New(devsim.Config{Plant: plant, Seed: 1})
	if err != nil {
		return 0, 0, errors.Join(err, queue.Close(), stopHub())
	}
	plant.Links[0].Address = devices.Addr("link")
	adapter := modbus.New(plant.Links[0], nil, zerolog.Nop())
	up := bridge.NewUp(plant.Points, []gateway.Identity{{ID: accounts[0].id}}, queue)
	lane := &watchedLane{Lane: queue.Lane(accounts[0].id), created: map[uint64]time.Time{}}
	pool := upstream.NewPool(upstream.Config{Dial: dialer(hub)},
		[]upstream.Member{{ID: accounts[0].id, Credential: accounts[0].credential, Lane: lane}}, noMethods)
	var stops []func() error
	for _, run := range []func(context.Context) error{queue.Run, pool.Run, devices.Run, func(ctx context.Context) error {
		return adapter.Run(ctx, func(ctx context.Context, samples []gateway.Sample) error {
			return up.AcceptWithin(ctx, agePoll/2, samples) // as the gateway does
		})
	}} {
		stops = append([]func() error{background(run)}, stops...)
	}
	err = pause(ctx, warmup+2*measured)
	for _, stop := range stops {
		err = errors.Join(err, stop())
	}
	if err = errors.Join(err, queue.Close(), stopHub()); err != nil {
		return 0, 0, err
	}
	if len(lane.ages) < 100 {
		return 0, 0, errors.New("age: hardly anything was delivered")
	}
	p50, p99 = percentiles(lane.ages[len(lane.ages)/10:])
	return p50, p99, nil
}

// bareAge is the limit of age: append the record to a plain file, fdatasync, publish with paho, wait
// for the PUBACK, every 20 ms.
func bareAge(ctx context.Context) (p50, p99 time.Duration, err error) {
	hub, accounts, stopHub, err := newHub(1)
	if err != nil {
		return 0, 0, err
	}
	clients, err := bareClients(ctx, hub, accounts)
	if err != nil {
		return 0, 0, errors.Join(err, stopHub())
	}
	file, err := os.CreateTemp(".", "bench-raw-")
	if err != nil {
		return 0, 0, errors.Join(err, stopHub())
	}
	defer os.Remove(file.Name())
	defer file.Close()
	tick := time.NewTicker(agePoll)
	defer tick.Stop()
	var ages []time.Duration
	record := body()
	for end := time.Now().Add(2 * measured); time.Now().Before(end) && err == nil; <-tick.C {
		start := time.Now()
		if _, err = file.Write(record); err != nil {
			break
		}
		if err = syscall.Fdatasync(int(file.Fd())); err != nil {
			break
		}
		token := clients[0].Publish("devices/"+string(accounts[0].id)+"/messages/events/", 1, false, record)
		token.Wait()
		err = token.Error()
		ages = append(ages, time.Since(start))
	}
	clients[0].Disconnect(100)
	if err = errors.Join(err, stopHub()); err != nil {
		return 0, 0, err
	}
	p50, p99 = percentiles(ages)
	return p50, p99, nil
}
