package devsim

import (
	"math"
	"time"
)

// tick is the simulated devices' scan: tenths of a second since the Unix epoch. Everything that
// moves is a function of the seed, the point's name and a tick, so that two simulators with one seed
// show the same plant, and a restart of one does not set its counters back.
type tick int64

func tickOf(t time.Time) tick { return tick(t.UnixMilli() / 100) }

// time is when the tick begins.
func (t tick) time() time.Time { return time.UnixMilli(100 * int64(t)).UTC() }

const (
	ticksPerSecond = 10
	// commissioned is the tick at which every counter stood at 0: 2024-01-01T00:00:00Z.
	commissioned tick = 1704067200 * ticksPerSecond
)

// mix spreads the bits of x over the whole word (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// seedOf makes one point's own seed from the simulator's (FNV-1a over the name).
func seedOf(seed int64, name string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return mix(h ^ mix(uint64(seed)))
}

// fraction is a number in [0, 1) made of a seed.
func fraction(seed uint64) float64 { return float64(mix(seed)>>11) / (1 << 53) }

// rhythm is a beat: a whole number that grows by one every period.
type rhythm struct{ period, phase tick }

// rhythmOf chooses a period of from..to seconds.
func rhythmOf(seed uint64, from, to float64) rhythm {
	period := tick(ticksPerSecond * (from + (to-from)*fraction(seed)))
	return rhythm{period: period, phase: tick(float64(period) * fraction(seed+1))}
}

func (r rhythm) beat(t tick) int64 { return int64((t + r.phase) / r.period) }

// turn is how far into the present period t is, 0 to 1.
func (r rhythm) turn(t tick) float64 {
	return float64((t+r.phase)%r.period) / float64(r.period)
}

// signal is how one point moves. It knows engineering values only: how they are carried is the
// protocol's affair.
type signal struct {
	seed   uint64
	wave   rhythm // of a number
	steps  rhythm // of a bit or a word
	lo, hi float64
	// rate is what a counter counts per second; 0: the number swings between lo and hi.
	rate float64
	// wrap is the value at which a counter starts again at 0.
	wrap float64
}

func newSignal(seed uint64) signal {
	return signal{
		seed:  seed,
		wave:  rhythmOf(seed+10, 120, 600),
		steps: rhythmOf(seed+20, 10, 60),
	}
}

// number is the value of a measurement or a counter. A measurement keeps 7 % of its span away from
// either end, so that rounding to the raw step does not carry it out.
func (s *signal) number(t tick) float64 {
	if s.rate > 0 {
		seconds := float64(t-commissioned) / ticksPerSecond
		return math.Mod(s.rate*seconds, s.wrap)
	}
	noise := 2*fraction(s.seed^uint64(t/ticksPerSecond)) - 1
	swing := 0.42*math.Sin(2*math.Pi*s.wave.turn(t)) + 0.01*noise
	return s.lo + (s.hi-s.lo)*(0.5+swing)
}

// on is the value of a bit: it toggles every 10 to 60 s.
func (s *signal) on(t tick) bool { return s.steps.beat(t)%2 != 0 }

// flag is the value of one bit of a status word, each with a rhythm of its own.
func (s *signal) flag(bit int, t tick) bool {
	return rhythmOf(s.seed+uint64(100+2*bit), 10, 60).beat(t)%2 != 0
}

// choice is the index of a word out of n: it goes on to the next every 10 to 60 s.
func (s *signal) choice(n int, t tick) int { return int(s.steps.beat(t) % int64(n)) }
