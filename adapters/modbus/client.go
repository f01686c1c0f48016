package modbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	goburrow "github.com/goburrow/modbus"
)

// The function codes (MB-2).
const (
	fcWriteCoil      = 5
	fcWriteRegister  = 6
	fcWriteCoils     = 15
	fcWriteRegisters = 16
	fcMaskWrite      = 22
)

// request is one call of the client with what a right answer looks like.
type request struct {
	fc   byte
	size int // bytes that the call returns
	call func() ([]byte, error)
}

// exchange makes one request on a connection that is ready, and judges the answer: its size must be
// the one asked for (MB-95), and it is an exception only if its function code says so (MB-96).
func (l *link) exchange(ctx context.Context, r request) ([]byte, *fault) {
	l.ctx = ctx
	result, err := r.call()
	if err == nil && len(result) == r.size {
		return result, nil
	}
	var f *fault
	var exception *goburrow.ModbusError
	switch {
	case err == nil:
		return nil, l.violation(fmt.Errorf("the answer has %d bytes of data instead of %d", len(result), r.size))
	case errors.As(err, &f):
		return nil, f
	case !errors.As(err, &exception):
		return nil, l.violation(err)
	case exception.FunctionCode != r.fc|0x80:
		return nil, l.violation(fmt.Errorf("the answer has function code %d to a request of %d", exception.FunctionCode, r.fc))
	case exception.ExceptionCode == 0:
		return nil, l.violation(errors.New("the answer is an exception without a code"))
	}
	return nil, exceptionFault(exception.ExceptionCode)
}

// readRequest is the request of a block.
func (u *unit) readRequest(b Block) (request, *fault) {
	quantity, limit, size := uint16(b.Quantity), MaxReadRegisters, 2*b.Quantity
	if b.Table.Bits() {
		limit, size = MaxReadBits, (b.Quantity+7)/8
	}
	if b.Quantity < 1 || b.Quantity > limit || int(b.Start)+b.Quantity > 1<<16 {
		return request{}, &fault{kind: impossible, err: fmt.Errorf("no request can read that: at most %d, and none beyond 65535", limit)}
	}
	call := u.reader(b.Table)
	return request{fc: byte(b.Table), size: size, call: func() ([]byte, error) { return call(b.Start, quantity) }}, nil
}

// reader is the client's method that reads a table.
func (u *unit) reader(t Table) func(address, quantity uint16) ([]byte, error) {
	switch t {
	case Coil:
		return u.client.ReadCoils
	case Discrete:
		return u.client.ReadDiscreteInputs
	case Holding:
		return u.client.ReadHoldingRegisters
	default:
		return u.client.ReadInputRegisters
	}
}

// read makes the request of a block, and makes it again at once on a new connection if the peer had
// ended the old one and a late answer could be told. urgent does not wait for the backoff of a link that
// is down.
func (w *wire) read(ctx context.Context, d *device, b Block, urgent bool) ([]byte, *fault) {
	r, f := d.unit.readRequest(b)
	if f != nil {
		return nil, f
	}
	var raw []byte
	for range 2 {
		if f = w.link.ready(ctx, urgent); f == nil {
			raw, f = w.exchange(ctx, d, r)
		}
		if f == nil || !f.closed || w.link.silence > 0 {
			break
		}
	}
	return raw, f
}

// exchange is the link's, with what it tells about the unit and the device's statistics.
func (w *wire) exchange(ctx context.Context, d *device, r request) ([]byte, *fault) {
	u := d.unit
	w.link.quiet = d.state == Down && w.othersUp(d)
	w.link.patience = u.patience
	began := time.Now()
	u.served = began
	raw, f := w.link.exchange(ctx, r)
	now := time.Now()
	switch {
	case f == nil || f.alive():
		u.answered(now.Sub(began))
	case f.kind != forbidden && f.kind != aborted:
		u.missed(now, w.link.silence > 0 && f.kind != excepted)
	}
	w.a.note(func(s *Stats) {
		s.Link.Busy += (now.Sub(began) + max(w.link.silence, w.link.cfg.Pause)) / time.Duration(len(w.a.wires))
		ds := &s.Devices[d.index]
		switch {
		case f == nil:
			ds.LastGood = now
		case f.kind == excepted:
			ds.Exceptions++
			ds.LastError = f.Error()
			if f.alive() {
				ds.LastGood = now
			}
		default:
			ds.LastError = f.Error()
			ds.TimeLost += now.Sub(began)
		}
	})
	return raw, f
}

// othersUp tells whether a device of another unit of the wire answers: then a device that is known to be
// silent says nothing about the connection.
func (w *wire) othersUp(d *device) bool {
	for _, o := range w.devices {
		if o.unit != d.unit && o.state == Up {
			return true
		}
	}
	return false
}
