package bridge

import (
	"context"
	"fmt"

	gateway "iothub-gateway"
)

// pointsOf are the points of requirements, in their order.
func pointsOf(all []gateway.Requirement) []gateway.PointID {
	var ids []gateway.PointID
	for _, r := range all {
		ids = append(ids, r.Point)
	}
	return ids
}

// unmet reads the points that a method requires something of; nil if all have the value.
func (d *Down) unmet(ctx context.Context, m *method) *failure {
	if len(m.require) == 0 {
		return nil
	}
	work, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	for i, s := range d.fetch(work, m.require) {
		want := m.Require[i]
		switch {
		case s.Err != nil:
			f := readFailure(ctx, s)
			f.text = "what the mapping requires could not be read, nothing was written: " + clip(s.Err.Error())
			return &f
		case !equal(s.Value, want.Value):
			return &failure{status: 409, code: codeNotMet, point: want.Point,
				text: fmt.Sprintf("%s is %s, and the mapping requires %s; nothing was written", want.Point, cut(s.Value.String()), want.Value)}
		}
	}
	return nil
}

// equal compares what was read with what is required.
func equal(a, b gateway.Value) bool {
	x, number := a.Number()
	y, other := b.Number()
	if number && other {
		return x == y
	}
	return a == b
}
