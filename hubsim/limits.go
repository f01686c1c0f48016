package hubsim

import (
	"fmt"
	"sync"
	"time"
)

// Limits are what a hub does at most, in operations per second of the whole hub unless said otherwise. 0
// is no limit. Short bursts pass; what goes on beyond a limit is queued and served at its rate, so that
// PUBACKs and answers come late; what would wait longer than Backlog is rejected: a message closes the
// connection, a twin request and a service call get 429, a CONNECT gets code 3 (THR-17 to THR-21).
type Limits struct {
	Registry    float64 // operations on the registry (THR-1)
	Connects    float64 // new connections (THR-2)
	Telemetry   float64 // device-to-cloud messages (THR-3)
	Commands    float64 // cloud-to-device messages sent (THR-4)
	MethodBytes float64 // bytes of method requests a second, counted in steps of 4 KiB (THR-6)
	TwinReads   float64 // THR-7
	TwinUpdates float64 // THR-8
	Queries     float64 // THR-9
	// DailyMessages is the quota of a day, in steps of Meter bytes; it starts anew at 00:00 UTC (THR-13).
	// When it is used up, the next message closes the connection (CLOSE-13).
	DailyMessages int64
	Meter         int // bytes; 0 is 4096
	// Burst is how long a limit that was not used saves up; 0 is 1 s. Backlog is how long an operation
	// may wait; 0 is 10 s. The real hub's figures are not known.
	Burst, Backlog time.Duration
	// Basic refuses what Basic hubs do not have: twins, direct methods, cloud-to-device messages (CON-4).
	Basic bool
}

// TierLimits are the limits of an edition, F1, B1 to B3 or S1 to S3, with a number of units.
func TierLimits(tier string, units int) (Limits, error) {
	if units < 1 {
		return Limits{}, fmt.Errorf("hubsim: %d units: at least 1", units)
	}
	n := float64(units)
	small := Limits{
		Registry: 100.0 / 60 * n, Connects: max(100, 12*n), Telemetry: max(100, 12*n), Commands: 100.0 / 60 * n,
		MethodBytes: 160 << 10 * n, TwinReads: 100, TwinUpdates: 50, Queries: 20.0 / 60 * n, DailyMessages: 400_000 * int64(units),
	}
	middle := small
	middle.Connects, middle.Telemetry, middle.MethodBytes = 120*n, 120*n, 480<<10*n
	middle.TwinReads, middle.TwinUpdates, middle.DailyMessages = max(100, 10*n), max(50, 5*n), 6_000_000*int64(units)
	large := Limits{
		Registry: 5000.0 / 60 * n, Connects: 6000 * n, Telemetry: 6000 * n, Commands: 5000.0 / 60 * n,
		MethodBytes: 24 << 20 * n, TwinReads: 500 * n, TwinUpdates: 250 * n, Queries: 1000.0 / 60 * n, DailyMessages: 300_000_000 * int64(units),
	}
	all := map[string]Limits{"S1": small, "S2": middle, "S3": large}
	for basic, standard := range map[string]string{"B1": "S1", "B2": "S2", "B3": "S3"} {
		l := all[standard]
		l.Basic = true
		all[basic] = l
	}
	free := small
	free.DailyMessages, free.Meter = 8000, 512
	all["F1"] = free
	l, ok := all[tier]
	switch {
	case !ok:
		return l, fmt.Errorf("hubsim: tier %q is none of F1, B1, B2, B3, S1, S2, S3", tier)
	case tier == "F1" && units > 1:
		return l, fmt.Errorf("hubsim: a free hub has 1 unit, not %d", units)
	}
	return l, nil
}

// operation is what a limit counts.
type operation uint8

const (
	registryOperation operation = iota
	connectOperation
	telemetryOperation
	commandOperation
	methodOperation
	twinRead
	twinUpdate
	queryOperation
	operations // how many there are
)

// limiter keeps the Limits of a hub; a nil one limits nothing.
type limiter struct {
	meters [operations]*meter // nil is no limit
	quota  *quota             // nil is no quota
}

func newLimiter(l Limits) *limiter {
	if l.Burst <= 0 {
		l.Burst = time.Second
	}
	if l.Backlog <= 0 {
		l.Backlog = 10 * time.Second
	}
	made := limiter{}
	for op, rate := range [operations]float64{
		l.Registry, l.Connects, l.Telemetry, l.Commands, l.MethodBytes, l.TwinReads, l.TwinUpdates, l.Queries,
	} {
		if rate > 0 {
			made.meters[op] = newMeter(rate, l)
		}
	}
	if l.DailyMessages > 0 {
		made.quota = &quota{limit: l.DailyMessages, step: l.Meter}
		if l.Meter <= 0 {
			made.quota.step = meterStep
		}
	}
	if made == (limiter{}) {
		return nil
	}
	return &made
}

// meterStep is what messages and method payloads are counted in, bytes (THR-6, THR-13).
const meterStep = 4096

// take asks for an operation with a payload of some bytes. delay is how long it must wait; an error
// rejects it.
func (l *limiter) take(op operation, size int, now time.Time) (delay time.Duration, err error) {
	if l == nil {
		return 0, nil
	}
	cost := 1.0
	if op == methodOperation {
		cost = float64(steps(size, meterStep) * meterStep)
	}
	if m := l.meters[op]; m != nil {
		if delay, err = m.take(cost, now); err != nil {
			return 0, err
		}
	}
	if op == registryOperation || op == connectOperation || op == queryOperation {
		return delay, nil // not counted (THR-14)
	}
	return delay, l.count(size, now)
}

// count takes a message of some bytes off the daily quota.
func (l *limiter) count(size int, now time.Time) error {
	if l == nil || l.quota == nil {
		return nil
	}
	return l.quota.take(size, now)
}

// meter is one rate, as a queue of which only the length in time is kept.
type meter struct {
	rate           float64
	burst, backlog time.Duration

	mu   sync.Mutex // guards free
	free time.Time  // when everything that was let in is served
}

func newMeter(rate float64, l Limits) *meter {
	// An operation costs up to 1/rate: a slower rate must still let one through at once.
	return &meter{rate: rate, burst: max(l.Burst, spanOf(1/rate)), backlog: l.Backlog}
}

// spanOf is a number of seconds as a Duration, bounded.
func spanOf(seconds float64) time.Duration {
	return time.Duration(min(seconds, 1e9) * float64(time.Second))
}

// take lets cost through now or later, or rejects it. A rate of 0 rejects everything.
func (m *meter) take(cost float64, now time.Time) (delay time.Duration, err error) {
	if m.rate <= 0 {
		return 0, apiError(errThrottled)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	free := m.free
	if free.Before(now) {
		free = now
	}
	free = free.Add(spanOf(cost / m.rate))
	delay = max(0, free.Sub(now)-m.burst)
	if delay > m.backlog {
		return 0, apiError(errThrottled)
	}
	m.free = free
	return delay, nil
}

// quota is the number of messages of a day.
type quota struct {
	limit int64
	step  int

	mu   sync.Mutex // guards the fields below
	day  int64
	used int64
}

func (q *quota) take(size int, now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if day := now.Unix() / 86400; day != q.day {
		q.day, q.used = day, 0
	}
	n := int64(steps(size, q.step))
	if q.used+n > q.limit {
		return apiError(errQuota)
	}
	q.used += n
	return nil
}

// steps is how often a payload counts: an empty one once.
func steps(size, step int) int { return max(1, (size+step-1)/step) }
