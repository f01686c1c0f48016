package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"

	gateway "iothub-gateway"
)

const (
	// busyTries is how often a write is offered to a device that says it is busy, and busyWait the
	// first pause; the pauses double (MB-7, code 06: the request was not executed).
	busyTries = 4
	busyWait  = 100 * time.Millisecond
)

// Write sets one point, ahead of polls, and returns nil once the device has answered that it did and by, a
// point of the link, is met. Several registers go out in one request (MB-71). Nothing is repeated but what the device
// said it did not do. The error wraps ErrUnknownPoint, ErrReadOnly, ErrRange, ErrRefused with a
// *gateway.Refusal, ErrTooOften or ErrNoAnswer (it was not sent), or ErrUncertain (it was). It waits for
// Run to begin.
func (a *Adapter) Write(ctx context.Context, point gateway.PointID, v gateway.Value, by gateway.Confirm) error {
	ref, ok := a.points[point]
	if !ok {
		return fmt.Errorf("modbus: %s: %w %s", a.cfg.Name, gateway.ErrUnknownPoint, point)
	}
	d, c := ref.d, ref.d.codecs[ref.i]
	place := d.place(d.pointBlock(ref.i))
	if a.cfg.ReadOnly || !c.p.Writable || c.p.Table != Coil && c.p.Table != Holding {
		return fmt.Errorf("%s: %s: %w", place, point, gateway.ErrReadOnly)
	}
	if c.p.Factor != nil {
		var err error
		if c, err = d.withFactor(ctx, c); err != nil {
			return fmt.Errorf("%s: write: %w", place, err)
		}
	}
	send, err := d.writer(c, v)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", place, point, err)
	}
	if err := a.awaitTurn(ctx, ref); err != nil {
		return fmt.Errorf("%s: write: %w", place, err)
	}
	if err := send.to(ctx, d); err != nil {
		return fmt.Errorf("%s: write: %w", place, err)
	}
	if err := a.confirm(ctx, c, v, by); err != nil {
		return fmt.Errorf("%s: write: %w", place, err)
	}
	return nil
}

// awaitTurn waits until the point and its link may be written.
func (a *Adapter) awaitTurn(ctx context.Context, ref pointRef) error {
	for _, limit := range []struct {
		*rate.Limiter
		of string
	}{{ref.writeRate, "point"}, {a.writeRate, "link"}} {
		if limit.Limiter == nil {
			continue
		}
		if err := limit.Wait(ctx); errors.Is(err, context.Canceled) {
			return fmt.Errorf("%w: %w", gateway.ErrNoAnswer, err)
		} else if err != nil {
			return fmt.Errorf("%w: the %s takes %.3g writes a second at most: %w", gateway.ErrTooOften, limit.of, limit.Limit(), err)
		}
	}
	return nil
}

// sender makes the requests of a write.
type sender func(asker) *fault

// to sends a write to its device; it is offered again to one that is busy.
func (send sender) to(ctx context.Context, d *device) error {
	for try := 1; ; try++ {
		var f *fault
		j := newJob(ctx)
		j.do = func(run context.Context, w *wire) { f = w.write(run, j, d, send) }
		if err := d.wire.submit(d.wire.writes, j); err != nil {
			return err
		}
		if f == nil {
			return nil
		}
		if f.kind != excepted || f.code != busy || try == busyTries || !sleep(ctx, jitter(busyWait<<(try-1))) {
			return f.writeErr()
		}
	}
}

// jitter is d, give or take a quarter.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}

// withFactor is the codec with the scale factor that the device has now (MB-41). Its error wraps
// ErrNoAnswer: nothing was written.
func (d *device) withFactor(ctx context.Context, c codec) (codec, error) {
	var n int
	var failed error
	b := Block{Table: c.p.Table, Start: *c.p.Factor, Quantity: 1}
	j := newJob(ctx)
	j.do = func(run context.Context, w *wire) {
		if !j.wait(run, d.unit.free) {
			failed = fmt.Errorf("%w: %w", gateway.ErrNoAnswer, errGone)
			return
		}
		raw, f := w.read(run, d, b, true)
		if f != nil {
			failed = fmt.Errorf("%w: its scale factor: %w", gateway.ErrNoAnswer, f.readErr())
			return
		}
		n, failed = factor(c.p, raw)
	}
	if err := d.wire.submit(d.wire.reads, j); err != nil {
		return c, err
	}
	return c.times10(n), failed
}

// asker makes one request of a write.
type asker func(request) ([]byte, *fault)

// writer is how v is written to the point, or why it cannot be.
func (d *device) writer(c codec, v gateway.Value) (sender, error) {
	address := c.p.Address
	if c.inPart() {
		mask, value, err := c.change(v)
		return func(ask asker) *fault { return d.unit.writePart(ask, partWrite{address, mask, value}) }, err
	}
	raw, err := c.encode(v)
	switch quantity := c.p.Registers(); {
	case err != nil:
		return nil, err
	case quantity > d.maxWrite() || int(address)+quantity > 1<<16:
		return nil, fmt.Errorf("%w: %d registers do not fit one write of this device (%d)", gateway.ErrRange, quantity, d.maxWrite())
	case c.p.Table == Coil:
		return func(ask asker) *fault { return d.unit.writeCoil(ask, address, raw[0]) }, nil
	}
	return func(ask asker) *fault { return d.unit.writeRegisters(ask, address, raw) }, nil
}

func (d *device) maxWrite() int {
	if d.MaxWrite > 0 {
		return min(d.MaxWrite, MaxWriteRegisters)
	}
	return MaxWriteRegisters
}

// write runs a write on the wire.
func (w *wire) write(run context.Context, j *job, d *device, send sender) *fault {
	f := send(func(r request) ([]byte, *fault) { return w.ask(run, j, d, r) })
	if f == nil || f.alive() {
		w.up(d)
	}
	return f
}

// errGone: the caller of a write has gone before it left.
var errGone = errors.New("the caller gave up")

// ask makes one request of a write on a connection that is made sure of first. It commits the job
// right before the request leaves, so that a write never happens after its caller was told that it
// was not sent. Only what has certainly not left is sent again, on a new connection.
func (w *wire) ask(run context.Context, j *job, d *device, r request) (result []byte, f *fault) {
	read := r.fc <= byte(Input)
	for range 2 {
		if !j.wait(run, d.unit.free) {
			return nil, &fault{kind: aborted, err: errGone}
		}
		if f = w.link.ready(run, true); f != nil {
			return nil, f
		}
		if !read && !j.commit() {
			return nil, &fault{kind: aborted, err: errGone}
		}
		result, f = w.exchange(run, d, r)
		if f == nil || !f.closed || f.sent || w.link.silence > 0 {
			break
		}
		j.retract()
	}
	switch {
	case f == nil:
	case read && (f.code == acknowledge || !f.alive()): // nothing has left that could be uncertain
		f = &fault{kind: silent, err: f.err}
	case read:
	case f.code == illegalFunction || f.code == busy:
		j.retract() // the device did not do it
	}
	return result, f
}

// writeCoil uses FC 5, or FC 15 with a device that has no FC 5 (MB-5).
func (u *unit) writeCoil(ask asker, address uint16, bit byte) *fault {
	if !u.noFC5 {
		value := uint16(bit) * 0xFF00
		_, f := ask(request{fcWriteCoil, 2, func() ([]byte, error) { return u.client.WriteSingleCoil(address, value) }})
		if f == nil || f.code != illegalFunction {
			return f
		}
	}
	_, f := ask(request{fcWriteCoils, 2, func() ([]byte, error) { return u.client.WriteMultipleCoils(address, 1, []byte{bit}) }})
	u.noFC5 = u.noFC5 || f == nil
	return f
}

// writeRegisters uses FC 6 for one register, or FC 16 with a device that has no FC 6 (MB-5), and one
// FC 16 for more.
func (u *unit) writeRegisters(ask asker, address uint16, raw []byte) *fault {
	one := len(raw) == 2
	if one && !u.noFC6 {
		value := binary.BigEndian.Uint16(raw)
		_, f := ask(request{fcWriteRegister, 2, func() ([]byte, error) { return u.client.WriteSingleRegister(address, value) }})
		if f == nil || f.code != illegalFunction {
			return f
		}
	}
	quantity := uint16(len(raw) / 2)
	_, f := ask(request{fcWriteRegisters, 2, func() ([]byte, error) { return u.client.WriteMultipleRegisters(address, quantity, raw) }})
	u.noFC6 = u.noFC6 || one && f == nil
	return f
}

// partWrite gives the bits of mask in a holding register those of value, as they stand on the wire.
type partWrite struct{ address, mask, value uint16 }

// writePart uses FC 22; with a device that has no FC 22 it reads the register and writes it back. The
// wire serves nobody else in between, but another master may lose an update (MB-74).
func (u *unit) writePart(ask asker, p partWrite) *fault {
	if !u.noMask {
		_, f := ask(request{fcMaskWrite, 4, func() ([]byte, error) { return u.client.MaskWriteRegister(p.address, ^p.mask, p.value) }})
		if f == nil || f.code != illegalFunction {
			return f
		}
		u.noMask = true
	}
	raw, f := ask(request{byte(Holding), 2, func() ([]byte, error) { return u.client.ReadHoldingRegisters(p.address, 1) }})
	if f != nil {
		return f
	}
	value := binary.BigEndian.Uint16(raw)&^p.mask | p.value
	return u.writeRegisters(ask, p.address, binary.BigEndian.AppendUint16(nil, value))
}
