package main

import (
	"math"
	"testing"
	"time"

	"iothub-gateway/internal/control"
)

func TestACounterThatStartsOverIsNoFlood(t *testing.T) {
	r := rates{span: loadSpan}
	now := time.Now()
	for _, n := range []uint64{1000, 1010, 5, 15, 25} { // a link was restarted after the second look
		now = now.Add(5 * time.Second)
		r.sample(map[string]counters{"a": {n, n}}, now)
	}
	if in, out := r.of("a"); *in < 0 || *in > 3 || *out > 3 {
		t.Errorf("%.2f in, %.2f out", *in, *out)
	}
}

func TestRatesFollowTheCountersWithinAMinute(t *testing.T) {
	r := rates{span: laneSpan}
	now := time.Now()
	look := func(put, acked uint64) {
		now = now.Add(5 * time.Second)
		r.sample(map[string]counters{"a": {put, acked}}, now)
	}
	look(1_000_000, 999_000) // before the gateway started
	if in, out := r.of("a"); in != nil || out != nil {
		t.Errorf("after one look: %v, %v", *in, *out)
	}
	put, acked := uint64(1_000_000), uint64(999_000)
	check := func(what string, wantIn, wantOut, within float64) {
		t.Helper()
		in, out := r.of("a")
		if math.Abs(*in-wantIn) > within || math.Abs(*out-wantOut) > within {
			t.Errorf("%s: %.2f in, %.2f out", what, *in, *out)
		}
	}
	put, acked = put+50, acked+100
	look(put, acked)
	check("after two looks", 10, 20, 0.01)
	for range 60 {
		put += 50
		look(put, acked)
	}
	check("five minutes after the hub went away", 10, 0, 0.2)
	for range 60 {
		look(put, acked)
	}
	check("five minutes later", 0, 0, 0.1)
	if in, _ := r.of("unknown"); *in != 0 {
		t.Errorf("a lane that never was has a rate of %v", *in)
	}
}

func TestALinkIsOverloadedOnlyIfItIsBusyAndLeavesOutPolls(t *testing.T) {
	number := func(x float64) *float64 { return &x }
	for _, c := range []struct {
		load, skipped *float64
		want          string
	}{
		{nil, nil, ""},
		{number(0.95), number(0), ""},
		{number(0.2), number(30), ""}, // it was down
		{number(0.953), number(12.2), "link line-a is busy for 95 % of the time and leaves out 12 polls a minute: poll less often, or see 'gateway plan' for what takes the time"},
	} {
		l := control.LinkStatus{Link: "line-a", Load: c.load, SkippedPerMinute: c.skipped}
		if got := overload(l); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
		if healthy := well(control.Status{Queue: control.QueueStatus{State: queueWorking}, Links: []control.LinkStatus{l}}); healthy != (c.want == "") {
			t.Errorf("%q: well is %v", c.want, healthy)
		}
	}
}
