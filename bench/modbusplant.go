package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/bridge"
	"iothub-gateway/buffer"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
	"iothub-gateway/upstream"
)

const (
	plantPoints = 30
	plantWindow = 30 * time.Second
)

// plantFigures are about a whole plant through the whole chain. The figures of a plant come from one run.
func plantFigures() (all []figure) {
	for _, plan := range []devicesPlan{{500, plantPoints, time.Second}, {100, plantPoints, 100 * time.Millisecond}} {
		run := remembered(func(ctx context.Context) (plantRun, error) { return runPlant(ctx, plan) })
		of := func(pick func(plantRun) float64) measurement {
			return plain(func(ctx context.Context) (float64, error) {
				r, err := run(ctx)
				return pick(r), err
			})
		}
		plant := fmt.Sprintf("%d Modbus TCP devices of %d points, polled every %v for %v and reported as %d identities, from the register to the PUBACK of the hub; devices and hub in processes of their own",
			plan.Devices, plan.Points, plan.Period, plantWindow, plan.Devices)
		name := fmt.Sprintf("plant_%d_", plan.Devices)
		all = append(all, figure{
			name: name + "cycles", unit: "cycles", target: "1",
			what: "poll cycles that reached the hub: " + plant, limitIs: "the cycles that their period asks for",
			value: of(func(r plantRun) float64 { return float64(r.delivered) }), limit: of(func(r plantRun) float64 { return float64(r.wanted) }), once: true,
		}, figure{
			name: name + "jitter", unit: "ms", target: "at most 1",
			what: "95th percentile of how much later than its device's earliest a reading is taken, seen from the period: " + plant, limitIs: "20",
			value: of(func(r plantRun) float64 { return 1000 * r.jitter.Seconds() }), limit: fixed(20), once: true,
		}, figure{
			name: name + "cpu", unit: "%", target: "lower is better",
			what: "processor time of the gateway's process: " + plant, limitIs: "one CPU",
			value: of(func(r plantRun) float64 { return 100 * r.cpu }), limit: fixed(100), once: true,
		}, figure{
			name: name + "memory", unit: "MiB", target: "lower is better",
			what: "memory of its own (RssAnon) of the gateway's process: " + plant, limitIs: "256",
			value: of(func(r plantRun) float64 { return float64(r.memory) / (1 << 20) }), limit: fixed(256), once: true,
		})
	}
	return all
}

// remembered is f, called once.
func remembered[T any](f func(context.Context) (T, error)) func(context.Context) (T, error) {
	var once sync.Once
	var value T
	var err error
	return func(ctx context.Context) (T, error) {
		once.Do(func() { value, err = f(ctx) })
		return value, err
	}
}

// plantRun is what came of a plant.
type plantRun struct {
	wanted, delivered int // cycles
	jitter            time.Duration
	cpu               float64 // CPUs, on average
	memory            int64
}

// runPlant polls a plant and delivers what it reads.
func runPlant(ctx context.Context, plan devicesPlan) (run plantRun, err error) {
	hub, err := startServer(ctx, "hub", plan.Devices)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, hub.stop()) }()
	var place devicesPlace
	devices, err := startChild(ctx, devicesRole, plan, &place)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, devices.stop()) }()
	rig, err := newRigOf(ctx, hub)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, rig.close()) }()
	plant := plan.plant()
	var identities []gateway.Identity
	for i := range plan.Devices {
		plant.Links[i].Address = place.Addresses[i]
		identities = append(identities, gateway.Identity{ID: gateway.IdentityID(deviceName(i))})
	}
	up := bridge.NewUp(plant.Points, identities, rig.queue)
	seen := &readings{at: make([][]time.Time, plan.Devices)}
	stop := background(func(ctx context.Context) error {
		var polling sync.WaitGroup
		for i, link := range plant.Links {
			polling.Go(func() {
				_ = modbus.New(link, nil, zerolog.Nop()).Run(ctx, func(ctx context.Context, samples []gateway.Sample) error {
					seen.add(i, samples)
					return up.AcceptWithin(ctx, min(plan.Period/2, time.Second/2), samples)
				})
			})
		}
		polling.Wait()
		return nil
	})
	if err = pause(ctx, 5*time.Second); err != nil { // connections, and the first polls
		return run, errors.Join(err, stop())
	}
	seen.start()
	before, start := processorTime(), time.Now()
	err = pause(ctx, plantWindow)
	run.cpu = (processorTime() - before).Seconds() / time.Since(start).Seconds()
	run.wanted, run.delivered, run.jitter = seen.judge(plan.Period)
	memory, failed := ownMemory()
	run.memory = memory
	if err = errors.Join(err, failed, stop()); err != nil {
		return run, err
	}
	if seen.bad > 0 {
		return run, fmt.Errorf("%d readings failed", seen.bad)
	}
	late, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = poll(late, func() bool { return rig.queue.Stats().Entries == 0 })
	stats := rig.queue.Stats()
	run.delivered -= int(stats.Put - stats.Acked)
	return run, nil
}

// newRigOf is the product from the queue to a hub in another process, connected.
func newRigOf(ctx context.Context, hub *server) (*gatewayRig, error) {
	var accounts []account
	for i, key := range hub.keys {
		id := gateway.IdentityID(deviceName(i))
		sas, err := identity.NewSAS("localhost", id, identity.NewSecret(key), time.Hour)
		if err != nil {
			return nil, err
		}
		accounts = append(accounts, account{id, sas})
	}
	dir, err := os.MkdirTemp(".", "bench-plant-")
	if err != nil {
		return nil, err
	}
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(dir, "queue")})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(hub.CA)
	cfg := dial.Config{Address: hub.Address, ServerName: "localhost", Roots: roots, WriteTimeout: upstream.DefaultWriteTimeout, MaxPacket: 320 * 1024}
	rig := startRig(dir, queue, accounts, rigOptions{open: func(ctx context.Context, _ identity.Login) (*dial.Conn, error) { return dial.Hub(ctx, cfg) }, rate: 1e6})
	return rig, rig.connected(ctx)
}

// readings are when the readings of each device were taken.
type readings struct {
	mu     sync.Mutex // guards the fields below
	at     [][]time.Time
	taking bool
	bad    int // samples with an error
}

// add notes a poll cycle of a device.
func (r *readings) add(device int, samples []gateway.Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.taking {
		return
	}
	for _, s := range samples {
		if s.Err != nil {
			r.bad++
		}
	}
	r.at[device] = append(r.at[device], samples[0].Time)
}

// start begins to take notes.
func (r *readings) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taking = true
}

// judge ends it, and counts the cycles that a period asks for and those that came, and how late they were.
func (r *readings) judge(period time.Duration) (wanted, came int, jitter time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taking = false
	var lates []time.Duration
	for _, at := range r.at {
		came += len(at)
		if len(at) == 0 {
			wanted += int(plantWindow / period)
			continue
		}
		var offs []time.Duration // from a grid that begins with the first
		ticks := 0
		for _, t := range at {
			ticks = int(math.Round(float64(t.Sub(at[0])) / float64(period)))
			offs = append(offs, t.Sub(at[0])-time.Duration(ticks)*period)
		}
		earliest := slices.Min(offs)
		for _, off := range offs {
			lates = append(lates, off-earliest)
		}
		wanted += max(ticks+1, int(plantWindow/period)-1) // the window's ends may each miss a tick's reading
	}
	if len(lates) == 0 {
		return wanted, came, period
	}
	slices.Sort(lates)
	return wanted, came, lates[len(lates)*95/100]
}

// processorTime is what the process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
