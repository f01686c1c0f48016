package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	goburrow "github.com/goburrow/modbus"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// lineFigures are about serial lines: pseudo-terminals at whose other end devsim gives every character its
// time.
func lineFigures() (all []figure) {
	for _, baud := range []int{9600, 115200} {
		limit := plain(func(context.Context) (float64, error) { return lineLimit(baud), nil })
		limitIs := fmt.Sprintf("what the line can carry: 263 characters of 11 bits and twice t3.5 a request at %d bit/s", baud)
		all = append(all, figure{
			name: fmt.Sprintf("rtu_%d", baud), unit: "registers/s", target: "at least 0.95",
			what:    fmt.Sprintf("RTU at %d bit/s, requests of 125 registers one after the other, the device takes no time of its own", baud),
			limitIs: limitIs, limit: limit,
			value: plain(func(ctx context.Context) (float64, error) { return lineRate(ctx, baud, ownReader) }),
		}, figure{
			name: fmt.Sprintf("rtu_%d_goburrow", baud), unit: "registers/s", target: "for comparison",
			what:    "the same by goburrow's own transporter",
			limitIs: limitIs, limit: limit,
			value: plain(func(ctx context.Context) (float64, error) { return lineRate(ctx, baud, goburrowReader) }),
		}, figure{
			name: fmt.Sprintf("rtu_%d_pacing", baud), unit: "%", target: "at most 1",
			what:    fmt.Sprintf("by how much the simulated line is slower than %d bit/s meanwhile, from the stamps of its bytes", baud),
			limitIs: "1", limit: fixed(1),
			value: plain(func(ctx context.Context) (float64, error) { return pacingError(ctx, baud) }),
		})
	}
	return all
}

// serialLine is an RTU line of 11 bits a character.
func serialLine(baud int, devices ...modbus.Device) modbus.Config {
	return modbus.Config{
		Framing: modbus.RTU, Serial: &modbus.Serial{Baud: baud, DataBits: 8, Parity: modbus.EvenParity, StopBits: 1},
		Timeout: time.Second, Devices: devices,
	}
}

// lineLimit is how many registers a second a line carries in requests of 125: 8 characters there, 255 back,
// and a silence before each.
func lineLimit(baud int) float64 {
	s := serialLine(baud).Serial
	return modbus.MaxReadRegisters / (263*s.CharTime() + 2*s.Silence()).Seconds()
}

// fullDevice has as many registers as one request can read; they are read when somebody asks.
func fullDevice() modbus.Device { return modbusDevice("dev0000", 1, modbus.MaxReadRegisters, 0) }

// reader opens a way to read all of fullDevice once, and to end it.
type reader func(context.Context, *field) (read func(context.Context) error, end func() error, err error)

// ownReader reads through the adapter, whose first poll is over.
func ownReader(ctx context.Context, f *field) (read func(context.Context) error, end func() error, err error) {
	own := startMaster(f.link)
	if err := poll(ctx, func() bool { return own.Stats().Devices[0].Polls > 0 }); err != nil {
		return nil, nil, errors.Join(err, own.stop())
	}
	var ids []gateway.PointID
	for _, p := range f.link.Devices[0].Points {
		ids = append(ids, p.ID)
	}
	return func(ctx context.Context) error {
		samples, err := own.Read(ctx, ids)
		if err != nil {
			return err
		}
		return samples[0].Err // one request reads them all
	}, own.stop, nil
}

// goburrowReader reads through goburrow's transporter.
func goburrowReader(_ context.Context, f *field) (read func(context.Context) error, end func() error, err error) {
	h := goburrow.NewRTUClientHandler(f.link.Address)
	h.BaudRate, h.DataBits, h.Parity, h.StopBits, h.SlaveId, h.Timeout = f.link.Serial.Baud, 8, "E", 1, 1, f.link.Timeout
	if err := h.Connect(); err != nil {
		return nil, nil, err
	}
	client := goburrow.NewClient(h)
	return func(context.Context) error {
		_, err := client.ReadHoldingRegisters(0, modbus.MaxReadRegisters)
		return err
	}, h.Close, nil
}

// lineRate is how many registers a second come in requests one after the other.
func lineRate(ctx context.Context, baud int, open reader) (perSecond float64, err error) {
	err = readLine(ctx, baud, open, func(_ *field, reads int, took time.Duration) {
		perSecond = float64(reads*modbus.MaxReadRegisters) / took.Seconds()
	})
	return perSecond, err
}

// pacingError is by how many percent the simulated line was too slow while the adapter read.
func pacingError(ctx context.Context, baud int) (percent float64, err error) {
	err = readLine(ctx, baud, ownReader, func(f *field, _ int, _ time.Duration) { percent = 100 * f.Line(linkName).Error() })
	return percent, err
}

// readLine reads again and again for a while, and tells what came of it. The time is that from the end of
// one read to the end of another, so that every read counts with the silence before it.
func readLine(ctx context.Context, baud int, open reader, tell func(f *field, reads int, took time.Duration)) (err error) {
	f, err := startField(serialLine(baud, fullDevice()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	read, end, err := open(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := read(ctx); err != nil {
		return err
	}
	reads, start := 0, time.Now()
	for time.Since(start) < measured {
		if err := read(ctx); err != nil {
			return err
		}
		reads++
	}
	tell(f, reads, time.Since(start))
	return nil
}
