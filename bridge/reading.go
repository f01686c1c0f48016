package bridge

import (
	"fmt"
	"math"
	"strconv"
	"time"

	gateway "iothub-gateway"
)

// clean makes a sample consistent: a bad one has no value (but one that is only out of range keeps
// it), and a good one without a value, or with one JSON has no number for, is "not available" (MB-40).
func clean(s gateway.Sample) gateway.Sample {
	f, number := s.Value.Number()
	if number && (math.IsNaN(f) || math.IsInf(f, 0)) {
		s.Value = gateway.Value{}
	}
	switch {
	case s.Err == nil && s.Value.Kind() == gateway.Absent:
		s.Err = gateway.ErrNotAvailable
	case s.Err != nil && gateway.Reason(s.Err) != gateway.Reason(gateway.ErrOutOfRange):
		s.Value = gateway.Value{}
	}
	return s
}

// judge applies the range of good readings to a clean sample (MB-43). keep is false where the
// mapping says that nothing is reported; the sample still tells what was read and why not.
func judge(r *gateway.Range, s gateway.Sample) (_ gateway.Sample, keep bool) {
	v, number := s.Value.Number()
	if r == nil || s.Err != nil || !number || v >= r.Min && v <= r.Max {
		return s, true
	}
	if r.Mode == gateway.RangeClamp {
		s.Value = gateway.FloatValue(min(max(v, r.Min), r.Max))
		return s, true
	}
	s.Err = fmt.Errorf("%s: %w: %s is not in %v..%v", s.Point, gateway.ErrOutOfRange, s.Value, r.Min, r.Max)
	return s, r.Mode != gateway.RangeDrop
}

// counter makes an endless count of a meter that starts again at 0 (MB-44).
type counter struct {
	seen bool
	raw  float64   // as the meter said last
	at   time.Time // when
	base float64   // what the wraps so far add up to
}

// total is the endless count after the meter said raw. A decrease is a wrap if the way over the wrap
// is at most a quarter of it; any other decrease is another meter, or one that was reset: the count
// starts over. A reading that is not newer than the last one, because a failed Put made the adapter
// hand it in again, teaches nothing.
func (c *counter) total(raw, wrap float64, at time.Time) (total float64, replaced bool) {
	step, quarter := raw-c.raw, wrap/4
	if c.seen && !at.After(c.at) {
		if c.base > 0 && step >= wrap-quarter { // it was read before the last wrap
			return raw + c.base - wrap, false
		}
		return raw + c.base, false
	}
	switch {
	case !c.seen || step >= 0:
	case step+wrap <= quarter:
		c.base += wrap
	default:
		c.base, replaced = 0, true
	}
	c.seen, c.raw, c.at = true, raw, at
	return raw + c.base, replaced
}

// count replaces the value of a wrapping counter by its endless count. A doubtful reading is counted
// from where the counter stands, but does not move it.
func (c *counter) count(wrap float64, s gateway.Sample) (_ gateway.Sample, replaced bool) {
	raw, number := s.Value.Number()
	if wrap <= 0 || !number {
		return s, false
	}
	total := raw + c.base
	if s.Err == nil {
		total, replaced = c.total(raw, wrap, s.Time)
	}
	switch {
	case total == raw: // keeps integers that float64 cannot hold
	case s.Value.Kind() == gateway.Float:
		s.Value = gateway.FloatValue(decimal(total))
	default:
		s.Value = gateway.FloatValue(total)
	}
	return s, replaced
}

// decimal rounds to 15 digits, as many as a float64 surely has, so that the sum of 60000.1 and 65536
// is written 125536.1.
func decimal(f float64) float64 {
	var digits [32]byte
	rounded, err := strconv.ParseFloat(string(strconv.AppendFloat(digits[:0], f, 'g', 15, 64)), 64)
	if err != nil {
		return f
	}
	return rounded
}
