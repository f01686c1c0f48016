package hubsim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// publish handles the packet that matters.
func (s *session) publish(header byte, body []byte) error {
	p, err := parsePublish(header, body)
	if err != nil {
		return violates("CLOSE-16", "malformed PUBLISH: %v", err)
	}
	if p.qos == 2 {
		return violates("D2C-21, CLOSE-1", "PUBLISH at QoS 2")
	}
	kind, rest := s.topics.classify(p.topic)
	switch kind {
	case telemetryTopic:
		return s.telemetry(p, rest)
	case methodAnswerTopic:
		err = s.methodAnswer(rest, p.payload)
	case twinTopic:
		err = s.twinRequest(rest, p.payload)
	default:
		return &violation{fmt.Errorf("PUBLISH to %q: %w", p.topic, s.topics.misfit(p.topic))}
	}
	if err != nil || p.qos == 0 {
		return err
	}
	return s.acknowledge(pendingAck{packet: p.packet})
}

// telemetry stores a message and acknowledges it once it is stored (D2C-26).
func (s *session) telemetry(p publish, rest []byte) error {
	if err := s.bag.parse(rest); err != nil {
		return &violation{fmt.Errorf("PUBLISH of telemetry: %w", err)}
	}
	if size := len(p.payload) + s.bag.size(); size > maxMessage {
		return &violation{coded(413001, "D2C-24, CLOSE-8", "a message of %d bytes, the limit is %d", size, maxMessage)}
	}
	if s.bag.repeated {
		s.warn(wrong("D2C-13", "a property name appears twice in a message; the last one counts"))
	}
	if s.bag.unprintable {
		s.warn(wrong("D2C-14", "a property is not printable ASCII; routing queries cannot match it"))
	}
	for _, d := range s.dials {
		if d.closeNow() {
			return errKicked
		}
	}
	wait, err := s.hub.take(telemetryOperation, len(p.payload)+s.bag.size(), s.dials)
	if err != nil {
		return rejected(err)
	}
	r := record{generation: s.id.GenerationID, marks: s.marks, identity: s.topics.id, bag: rest, body: p.payload}
	if p.retain {
		r.marks |= markRetain
	}
	if p.dup {
		r.marks |= markDup
	}
	stored, err := s.store(&r)
	if err != nil {
		return err
	}
	s.active()
	s.inject()
	if p.qos == 0 {
		return nil
	}
	a := pendingAck{packet: p.packet}
	if !stored {
		a.sequence = r.sequence
	}
	if wait > 0 {
		a.due = time.Now().Add(wait)
	}
	return s.acknowledge(a)
}

// rejected is the end of a connection whose message was one too many: MQTT has no other way to say so
// (THR-18, THR-22).
func rejected(err error) error {
	var bad *Error
	if errors.As(err, &bad) && bad.Name == apiError(errQuota).Name {
		return &violation{coded(403002, "CLOSE-13, THR-22", "a message beyond the daily quota")}
	}
	return &violation{coded(429001, "CLOSE-14, THR-17, THR-18", "messages come faster than the hub's limit, and too many wait already")}
}

// store takes a message in; stored is false if the disk is still to be waited for.
func (s *session) store(r *record) (stored bool, err error) {
	stored, err = s.hub.store.append(r, &s.waiter)
	if err != nil {
		return false, err
	}
	s.id.messages.Add(1)
	s.id.active.Store(r.at)
	s.hub.received.Add(1)
	return stored, nil
}

// acknowledge queues a PUBACK and holds the reader back while too many wait (D2C-26).
func (s *session) acknowledge(a pendingAck) error {
	for _, d := range s.dials {
		d.onAck(&a)
	}
	full := s.out.ack(a)
	if a.sequence != 0 {
		// The disk may have been quicker than the line above.
		if durable := s.hub.store.durable.Load(); durable >= a.sequence {
			s.out.stored(durable)
		}
	}
	if full && !s.out.wait(s.closing) {
		return s.reason
	}
	return nil
}

// subscribe answers a SUBSCRIBE: QoS 2 is granted as 1 (C2D-5), an undocumented filter closes (CLOSE-6).
func (s *session) subscribe(p *packets.SubscribePacket) error {
	if len(p.Topics) == 0 || p.MessageID == 0 {
		return violates("CLOSE-16", "a SUBSCRIBE without a filter or packet id")
	}
	ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	ack.MessageID = p.MessageID
	for i, filter := range p.Topics {
		switch {
		case p.Qoss[i] > 2:
			return violates("CLOSE-16", "a SUBSCRIBE at QoS 3")
		case s.topics.allows(filter):
			ack.ReturnCodes = append(ack.ReturnCodes, min(p.Qoss[i], 1))
		case s.hub.cfg.RefuseFilters:
			s.warn(wrong("C2D-2", "SUBSCRIBE to %q: not a filter of IoT Hub", filter))
			ack.ReturnCodes = append(ack.ReturnCodes, noGrant)
		default:
			return violates("C2D-2, CLOSE-6", "SUBSCRIBE to %q: not a filter of IoT Hub", filter)
		}
	}
	ok, err := s.id.subscribe(s, p.Topics, ack.ReturnCodes, encode(ack))
	if !ok {
		return violates("C2D-4, CLOSE-7", "SUBSCRIBE to %q: more than %d subscriptions", p.Topics, maxFilters)
	}
	if slices.ContainsFunc(p.Topics, func(filter string) bool { return strings.HasSuffix(filter, "/messages/devicebound/#") }) {
		s.active()
	}
	return err
}

// unsubscribe is honoured, also for what was never subscribed (C2D-15, CLOSE-22).
func (s *session) unsubscribe(p *packets.UnsubscribePacket) error {
	if len(p.Topics) == 0 || p.MessageID == 0 {
		return violates("CLOSE-16", "an UNSUBSCRIBE without a filter or packet id")
	}
	ack := packets.NewControlPacket(packets.Unsuback).(*packets.UnsubackPacket)
	ack.MessageID = p.MessageID
	return s.id.unsubscribe(s, p.Topics, encode(ack))
}

// leaveWill sends the Will unless the client said DISCONNECT (WILL-3 to WILL-8).
func (s *session) leaveWill(end error) {
	if s.will == nil || end == nil {
		return
	}
	kind, rest := s.topics.classify([]byte(s.will.WillTopic))
	if kind != telemetryTopic || s.bag.parse(rest) != nil {
		s.warn(wrong("WILL-1, WILL-8", "the Will's topic %q is not for telemetry: the Will is lost", s.will.WillTopic))
		return
	}
	if s.will.WillQos == 2 {
		s.warn(wrong("WILL-7", "a Will at QoS 2 is sent as an ordinary message"))
	}
	r := record{
		generation: s.id.GenerationID, marks: s.marks | markWill, identity: s.topics.id, bag: rest, body: s.will.WillMessage,
	}
	if s.will.WillRetain {
		r.marks |= markRetain
	}
	if _, err := s.store(&r); err != nil {
		s.warn(fmt.Errorf("the Will is lost: %w", err))
	}
}
