package hubsim

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// identity is one device or module: what is registered, and its MQTT session.
type identity struct {
	// The ids never change; the keys are guarded by registry.mu.
	registration

	modules  int           // of a device; guarded by registry.mu
	messages atomic.Uint64 // stored, those of former runs included
	expired  atomic.Int64  // tokens up to this expiry are refused: a dial; Unix seconds
	active   atomic.Int64  // Unix nanoseconds of the last CONNECT or message, 0 never
	turned   atomic.Int64  // Unix nanoseconds of when a connection came or went last, 0 never

	twin twin

	mu      sync.Mutex // guards the fields below
	live    *session   // the one connection (CON-45)
	gone    bool       // deleted: nobody connects any more
	kept    bool       // the session outlives the connection: CleanSession 0
	filters map[string]subscription
	changed chan struct{} // closed when live or filters change; nil if nobody waits
	mailbox *mailbox      // nil if there was never a cloud-to-device message
}

// subscription is what a filter was granted.
type subscription struct {
	QoS byte `json:"qos"`
	// Since is the newest cloud-to-device message when the subscription began: it gets those behind it
	// (C2D-9). A renewed subscription keeps it.
	Since uint64 `json:"since"`
}

// sessionKind are the kept sessions in the state: the subscriptions, by identityName.
const sessionKind = "session"

// maxFilters is how many subscriptions an identity may have at a time (C2D-4, Q17).
const maxFilters = 5

// noGrant is the SUBACK code of a filter that is refused.
const noGrant = 0x80

func (id *identity) name() string { return identityName(id.DeviceID, id.ModuleID) }

// bind makes s the connection of the identity once the one before has ended (CON-45), and queues the
// CONNACK before anything else can be. present tells whether a session was kept (CON-34).
func (id *identity) bind(ctx context.Context, s *session, clean bool) (present bool, err error) {
	for {
		old, stored, err := id.tryBind(s, clean, &present)
		if err != nil {
			return false, err
		}
		if old == nil {
			return present, stored.wait()
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

func (id *identity) tryBind(s *session, clean bool, present *bool) (old *session, stored *saved, err error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.gone {
		return nil, nil, errDeleted
	}
	if id.live != nil {
		return id.live, nil, nil
	}
	*present = id.kept && !clean
	if !*present {
		id.filters = map[string]subscription{}
	}
	switch {
	case clean && id.kept:
		stored = s.hub.state.delete(sessionKind, id.name())
	case !clean && !id.kept:
		stored = s.hub.state.put(sessionKind, id.name(), id.filters)
	}
	id.live, id.kept = s, !clean
	id.turned.Store(time.Now().UnixNano())
	s.out.send(connack(packets.Accepted, *present))
	if clean { // it asks for a fresh start, which drops what waits (C2D-12)
		stored = latest(stored, id.rejectAll(s.hub, time.Now()))
	}
	stored = latest(stored, id.deliver(s.hub, time.Now()))
	id.announce()
	return nil, stored, nil
}

// abandon keeps new connections out and returns the one that there is.
func (id *identity) abandon() *session {
	id.mu.Lock()
	defer id.mu.Unlock()
	id.gone = true
	return id.live
}

// traces are the changes that take everything about the identity out of the state.
func (id *identity) traces() []change {
	t := id.openTwin()
	t.gone = true
	t.mu.Unlock()
	id.mu.Lock()
	defer id.mu.Unlock()
	var all []change
	for _, kind := range []string{identityKind, sessionKind, twinKind} {
		all = append(all, change{kind, id.name(), nil})
	}
	if id.mailbox != nil {
		for _, l := range id.mailbox.pending {
			all = append(all, change{letterKind, l.key(), nil})
		}
		for _, d := range id.mailbox.dead {
			all = append(all, change{deadKind, d.key, nil})
		}
		id.mailbox = nil
	}
	return all
}

// unbind ends what bind began. What the client did not acknowledge is delivered again (C2D-25).
func (id *identity) unbind(s *session) error {
	id.mu.Lock()
	var stored *saved
	if id.live == s {
		id.live = nil
		id.turned.Store(time.Now().UnixNano())
		stored = id.unlockAll(s.hub, time.Now())
		id.announce()
	}
	id.mu.Unlock()
	return stored.wait()
}

// subscribe notes filters with what each is granted (0x80 is nothing), and queues ack before anybody can
// use them and after a kept session has them on disk. false means that there are too many: then nothing
// has changed. Only the live session calls it.
func (id *identity) subscribe(s *session, filters []string, granted []byte, ack []byte) (bool, error) {
	wanted := id.subscriptions()
	newest := s.hub.letters.Load()
	for i, filter := range filters {
		if granted[i] == noGrant {
			continue
		}
		was, renewed := wanted[filter]
		if !renewed {
			was.Since = newest
		}
		wanted[filter] = subscription{granted[i], was.Since}
	}
	if len(wanted) > maxFilters {
		return false, nil
	}
	return true, id.resubscribe(s, wanted, ack)
}

// unsubscribe forgets filters and queues ack (C2D-15).
func (id *identity) unsubscribe(s *session, filters []string, ack []byte) error {
	wanted := id.subscriptions()
	for _, filter := range filters {
		delete(wanted, filter)
	}
	return id.resubscribe(s, wanted, ack)
}

// subscriptions is a copy.
func (id *identity) subscriptions() map[string]subscription {
	id.mu.Lock()
	defer id.mu.Unlock()
	return maps.Clone(id.filters)
}

// resubscribe replaces the subscriptions.
func (id *identity) resubscribe(s *session, wanted map[string]subscription, ack []byte) error {
	if id.kept && !maps.Equal(wanted, id.filters) { // both change in this goroutine only
		if err := s.hub.state.put(sessionKind, id.name(), wanted).wait(); err != nil {
			return err
		}
	}
	id.mu.Lock()
	id.filters = wanted
	s.out.send(ack)
	stored := id.deliver(s.hub, time.Now())
	id.announce()
	id.mu.Unlock()
	return stored.wait()
}

// connection is the live session, nil if there is none.
func (id *identity) connection() *session {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.live
}

// subscriber hands the live session to use if it is subscribed to filter, and returns true: what use queues
// leaves before the UNSUBACK of an UNSUBSCRIBE that comes later. Otherwise changed closes when it is worth
// asking again.
func (id *identity) subscriber(filter string, use func(*session)) (found bool, changed <-chan struct{}) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if _, ok := id.filters[filter]; ok && id.live != nil {
		use(id.live)
		return true, nil
	}
	if id.changed == nil {
		id.changed = make(chan struct{})
	}
	return false, id.changed
}

// announce wakes the waiters of subscriber; the caller holds mu.
func (id *identity) announce() {
	if id.changed != nil {
		close(id.changed)
		id.changed = nil
	}
}
