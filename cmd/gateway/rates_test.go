package main

import (
	"math"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

func TestRatesFollowTheCountersWithinAMinute(t *testing.T) {
	var r rates
	now := time.Now()
	look := func(put, acked uint64) {
		now = now.Add(5 * time.Second)
		r.sample(map[gateway.IdentityID]buffer.Counts{"a": {Put: put, Acked: acked}}, now)
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
