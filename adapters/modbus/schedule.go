package modbus

import (
	"hash/fnv"
	"time"
)

// firstPoll is the time after the start within which every point is read once.
const firstPoll = time.Second

// scatter is a number that spreads the devices of all links over time (MB-51).
func scatter(link, device string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(link + "\x00" + device)) // never fails
	x := h.Sum64()
	x ^= x >> 32 // neighbours in name differ in the low bits only
	x *= 0x9E3779B97F4A7C15
	return x ^ x>>29
}

// phase is the place of a device in a period, in [0, period).
func phase(h uint64, period time.Duration) time.Duration {
	if period <= 0 {
		return 0
	}
	return time.Duration(h % uint64(period))
}

// nextTick is the first tick of the fixed-rate grid anchor + n·period after now, and how many ticks
// lie after from up to now: those were missed and are not made up for (MB-51, MB-52).
func nextTick(anchor time.Time, period time.Duration, from, now time.Time) (next time.Time, missed int) {
	n := ticks(anchor, period, now)
	return anchor.Add(time.Duration(n) * period), max(n-ticks(anchor, period, from), 0)
}

// ticks counts the ticks of the grid up to and including t.
func ticks(anchor time.Time, period time.Duration, t time.Time) int {
	d := t.Sub(anchor)
	if d < 0 {
		return 0
	}
	return int(d/period) + 1
}
