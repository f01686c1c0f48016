package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"iothub-gateway/adapters/modbus"
)

const (
	// living is how many units of a link answer; as many others are dead.
	living = 5
	// probeEvery is the probe interval of a device that is offline, deadTimeout the link's timeout.
	probeEvery  = 5 * time.Second
	deadTimeout = time.Second
)

// deadFigures are about a link of which half of the units are dead.
func deadFigures() (all []figure) {
	for _, framing := range []modbus.Framing{modbus.MBAP, modbus.RTU} {
		all = append(all, figure{
			name: "dead_units_" + map[modbus.Framing]string{modbus.MBAP: "tcp", modbus.RTU: "rtu"}[framing], unit: "ms", target: "below 1",
			what: fmt.Sprintf("time that %d units on one connection (%s), polled without a pause, lose in a probe interval of %v because as many others are dead",
				living, framing, probeEvery),
			limitIs: fmt.Sprintf("one timeout of %v", deadTimeout),
			value:   plain(func(ctx context.Context) (float64, error) { return lostToDead(ctx, framing) }),
			limit:   fixed(float64(deadTimeout.Milliseconds())), once: true,
		})
	}
	return all
}

// lostToDead is how many milliseconds of a probe interval the living lose to the dead.
func lostToDead(ctx context.Context, framing modbus.Framing) (ms float64, err error) {
	alone, err := livingPolls(ctx, framing, 0)
	if err != nil {
		return 0, err
	}
	with, err := livingPolls(ctx, framing, living)
	return (alone - with) / alone * float64(probeEvery.Milliseconds()), err
}

// livingPolls is how many polls a second the living get, each of which takes 20 ms, beside dead units.
func livingPolls(ctx context.Context, framing modbus.Framing, dead int) (perSecond float64, err error) {
	link := modbus.Config{Framing: framing, Timeout: deadTimeout}
	for u := range living + dead {
		d := modbusDevice(deviceName(u), uint8(u+1), 10, 50*time.Millisecond)
		d.Offline = modbus.Offline{After: 2, RetryMin: probeEvery, RetryMax: probeEvery}
		link.Devices = append(link.Devices, d)
	}
	f, err := startField(link)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	for u := range living + dead {
		f.Delay(linkName, uint8(u+1), 20*time.Millisecond)
		f.Mute(linkName, uint8(u+1), u >= living)
	}
	m := startMaster(f.link)
	defer func() { err = errors.Join(err, m.stop()) }()
	if err := poll(ctx, func() bool { return downs(m.Stats()) == dead }); err != nil {
		return 0, err
	}
	before, start := polls(m.Stats()), time.Now()
	if err := pause(ctx, 4*probeEvery); err != nil {
		return 0, err
	}
	if n := downs(m.Stats()); n != dead {
		return 0, fmt.Errorf("%d devices are offline, not %d", n, dead)
	}
	return float64(polls(m.Stats())-before) / time.Since(start).Seconds(), nil
}

// downs is how many devices are offline.
func downs(s modbus.Stats) (n int) {
	for _, d := range s.Devices {
		if d.State == modbus.Down {
			n++
		}
	}
	return n
}

// polls is how many poll cycles the living have had.
func polls(s modbus.Stats) (n uint64) {
	for _, d := range s.Devices[:living] {
		n += d.Polls
	}
	return n
}
