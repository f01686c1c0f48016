package hubsim

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// identity is one device or module: what is registered, and its MQTT session.
type identity struct {
	// The ids never change; the keys are guarded by registry.mu.
	registration

	messages atomic.Uint64 // stored, those of former runs included
	expired  atomic.Int64  // tokens up to this expiry are refused: a dial; Unix seconds
	active   atomic.Int64  // Unix nanoseconds of the last CONNECT or message, 0 never

	twin twin

	mu      sync.Mutex      // guards the fields below
	live    *session        // the one connection (CON-45)
	kept    bool            // the session outlives the connection: CleanSession 0
	filters map[string]byte // subscriptions, with the granted QoS
	changed chan struct{}   // closed when live or filters change; nil if nobody waits
}

// maxFilters is how many subscriptions an identity may have at a time (C2D-4, Q17).
const maxFilters = 5

// noGrant is the SUBACK code of a filter that is refused.
const noGrant = 0x80

func (id *identity) name() string { return identityName(id.DeviceID, id.ModuleID) }

// bind makes s the connection of the identity once the one before has ended (CON-45), and queues the
// CONNACK before anything else can be. present tells whether a session was kept (CON-34).
func (id *identity) bind(ctx context.Context, s *session, clean bool) (present bool, err error) {
	for {
		old := id.tryBind(s, clean, &present)
		if old == nil {
			return present, nil
		}
		old.kill(errTakenOver)
		select {
		case <-old.ended:
		case <-s.closing:
			return false, s.cause()
		case <-ctx.Done():
			return false, errStopped
		}
	}
}

func (id *identity) tryBind(s *session, clean bool, present *bool) (old *session) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.live != nil {
		return id.live
	}
	if clean || !id.kept {
		id.filters = map[string]byte{}
	}
	*present = id.kept && !clean
	id.live, id.kept = s, !clean
	s.out.send(connack(packets.Accepted, *present))
	id.announce()
	return nil
}

// unbind ends what bind began.
func (id *identity) unbind(s *session) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.live == s {
		id.live = nil
		id.announce()
	}
}

// subscribe notes filters with what each is granted (0x80 is nothing) and calls ack before anybody can
// use them. false means that there are too many: then nothing has changed.
func (id *identity) subscribe(filters []string, granted []byte, ack func()) bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	wanted := maps.Clone(id.filters)
	for i, filter := range filters {
		if granted[i] != noGrant {
			wanted[filter] = granted[i]
		}
	}
	if len(wanted) > maxFilters {
		return false
	}
	id.filters = wanted
	ack()
	id.announce()
	return true
}

func (id *identity) unsubscribe(filter string) {
	id.mu.Lock()
	defer id.mu.Unlock()
	delete(id.filters, filter)
	id.announce()
}

// connection is the live session, nil if there is none.
func (id *identity) connection() *session {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.live
}

// subscriber is the live session if it is subscribed to filter, otherwise nil; changed closes when the
// answer may be another.
func (id *identity) subscriber(filter string) (s *session, changed <-chan struct{}) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if _, ok := id.filters[filter]; ok && id.live != nil {
		return id.live, nil
	}
	if id.changed == nil {
		id.changed = make(chan struct{})
	}
	return nil, id.changed
}

// announce wakes the waiters of subscriber; the caller holds mu.
func (id *identity) announce() {
	if id.changed != nil {
		close(id.changed)
		id.changed = nil
	}
}
