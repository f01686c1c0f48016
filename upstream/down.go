package upstream

import (
	"context"
	"sync/atomic"
	"time"

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

// keepWait is how long a note may take to become durable.
const keepWait = 10 * time.Second

// keep makes a note durable, also while the pool stops. A disk that hangs holds neither that up nor the
// acknowledgement of what came from the hub.
func (c *Config) keep(key string, value []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), keepWait)
	defer cancel()
	return c.State.Put(ctx, key, value)
}

// addWill adds the message that the hub sends when the connection is lost, if there is one (WILL-1).
func (s *session) addWill(opts *mqtt.ClientOptions) {
	if s.member.Will != nil {
		opts.SetBinaryWill(string(appendBag(s.willTopic(), s.member.Properties)), s.member.Will, 1, false)
	}
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
