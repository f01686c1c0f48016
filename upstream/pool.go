package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

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
	DefaultReportEvery  = time.Second
	DefaultTwinRate     = 40 // per second; the smallest hub takes 50 updates and 100 reads (THR-7, THR-8)
)

// Config is what all connections share.
type Config struct {
	// Dial opens one guarded connection (dial.Hub) to the hub of a login, with its certificate.
	Dial func(ctx context.Context, to identity.Login) (*dial.Conn, error)
	// ServerTime asks the hub of a login what its clock shows (dial.ServerTime), for when the hub refuses
	// credentials; nil: the clock is never blamed.
	ServerTime func(ctx context.Context, of identity.Login) (time.Time, error)
	// Now is this machine's clock; nil: time.Now.
	Now func() time.Time
	// Limits are those of each hub. Rates stay below them; without them ConnectRate is DefaultConnectRate.
	Limits Limits
	// Window is how many messages of one identity may be in flight.
	Window int
	// ConnectRate is how many connections are opened per second at most, over all identities of a hub.
	ConnectRate float64
	// AckTimeout is how long one message may wait for its PUBACK before the connection counts as dead.
	AckTimeout time.Duration
	// DrainTimeout is how long stopping waits for what is in flight and for the answers of commands, and how long
	// the hub may take to confirm that it sends no more of them.
	DrainTimeout time.Duration
	// WriteTimeout is the one of dial.Config: how long handing a packet to a dying connection may take.
	WriteTimeout time.Duration
	// RetryMost is how far the pause between attempts to connect grows; three times as far after the
	// hub refused the credentials.
	RetryMost time.Duration
	// DrainRate is how many messages a second are sent over all identities, to whichever hub: what the line to
	// the site bears. 0: as many as each hub takes.
	DrainRate float64
	// LiveShare, 0 to 1, is the part of DrainRate that belongs to identities whose next message is
	// younger than 10 s; the rest is for backlogs. What one of them does not need is the other's.
	LiveShare float64
	// TwinRate is how many requests about twins are made per second, over all identities of a hub.
	TwinRate float64
	// ReportEvery is the least time between two patches of the reported properties of one identity.
	ReportEvery time.Duration
	// State keeps executed messages and applied desired properties over restarts. Needed if a member has
	// Messages or Desired.
	State gateway.State
	// Message carries out a cloud-to-device message, one of an identity at a time, and must return soon after
	// its context ends. Needed if a member has Messages.
	Message func(context.Context, gateway.CloudMessage) gateway.Reply
	// Desired applies the value of a desired property, JSON, in the same way. Needed if a member has Desired.
	Desired func(ctx context.Context, id gateway.IdentityID, path string, value []byte) gateway.Ack
	Log     zerolog.Logger
}

// Credential proves an identity for one connection.
type Credential interface {
	// Hub is the name of the hub that the identity belongs to now. It may ask a service for it; ctx bounds that.
	// An error is retried like a connection that failed; with one, Hub is the name of the service if it has one.
	Hub(ctx context.Context, a identity.Attempt) (string, error)
	// Login makes what the next connection to that hub proves itself with; ctx bounds it. An error is retried
	// like a connection that failed.
	Login(ctx context.Context, a identity.Attempt) (identity.Login, error)
}

// Lane is one identity's part of the queue; *buffer.Lane is the real one.
type Lane interface {
	// Next returns 1 to most entries with a sequence beyond after, in order; it waits for the first.
	Next(ctx context.Context, after uint64, most int) ([]buffer.Entry, error)
	// Ack says that everything up to and including seq is at the hub. It never waits.
	Ack(seq uint64)
	// Dead says that the hub never takes the entry seq, the oldest that is not acknowledged: a gap takes its
	// place. A pack is cut in two instead.
	Dead(ctx context.Context, seq uint64, reason string) error
}

// Member is one identity of the pool.
type Member struct {
	ID         gateway.IdentityID
	Credential Credential
	Lane       Lane
	// Messages tells whether it takes cloud-to-device messages.
	Messages bool
	// Desired are the desired properties that are applied, in this order.
	Desired []gateway.Desired
	// Properties are the application properties of Will.
	Properties []gateway.Property
	// Will is the body, JSON, of the message that the hub sends when the connection is lost; nil: none.
	Will []byte
	// ModelID names the identity's Plug and Play model (MISC-4); "" if it has none.
	ModelID string
}

// Pool keeps one connection per member.
type Pool struct {
	cfg    Config
	clocks *hubClocks
	shaper *shaper // over all hubs
	handle func(context.Context, gateway.Command) gateway.Reply

	mu      sync.Mutex // guards the fields below
	links   []*link
	hubs    map[string]*hub // by name in lower case
	ctx     context.Context // Run's; nil before
	running sync.WaitGroup  // one for each link that runs, and each hub; Add only while ctx has not ended, or by a link
}

// NewPool makes the pool of members. handle carries out direct methods and answers them; it is called
// concurrently and must return soon after its context ends.
func NewPool(cfg Config, members []Member, handle func(context.Context, gateway.Command) gateway.Reply) *Pool {
	setDefault(&cfg.Window, DefaultWindow)
	setDefault(&cfg.TwinRate, DefaultTwinRate)
	setDefault(&cfg.ReportEvery, DefaultReportEvery)
	cfg.Limits.within(&cfg)
	setDefault(&cfg.ConnectRate, DefaultConnectRate)
	setDefault(&cfg.AckTimeout, DefaultAckTimeout)
	setDefault(&cfg.DrainTimeout, DefaultDrainTimeout)
	setDefault(&cfg.WriteTimeout, DefaultWriteTimeout)
	setDefault(&cfg.RetryMost, DefaultRetryMost)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Pool{cfg: cfg, handle: handle, clocks: newHubClocks(cfg), shaper: newShaper(cfg.DrainRate, cfg.LiveShare), hubs: map[string]*hub{}}
	for _, m := range members {
		p.links = append(p.links, p.link(m))
	}
	return p
}

// identityHook names the identity in each line of its log. A context of zerolog would hold 500 bytes for each
// of thousands.
type identityHook gateway.IdentityID

// Run adds the name.
func (h identityHook) Run(e *zerolog.Event, _ zerolog.Level, _ string) { e.Str("identity", string(h)) }

// link makes the place of a member.
func (p *Pool) link(m Member) *link {
	return &link{
		pool: p, member: m, state: StateConnecting, random: rand.Float64, ended: make(chan struct{}),
		log: p.cfg.Log.Hook(identityHook(m.ID)),
	}
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
	var beside sync.WaitGroup
	beside.Go(func() { p.shaper.run(ctx) })
	p.mu.Lock()
	p.ctx = ctx
	for _, h := range p.hubs {
		p.running.Go(func() { h.run(ctx, &p.cfg) })
	}
	for _, l := range p.links {
		p.start(l)
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock() // whoever is adding has added
	p.mu.Unlock()
	p.running.Wait()
	beside.Wait()
	return nil
}

// start runs a link until it is removed or Run's context ends. It needs mu.
func (p *Pool) start(l *link) {
	ctx, stop := context.WithCancel(p.ctx)
	l.stop = stop
	p.running.Go(func() {
		defer close(l.ended)
		defer stop()
		l.keep(ctx)
		l.work.disband()
	})
}

// Add takes another member, and connects it if the pool runs; the others go on undisturbed. It is an error
// if the pool has one of that identity, or has ended.
func (p *Pool) Add(m Member) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.links, func(l *link) bool { return l.member.ID == m.ID }) {
		return fmt.Errorf("upstream: %s is connected already: remove it first", m.ID)
	}
	if p.ctx != nil && p.ctx.Err() != nil {
		return fmt.Errorf("upstream: adding %s: %w", m.ID, p.ctx.Err())
	}
	l := p.link(m)
	p.links = append(p.links, l)
	if p.ctx != nil {
		p.start(l)
	}
	return nil
}

// find is the link of a member; nil if there is none.
func (p *Pool) find(id gateway.IdentityID) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.links, func(l *link) bool { return l.member.ID == id })
	if i < 0 {
		return nil
	}
	return p.links[i]
}

// Remove lets a member go as Run does at its end: it waits for what is in flight and disconnects cleanly.
// Its lane keeps what is not delivered. The others go on undisturbed. It returns when that is done, or with
// ctx's error before.
func (p *Pool) Remove(ctx context.Context, id gateway.IdentityID) error {
	p.mu.Lock()
	i := slices.IndexFunc(p.links, func(l *link) bool { return l.member.ID == id })
	if i < 0 {
		p.mu.Unlock()
		return fmt.Errorf("upstream: %s is not among the identities", id)
	}
	l := p.links[i]
	p.links = slices.Delete(slices.Clone(p.links), i, i+1)
	p.mu.Unlock()
	if l.stop == nil { // the pool has not run
		return nil
	}
	l.stop()
	select {
	case <-l.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("upstream: removing %s: %w", id, ctx.Err())
	}
}

// Stats is a snapshot of every member, in the order in which they were given.
func (p *Pool) Stats() []LinkStats {
	p.mu.Lock()
	links := slices.Clone(p.links)
	p.mu.Unlock()
	all := make([]LinkStats, len(links))
	for i, l := range links {
		all[i] = l.stats()
	}
	return all
}
