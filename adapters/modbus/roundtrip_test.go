package modbus

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	gateway "iothub-gateway"
)

// Whatever type, order and line a point has, what the device can say can be said to it.
func TestEveryReadingCanBeWrittenBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	good := map[Type]int{}
	for range 15000 {
		p := randomPoint(r)
		c := newCodec(p)
		sent := randomRegisters(r, c)
		v, err := c.decode(sent)
		if errors.Is(err, gateway.ErrNotAvailable) {
			continue
		}
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		good[p.Type]++
		if c.inPart() {
			mask, value, err := c.change(v)
			was := uint16(sent[0])<<8 | uint16(sent[1])
			if err != nil || value&^mask != 0 || was&mask != value {
				t.Fatalf("%+v: %x is %v, written as %x of %x: %v", p, was, v, value, mask, err)
			}
			continue
		}
		back, err := c.encode(v)
		if err != nil && p.Type == String && len(v.String()) > p.Length {
			continue // Latin-1, which is longer in UTF-8
		}
		if err != nil {
			t.Fatalf("%+v: % X is %v: %v", p, sent, v, err)
		}
		if again, err := c.decode(back); err != nil || again != v {
			t.Fatalf("%+v: % X is %v, written as % X, read as %v", p, sent, v, back, again)
		}
	}
	for _, ty := range Types() {
		if good[ty] < 100 {
			t.Errorf("%s: only %d readings were good", ty, good[ty])
		}
	}
}

// randomRegisters are registers that mean something, in a good part of all cases.
func randomRegisters(r *rand.Rand, c codec) []byte {
	sent := make([]byte, c.size())
	for i := range sent {
		sent[i] = byte(r.Uint32())
		if c.facts.form == decimalDigits {
			sent[i] = byte(r.IntN(10)<<4 | r.IntN(10))
		}
	}
	if c.facts.form == calendar {
		at := time.Unix(946684800+int64(r.IntN(100*365*86400)), 0).UTC() // from 2000 on
		if b, err := c.encode(gateway.TextValue(at.Format(time.RFC3339))); err == nil {
			return b
		}
	}
	return sent
}

// randomPoint is a point of any type in any order, with a line if it is a number.
func randomPoint(r *rand.Rand) Point {
	scales := []float64{1, 0.1, 0.01, 0.001, 10, 0.25, 1.0 / 3, -0.1, 1e-7, 3600}
	p := reg(Types()[r.IntN(int(typesEnd))], length(1+r.IntN(9)), ordered([]string{"abcd", "cdab", "badc", "dcba"}[r.IntN(4)]))
	if width := 2 * p.Registers(); p.Type.Number() && width >= 4 && r.IntN(2) == 0 {
		letters := []byte("abcdefgh"[:width])
		r.Shuffle(width, func(i, j int) { letters[i], letters[j] = letters[j], letters[i] })
		p.Order = string(letters)
	}
	if !p.Type.Integer() {
		return p
	}
	p.Scale, p.Offset = scales[r.IntN(len(scales))], float64(r.IntN(2000)-1000)/10
	switch {
	case p.Type.Bits() > 32:
		p.Scale, p.Offset = 1, 0 // an exact line does not fit a float64
	case r.IntN(4) == 0:
		p.Linear = &Linear{From: [2]float64{float64(r.IntN(100)), 27648}, To: [2]float64{-50, 100 * r.Float64()}}
	}
	return p
}

// FuzzWrite: what is written reads as what was asked for, or as the nearest that a float or a line can hold;
// everything else is refused.
func FuzzWrite(f *testing.F) {
	f.Add(uint64(1), 21.5, "pump", true)
	f.Add(uint64(7), -1e300, "00ff", false)
	f.Add(uint64(99), 65504.0, "2026-02-28T23:59:09Z", true)
	f.Fuzz(func(t *testing.T, seed uint64, x float64, text string, number bool) {
		p := randomPoint(rand.New(rand.NewPCG(seed, 3)))
		v := gateway.TextValue(text)
		if number {
			v = gateway.FloatValue(x)
		}
		err := p.Holds(v)
		if err != nil {
			if !errors.Is(err, gateway.ErrRange) {
				t.Fatalf("%+v: %v: %v", p, v, err)
			}
			return
		}
		c := newCodec(p)
		got, err := c.settled(v)
		if err != nil && p.Type.Floating() { // a value so small or great that scaling leaves the float64
			return
		}
		if err != nil {
			t.Fatalf("%+v: %v was taken and cannot be read: %v", p, v, err)
		}
		if want, ok := v.Number(); ok && p.Type.Integer() && p.Linear == nil {
			if n, _ := got.Number(); n != want {
				t.Fatalf("%+v: %v was taken and reads %v", p, v, got)
			}
		}
	})
}
