package bridge

import (
	"math"
	"time"

	gateway "iothub-gateway"
)

const (
	// percentFloor is the least deadband that a percentage gives, so that a value which was
	// reported as 0 is not reported again for noise in the last bit (MB-56).
	percentFloor = 1e-9
	// rounding is the relative error allowed when a change is compared with a deadband: a step of
	// exactly the deadband, such as 21.0 to 21.2 with 0.2, is never "more than the deadband",
	// whatever its binary digits are.
	rounding = 1e-12
)

// report is what the cloud was told last about a point.
type report struct {
	sent    bool // false: nothing yet
	at      time.Time
	value   gateway.Value
	quality string // gateway.Reason; "" is good
}

// reportOf is the report that a sample makes.
func reportOf(s gateway.Sample) report {
	return report{sent: true, at: s.Time, value: s.Value, quality: gateway.Reason(s.Err)}
}

// due tells whether a reading is worth a message, given what was reported last (MB-56..58). A first
// reading and a change of quality always are. A clock that was set back makes a reading older than
// the last report: that costs one report too many rather than silence until the clock has caught up.
func due(p *gateway.Point, last report, now gateway.Sample) bool {
	if !last.sent || gateway.Reason(now.Err) != last.quality {
		return true
	}
	elapsed := now.Time.Sub(last.at)
	switch {
	case elapsed >= 0 && elapsed < p.Publish.AtMostEvery:
		return false
	case p.Publish.On == gateway.OnPoll:
		return true
	case p.Publish.AtLeastEvery > 0 && (elapsed < 0 || elapsed >= p.Publish.AtLeastEvery):
		return true
	}
	return differs(p.Publish.Deadband, last.value, now.Value)
}

// differs tells whether a value moved by more than the deadband since it was last reported (MB-57).
// Everything but numbers differs at any change.
func differs(d gateway.Deadband, was, now gateway.Value) bool {
	a, numberA := was.Number()
	b, numberB := now.Number()
	if !numberA || !numberB {
		return was != now
	}
	limit := d.Absolute
	if d.Percent > 0 {
		limit = max(math.Abs(a)*d.Percent/100, percentFloor)
	}
	if limit > 0 {
		return math.Abs(b-a)-limit > rounding*max(math.Abs(a), math.Abs(b))
	}
	// Integers beyond 2^53 may differ although their float64 is the same.
	exact := was.Kind() == now.Kind() && now.Kind() != gateway.Float
	return a != b || exact && was != now
}
