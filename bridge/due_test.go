package bridge

import (
	"fmt"
	"math"
	"testing"
	"time"

	gateway "iothub-gateway"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func good(v gateway.Value, after time.Duration) gateway.Sample {
	return gateway.Sample{Point: "boiler/flow", Value: v, Time: noon.Add(after)}
}

func bad(err error, after time.Duration) gateway.Sample {
	return gateway.Sample{Point: "boiler/flow", Err: fmt.Errorf("modbus: 10.0.0.7:502: %w", err), Time: noon.Add(after)}
}

func float(f float64) gateway.Value { return gateway.FloatValue(f) }

func TestAReadingIsReportedWhenItSaysSomethingNew(t *testing.T) {
	at20 := good(float(20), 0)
	heartbeat := gateway.Publish{AtLeastEvery: time.Minute}
	throttle := gateway.Publish{AtMostEvery: time.Minute}
	for _, c := range []struct {
		name    string
		publish gateway.Publish
		last    *gateway.Sample
		now     gateway.Sample
		want    bool
	}{
		{"the first good reading", gateway.Publish{}, nil, at20, true},
		{"the first bad reading", throttle, nil, bad(gateway.ErrNoAnswer, 0), true},
		{"an unchanged value", gateway.Publish{}, &at20, good(float(20), time.Hour), false},
		{"a changed value", gateway.Publish{}, &at20, good(float(20.1), time.Second), true},
		{"the same number as an integer", gateway.Publish{}, &at20, good(gateway.IntValue(20), time.Second), false},
		{"any reading on poll", gateway.Publish{On: gateway.OnPoll}, &at20, good(float(20), time.Second), true},
		{"any reading on poll, but throttled", gateway.Publish{On: gateway.OnPoll, AtMostEvery: time.Minute}, &at20, good(float(20), time.Second), false},
		{"unchanged just before the heartbeat", heartbeat, &at20, good(float(20), time.Minute-1), false},
		{"unchanged at the heartbeat", heartbeat, &at20, good(float(20), time.Minute), true},
		{"changed just before the throttle ends", throttle, &at20, good(float(30), time.Minute-1), false},
		{"changed when the throttle ends", throttle, &at20, good(float(30), time.Minute), true},
		{"unchanged when the throttle ends", throttle, &at20, good(float(20), time.Minute), false},
		{"good to bad, past the throttle", throttle, &at20, bad(gateway.ErrNoAnswer, time.Second), true},
		{"clock set back, changed, throttled", throttle, &at20, good(float(30), -time.Hour), true},
		{"clock set back, unchanged, with heartbeat", heartbeat, &at20, good(float(20), -time.Hour), true},
		{"clock set back, unchanged", gateway.Publish{}, &at20, good(float(20), -time.Hour), false},
	} {
		p := gateway.Point{Publish: c.publish}
		var last report
		if c.last != nil {
			last = reportOf(*c.last)
		}
		if got := due(&p, last, c.now); got != c.want {
			t.Errorf("%s: due is %v", c.name, got)
		}
	}
}

func TestAChangeOfQualityIsReportedOnceAndAtOnce(t *testing.T) {
	p := gateway.Point{Publish: gateway.Publish{AtMostEvery: time.Hour, Deadband: gateway.Deadband{Absolute: 100}}}
	marked := good(float(99), 5*time.Second)
	marked.Err = gateway.ErrOutOfRange
	var last report
	for i, c := range []struct {
		now  gateway.Sample
		want bool
	}{
		{good(float(20), 0), true},
		{bad(gateway.ErrNoAnswer, 1*time.Second), true},
		{bad(gateway.ErrNoAnswer, 2*time.Second), false},
		{bad(gateway.ErrUncertain, 3*time.Second), false}, // another error, the same quality
		{bad(&gateway.Refusal{Code: "4"}, 4*time.Second), true},
		{marked, true},
		{marked, false},
		{bad(gateway.ErrNotAvailable, 6*time.Second), true},
		{good(float(20), 7*time.Second), true},
		{good(float(20), 8*time.Second), false},
	} {
		got := due(&p, last, c.now)
		if got != c.want {
			t.Errorf("step %d: due is %v", i, got)
		}
		if got {
			last = reportOf(c.now)
		}
	}
}

func TestADeadPointIsRepeatedAtTheHeartbeat(t *testing.T) {
	p := gateway.Point{Publish: gateway.Publish{AtLeastEvery: time.Minute}}
	last := reportOf(bad(gateway.ErrNoAnswer, 0))
	if due(&p, last, bad(gateway.ErrNoAnswer, time.Second)) || !due(&p, last, bad(gateway.ErrNoAnswer, time.Minute)) {
		t.Error("a bad reading is not repeated like a good one")
	}
}

func TestTheDeadbandIsHowFarANumberMustMove(t *testing.T) {
	abs := func(f float64) gateway.Deadband { return gateway.Deadband{Absolute: f} }
	percent := func(f float64) gateway.Deadband { return gateway.Deadband{Percent: f} }
	for _, c := range []struct {
		d        gateway.Deadband
		was, now gateway.Value
		want     bool
	}{
		{abs(0.5), float(20), float(20.5), false},
		{abs(0.5), float(20), float(20.51), true},
		{abs(0.5), float(20), float(19.49), true},
		{abs(0.2), float(5.1), float(5.3), false}, // 5.3-5.1 is 0.20000000000000018
		{abs(0.2), float(5.3), float(5.1), false},
		{abs(0.2), float(5.1), float(5.31), true},
		{percent(1), float(200), float(202), false},
		{percent(1), float(200), float(202.1), true},
		{percent(1), float(-200), float(-202.1), true},
		{percent(1), float(0), float(1e-10), false}, // the floor
		{percent(1), float(0), float(1e-8), true},
		{gateway.Deadband{}, float(1), float(1 + 1e-15), true},
		{gateway.Deadband{}, float(0), float(math.Copysign(0, -1)), false},
		{gateway.Deadband{}, gateway.UintValue(1 << 60), gateway.UintValue(1<<60 + 1), true},
		{gateway.Deadband{}, gateway.IntValue(7), gateway.UintValue(7), false},
		{abs(1), float(-math.MaxFloat64), float(math.MaxFloat64), true},
		{abs(5), gateway.IntValue(10), float(15.5), true},
		{abs(5), gateway.BoolValue(false), gateway.BoolValue(true), true},
		{abs(5), gateway.TextValue("auto"), gateway.TextValue("off"), true},
		{abs(5), gateway.TextValue("auto"), gateway.TextValue("auto"), false},
		{abs(5), gateway.ObjectValue(`{"a":true}`), gateway.ObjectValue(`{"a":false}`), true},
		{abs(5), gateway.TextValue("1"), gateway.IntValue(1), true},
		{abs(5), gateway.Value{}, gateway.Value{}, false},
	} {
		if got := differs(c.d, c.was, c.now); got != c.want {
			t.Errorf("%+v: %v to %v: differs is %v", c.d, c.was, c.now, got)
		}
	}
}

func TestASlowDriftIsReportedBecauseTheLastReportCounts(t *testing.T) {
	p := gateway.Point{Publish: gateway.Publish{Deadband: gateway.Deadband{Absolute: 0.5}}}
	last := reportOf(good(float(20), 0))
	var reported []float64
	for i := 1; i <= 20; i++ {
		now := good(float(20+float64(i)*0.1), time.Duration(i)*time.Second)
		if due(&p, last, now) {
			last = reportOf(now)
			v, _ := now.Value.Number()
			reported = append(reported, v)
		}
	}
	if fmt.Sprint(reported) != "[20.6 21.2 21.8]" {
		t.Errorf("reported %v", reported)
	}
}

func FuzzWhatIsSuppressedIsWithinTheDeadband(f *testing.F) {
	f.Add(20.0, 20.4, 0.5, false)
	f.Add(0.0, -1e-9, 1.0, true)
	f.Add(-math.MaxFloat64, math.MaxFloat64, 1e300, false)
	f.Fuzz(func(t *testing.T, was, now, band float64, percent bool) {
		if math.IsNaN(was+now+band) || math.IsInf(was, 0) || math.IsInf(now, 0) || math.IsInf(band, 0) || band < 0 {
			return // the mapping and clean let no such number through
		}
		d, limit := gateway.Deadband{Absolute: band}, band
		if percent {
			d = gateway.Deadband{Percent: band}
			limit = math.Abs(was) * band / 100
		}
		slack := 1e-9 + 1e-9*max(math.Abs(was), math.Abs(now))
		switch moved := math.Abs(now - was); {
		case differs(d, float(was), float(was)):
			t.Errorf("%v differs from itself", was)
		case differs(d, float(was), float(now)) && moved < limit-slack:
			t.Errorf("%v to %v is reported within %v", was, now, limit)
		case !differs(d, float(was), float(now)) && moved > limit+slack:
			t.Errorf("%v to %v is suppressed beyond %v", was, now, limit)
		}
	})
}
