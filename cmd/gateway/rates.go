package main

import (
	"math"
	"sync"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

// rateSpan is what the rates of lanes are an average over, newer times counting for more.
const rateSpan = time.Minute

// rates knows how many messages a second each lane gets and gives.
type rates struct {
	mu    sync.Mutex // guards the fields below
	at    time.Time  // of the last sample
	looks float64    // samples so far
	lanes map[gateway.IdentityID]rate
}

type rate struct {
	put, acked uint64  // at the last sample
	in, out    float64 // messages a second
}

// sample takes the counters of now.
func (r *rates) sample(lanes map[gateway.IdentityID]buffer.Counts, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lanes == nil {
		r.lanes = map[gateway.IdentityID]rate{}
	}
	passed := now.Sub(r.at).Seconds()
	if r.at.IsZero() || passed <= 0 {
		passed = math.Inf(1) // the first look knows no rate
	}
	// The first few samples are averaged evenly, so that a young gateway shows no rate from zero.
	weight := max(1-math.Exp(-passed/rateSpan.Seconds()), 1/max(1, r.looks))
	for id, c := range lanes {
		l := r.lanes[id]
		l.in += weight * (float64(c.Put-l.put)/passed - l.in)
		l.out += weight * (float64(c.Acked-l.acked)/passed - l.out)
		l.put, l.acked = c.Put, c.Acked
		r.lanes[id] = l
	}
	r.at = now
	r.looks++
}

// of is what a lane gets and gives a second; nil before that is known.
func (r *rates) of(id gateway.IdentityID) (in, out *float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.looks < 2 {
		return nil, nil
	}
	l := r.lanes[id]
	return &l.in, &l.out
}
