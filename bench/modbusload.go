package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"iothub-gateway/adapters/modbus"
)

// loadFigures are about the line load that `gateway plan` foretells.
func loadFigures() (all []figure) {
	for _, delay := range []time.Duration{0, 20 * time.Millisecond} {
		all = append(all, figure{
			name: fmt.Sprintf("line_load_%d", delay.Milliseconds()), unit: "%", target: "0.9 to 1.1",
			what:    fmt.Sprintf("load of a line of 9600 bit/s as gateway plan foretells it: three devices of 20, 60 and 9 registers, every 1 s, 2 s and 500 ms; they take %v to answer, which the plan does not know", delay),
			limitIs: "from the stamps of the bytes: how long the line was busy with characters and the silences around them, less the devices' own time",
			value:   plain(func(context.Context) (float64, error) { return 100 * modbus.Load(loadedLine()), nil }),
			limit:   plain(func(ctx context.Context) (float64, error) { return measuredLoad(ctx, delay) }),
			once:    true,
		})
	}
	return all
}

func loadedLine() modbus.Config {
	return serialLine(9600,
		modbusDevice("dev0000", 1, 20, time.Second),
		modbusDevice("dev0001", 2, 60, 2*time.Second),
		modbusDevice("dev0002", 3, 9, 500*time.Millisecond))
}

// measuredLoad is how many percent of its time the line was busy.
func measuredLoad(ctx context.Context, delay time.Duration) (percent float64, err error) {
	const window = 20 * time.Second // a whole number of every period
	f, err := startField(loadedLine())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	for _, d := range f.link.Devices {
		f.Delay(linkName, d.Unit, delay)
	}
	m := startMaster(f.link)
	defer func() { err = errors.Join(err, m.stop()) }()
	if err := pause(ctx, 3*time.Second); err != nil { // the first polls do not keep their periods
		return 0, err
	}
	before, start := f.Line(linkName), time.Now()
	if err := pause(ctx, window); err != nil {
		return 0, err
	}
	after, passed := f.Line(linkName), time.Since(start)
	exchanges := time.Duration(after.Exchanges - before.Exchanges)
	// Busy has the silence before each answer in it, not the one before each request.
	busy := after.Busy - before.Busy + exchanges*(f.link.Serial.Silence()-delay)
	return 100 * busy.Seconds() / passed.Seconds(), nil
}
