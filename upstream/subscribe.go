package upstream

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"iothub-gateway/internal/dial"
)

// filter is a subscription.
type filter struct {
	topic string
	qos   byte
}

// filters are what the session subscribes to, with the QoS: at most five of them are allowed (C2D-4).
// Answers about the twin come before anything is asked about it: they must not be missed (TWIN-1).
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

// grant is the hub's answer to the subscription of one filter: the QoS, or more if it refused.
type grant struct {
	id   uint16
	code byte
}

// subscribe asks for all filters at once, a packet for each, and disconnects if one cannot be had. It goes
// past the library, which reports a refusal as success and whose goroutines, one of each for every identity,
// would keep for ever the stacks that they need for it.
func (s *session) subscribe(ctx context.Context) error {
	filters := s.filters()
	grants := make(chan grant, len(filters))
	s.awaitGrants(grants)
	defer s.awaitGrants(nil)
	err := s.askFor(filters)
	timeout := time.NewTimer(connectTimeout)
	defer timeout.Stop()
	for n := 0; n < len(filters) && err == nil; n++ {
		select {
		case g := <-grants:
			err = g.check(filters)
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-s.ctx.Done():
			err = fmt.Errorf("subscribing: %w", context.Cause(s.ctx))
		case <-timeout.C:
			err = fmt.Errorf("subscribing to %s: %w", filters[n].topic, errAckTimeout)
		}
	}
	if err != nil {
		s.client.Disconnect(disconnectWait)
	}
	return err
}

// askFor sends the SUBSCRIBE packets. Nothing else has own packet ids yet.
func (s *session) askFor(filters []filter) error {
	var b []byte
	for i, f := range filters {
		b = appendSubscribe(b, dial.FirstOwnID+uint16(i), f)
	}
	if _, err := s.conn.Write(b); err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	return nil
}

// check tells whether the filter was granted.
func (g grant) check(filters []filter) error {
	i := int(g.id) - dial.FirstOwnID
	switch {
	case i >= len(filters):
		return fmt.Errorf("subscribing: the hub answered to packet %d, which nobody sent", g.id)
	case g.code > 1:
		return fmt.Errorf("subscribing to %s: the hub refused (0x%02x)", filters[i].topic, g.code)
	}
	return nil
}

func (s *session) awaitGrants(grants chan grant) {
	s.asking.Lock()
	defer s.asking.Unlock()
	s.grants = grants
}

// granted takes the answer to a subscription. It is called on the goroutine that reads the connection.
func (s *session) granted(id uint16, code byte) {
	s.asking.Lock()
	defer s.asking.Unlock()
	select {
	case s.grants <- grant{id, code}:
	default:
		s.lose(fmt.Errorf("the hub answered to subscription %d, which nobody waits for", id))
	}
}

// subscribeType is the first byte of a SUBSCRIBE (MQTT 3.1.1 section 3.8).
const subscribeType = 0x82

// appendSubscribe appends a whole SUBSCRIBE packet for one filter.
func appendSubscribe(b []byte, id uint16, f filter) []byte {
	b = appendLength(append(b, subscribeType), 2+2+len(f.topic)+1)
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.topic)))
	return append(append(b, f.topic...), f.qos)
}
