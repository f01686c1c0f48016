package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	gateway "iothub-gateway"
)

const (
	// letterWork is how long a cloud-to-device message may take from its arrival to its outcome: 5 s are
	// left to acknowledge it within 45 s, before the hub's lock of 60 s ends (C2D-25).
	letterWork = 40 * time.Second
	// mostLetters may wait for their turn; the hub holds 50 for a device (C2D-28).
	mostLetters = 64
	// lastMessage is the reported property that says what became of the newest message.
	lastMessage = "gateway.lastMessage"
)

var errNoMessages = errors.New("the mapping has no messages for the identity; nothing was sent")

// letter is a cloud-to-device message on its way through a session.
type letter struct {
	topic    string
	bag      string
	id       uint16 // of the packet; meaningless at QoS 0
	qos      byte
	repeats  bool
	body     []byte
	deadline time.Time
}

// takeLetter makes a message wait for its turn. It is called by receive, from before the
// CONNACK on: the hub sends what waits at once (C2D-13). Acknowledgements keep the order of arrival because
// turns do (C2D-24).
func (s *session) takeLetter(m mqtt.Message, bag string) {
	l := letter{
		topic: m.Topic(), bag: bag, id: m.MessageID(), qos: m.Qos(), repeats: m.Duplicate(),
		body: m.Payload(), deadline: time.Now().Add(letterWork),
	}
	if !s.letters.add(&s.work, mostLetters, func() { s.readLetter(l) }) {
		s.lose(fmt.Errorf("the hub sent more than %d cloud-to-device messages at once", mostLetters))
	}
}

// readLetter executes a message at its turn and acknowledges it. A message that came on a connection that is
// gone, or that finds the gateway stopping, is left to the hub, which sends it again.
func (s *session) readLetter(l letter) {
	if s.ctx.Err() != nil || s.commands.Err() != nil {
		return
	}
	m := gateway.CloudMessage{Identity: s.member.ID, Body: l.body}
	err := parseBag(l.bag, &m)
	if err == nil && !s.member.Messages { // a session of the hub remembers a subscription of earlier
		err = errNoMessages
	}
	if err != nil {
		s.tellOutcome(&m, refusal(400, "bad-argument", err.Error()))
		s.acknowledgeLetter(l)
		return
	}
	key := keyOf(&m, l.topic)
	all := s.recallLetters()
	var reply gateway.Reply
	switch all.judge(arrival{&m, key, l.repeats, l.deadline}, time.Now()) {
	case done:
		s.log.Debug().Str("message_id", m.ID).Msg("cloud-to-device message came again; it was executed before")
		s.acknowledgeLetter(l)
		return
	case interrupted:
		reply = refusal(504, "uncertain", "the gateway ended while it executed the message; it is not executed again")
	case expired:
		reply = refusal(504, "expired", "the message expired at "+m.Expires.UTC().Format(time.RFC3339)+"; nothing was sent")
	case late:
		reply = refusal(429, "busy", "the messages before it took too long; nothing was sent")
	case execute:
		var over bool
		if reply, over = s.executeLetter(&m, key, l.deadline); !over {
			return
		}
	}
	if err := s.noteLetters(s.recallLetters().with(key, reply.Status)); err != nil {
		s.log.Error().Err(err).Str("message_id", m.ID).Msg("the outcome of a cloud-to-device message cannot be noted")
	}
	s.tellOutcome(&m, reply)
	s.acknowledgeLetter(l)
}

// executeLetter executes a message between two notes: what a crash interrupts is never executed twice. over
// is false if nothing was sent because the gateway stops.
func (s *session) executeLetter(m *gateway.CloudMessage, key messageKey, deadline time.Time) (reply gateway.Reply, over bool) {
	if err := s.noteLetters(s.recallLetters().with(key, begun)); err != nil {
		return refusal(500, "failed", "the message cannot be noted, so it is not executed: "+err.Error()), true
	}
	ctx, cancel := context.WithDeadline(s.commands, deadline)
	defer cancel()
	reply = s.pool.cfg.Message(ctx, *m)
	if reply.Status == ackStopped {
		if err := s.noteLetters(s.recallLetters().without(key)); err != nil {
			s.log.Error().Err(err).Str("message_id", m.ID).Msg("a cloud-to-device message that was not executed will count as uncertain")
		}
		return reply, false
	}
	return reply, true
}

// refusal is a reply in the form of the bridge's.
func refusal(status int, code, text string) gateway.Reply {
	body, err := json.Marshal(struct {
		Error string `json:"error"`
		Code  string `json:"code"`
	}{text, code})
	if err != nil { // two texts are always JSON
		body = []byte(`{}`)
	}
	return gateway.Reply{Status: status, Body: body}
}

// tellOutcome logs what became of a message and reports it: MQTT has no way to refuse one (C2D-23).
func (s *session) tellOutcome(m *gateway.CloudMessage, r gateway.Reply) {
	if r.Status >= 300 {
		s.log.Warn().Str("message_id", m.ID).Int("status", r.Status).RawJSON("outcome", r.Body).Msg("a cloud-to-device message was not executed")
	}
	if err := s.report(lastMessage, Outcome(m.ID, r)); err != nil {
		s.log.Warn().Err(err).Msg("the outcome of a cloud-to-device message cannot be reported")
	}
}

// Outcome is what is reported of a message, or of a command that waited: its id or name, the reply's status,
// the time, and what the reply's body says of point, written, confirmed, waiting, expires, error, code and exception.
func Outcome(id string, r gateway.Reply) []byte {
	object := map[string]any{}
	_ = json.Unmarshal(r.Body, &object) // the bodies are ours
	whole := map[string]any{"id": id, "status": r.Status, "t": time.Now().UTC().Format(creationTimeFormat)}
	for _, name := range []string{"point", "written", "confirmed", "waiting", "expires", "error", "code", "exception"} {
		whole[name] = object[name] // null deletes what the one before had
	}
	text, err := json.Marshal(whole)
	if err != nil {
		return []byte(`null`)
	}
	return text
}

func (s *session) acknowledgeLetter(l letter) {
	if l.qos == 0 {
		return
	}
	if _, err := s.conn.Write([]byte{0x40, 2, byte(l.id >> 8), byte(l.id)}); err != nil {
		s.lose(fmt.Errorf("acknowledging: %w", err))
	}
}

// recallLetters are the identity's executed messages; the first time they are read from the state.
func (l *link) recallLetters() executed {
	if l.executed == nil {
		note, _ := l.pool.cfg.State.Get(l.letterKey())
		l.executed = append(executed{}, parseExecuted(note)...)
	}
	return l.executed
}

// noteLetters makes all durable and takes it over.
func (l *link) noteLetters(all executed) error {
	if err := l.pool.cfg.keep(l.letterKey(), all.note()); err != nil {
		return err
	}
	l.executed = all
	return nil
}

func (l *link) letterKey() string { return "c2d/" + string(l.member.ID) }

// letterOf tells whether topic is one of the identity's cloud-to-device messages.
func (s *session) letterOf(topic string) (bag string, ok bool) {
	if bag, ok = strings.CutPrefix(topic, s.letterTopic); ok {
		return bag, true
	}
	return "", topic+"/" == s.letterTopic
}
