package coap

import (
	"fmt"
	"math"
	"strconv"

	gateway "iothub-gateway"
)

// scaled applies a point's Scale and Offset. Without them every value stays what it is; with them it
// must be a number.
func (p Point) scaled(v gateway.Value) (gateway.Value, error) {
	scale := p.Scale
	if scale == 0 {
		scale = 1
	}
	if scale == 1 && p.Offset == 0 {
		return finite(v)
	}
	f, ok := v.Number()
	if !ok {
		return gateway.Value{}, fmt.Errorf("coap: %s: %w: %s is not a number", p.ID, gateway.ErrRange, v)
	}
	return finite(gateway.FloatValue(decimal(f*scale + p.Offset)))
}

// finite refuses NaN and infinities: a device sends them for "no value" (MB-40).
func finite(v gateway.Value) (gateway.Value, error) {
	if f, ok := v.Number(); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return gateway.Value{}, gateway.ErrNotAvailable
	}
	return v, nil
}

// decimal rounds to 15 digits, as many as a float64 surely has, so that 3 * 0.1 is 0.3.
func decimal(f float64) float64 {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(f, 'g', 15, 64), 64)
	if err != nil {
		return f
	}
	return rounded
}
