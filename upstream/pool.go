package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
)

// Defaults of Config, for fields left at zero.
const (
	DefaultWindow       = 16 // the hub reads this far ahead of its acknowledgements (D2C-26)
	DefaultConnectRate  = 20 // per second; the smallest hub takes 100 (THR-2)
	DefaultAckTimeout   = 60 * time.Second
	DefaultDrainTimeout = 5 * time.Second
	DefaultWriteTimeout = 10 * time.Second
	DefaultRetryMost    = 5 * time.Minute
)

const (
	refusalFactor   = 3 // credentials rarely heal by themselves, but they do (CON-37)
	stableAfter     = 60 * time.Second
	quickLoss       = 30 * time.Second // a connection that ends sooner, conflictAfter times in a row,
	conflictAfter   = 3                // is most likely taken over by somebody else (CON-45)
	refusedNotAuth  = 5
	refusedBadLogin = 4
)

// Config is what all connections share.
type Config struct {
	// Dial opens one guarded connection to the hub (dial.Hub).
	Dial func(ctx context.Context) (*dial.Conn, error)
	// Window is how many messages of one identity may be in flight.
	Window int
	// ConnectRate is how many connections are opened per second, over all identities.
	ConnectRate float64
	// AckTimeout is how long one message may wait for its PUBACK before the connection counts as dead.
	AckTimeout time.Duration
	// DrainTimeout is how long stopping and renewing wait for what is in flight.
	DrainTimeout time.Duration
	// WriteTimeout is the one of dial.Config: how long handing a packet to a dying connection may take.
	WriteTimeout time.Duration
	// RetryMost is how far the pause between attempts to connect grows; three times as far after the
	// hub refused the credentials.
	RetryMost time.Duration
	// DrainRate is how many messages a second are sent over all identities; 0: as many as the hub takes.
	DrainRate float64
	// LiveShare, 0 to 1, is the part of DrainRate that belongs to identities whose next message is
	// younger than 10 s; the rest is for backlogs. What one of them does not need is the other's.
	LiveShare float64
	Log       zerolog.Logger
}

// Credential proves an identity for one connection.
type Credential interface {
	// Login makes what the CONNECT at time now carries. An error is retried like a refused connection.
	Login(now time.Time) (identity.Login, error)
}

// Lane is one identity's part of the queue; *buffer.Lane is the real one.
type Lane interface {
	// Next returns 1 to most entries with a sequence beyond after, in order; it waits for the first.
	Next(ctx context.Context, after uint64, most int) ([]buffer.Entry, error)
	// Ack says that everything up to and including seq is at the hub. It never waits.
	Ack(seq uint64)
}

// Member is one identity of the pool.
type Member struct {
	ID         gateway.IdentityID
	Credential Credential
	Lane       Lane
}

// Pool keeps one connection per member.
type Pool struct {
	cfg    Config
	links  []*link
	pace   *rate.Limiter
	shaper *shaper
	handle func(context.Context, gateway.Command) gateway.Reply
}

// NewPool makes the pool of members. handle carries out direct methods and answers them; it is called
// concurrently and must return soon after its context ends.
func NewPool(cfg Config, members []Member, handle func(context.Context, gateway.Command) gateway.Reply) *Pool {
	setDefault(&cfg.Window, DefaultWindow)
	setDefault(&cfg.ConnectRate, DefaultConnectRate)
	setDefault(&cfg.AckTimeout, DefaultAckTimeout)
	setDefault(&cfg.DrainTimeout, DefaultDrainTimeout)
	setDefault(&cfg.WriteTimeout, DefaultWriteTimeout)
	setDefault(&cfg.RetryMost, DefaultRetryMost)
	p := &Pool{cfg: cfg, handle: handle, pace: rate.NewLimiter(rate.Limit(cfg.ConnectRate), 1),
		shaper: newShaper(cfg.DrainRate, cfg.LiveShare)}
	for _, m := range members {
		p.links = append(p.links, &link{
			pool: p, member: m, events: eventsTopic(m.ID), random: rand.Float64,
			log: cfg.Log.With().Str("identity", string(m.ID)).Logger(),
		})
	}
	return p
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Run connects every member and keeps it connected until ctx ends; then it takes nothing new from the
// queue, waits for what is in flight and for the answers of commands, whose context has ended too,
// disconnects cleanly and returns nil.
func (p *Pool) Run(ctx context.Context) error {
	var links sync.WaitGroup
	links.Go(func() { p.shaper.run(ctx) })
	for _, l := range p.links {
		links.Go(func() { l.keep(ctx) })
	}
	links.Wait()
	for _, l := range p.links {
		l.work.Wait()
	}
	return nil
}

// Stats is a snapshot of every member, in the order given to NewPool.
func (p *Pool) Stats() []LinkStats {
	all := make([]LinkStats, len(p.links))
	for i, l := range p.links {
		all[i] = l.stats()
	}
	return all
}

// LinkStats says how one identity's connection is doing.
type LinkStats struct {
	Identity  gateway.IdentityID
	Connected bool
	Since     time.Time // of the present state; zero before the first attempt has ended
	Connects  uint64    // connections that the hub accepted
	Sent      uint64    // messages sent, repeats included
	Repeated  uint64    // messages sent again after a loss
	Acked     uint64    // messages that the hub acknowledged
	LastError string    // why the last connection ended or failed, or why the lane cannot go on; "" if all is well
}

// link is one identity's place in the pool: it outlives connections.
type link struct {
	pool   *Pool
	member Member
	events string
	random func() float64
	log    zerolog.Logger

	work     sync.WaitGroup // commands in work
	busy     atomic.Int32   // commands in work
	acked    atomic.Uint64  // sequence released last
	highest  atomic.Uint64  // sequence sent last
	sent     atomic.Uint64
	repeated atomic.Uint64
	received atomic.Uint64

	mu        sync.Mutex // guards the fields below
	up        bool
	since     time.Time
	connects  uint64
	lastError string
	told      string // the reason that has been logged
}

// keep holds the connection up until ctx ends. All knowledge of when to try again is here.
func (l *link) keep(ctx context.Context) {
	quick := 0 // connections in a row that ended soon after they were made
	for tries := 0; ; {
		if l.pool.pace.Wait(ctx) != nil {
			return
		}
		before, start, connects := l.received.Load(), time.Now(), l.stats().Connects
		err := l.serve(ctx)
		if ctx.Err() != nil {
			l.noteLost(nil)
			return
		}
		if errors.Is(err, errRenew) {
			l.noteLost(err)
			l.log.Debug().Msg("renewing the token with a new connection")
			tries, quick = 0, 0
			continue
		}
		if quick++; l.stats().Connects == connects || time.Since(start) > quickLoss {
			quick = 0
		}
		if quick >= conflictAfter {
			err = fmt.Errorf("%w, again and again just after connecting: does another gateway or tool use this identity?", err)
		}
		if time.Since(start) >= stableAfter && l.received.Load() > before {
			tries = 0
		}
		pause := delay(tries, l.mostPause(err), l.random())
		l.logLoss(err, pause)
		tries++
		if !wait(ctx, pause) {
			return
		}
	}
}

// logLoss says why there is no connection: aloud when that is news.
func (l *link) logLoss(err error, pause time.Duration) {
	level := zerolog.DebugLevel
	if l.noteLost(err) {
		level = zerolog.WarnLevel
	}
	l.log.WithLevel(level).Err(err).Stringer("retry_in", pause.Round(100*time.Millisecond)).Msg("no connection to the hub; trying again, later less often")
}

// mostPause is how far the backoff grows after err.
func (l *link) mostPause(err error) time.Duration {
	var refused *refusedError
	if errors.As(err, &refused) && (refused.code == refusedNotAuth || refused.code == refusedBadLogin) {
		return refusalFactor * l.pool.cfg.RetryMost
	}
	return l.pool.cfg.RetryMost
}

// wait pauses for d; false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// dispatch runs f beside the connection; false if too much is in work already.
func (l *link) dispatch(f func()) bool {
	if l.busy.Add(1) > commandBacklog {
		l.busy.Add(-1)
		return false
	}
	l.work.Go(func() {
		defer l.busy.Add(-1)
		f()
	})
	return true
}

func (l *link) noteConnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	event := l.log.Info()
	switch {
	case l.told != "":
		event = event.Stringer("after", time.Since(l.since).Round(time.Second))
	case l.connects > 0:
		event = l.log.Debug() // a renewal
	}
	event.Msg("connected to the hub")
	l.up, l.since, l.lastError, l.told = true, time.Now(), "", ""
	l.connects++
}

// noteLost tells whether err is another reason than the one that is known already.
func (l *link) noteLost(err error) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.up || l.since.IsZero() {
		l.since = time.Now()
	}
	l.up = false
	if err != nil && !errors.Is(err, errRenew) {
		l.lastError = err.Error()
	}
	news = l.lastError != l.told
	l.told = l.lastError
	return news
}

// noteTrouble is about the lane: the connection stands.
func (l *link) noteTrouble(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lastError != err.Error() {
		l.log.Error().Err(err).Msg("the queue cannot deliver; commands still work")
	}
	l.lastError = err.Error()
}

func (l *link) noteSent(seq uint64) {
	l.sent.Add(1)
	if seq <= l.highest.Load() {
		l.repeated.Add(1)
		return
	}
	l.highest.Store(seq)
}

func (l *link) noteAcked(seq uint64) {
	l.acked.Store(seq)
	l.received.Add(1)
}

func (l *link) stats() LinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return LinkStats{
		Identity: l.member.ID, Connected: l.up, Since: l.since, Connects: l.connects, LastError: l.lastError,
		Sent: l.sent.Load(), Repeated: l.repeated.Load(), Acked: l.received.Load(),
	}
}
