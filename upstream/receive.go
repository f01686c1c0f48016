package upstream

import (
	mqtt "github.com/eclipse/paho.mqtt.golang"

	gateway "iothub-gateway"
)

// receive is called on the library's own goroutine, which must never wait: a command is handed to a
// goroutine that the link owns.
func (s *session) receive(_ mqtt.Client, m mqtt.Message) {
	m.Ack()
	name, rid, ok := parseMethodTopic(m.Topic())
	if !ok {
		s.log.Warn().Str("topic", m.Topic()).Msg("message on a topic nobody subscribed to")
		return
	}
	command := gateway.Command{Identity: s.member.ID, Name: name, Payload: m.Payload()}
	if !s.dispatch(func() { s.answer(command, rid) }) {
		s.log.Warn().Str("method", name).Msg("too many direct methods at once; this one is left unanswered")
	}
}

// answer carries a command out and publishes the reply, if the connection that asked still stands.
func (s *session) answer(c gateway.Command, rid string) {
	reply := s.pool.handle(s.commands, c)
	if s.ctx.Err() != nil {
		s.log.Warn().Str("method", c.Name).Int("status", reply.Status).Msg("method done, but the connection that asked is gone; the answer cannot be delivered")
		return
	}
	token := s.client.Publish(methodReplyTopic(reply.Status, rid), 0, false, reply.Body)
	select {
	case <-token.Done():
	case <-s.ctx.Done():
	}
}
