package bridge

import (
	"errors"
	"math"
	"testing"
	"time"

	gateway "iothub-gateway"
)

func TestABadReadingHasNoValueAndAGoodOneHasAValueJSONCanWrite(t *testing.T) {
	withErr := func(v gateway.Value, err error) gateway.Sample {
		s := good(v, 0)
		s.Err = err
		return s
	}
	for _, c := range []struct {
		name    string
		s       gateway.Sample
		value   gateway.Value
		quality string
	}{
		{"good", good(float(1.5), 0), float(1.5), ""},
		{"failed", bad(gateway.ErrNoAnswer, 0), gateway.Value{}, "comm"},
		{"failed with a stale value", withErr(float(1.5), gateway.ErrNoAnswer), gateway.Value{}, "comm"},
		{"sentinel kept as a number", withErr(float(-32768), gateway.ErrNotAvailable), gateway.Value{}, "not available"},
		{"doubtful word", withErr(gateway.TextValue("17"), gateway.ErrOutOfRange), gateway.TextValue("17"), "out of range"},
		{"NaN", good(float(math.NaN()), 0), gateway.Value{}, "not available"},
		{"infinite", good(float(math.Inf(1)), 0), gateway.Value{}, "not available"},
		{"doubtful NaN", withErr(float(math.NaN()), gateway.ErrOutOfRange), gateway.Value{}, "out of range"},
		{"no value at all", good(gateway.Value{}, 0), gateway.Value{}, "not available"},
		{"empty text", good(gateway.TextValue(""), 0), gateway.TextValue(""), ""},
	} {
		got := clean(c.s)
		if got.Value != c.value || gateway.Reason(got.Err) != c.quality {
			t.Errorf("%s: %v %v", c.name, got.Value, got.Err)
		}
	}
}

func TestTheRangeMarksClampsOrDrops(t *testing.T) {
	in := func(mode gateway.RangeMode) *gateway.Range { return &gateway.Range{Min: -40, Max: 85, Mode: mode} }
	for _, c := range []struct {
		name    string
		r       *gateway.Range
		v, want gateway.Value
		keep    bool
		quality string
	}{
		{"no range", nil, float(1000), float(1000), true, ""},
		{"lower bound", in(gateway.RangeMark), float(-40), float(-40), true, ""},
		{"upper bound", in(gateway.RangeDrop), float(85), float(85), true, ""},
		{"above, mark", in(gateway.RangeMark), float(86), float(86), true, "out of range"},
		{"above, clamp", in(gateway.RangeClamp), gateway.IntValue(86), float(85), true, ""},
		{"below, clamp", in(gateway.RangeClamp), float(-41), float(-40), true, ""},
		{"above, drop", in(gateway.RangeDrop), float(86), float(86), false, "out of range"},
		{"not a number", in(gateway.RangeDrop), gateway.TextValue("auto"), gateway.TextValue("auto"), true, ""},
	} {
		s, keep := judge(c.r, good(c.v, 0))
		if s.Value != c.want || keep != c.keep || gateway.Reason(s.Err) != c.quality {
			t.Errorf("%s: %v keep %v, %v", c.name, s.Value, keep, s.Err)
		}
	}
	if s, keep := judge(in(gateway.RangeDrop), clean(bad(gateway.ErrNoAnswer, 0))); !keep || !errors.Is(s.Err, gateway.ErrNoAnswer) {
		t.Error("a failed reading was judged by its range")
	}
}

func TestACounterGrowsOverItsWrapAndStartsOverWithANewMeter(t *testing.T) {
	const wrap = 65536
	type step struct {
		raw, want float64
		replaced  bool
	}
	for name, steps := range map[string][]step{
		"wrap":                        {{65000, 65000, false}, {65535, 65535, false}, {0, 65536, false}, {10, 65546, false}},
		"two wraps":                   {{60000, 60000, false}, {5000, 70536, false}, {60000, 125536, false}, {10, 131082, false}},
		"nothing moves":               {{7, 7, false}, {7, 7, false}},
		"new meter":                   {{40000, 40000, false}, {12, 12, true}, {13, 13, false}},
		"new meter after a wrap":      {{65000, 65000, false}, {100, 65636, false}, {50, 50, true}, {60, 60, false}},
		"one back is not a wrap":      {{65000, 65000, false}, {64999, 64999, true}},
		"a quarter is a wrap":         {{wrap - wrap/4, wrap - wrap/4, false}, {0, wrap, false}},
		"more than a quarter is none": {{wrap - wrap/4, wrap - wrap/4, false}, {1, 1, true}},
	} {
		var c counter
		for i, s := range steps {
			got, replaced := c.total(s.raw, wrap, noon.Add(time.Duration(i)*time.Second))
			if got != s.want || replaced != s.replaced {
				t.Errorf("%s, step %d: raw %v is %v (replaced %v), want %v (%v)", name, i, s.raw, got, replaced, s.want, s.replaced)
			}
		}
	}
}

func TestReadingsHandedInAgainDoNotCountTwice(t *testing.T) {
	var c counter
	batch := []float64{65000, 65500, 20, 40}
	want := []float64{65000, 65500, 65556, 65576}
	for round := range 3 {
		for i, raw := range batch {
			got, replaced := c.total(raw, 65536, noon.Add(time.Duration(i)*time.Second))
			if got != want[i] || replaced {
				t.Errorf("round %d: raw %v is %v (replaced %v), want %v", round, raw, got, replaced, want[i])
			}
		}
	}
}

func TestALateReadingNeverMakesACountNegative(t *testing.T) {
	var c counter
	c.total(5, 100, noon.Add(time.Minute))
	if got, replaced := c.total(95, 100, noon); got != 95 || replaced {
		t.Errorf("counted as %v, replaced %v", got, replaced)
	}
}

func TestACountIsWrittenWithoutDigitsTheMeterDoesNotHave(t *testing.T) {
	c := counter{seen: true, raw: 65000, base: 65536, at: noon}
	for i, s := range []struct {
		v    gateway.Value
		want string
	}{
		{float(65000.1), "130536.1"},
		{float(65000.7), "130536.7"},
		{gateway.UintValue(65001), "130537"},
	} {
		got, _ := c.count(65536, good(s.v, time.Duration(i+1)*time.Second))
		if got.Value.String() != s.want {
			t.Errorf("%v is counted as %v, want %s", s.v, got.Value, s.want)
		}
	}
	big := gateway.UintValue(math.MaxUint64)
	if got, _ := new(counter).count(1<<63, good(big, 0)); got.Value != big {
		t.Errorf("a count that never wrapped lost digits: %v", got.Value)
	}
}

func TestADoubtfulReadingDoesNotMoveTheCounter(t *testing.T) {
	c := counter{seen: true, raw: 100, base: 65536, at: noon}
	s := good(float(3), time.Second)
	s.Err = gateway.ErrOutOfRange
	if got, replaced := c.count(65536, s); got.Value != float(65539) || replaced {
		t.Errorf("counted as %v, replaced %v", got.Value, replaced)
	}
	if got, _ := c.count(65536, good(float(101), 2*time.Second)); got.Value != float(65637) {
		t.Errorf("the next reading is %v", got.Value)
	}
}

func FuzzAPlausibleCounterNeverGoesBack(f *testing.F) {
	f.Add([]byte{1, 200, 255, 0, 255, 255, 3})
	f.Fuzz(func(t *testing.T, steps []byte) {
		const wrap = 1000
		var c counter
		truth := 0.0
		for i, b := range steps {
			truth += float64(b) * 240 / 255
			got, replaced := c.total(math.Mod(truth, wrap), wrap, noon.Add(time.Duration(i)*time.Second))
			if replaced || math.Abs(got-truth) > 1e-6 {
				t.Fatalf("step %d: %v, truth is %v, replaced %v", i, got, truth, replaced)
			}
		}
	})
}
