package modbus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

const (
	backoffFirst = time.Second     // MB-81
	backoffLast  = 2 * time.Minute // MB-81
	// backoffSerial is the longest delay before a serial port is opened again: looking whether an
	// adapter is back burdens nobody.
	backoffSerial = 5 * time.Second
	backoffReset  = time.Minute // MB-81: up for so long, the next trouble starts from the first delay
	// pauseMin is the least time between the end of a connection and the next one: a PLC with one
	// socket needs it (MB-81).
	pauseMin = 100 * time.Millisecond
	// silentMax is how many requests in a row, over all units, may stay without an answer (MB-80).
	silentMax = 3
	// idleCheck is how long a connection may rest before it is asked whether the peer still has it.
	idleCheck = 20 * time.Millisecond
	// silenceMin is the least silence before a request whose answer carries no id (MB-22).
	silenceMin = 2 * time.Millisecond
	// gotMax is how many bytes may wait to be understood: several of the longest frames (MB-1).
	gotMax = 4 * asciiMax
)

// link is one stream to one address, and what comes after it ends: the transporter under the clients of
// all units that it serves (MB-110, MB-111). It belongs to one goroutine.
type link struct {
	cfg     Config // of the link; its devices are not looked at
	open    func(context.Context) (stream, error)
	framing framing
	// silence is how long the line must have been quiet before a request. It is above 0 if answers
	// carry no id: then nothing else tells a late answer from the next (MB-25).
	silence time.Duration
	log     zerolog.Logger
	note    func(func(*LinkStats))
	stale   func(unit uint8)
	random  func() float64

	conn     stream // nil: not connected
	got      []byte // what has come and is not understood yet
	id       uint16 // transaction id of the last request; starts at random (MB-10)
	echo     echoing
	answered bool // the connection has carried an answer
	silent   int  // requests without an answer, in a row
	since    time.Time
	used     time.Time // end of the last exchange
	heard    time.Time // when the line was last busy
	opened   int       // connections so far

	tries    int // delays since the link was well
	nextDial time.Time
	ended    time.Time     // when the last connection ended
	failed   bool          // a dial has failed since then
	told     bool          // the log has said that the port is gone, which dialling would say again
	why      error         // why there is no connection
	level    zerolog.Level // of the log line about the next one

	ctx      context.Context // of the exchange that runs; aborts it
	patience time.Duration   // how long the exchange that runs may take
	quiet    bool            // the exchange that runs asks a unit known to be silent
	arrived  time.Time       // when the last answer was complete
}

// echoing is whether a line returns requests to their sender (MB-27).
type echoing uint8

const (
	echoUnknown echoing = iota
	echoNo
	echoYes
)

// newLink makes the link of a Config; its hooks are still to be set.
func newLink(cfg Config, dial dialFunc, log zerolog.Logger) *link {
	if dial == nil {
		dial = defaultDial()
	}
	l := &link{
		cfg: cfg, open: opener(cfg, dial), framing: framingOf(cfg), log: log, level: zerolog.InfoLevel,
		random: rand.Float64, patience: cfg.Timeout,
	}
	if cfg.Framing != MBAP || cfg.IgnoreTransactionID {
		l.silence = silenceMin
	}
	if cfg.Serial != nil {
		l.silence = max(l.silence, cfg.Serial.Silence())
	}
	return l
}

// backoff is the delay before the dial that follows tries earlier ones: full jitter over 1 s·2^tries,
// at most longest, at least 100 ms (MB-81). r is in [0, 1).
func backoff(tries int, longest time.Duration, r float64) time.Duration {
	limit := longest
	if tries < 7 { // 1 s << 7 is beyond every limit
		limit = min(backoffFirst<<max(tries, 0), longest)
	}
	return max(time.Duration(r*float64(limit)), pauseMin)
}

// ready makes sure that there is a connection and that the next request may leave. An urgent caller
// does not wait for the backoff, only for the pause that a PLC needs.
func (l *link) ready(ctx context.Context, urgent bool) *fault {
	for range 2 { // the peer may have ended the first connection while nobody looked
		if l.conn == nil {
			if f := l.wait(ctx, urgent); f != nil {
				return f
			}
			if f := l.connect(ctx); f != nil {
				return f
			}
		}
		if f := l.settle(ctx); f != nil || l.conn != nil {
			return f
		}
	}
	return &fault{kind: down, err: l.why}
}

// wait waits for the time of the next dial, or tells that it has not come.
func (l *link) wait(ctx context.Context, urgent bool) *fault {
	wait := time.Until(l.nextDial)
	switch {
	case urgent:
		wait = min(wait, time.Until(l.ended.Add(pauseMin)))
		if !sleep(ctx, wait) {
			return &fault{kind: aborted, err: context.Cause(ctx)}
		}
	case wait > 0:
		brief := !l.failed && time.Since(l.ended) < backoffFirst
		return &fault{kind: down, waiting: brief, err: fmt.Errorf("not connected: %w", l.why)}
	}
	return nil
}

func (l *link) connect(ctx context.Context) *fault {
	limited, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	conn, err := l.open(limited)
	if err != nil {
		if ctx.Err() != nil {
			return &fault{kind: aborted, err: context.Cause(ctx)}
		}
		if !l.failed && !l.told {
			l.log.Warn().Err(err).Msg("cannot connect")
			l.level = zerolog.InfoLevel
		}
		l.failed, l.why = true, err
		l.retreat()
		l.note(func(s *LinkStats) { s.LastError = err.Error() })
		return &fault{kind: down, err: err}
	}
	l.conn, l.got = conn, l.got[:0]
	l.id = uint16(rand.Uint32())
	l.echo, l.answered, l.silent, l.failed, l.told = echoUnknown, false, 0, false, false
	l.since = time.Now()
	l.used, l.heard = l.since, l.since
	l.opened++
	entry := l.log.WithLevel(l.level)
	if c, ok := conn.(net.Conn); ok {
		entry = entry.Str("local", c.LocalAddr().String())
	}
	entry.Msg("connected")
	l.note(func(s *LinkStats) { s.open(l.since) })
	if !sleep(ctx, l.cfg.PauseAfterConnect) {
		return &fault{kind: aborted, err: context.Cause(ctx)}
	}
	return nil
}

// retreat sets when the next dial may be.
func (l *link) retreat() {
	longest := backoffLast
	if l.cfg.Serial != nil {
		longest = backoffSerial
	}
	l.nextDial = time.Now().Add(backoff(l.tries, longest, l.random()))
	l.tries++
}

// drop ends the connection. After free, the peer ended one that had worked, the next dial need not
// wait.
func (l *link) drop(why error, free bool) {
	if l.conn == nil {
		return
	}
	_ = l.conn.Close() // the connection is given up whatever this says
	l.conn, l.got = nil, l.got[:0]
	now := time.Now()
	up := now.Sub(l.since)
	switch {
	case up >= backoffReset:
		l.tries = 0
	case l.answered: // it works in between: trouble now and then must not add up to minutes
		l.tries = min(l.tries, 1)
	}
	l.ended, l.nextDial, l.why = now, now, why
	if !free {
		l.retreat()
	}
	level := zerolog.WarnLevel
	l.level = zerolog.InfoLevel
	switch {
	case free && l.cfg.Serial == nil: // some peers do so after each answer
		level, l.level = zerolog.DebugLevel, zerolog.DebugLevel
	case l.ctx != nil && l.ctx.Err() != nil:
		level = zerolog.InfoLevel // we are stopping
	}
	l.told = l.cfg.Serial != nil && level == zerolog.WarnLevel
	l.log.WithLevel(level).Err(why).Stringer("up", up.Round(time.Millisecond)).Msg("connection ended")
	l.note(func(s *LinkStats) { s.close(now, why) })
}

// settle makes the line ready for a request: the pause is over, and nothing that has come can be taken
// for its answer. Where answers carry an id it is enough that the peer is still there.
func (l *link) settle(ctx context.Context) *fault {
	if !sleep(ctx, time.Until(l.used.Add(l.cfg.Pause))) {
		return &fault{kind: aborted, err: context.Cause(ctx)}
	}
	if l.silence == 0 {
		if time.Since(l.used) > idleCheck {
			l.look()
		}
		return nil
	}
	for limit := time.Now().Add(l.cfg.Timeout); l.conn != nil; {
		if !l.hush(ctx) {
			return &fault{kind: aborted, err: context.Cause(ctx)}
		}
		if !l.look() {
			l.discard()
			return nil
		}
		l.heard = time.Now()
		if l.heard.After(limit) {
			l.discard()
			return &fault{kind: silent, err: errors.New("the line is never quiet: noise, or another master")}
		}
	}
	return nil
}

// hush waits until the line has been quiet for long enough, and tells whether ctx has not ended. On a serial
// port the last part of it is left to the kernel: the runtime's timers are up to a millisecond late, which on
// a fast line is as long as ten characters.
func (l *link) hush(ctx context.Context) bool {
	quiet := l.heard.Add(l.silence)
	if _, port := l.conn.(serialPort); port && sleep(ctx, time.Until(quiet)-silenceMin) {
		rest := unix.NsecToTimespec(int64(time.Until(quiet)))
		_ = unix.Nanosleep(&rest, nil) // what is left after a signal, or a time that has passed, is for sleep
	}
	return sleep(ctx, time.Until(quiet))
}

// look takes what has come, and tells whether something has. A connection that the peer has ended is
// dropped.
func (l *link) look() bool {
	n, err := drain(l.conn, l.space())
	l.got = l.got[:len(l.got)+n]
	switch {
	case err != nil && l.cfg.Serial != nil:
		l.drop(gone(err), l.answered)
	case err != nil:
		l.drop(fmt.Errorf("the peer closed the connection: %w", err), l.answered)
	}
	return n > 0
}

// space is where the next bytes go.
func (l *link) space() []byte {
	if l.got == nil {
		l.got = make([]byte, 0, gotMax)
	}
	if len(l.got) == cap(l.got) { // a flood of what nobody asked for
		l.discard()
	}
	return l.got[len(l.got):cap(l.got)]
}

// discard drops what has come while nothing was asked: late answers are counted by their unit.
func (l *link) discard() {
	for len(l.got) > 0 {
		f := l.framing.find(query{over: true}, l.got)
		if f.verdict == stray {
			l.stale(f.unit)
		}
		if f.size == 0 {
			l.got = l.got[:0]
		}
		l.consume(f.size)
	}
}

// consume removes the first n bytes of what has come.
func (l *link) consume(n int) { l.got = l.got[:copy(l.got, l.got[n:])] }

// sleep waits for d and tells whether it was not cut short by ctx.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
