package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// rounds is how often a figure and its limit are taken, in turns; the median of each counts.
const rounds = 3

// figure is one published number.
type figure struct {
	name, unit string
	what       string // for people: what is measured
	limitIs    string // and beside what
	target     string // what the ratio should be
	value      measurement
	limit      measurement
	once       bool // takes too long for rounds
}

// measurement is a number, for a duration the 99th percentile, whose median it also gives.
type measurement func(context.Context) (number, p50 float64, err error)

// plain is a measurement without a median.
func plain(measure func(context.Context) (float64, error)) measurement {
	return func(ctx context.Context) (float64, float64, error) {
		v, err := measure(ctx)
		return v, 0, err
	}
}

// result is a figure with its numbers, in the form of results.json.
type result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Limit float64 `json:"limit"`
	Ratio float64 `json:"ratio"` // value / limit
	// P50 and LimitP50 are the medians beside 99th percentiles.
	P50      float64 `json:"p50,omitempty"`
	LimitP50 float64 `json:"limit_p50,omitempty"`
	figure   figure
}

func (r result) String() string {
	return fmt.Sprintf("%-22s %12s %-10s limit %12s   ratio %5.2f   (%s)", r.Name, readable(r.Value), r.Unit, readable(r.Limit), r.Ratio, r.figure.target)
}

// readable is a number with no more digits than mean something.
func readable(v float64) string {
	switch {
	case math.Abs(v) < 10:
		return fmt.Sprintf("%.3g", v)
	case math.Abs(v) < 1000:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// take measures value and limit in turns.
func (f figure) take(ctx context.Context) (result, error) {
	var values, limits, medians, limitMedians []float64
	turns := rounds
	if f.once {
		turns = 1
	}
	for range turns {
		limit, limit50, err := f.limit(ctx)
		if err != nil {
			return result{}, fmt.Errorf("limit: %w", err)
		}
		value, value50, err := f.value(ctx)
		if err != nil {
			return result{}, err
		}
		values, limits = append(values, value), append(limits, limit)
		medians, limitMedians = append(medians, value50), append(limitMedians, limit50)
	}
	v, l := median(values), median(limits)
	return result{Name: f.name, Value: v, Unit: f.unit, Limit: l, Ratio: v / l, P50: median(medians), LimitP50: median(limitMedians), figure: f}, nil
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// p99 takes a measurement of two percentiles in microseconds.
func p99(measure func(context.Context) (time.Duration, time.Duration, error)) measurement {
	return func(ctx context.Context) (float64, float64, error) {
		middle, high, err := measure(ctx)
		return float64(high.Microseconds()), float64(middle.Microseconds()), err
	}
}

// figures are all of them, in the order in which they are published.
func figures() []figure {
	var all []figure
	for _, n := range []int{1, 10, 100, 1000} {
		all = append(all, figure{
			name: fmt.Sprintf("durable_tls_%d", n), unit: "messages/s", target: "at least 0.9",
			what: fmt.Sprintf("from buffer.Put to PUBACK over TLS, %d identities, %d-byte bodies, window 16, batch off; %d producers that put %d messages a call; counted at the hub",
				n, bodySize, producers, perPut),
			limitIs: "paho alone publishing the same over as many connections, 16 in flight on each, no queue",
			value:   plain(func(ctx context.Context) (float64, error) { return durableRate(ctx, n) }),
			limit:   plain(func(ctx context.Context) (float64, error) { return bareRate(ctx, n) }),
		})
	}
	for _, n := range []int{1, 100} {
		target := "lower is better"
		if n == 1 {
			target = "at most 3"
		}
		all = append(all, figure{
			name: fmt.Sprintf("put_p99_%d", n), unit: "µs", target: target,
			what:    fmt.Sprintf("99th percentile of buffer.Put, %d producers, one %d-byte message a call", n, bodySize),
			limitIs: "the same producers behind one goroutine that appends all that wait to a plain file and calls fdatasync",
			value:   p99(func(ctx context.Context) (time.Duration, time.Duration, error) { return latency(putLoad(ctx, n)) }),
			limit:   p99(func(ctx context.Context) (time.Duration, time.Duration, error) { return latency(rawLoad(ctx, n)) }),
		})
	}
	all = append(all, figure{
		name: "enqueue_100", unit: "messages/s", target: "at least 0.25",
		what:    fmt.Sprintf("messages a second that buffer.Put makes durable, 100 producers, one %d-byte message a call", bodySize),
		limitIs: "the same producers behind one goroutine that appends all that wait to a plain file and calls fdatasync",
		value:   plain(func(ctx context.Context) (float64, error) { return throughput(putLoad(ctx, 100)) }),
		limit:   plain(func(ctx context.Context) (float64, error) { return throughput(rawLoad(ctx, 100)) }),
	}, figure{
		name: "age_p99", unit: "µs", target: "lower is better",
		what:    "99th percentile from the arrival of a Modbus register's value to the PUBACK of its message, polled every 20 ms, through adapter, bridge, queue file and TLS",
		limitIs: "append to a plain file, fdatasync, publish with paho, wait for the PUBACK",
		value:   p99(age), limit: p99(bareAge),
	})
	for _, n := range []int{1000, 2000, 8000} {
		all = append(all, figure{
			name: fmt.Sprintf("identity_memory_%d", n), unit: "bytes", target: "at most 1.25",
			what:    fmt.Sprintf("resident memory of one idle identity over TLS, of %d in a process of their own, the hub in another", n),
			limitIs: "paho alone with as many connections, made at the same pace, of the same age and subscribed to nothing",
			value:   plain(func(ctx context.Context) (float64, error) { return identityMemory(ctx, "product", n) }),
			limit:   plain(func(ctx context.Context) (float64, error) { return identityMemory(ctx, "bare", n) }),
			once:    n == 8000,
		})
	}
	for _, n := range []int{1, 64} {
		all = append(all, figure{
			name: fmt.Sprintf("coap_post_%d", n), unit: "posts/s", target: "at 64 peers at least 0.5, or 0.8 x 64 / (2 x commit latency) posts/s, whichever is lower",
			what:    fmt.Sprintf("CoAP CON POST of two SenML records to a 2.04 that says the reading is in the queue file, %d peers, each waiting for its answer", n),
			limitIs: "go-coap's server whose handler does nothing but answer, with the same clients",
			value:   plain(func(ctx context.Context) (float64, error) { return durablePosts(ctx, n) }),
			limit:   plain(func(ctx context.Context) (float64, error) { return barePosts(ctx, n) }),
		})
	}
	all = append(all, figure{
		name: "packing", unit: "readings", target: "at least 20",
		what:    "readings that one hub message carries when a backlog of a million 200-byte readings of 100 identities is drained with batch on, 64 KiB a message",
		limitIs: "batch off: 1",
		value:   plain(packing), limit: fixed(1), once: true,
	})
	all = append(all, diskFigures()...)
	all = append(all, depthFigures()...)
	all = append(all, modbusFigures()...)
	all = append(all, hubFigures()...)
	return append(all, registryFigures()...)
}

// hubFigures are those of the simulated hub.
func hubFigures() []figure {
	all := []figure{{
		name: fmt.Sprintf("hub_memory_%d", idleDevices), unit: "bytes", target: "lower is better",
		what:    fmt.Sprintf("resident memory of one idle MQTT session over TLS in the simulated hub, of %d in one process, the clients in another", idleDevices),
		limitIs: "a TLS server with a goroutine a connection that answers the CONNECT and waits",
		value:   plain(func(ctx context.Context) (float64, error) { return sessionMemory(ctx, "hub") }),
		limit:   plain(func(ctx context.Context) (float64, error) { return sessionMemory(ctx, "bare server") }),
	}}
	for _, resumed := range []bool{false, true} {
		name, how := "hub_connects", "without"
		if resumed {
			name, how = "hub_connects_resumed", "with"
		}
		all = append(all, figure{
			name: name, unit: "connects/s", target: "at least 0.5",
			what:    fmt.Sprintf("from TCP connect to CONNACK at the simulated hub %s TLS session resumption, %d devices, %d at a time, the clients in another process", how, connects, dialers),
			limitIs: "the same clients at a TLS server that answers without a look",
			value:   plain(func(ctx context.Context) (float64, error) { return connectRate(ctx, "hub", resumed) }),
			limit:   plain(func(ctx context.Context) (float64, error) { return connectRate(ctx, "bare server", resumed) }),
		})
	}
	return all
}
