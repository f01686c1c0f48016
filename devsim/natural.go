package devsim

import (
	"math"
	"strings"

	gateway "iothub-gateway"
)

// span is a range of engineering values, both ends included.
type span struct{ lo, hi float64 }

func (s span) middle() float64 { return s.lo + (s.hi-s.lo)/2 }

// within cuts s to what lies in limits. Where nothing does, the middle half of limits takes its
// place: a value that cannot be carried is of no use.
func (s span) within(limits span) span {
	cut := span{math.Max(s.lo, limits.lo), math.Min(s.hi, limits.hi)}
	if cut.lo <= cut.hi {
		return cut
	}
	quarter := (limits.hi - limits.lo) / 4
	return span{limits.lo + quarter, limits.hi - quarter}
}

// carrier is what a protocol transports a point's values in, as far as it says how they move.
type carrier struct {
	limits span // the engineering values that it can carry
	usual  span // of a measurement of which nothing else is known
	counts bool // a point of which nothing else is known is a counter
}

// naturalSpan is where a point's values lie in a healthy plant: the mapping's range, else what may
// be written, else what is usual for the unit, else for the carrier.
func naturalSpan(north gateway.Point, c carrier) span {
	natural := c.usual
	usual, known := usualSpan(north)
	switch {
	case north.Range != nil:
		natural = span{north.Range.Min, north.Range.Max}
	case north.Write != nil && (north.Write.Min != nil || north.Write.Max != nil):
		natural = writeSpan(north.Write)
	case known:
		natural = usual
	}
	return natural.within(c.limits)
}

// writeSpan is what a rule permits; with one limit alone, just that limit.
func writeSpan(rule *gateway.WriteRule) span {
	lo, hi := rule.Min, rule.Max
	if lo == nil {
		lo = hi
	}
	if hi == nil {
		hi = lo
	}
	return span{*lo, *hi}
}

func sorted(a, b float64) span { return span{math.Min(a, b), math.Max(a, b)} }

// usualSpan gives measured units (SenML, UCUM) a range that a person finds plausible.
func usualSpan(north gateway.Point) (span, bool) {
	switch north.Unit {
	case "Cel":
		return span{20, 80}, true
	case "K":
		return span{290, 350}, true
	case "V":
		if named(north.ID, "batt") {
			return span{2.9, 3.2}, true // a lithium cell
		}
		return span{224, 236}, true
	case "A":
		return span{2, 32}, true
	case "Hz":
		return span{49.9, 50.1}, true
	case "W", "VA", "var":
		return span{500, 9000}, true
	case "kW", "kVA", "kvar":
		return span{0.5, 90}, true
	case "bar":
		return span{1, 8}, true
	case "Pa":
		return span{98000, 104000}, true
	case "hPa", "mbar":
		return span{980, 1040}, true
	case "%", "%RH":
		return span{30, 70}, true
	case "%EL": // SenML: what is left of a battery
		return span{60, 95}, true
	case "1/min", "rpm":
		return span{900, 1500}, true
	case "lx", "lux":
		return span{150, 800}, true
	case "ppm":
		return span{420, 1100}, true
	}
	return span{}, false
}

// named tells whether the point's name, without its device's, contains part in small or capital
// letters.
func named(id gateway.PointID, part string) bool {
	_, name, _ := strings.Cut(string(id), "/")
	return strings.Contains(strings.ToLower(name), part)
}

// countingRate is what a counter counts per second: an hour meter 1/3600, anything else its own
// steady figure. 0 means that the point is a measurement. Energies, volumes and hours count, and so
// does what the carrier takes for a counter.
func countingRate(north gateway.Point, c carrier, seed uint64) float64 {
	steady := 0.02 + 0.5*fraction(seed+30)
	_, measured := usualSpan(north)
	switch {
	case north.Wrap == 0 && north.Range != nil:
		return 0
	case north.Unit == "h":
		return 1.0 / 3600
	case north.Unit == "Wh" || north.Unit == "J":
		return 1000 * steady
	case north.Unit == "kWh" || north.Unit == "m3" || north.Unit == "MWh" || north.Unit == "GJ":
		return steady
	case north.Wrap > 0:
		return steady
	case c.counts && !measured:
		return steady
	}
	return 0
}

// move fills in how the number of a point moves.
func (s *signal) move(north gateway.Point, c carrier) {
	natural := naturalSpan(north, c)
	s.lo, s.hi = natural.lo, natural.hi
	s.rate = countingRate(north, c, s.seed)
	// 1e15 is where a float64 still counts in steps finer than any rate here.
	s.wrap = math.Min(c.limits.hi, 1e15)
	if north.Wrap > 0 {
		s.wrap = math.Min(s.wrap, north.Wrap)
	}
	if s.wrap <= 0 {
		s.rate = 0 // nothing above 0 can be carried, so nothing can grow
	}
}
