package upstream

import (
	"context"
	"sync/atomic"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// down is what a link keeps for the way down: it outlives connections, so that what came on an old one is
// over before anything of a new one has its turn.
type down struct {
	letters  serial   // turns of cloud-to-device messages
	executed executed // belongs to those turns
	twins    serial   // turns of what concerns desired properties
	desired  desired  // belongs to those turns
	reports  serial   // turns of patches
	reported reported
	current  atomic.Pointer[session] // nil while there is no connection
}

// filters are what the session subscribes to beside direct methods, with the QoS: at most five of them are
// allowed (C2D-4). Answers about the twin come first: they must not be missed (TWIN-1).
func (s *session) filters() []filter {
	all := []filter{{methodFilter, 0}, {twinFilter, 0}}
	if len(s.member.Desired) > 0 {
		all = append(all, filter{desiredFilter, 0})
	}
	if s.member.Messages {
		all = append(all, filter{s.letterTopic + "#", 1})
	}
	return all
}

// listen subscribes to all filters.
func (s *session) listen(ctx context.Context) error {
	for _, f := range s.filters() {
		if err := s.subscribe(ctx, f); err != nil {
			s.client.Disconnect(disconnectWait)
			return err
		}
	}
	return nil
}

// addWill adds the message that the hub sends when the connection is lost, if there is one (WILL-1).
func (s *session) addWill(opts *mqtt.ClientOptions) {
	if s.member.Will != nil {
		opts.SetBinaryWill(string(appendBag(s.willTopic(), s.member.Properties)), s.member.Will, 1, false)
	}
}

// filter is a subscription.
type filter struct {
	topic string
	qos   byte
}

// resume begins the way down of a session that is connected: the twin is read if it is needed, what the hub
// does not have is reported.
func (s *session) resume() {
	s.current.Store(s)
	s.twins.add(&s.work, unlimited, func() {
		s.desired.known = false
		if len(s.member.Desired) > 0 || !s.desired.read {
			s.readTwin()
		}
	})
	s.flushReports()
}
