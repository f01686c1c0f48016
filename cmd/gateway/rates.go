package main

import (
	"math"
	"sync"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

const (
	// laneSpan is what the rates of lanes are an average over, newer times counting for more, and loadSpan
	// the load of links (MB-52).
	laneSpan = time.Minute
	loadSpan = 5 * time.Minute
	// busyLink is the load of a link above which left-out polls mean that too much is asked of it (MB-52).
	busyLink = 0.8
)

// counters are two numbers that only grow.
type counters struct{ in, out uint64 }

// rates knows by how much a second the counters of each name grow.
type rates struct {
	span time.Duration

	mu    sync.Mutex // guards the fields below
	at    time.Time  // of the last sample
	looks float64    // samples so far
	names map[string]rate
}

type rate struct {
	counters         // at the last sample
	in, out  float64 // a second
}

// sample takes the counters of now.
func (r *rates) sample(all map[string]counters, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names == nil {
		r.names = map[string]rate{}
	}
	passed := now.Sub(r.at).Seconds()
	if r.at.IsZero() || passed <= 0 {
		passed = math.Inf(1) // the first look knows no rate
	}
	// The first few samples are averaged evenly, so that a young gateway shows no rate from zero.
	weight := max(1-math.Exp(-passed/r.span.Seconds()), 1/max(1, r.looks))
	for name, c := range all {
		l := r.names[name]
		if c.in < l.counters.in || c.out < l.counters.out { // a link that was restarted counts from 0
			l.counters = counters{}
		}
		l.in += weight * (float64(c.in-l.counters.in)/passed - l.in)
		l.out += weight * (float64(c.out-l.counters.out)/passed - l.out)
		l.counters = c
		r.names[name] = l
	}
	r.at = now
	r.looks++
}

// of is by how much the counters of a name grow a second; nil before that is known.
func (r *rates) of(name string) (in, out *float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.looks < 2 {
		return nil, nil
	}
	l := r.names[name]
	return &l.in, &l.out
}

// laneCounters are the messages that came to each lane and left it.
func laneCounters(lanes map[gateway.IdentityID]buffer.Counts) map[string]counters {
	all := make(map[string]counters, len(lanes))
	for id, c := range lanes {
		all[string(id)] = counters{c.Put, c.Acked}
	}
	return all
}

// linkCounters are the nanoseconds that each link was busy, and the polls that were left out.
func linkCounters(links []*part) map[string]counters {
	all := make(map[string]counters, len(links))
	for _, p := range links {
		s := p.link.Stats()
		c := counters{in: uint64(s.Link.Busy)}
		for _, d := range s.Devices {
			c.out += d.Skipped
		}
		all[s.Link.Name] = c
	}
	return all
}
