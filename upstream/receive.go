package upstream

import (
	"errors"
	"fmt"
	"strings"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	gateway "iothub-gateway"
)

// mostRefusals may wait to be answered; a direct method beyond stays unanswered.
const mostRefusals = 256

// mostInbox may wait for receive: less than a second of what a hub sends to one device.
const mostInbox = 1024

var errFlood = errors.New("the hub sends more than can be taken in")

// take makes a message of the hub wait for its turn. It is called on the library's goroutine.
func (s *session) take(_ mqtt.Client, m mqtt.Message) {
	if !s.inbox.add(&s.work, mostInbox, func() { s.receive(m) }) {
		s.lose(errFlood)
	}
}

// receive hands what the hub sent to goroutines that the link owns; it never waits, as what came
// after it would. A cloud-to-device message is acknowledged once it is executed.
func (s *session) receive(m mqtt.Message) {
	defer s.taken.Add(1)
	if !strings.HasPrefix(m.Topic(), twinAnswers) { // counted with the request
		s.hub.quota.count(len(m.Payload()), s.pool.cfg.Now())
	}
	if bag, ok := s.letterOf(m.Topic()); ok {
		s.takeLetter(m, bag)
		return
	}
	m.Ack()
	if s.takeTwin(m.Topic(), m.Payload()) {
		return
	}
	name, rid, ok := parseMethodTopic(m.Topic())
	if !ok {
		s.log.Warn().Str("topic", m.Topic()).Msg("message on a topic nobody subscribed to")
		return
	}
	command := gateway.Command{Identity: s.member.ID, Name: name, Payload: m.Payload()}
	err := s.dispatch(&s.closing, func() { s.answer(command, rid) })
	switch {
	case err == nil:
		return
	case errors.Is(err, errTooLate): // the hub tells its caller that the device has gone (METH-17)
		s.log.Debug().Str("method", name).Msg("a direct method came too late to be answered; it is not carried out")
		return
	}
	no := refusal(429, "busy", err.Error()+"; nothing was sent, try again")
	if !s.refused.add(&s.work, mostRefusals, func() { s.publishReply(no, rid) }) {
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
	s.publishReply(reply, rid)
}

func (s *session) publishReply(reply gateway.Reply, rid string) {
	if err := s.say(methodReplyTopic(reply.Status, rid), reply.Body); err != nil {
		s.lose(fmt.Errorf("answering: %w", err))
	}
}
