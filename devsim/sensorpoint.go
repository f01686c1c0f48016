package devsim

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
)

// place is where one value stands in a report: a SenML record, a member of a JSON object, a text.
// What it holds is as the device sends it, not scaled.
type place struct {
	key      string
	unit     string // of the value as it is sent, "" if the mapping does not say
	signal   signal
	scaling  scaling
	decimals int  // that the device measures
	contact  bool // it is on or off

	held *gateway.Value // what a tester wants to be sent
	sent gateway.Value  // last, or first if nothing was sent yet
}

// sensed is one point of the mapping that is reported; its place is nil if the report has none.
type sensed struct {
	at     coap.Point
	unit   string
	sensor *sensor
	place  *place
}

// newPlace makes the place of a point, which moves as the point should.
func newPlace(at coap.Point, north gateway.Point, seed uint64) *place {
	p := &place{key: at.Key, signal: newSignal(seed), scaling: scalingOf(at), contact: isContact(at, north)}
	if p.scaling.plain() {
		p.unit = north.Unit
	}
	p.signal.move(north, carrier{limits: span{-1e15, 1e15}, usual: span{0, 100}})
	width := p.signal.hi - p.signal.lo
	if p.signal.rate > 0 {
		width = 250 * p.signal.rate // a counter is worth reading every second
	}
	p.decimals = decimalsOf(width / math.Abs(p.scaling.scale))
	return p
}

// decimalsOf is how finely a range must be measured to see a 250th of it.
func decimalsOf(width float64) int {
	return int(math.Min(math.Max(math.Ceil(-math.Log10(width/250)), 0), 9))
}

// isContact guesses that a point is a switch: nothing says that it is a number, and its last word is
// what a switch is called.
func isContact(at coap.Point, north gateway.Point) bool {
	numeric := north.Unit != "" || north.Range != nil || north.Wrap != 0 || north.Publish.Deadband != gateway.Deadband{}
	if numeric || !scalingOf(at).plain() {
		return false
	}
	name := strings.ToLower(string(at.ID))
	switch name[strings.LastIndexAny(name, "/_-.")+1:] {
	case "door", "window", "contact", "switch", "open", "closed", "on", "running", "motion", "occupied", "presence", "leak", "alarm", "fault":
		return true
	}
	return false
}

// read is what the device measures at t, or is told to send.
func (p *place) read(t tick) gateway.Value {
	switch {
	case p.held != nil:
		return *p.held
	case p.contact:
		return gateway.BoolValue(p.signal.on(t))
	}
	return written(gateway.FloatValue(rounded(p.scaling.raw(p.signal.number(t)), p.decimals)))
}

// written is a number as it reads once it is written in decimal: whole ones are Int, or Uint.
func written(v gateway.Value) gateway.Value {
	if whole, err := gateway.ParseValue(v.AppendJSON(nil)); err == nil {
		return whole
	}
	return v
}

// scaling is a point's rule: engineering = raw * scale + offset.
type scaling struct{ scale, offset float64 }

func scalingOf(at coap.Point) scaling {
	if at.Scale == 0 {
		return scaling{1, at.Offset}
	}
	return scaling{at.Scale, at.Offset}
}

// plain tells whether the engineering value is the raw value.
func (s scaling) plain() bool { return s == scaling{scale: 1} }

// raw cuts to the 15 digits that a float64 surely has: 2.1 / 0.1 is 21.
func (s scaling) raw(v float64) float64 { return digits((v - s.offset) / s.scale) }

// engineering has the decimals that raw value, scale and offset have: 3 times 0.1 is 0.3.
func (s scaling) engineering(raw float64) float64 {
	places := decimals(plainText(raw)) + decimals(plainText(s.scale))
	return digits(rounded(raw*s.scale+s.offset, max(places, decimals(plainText(s.offset)))))
}

func plainText(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// digits cuts v to 15 significant digits.
func digits(v float64) float64 {
	v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 15, 64), 64) // the text is our own
	return v
}

// value is what the gateway must make of what was sent.
func (p *sensed) value() (gateway.Value, error) {
	if p.place == nil {
		return gateway.Value{}, fmt.Errorf("devsim: %s: %w: %s", p.at.ID, gateway.ErrNotAvailable, p.without())
	}
	v, scale := p.place.sent, scalingOf(p.at)
	f, number := v.Number()
	switch {
	case v.Kind() == gateway.Absent || !number && !scale.plain():
		return gateway.Value{}, fmt.Errorf("devsim: %s: %w", p.at.ID, gateway.ErrNotAvailable)
	case scale.plain():
		return v, nil
	}
	return gateway.FloatValue(scale.engineering(f)), nil
}

// encode is the inverse of value. Its error wraps gateway.ErrRange.
func (p *sensed) encode(v gateway.Value) (gateway.Value, error) {
	refuse := func(why string) (gateway.Value, error) {
		return gateway.Value{}, fmt.Errorf("devsim: %s: %s: %w: %s", p.at.ID, v, gateway.ErrRange, why)
	}
	f, number := v.Number()
	text, _ := v.Text()
	scale := scalingOf(p.at)
	switch {
	case p.place == nil:
		return refuse(p.without())
	case v.Kind() == gateway.Absent && p.at.Source == coap.FromBody:
		return refuse("a text always has a value")
	case v.Kind() == gateway.Absent:
		return v, nil
	case v.Kind() == gateway.Object || !number && !scale.plain():
		return refuse("needs a number")
	case number && (math.IsNaN(f) || math.IsInf(f, 0)):
		return refuse("cannot be written in decimal")
	case !utf8.ValidString(text):
		return refuse("not UTF-8")
	case !number:
		return v, nil
	case scale.plain():
		return written(v), nil
	}
	return written(gateway.FloatValue(scale.raw(f))), nil
}

// without says why the device's report has no place for the point.
func (p *sensed) without() string {
	return fmt.Sprintf("device %s reports %s, which has no value there", p.sensor.at.Name, p.sensor.report.format)
}

// inside tells whether other points stand below the pointer of this one: an object is no value.
func inside(at coap.Point, all []coap.Point) bool {
	return at.Source == coap.FromJSON && slices.ContainsFunc(all, func(other coap.Point) bool {
		return other.Source == coap.FromJSON && strings.HasPrefix(other.Key, at.Key+"/")
	})
}
