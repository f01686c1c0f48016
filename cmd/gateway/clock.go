package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	gateway "iothub-gateway"
)

// synchrony is what is known about the machine's clock.
type synchrony uint8

const (
	unasked        synchrony = iota // nobody here can tell
	unsynchronised                  // it runs free, or was never set
	synchronised                    // chrony, systemd-timesyncd or their like keep it right
)

// String is the word of the status page.
func (s synchrony) String() string {
	switch s {
	case unsynchronised:
		return "not synchronised"
	case synchronised:
		return "synchronised"
	}
	return "cannot be asked"
}

// What a clock may do while nobody keeps it right and still count as right: a network outage of days
// must not make a good clock a bad one.
const (
	driftBase = time.Second
	driftRate = 500e-6 // the most that the kernel assumes of a clock (PPM 500, ntp_adjtime(2))
)

// reading is one look at the machine's clocks.
type reading struct {
	wall time.Time
	boot time.Duration // since the machine started, sleep included; nobody can set it
	sync synchrony
}

// clock tells the time and whether it is known to be right: kept by somebody, or kept before and not
// set since; and not before the time that was known to be right last.
type clock struct {
	trusted bool // the operator vouches for it
	look    func() reading

	mu       sync.Mutex // guards the fields below
	earliest time.Time
	last     reading // when it was last synchronised; zero if it has not been yet
	before   reading // since when it is synchronised and runs before earliest; zero if it does not
	now      synchrony
}

// newClock makes the clock of this machine. Before the time of the build it cannot be right.
func newClock(trusted bool) *clock {
	return &clock{trusted: trusted, look: machineClock, earliest: buildTime()}
}

// Now is the time, and whether it is known to be right.
func (c *clock) Now() (now time.Time, good bool) {
	r := c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = r.sync
	if r.wall.Before(c.earliest) && !c.outlasts(r) {
		return r.wall, false
	}
	if r.sync == synchronised {
		c.last = r
	}
	return r.wall, c.trusted || r.sync != unsynchronised || c.steady(r)
}

// steady tells whether the clock has been right and has not been set since.
func (c *clock) steady(r reading) bool { return r.undisturbed(c.last) }

// undisturbed tells whether nobody has set the clock since an earlier reading; false if there is none.
func (r reading) undisturbed(since reading) bool {
	if since.wall.IsZero() {
		return false
	}
	ran, passed := r.wall.Round(0).Sub(since.wall.Round(0)), r.boot-since.boot
	allowed := driftBase + time.Duration(driftRate*float64(passed))
	return (ran - passed).Abs() <= allowed
}

// believedAfter is how long a clock must have been kept before the time that was known to be right last, until it is
// that time which counts as wrong: somebody had told this machine a time in the future.
const believedAfter = time.Hour

// outlasts tells whether a reading before earliest is to be believed, and takes it for the earliest then. No clock
// is right before the time of the build.
func (c *clock) outlasts(r reading) bool {
	switch {
	case r.sync != synchronised || r.wall.Before(buildTime()):
		c.before = reading{}
		return false
	case !r.undisturbed(c.before):
		c.before = r
		return false
	case r.boot-c.before.boot < believedAfter:
		return false
	}
	c.earliest, c.before = r.wall, reading{}
	return true
}

// clockBehind is what the status page says of a clock that cannot be right.
const clockBehind = "before the last time that was known to be right"

// Synchrony is what the status page says of the clock.
func (c *clock) Synchrony() string {
	_, good := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !good && c.now != unsynchronised:
		return clockBehind
	case c.trusted:
		return "trusted"
	case good && c.now == unsynchronised:
		return "was synchronised, and runs on"
	}
	return c.now.String()
}

// machineClock asks the kernel. A sandbox may forbid that; then systemd-timesyncd leaves a file when it
// has set the clock.
func machineClock() reading {
	r := reading{wall: time.Now()}
	var boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) == nil {
		r.boot = time.Duration(boot.Nano())
	}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		r.sync = fileSynchrony("/run/systemd/timesync")
		return r
	}
	r.sync = synchronised
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		r.sync = unsynchronised
	}
	return r
}

// fileSynchrony is what systemd-timesyncd's directory tells: it is there while the service is, with a
// file once the clock was set.
func fileSynchrony(dir string) synchrony {
	if _, err := os.Stat(dir); err != nil {
		return unasked
	}
	if _, err := os.Stat(filepath.Join(dir, "synchronized")); err != nil {
		return unsynchronised
	}
	return synchronised
}

// buildTime is the time of the commit that this program was built from; zero if it does not know.
func buildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.time" {
			built, _ := time.Parse(time.RFC3339, setting.Value) // zero if it is none
			return built
		}
	}
	return time.Time{}
}

const (
	clockKey   = "gateway/clock/good" // in the state: when the clock was last known to be right
	clockEvery = time.Hour
)

// remember keeps the time in state while it is known to be right, until ctx ends: a clock that stands
// before it after the next start is wrong.
func (c *clock) remember(ctx context.Context, state gateway.State) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		if now, good := c.Now(); good {
			// A note that fails is missed by nobody but an hour later's; the queue says what is wrong with the disk.
			_ = state.Put(ctx, clockKey, []byte(now.UTC().Format(time.RFC3339Nano)))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// recall takes over what remember kept.
func (c *clock) recall(state gateway.State) {
	text, ok := state.Get(clockKey)
	var at time.Time
	if !ok || at.UnmarshalText(text) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.After(c.earliest) {
		c.earliest = at
	}
}
