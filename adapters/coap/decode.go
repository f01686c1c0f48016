package coap

import (
	"bytes"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	gateway "iothub-gateway"
)

// maxRecords bounds the records of a SenML pack, and with it what one body can swell to.
const maxRecords = 4096

// How far a device's own clock may be off, or its report late, for its time to be believed.
const (
	maxAhead  = 5 * time.Minute
	maxBehind = 366 * 24 * time.Hour
)

// formatOf is the format of a CoAP Content-Format number, or Unset.
func formatOf(number int) Format {
	switch number {
	case 0:
		return Text
	case 50:
		return JSON
	case 110:
		return SenMLJSON
	case 112:
		return SenMLCBOR
	}
	return Unset
}

// catalog holds a device's points by where they stand in a body.
type catalog struct {
	senml    map[string][]Point
	pointers []pointerPoint
	bodies   []Point
}

type pointerPoint struct {
	Point
	pointer pointer
}

func newCatalog(points []Point) catalog {
	c := catalog{senml: make(map[string][]Point)}
	for _, p := range points {
		switch p.Source {
		case FromSenML:
			c.senml[p.Key] = append(c.senml[p.Key], p)
		case FromJSON:
			c.pointers = append(c.pointers, pointerPoint{p, pointerOf(p.Key)})
		case FromBody:
			c.bodies = append(c.bodies, p)
		}
	}
	return c
}

// takes tells whether a body of the format can hold one of the points.
func (c catalog) takes(f Format) bool {
	switch f {
	case Text:
		return len(c.bodies) > 0
	case JSON:
		return len(c.pointers) > 0
	case SenMLJSON, SenMLCBOR:
		return len(c.senml) > 0
	}
	return false
}

// decode reads the points out of a body that arrived now. Unmapped counts values that belong to no
// point. The error says why the body as a whole cannot be read; a value that cannot be used is a
// Sample with Err.
func (c catalog) decode(f Format, body []byte, now time.Time) (samples []gateway.Sample, unmapped int, err error) {
	switch f {
	case Text:
		samples, err = c.decodeText(body, now)
	case JSON:
		samples, err = c.decodeJSON(body, now)
	case SenMLJSON, SenMLCBOR:
		samples, unmapped, err = c.decodeSenML(f, body, now)
	default:
		err = fmt.Errorf("no format")
	}
	return samples, unmapped, err
}

// decodeText takes a body that is one value: a number or a boolean as JSON spells it, else text.
func (c catalog) decodeText(body []byte, now time.Time) ([]gateway.Sample, error) {
	if !utf8.Valid(body) {
		return nil, fmt.Errorf("text is not utf-8")
	}
	text := bytes.TrimSpace(body)
	v := gateway.TextValue(string(text))
	number := text
	if len(text) > 1 && text[0] == '+' && text[1] >= '0' && text[1] <= '9' {
		number = text[1:]
	}
	if parsed, err := gateway.ParseValue(number); err == nil && parsed.Kind() != gateway.Text {
		v = parsed
	}
	samples := make([]gateway.Sample, 0, len(c.bodies))
	for _, p := range c.bodies {
		samples = append(samples, p.sample(v, nil, now))
	}
	return samples, nil
}

// decodeJSON follows the pointers. A point whose pointer leads nowhere is not in this report.
func (c catalog) decodeJSON(body []byte, now time.Time) ([]gateway.Sample, error) {
	document, err := parseJSON(body)
	if err != nil {
		return nil, err
	}
	var samples []gateway.Sample
	for _, p := range c.pointers {
		if found, ok := p.pointer.follow(document); ok {
			v, err := valueOf(found)
			samples = append(samples, p.sample(v, err, now))
		}
	}
	return samples, nil
}

// decodeSenML finds the records' points by name.
func (c catalog) decodeSenML(f Format, body []byte, now time.Time) (samples []gateway.Sample, unmapped int, err error) {
	records, err := parseSenML(f, body)
	if err != nil {
		return nil, 0, err
	}
	measurements, err := resolve(records)
	if err != nil {
		return nil, 0, err
	}
	for _, m := range measurements {
		points := c.senml[m.name]
		if m.own != m.name {
			points = append(slices.Clip(points), c.senml[m.own]...)
		}
		if len(points) == 0 {
			unmapped++
		}
		for _, p := range points {
			samples = append(samples, p.sample(m.value, nil, believed(m.seconds, now)))
		}
	}
	return samples, unmapped, nil
}

// sample is a reading of the point.
func (p Point) sample(v gateway.Value, err error, at time.Time) gateway.Sample {
	if err == nil {
		v, err = p.scaled(v)
	}
	if err != nil {
		return gateway.Sample{Point: p.ID, Time: at, Err: fmt.Errorf("coap: %s: %w", p.ID, err)}
	}
	return gateway.Sample{Point: p.ID, Value: v, Time: at}
}

// believed is the time of a SenML record (RFC 8428 section 4.5.3) if the device can be right, else
// now, when the record arrived: many a device without a clock counts from 1970 or 2000.
func believed(seconds float64, now time.Time) time.Time {
	const absolute = 1 << 28 // from here on seconds count from 1970, below from now
	at := now
	switch {
	case !(seconds > -1e11 && seconds < 1e11): // also NaN; beyond what a Duration holds
		return now
	case seconds >= absolute:
		whole := int64(seconds)
		at = time.Unix(whole, int64((seconds-float64(whole))*1e6)*1e3)
	case seconds > -maxBehind.Seconds():
		at = now.Add(time.Duration(seconds * float64(time.Second)))
	default:
		return now
	}
	if at.After(now.Add(maxAhead)) || at.Before(now.Add(-maxBehind)) {
		return now
	}
	return at
}
