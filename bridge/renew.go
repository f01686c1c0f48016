package bridge

import (
	"slices"
	"sync"
	"sync/atomic"

	gateway "iothub-gateway"
)

// memory is what is known about a point; it outlives a mapping that leaves the point as it is.
type memory struct {
	mu      sync.Mutex // guards seen, latest and counter
	seen    bool
	latest  gateway.Sample
	counter counter

	// Owned by whoever holds the lane. They differ only while a Put is under way: reported is what
	// is durable, next what will be.
	reported, next report
}

// turns order the messages of one identity, whatever mapping they are of. Who has put a token into turn
// holds the lane, from judging the first reading until the message is durable: this is what keeps the order.
type turns struct {
	order   int // among the identities of all mappings: everybody takes lanes in the same order
	turn    chan struct{}
	waiters atomic.Int32 // those that wait for their turn
	body    body         // owned by the holder
}

// upCounts is UpStats of every mapping so far.
type upCounts struct {
	mu    sync.Mutex // guards UpStats and lanes
	lanes int        // opened so far
	UpStats
}

// Renew makes the way up for a plant that has changed. Calls of the old Up and of the new one may be under way at
// the same time; the order within each identity stays. A point that is reported as before, in the same field of
// the same identity, goes on from what was reported last, unless fresh says that another thing is read there now;
// nil says so of none.
func (u *Up) Renew(points []gateway.Point, identities []gateway.Identity, fresh func(gateway.PointID) bool) *Up {
	next := &Up{
		store: u.store, stats: u.stats, points: make(map[gateway.PointID]*point, len(points)),
		lanes: make(map[gateway.IdentityID]*lane, len(identities)),
	}
	for _, identity := range identities {
		identity.Properties = slices.Clone(identity.Properties)
		next.open(identity, u)
	}
	for i, p := range points {
		known := &point{Point: p, order: i, key: append(appendText(nil, p.Field), ':')}
		if p.Identity != "" && !p.Hidden {
			known.lane = next.open(gateway.Identity{ID: p.Identity}, u)
		}
		if old := u.points[p.ID]; old != nil && sameReport(old.Point, p) && (fresh == nil || !fresh(p.ID)) {
			known.memory = old.memory
		} else {
			known.memory = &memory{}
		}
		next.points[p.ID] = known
	}
	return next
}

// open is the lane of an identity, whose turns go on if the Up before has it.
func (u *Up) open(identity gateway.Identity, before *Up) *lane {
	if l := u.lanes[identity.ID]; l != nil {
		return l
	}
	l := &lane{identity: identity}
	if old := before.lanes[identity.ID]; old != nil {
		l.turns = old.turns
	} else {
		l.turns = &turns{order: u.stats.newLane(), turn: make(chan struct{}, 1)}
	}
	u.lanes[identity.ID] = l
	return l
}

// sameReport tells whether what was reported of a point is still what the cloud knows of it, and its count goes on.
func sameReport(a, b gateway.Point) bool {
	return a.Identity == b.Identity && a.Field == b.Field && a.Hidden == b.Hidden && a.Wrap == b.Wrap
}

// Stats is what happened so far.
func (u *Up) Stats() UpStats {
	u.stats.mu.Lock()
	defer u.stats.mu.Unlock()
	return u.stats.UpStats
}

// newLane is the order of a lane that no mapping had before.
func (c *upCounts) newLane() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lanes++
	return c.lanes
}

// add adds the counts of one call.
func (c *upCounts) add(s UpStats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Samples += s.Samples
	c.Reported += s.Reported
	c.Suppressed += s.Suppressed
	c.Dropped += s.Dropped
	c.Private += s.Private
	c.Refused += s.Refused
	c.Failed += s.Failed
	c.Bad += s.Bad
	c.Messages += s.Messages
	c.PutErrors += s.PutErrors
	c.Replaced += s.Replaced
}
