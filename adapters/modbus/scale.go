package modbus

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
)

// exact is the greatest integer up to which every integer is a float64.
const exact = 1 << 53

// line is value = raw·a + b in exact decimals: 3 scaled by 0.1 is 0.3 (MB-42). It never changes
// after it was made.
type line struct {
	unit bool // a is 1 and b is 0
	a, b *big.Rat
	// value = (raw·num + off) / den, exact in integers for |raw| <= most; den is 0 if they do not fit.
	num, off, den int64
	most          int64
	// digits after the point tell neighbouring raw numbers of a Linear apart, and one more; exact
	// where the line has decimals of its own.
	digits int
}

// exactDigits leaves a value as it is.
const exactDigits = -1

// lineOf is the line that a point asks for. Scale 0 is taken for 1.
func lineOf(p Point) line {
	a, b := decimal(p.Scale), decimal(p.Offset)
	if p.Linear != nil {
		from, to := p.Linear.From, p.Linear.To
		rise := new(big.Rat).Sub(decimal(to[1]), decimal(to[0]))
		run := new(big.Rat).Sub(decimal(from[1]), decimal(from[0]))
		a = run.Quo(rise, run)
		b = rise.Sub(decimal(to[0]), rise.Mul(a, decimal(from[0])))
	}
	if a.Sign() == 0 && p.Linear == nil {
		a.SetInt64(1)
	}
	l := line{a: a, b: b, digits: exactDigits, unit: b.Sign() == 0 && a.Cmp(big.NewRat(1, 1)) == 0}
	if p.Linear != nil && a.Sign() != 0 && !terminates(a.Denom()) {
		step, _ := new(big.Rat).Abs(a).Float64()
		l.digits = max(0, 1+int(math.Ceil(-math.Log10(step))))
	}
	l.shortcut()
	return l
}

// times10 is the line of values that are 10^n times as great.
func (l line) times10(n int) line {
	factor := decimalText(fmt.Sprintf("1e%d", n))
	scaled := line{a: new(big.Rat).Mul(l.a, factor), b: new(big.Rat).Mul(l.b, factor), digits: exactDigits}
	scaled.unit = scaled.b.Sign() == 0 && scaled.a.Cmp(big.NewRat(1, 1)) == 0
	scaled.shortcut()
	return scaled
}

// terminates tells whether a fraction with this denominator, in lowest terms, has an end as a decimal.
func terminates(denominator *big.Int) bool {
	d := new(big.Int).Set(denominator)
	for _, prime := range []int64{2, 5} {
		p, rest := big.NewInt(prime), new(big.Int)
		for q := new(big.Int); ; d.Set(q) {
			if q.QuoRem(d, p, rest); rest.Sign() != 0 {
				break
			}
		}
	}
	return d.IsInt64() && d.Int64() == 1
}

// shown is a value of an integer raw number with the decimals that mean something.
func (l line) shown(f float64) float64 {
	if l.digits == exactDigits || !finite(f) {
		return f
	}
	short, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', l.digits, 64), 64)
	if err != nil {
		return f
	}
	return short
}

// shortcut brings a and b over one denominator, if all of it fits.
func (l *line) shortcut() {
	den := new(big.Int).Mul(l.a.Denom(), l.b.Denom())
	den.Quo(den, new(big.Int).GCD(nil, nil, l.a.Denom(), l.b.Denom()))
	whole := new(big.Rat).SetInt(den)
	num, off := new(big.Rat).Mul(l.a, whole).Num(), new(big.Rat).Mul(l.b, whole).Num()
	limit := big.NewInt(exact)
	if den.Cmp(limit) > 0 || num.CmpAbs(limit) > 0 || off.CmpAbs(limit) > 0 || num.Sign() == 0 {
		return
	}
	l.num, l.off, l.den = num.Int64(), off.Int64(), den.Int64()
	l.most = (exact - max(l.off, -l.off)) / max(l.num, -l.num)
}

// ofInt is the value of an integer. Both the numerator and the denominator are exact, so that their
// quotient is the float64 nearest to the decimal.
func (l line) ofInt(raw int64) float64 {
	if l.den > 0 && -l.most <= raw && raw <= l.most {
		return float64(raw*l.num+l.off) / float64(l.den)
	}
	return l.of(new(big.Rat).SetInt64(raw))
}

// of is the value of any raw number; too big a one is infinite.
func (l line) of(raw *big.Rat) float64 {
	v := new(big.Rat).Mul(raw, l.a)
	f, _ := v.Add(v, l.b).Float64()
	return f
}

// inverse is the raw number of a value. A line that does not rise has none: nil.
func (l line) inverse(v *big.Rat) *big.Rat {
	if l.a.Sign() == 0 {
		return nil
	}
	raw := new(big.Rat).Sub(v, l.b)
	return raw.Quo(raw, l.a)
}

// decimal is the number that a person wrote to get f: the shortest decimal that reads back as f.
func decimal(f float64) *big.Rat { return decimalText(strconv.FormatFloat(f, 'g', -1, 64)) }

func decimalText(text string) *big.Rat {
	r, ok := new(big.Rat).SetString(text)
	if !ok { // NaN or infinite; callers exclude both
		return new(big.Rat)
	}
	return r
}

// nearest is the integer next to r; halves go away from 0.
func nearest(r *big.Rat) *big.Int {
	num := new(big.Int).Abs(r.Num())
	num.Lsh(num, 1).Add(num, r.Denom())
	n := num.Quo(num, new(big.Int).Lsh(r.Denom(), 1))
	if r.Sign() < 0 {
		n.Neg(n)
	}
	return n
}

// finite tells whether f is a number that JSON can carry.
func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
