package devsim

import (
	"math"
	"strconv"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// Limits of a scale factor (MB-41), and the finest one that a simulated device uses.
const (
	factorMin, factorMax = -10, 10
	factorFinest         = -2
)

// settleFactors gives every register that holds a scale factor its exponent: the finest with which all
// values of the points that it scales can be carried. It never moves.
func (t *table) settleFactors() {
	exponents := make(map[uint16]int)
	for _, p := range t.points {
		if f := p.at.Factor; f != nil {
			known, ok := exponents[*f]
			if n := p.exponent(); !ok || n > known {
				exponents[*f] = n
			}
		}
	}
	for address, n := range exponents {
		c := t.cells[address]
		if c == nil {
			c = &cell{}
			t.cells[address] = c
		}
		c.word, c.held = uint16(int16(n)), math.MaxUint16
	}
	for _, p := range t.points {
		if p.at.Factor != nil {
			p.factor = t.cells[*p.at.Factor]
			at, _ := p.scaledNow()
			p.signal.move(p.north, carrierOf(at))
		}
	}
}

// exponent is the finest scale factor with which the point's values fit its registers.
func (p *point) exponent() int {
	natural := naturalSpan(p.north, carrier{limits: span{-1e15, 1e15}, usual: span{0, 100}})
	most := math.Max(math.Abs(natural.lo), math.Abs(natural.hi))
	for n := factorFinest; n < factorMax; n++ {
		if limits := carried(times10(p.at, n)); most <= math.Max(math.Abs(limits.lo), math.Abs(limits.hi)) {
			return n
		}
	}
	return factorMax
}

// scaled is the point with its scale factor applied; false if what the register holds is none.
func (p *point) scaled() (modbus.Point, bool) {
	if p.factor == nil {
		return p.at, true
	}
	p.unit.mu.Lock()
	defer p.unit.mu.Unlock()
	return p.scaledNow()
}

// scaledNow is scaled for a caller that holds the unit's lock, or while nobody else has the point.
func (p *point) scaledNow() (modbus.Point, bool) {
	if p.factor == nil {
		return p.at, true
	}
	n := int(int16(p.factor.word))
	return times10(p.at, n), n >= factorMin && n <= factorMax
}

// times10 is a point whose values are 10^n times as great.
func times10(at modbus.Point, n int) modbus.Point {
	n = min(max(n, factorMin), factorMax)
	shift := func(f float64) float64 {
		f, _ = strconv.ParseFloat(strconv.FormatFloat(f, 'f', -1, 64)+"e"+strconv.Itoa(n), 64) // the text is our own
		return f
	}
	at.Scale, at.Offset = shift(at.Scale), shift(at.Offset)
	if l := at.Linear; l != nil {
		at.Linear = &modbus.Linear{From: l.From, To: [2]float64{shift(l.To[0]), shift(l.To[1])}}
	}
	return at
}

// number is the engineering value of raw. Its error wraps gateway.ErrNotAvailable.
func (p *point) number(raw uint64) (gateway.Value, error) {
	at, ok := p.scaled()
	if !ok {
		return gateway.Value{}, p.unavailable("its scale factor is none")
	}
	return number(at, raw), nil
}
