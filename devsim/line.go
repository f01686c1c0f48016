package devsim

import (
	"context"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"iothub-gateway/adapters/modbus"
)

// burst is for how long characters are gathered before they go out together, as a serial adapter does; at
// low rates that is one character. None goes out before its last bit would have come.
const burst = time.Millisecond

// Line is what a serial line has carried so far, from the stamps of its bytes.
type Line struct {
	Exchanges uint64 // requests that were answered
	// Busy is the time from the first byte of each of them to the last of its answer.
	Busy time.Duration
	// Nominal is how long the characters of all that was sent take at the line's rate, and Sent how long
	// they took. The difference is the simulator's pacing error.
	Nominal, Sent time.Duration
}

// Error is by how much of its time the simulator was late, 0.01 is one percent.
func (l Line) Error() float64 {
	if l.Nominal == 0 {
		return 0
	}
	return float64(l.Sent-l.Nominal) / float64(l.Nominal)
}

// lineClock keeps the time of one serial line. What a client writes into a pseudo-terminal arrives at once;
// here it takes the time of its characters, and so does what is sent.
type lineClock struct {
	char, silence time.Duration

	mu    sync.Mutex // guards the fields below
	free  time.Time  // the end of the last character on the line
	asked time.Time  // the first character of the request that is not answered yet; zero: none
	seen  Line
}

func newLineClock(s modbus.Serial) *lineClock {
	bits := 1 + s.DataBits + s.StopBits // with the start bit
	if s.Parity != modbus.NoParity {
		bits++
	}
	c := &lineClock{char: time.Duration(bits) * time.Second / time.Duration(s.Baud)}
	c.silence = 1750 * time.Microsecond // MB-21
	if s.Baud <= 19200 {
		c.silence = 7 * 11 * time.Second / time.Duration(2*s.Baud)
	}
	return c
}

// heard notes n characters of a client, of which the first began at now unless the line was busy.
func (c *lineClock) heard(n int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	anew := now.Sub(c.free) > c.silence // what was asked before stays without an answer
	if c.free.Before(now) {
		c.free = now
	}
	if c.asked.IsZero() || anew {
		c.asked = c.free
	}
	c.free = c.free.Add(time.Duration(n) * c.char)
}

// start is when what is to be sent now may begin: once the line has been silent for 3.5 characters.
func (c *lineClock) start(now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if first := c.free.Add(c.silence); first.After(now) {
		return first
	}
	return now
}

// endOf is when n characters would have been sent.
func (c *lineClock) endOf(n int, now time.Time) time.Time {
	return c.start(now).Add(time.Duration(n) * c.char)
}

// send sends b character by character and returns when the last one has gone.
func (c *lineClock) send(ctx context.Context, w io.Writer, b []byte) error {
	start := c.start(time.Now())
	step := max(1, int(burst/c.char))
	for sent := 0; sent < len(b); {
		if !waitUntil(ctx, start.Add(time.Duration(min(sent+step, len(b)))*c.char)) {
			return ctx.Err()
		}
		due := min(int(time.Since(start)/c.char), len(b))
		if _, err := w.Write(b[sent:due]); err != nil {
			return err
		}
		sent = due
	}
	c.told(start, len(b))
	return nil
}

// told notes that n characters have been sent by now.
func (c *lineClock) told(start time.Time, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = time.Now()
	c.seen.Nominal += time.Duration(n) * c.char
	c.seen.Sent += c.free.Sub(start)
	if !c.asked.IsZero() {
		c.seen.Exchanges++
		c.seen.Busy += c.free.Sub(c.asked)
		c.asked = time.Time{}
	}
}

func (c *lineClock) line() Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// coarse is how late a timer of the runtime may be.
const coarse = 2 * time.Millisecond

// waitUntil is wait with the kernel's clock for the last bit: the runtime's timers are too coarse for the
// characters of a fast line.
func waitUntil(ctx context.Context, t time.Time) bool {
	if d := time.Until(t); d > 2*coarse && !wait(ctx, d-coarse) {
		return false
	}
	for d := time.Until(t); d > 0; d = time.Until(t) {
		rest := unix.NsecToTimespec(int64(d))
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &rest, nil) // interrupted by a signal: the rest is next
	}
	return ctx.Err() == nil
}
