package modbus

import (
	"context"
	"fmt"
	"math"
	"time"

	gateway "iothub-gateway"
)

const (
	// settle is the pause between two looks at whether a write has taken effect, and readBacks how often its own
	// point is looked at (MB-73).
	settle    = 200 * time.Millisecond
	readBacks = 3
)

// confirm waits until the reading that by asks for has the value v that was written. Its error wraps ErrUncertain:
// the device took the write, but nobody can see that it did what it was told.
func (a *Adapter) confirm(ctx context.Context, c codec, v gateway.Value, by gateway.Confirm) error {
	if by.By == "" {
		return nil
	}
	want, tries := v, math.MaxInt
	if by.By == c.p.ID {
		var err error
		if want, err = c.settled(v); err != nil {
			return fmt.Errorf("%w: %v", gateway.ErrUncertain, err)
		}
		tries = readBacks
	}
	for try := 1; ; try++ {
		samples, err := a.Read(ctx, []gateway.PointID{by.By})
		if err == nil {
			err = samples[0].Err
		}
		if err == nil && agree(samples[0].Value, want, by.Tolerance) {
			return nil
		}
		if try < tries && sleep(ctx, settle) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: %s cannot be read back: %v", gateway.ErrUncertain, by.By, err) // not %w: that error is about a read
		}
		return fmt.Errorf("%w: %s is %s, not %s", gateway.ErrUncertain, by.By, samples[0].Value, want)
	}
}

// settled is what the point reads once v has been written to it: a float has the nearest value.
func (c codec) settled(v gateway.Value) (gateway.Value, error) {
	if c.inPart() {
		bits, err := c.bits(v)
		if err != nil {
			return v, err
		}
		return c.value(bits << max(c.p.Bit, 0))
	}
	raw, err := c.encode(v)
	if err != nil {
		return v, err
	}
	return c.decode(raw)
}

// agree tells whether a reading is the value, give or take the tolerance.
func agree(got, want gateway.Value, tolerance gateway.Deadband) bool {
	x, number := got.Number()
	y, wanted := want.Number()
	if !number || !wanted {
		return got == want
	}
	return math.Abs(x-y) <= max(tolerance.Absolute, tolerance.Percent/100*math.Abs(y))
}
