package hubsim

import (
	"fmt"
	"slices"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	// maxUnacked and maxUnackedBytes bound what a device has not acknowledged; the next message waits.
	maxUnacked      = 16
	maxUnackedBytes = 256 << 10
	// maxCommandID is the largest packet id of a cloud-to-device message (C2D-22); the ids above it are
	// for other messages.
	maxCommandID = 0x4000
	// maxDead is how many dropped messages of a device are kept for who wants to look.
	maxDead = 50
)

// Kinds of the state; the key is "device/" and the sequence.
const (
	letterKind = "c2d"
	deadKind   = "dead"
)

// mailbox is what the cloud has for a device. identity.mu guards it.
type mailbox struct {
	pending []*letter // oldest first
	unacked []*letter // those of pending that the live session has, in the order of their PUBLISH
	packet  uint16    // the packet id that was used last
	alarm   time.Time // the earliest one that is set
	dead    []dropped
}

// letter is a message that waits.
type letter struct {
	Sequence   uint64       `json:"sequence"`
	Message    CloudMessage `json:"message"`
	Deliveries int          `json:"deliveries"`
	Packet     uint16       `json:"packet"`
	Dies       time.Time    `json:"dies"`
	locked     time.Time    // when it was delivered, if it is not acknowledged yet
}

type dropped struct {
	DeadLetter
	key string
}

func letterKey(device string, sequence uint64) string {
	return fmt.Sprintf("%s/%020d", device, sequence)
}

func (l *letter) key() string { return letterKey(l.Message.Device, l.Sequence) }

// commandSubscription is the subscription that cloud-to-device messages come by (C2D-1, C2D-3); of two
// the more generous one. The caller holds mu.
func (id *identity) commandSubscription() (both subscription, ok bool) {
	for _, filter := range commandFilters(id.DeviceID) {
		if s, is := id.filters[filter]; is {
			if ok {
				s = subscription{max(s.QoS, both.QoS), min(s.Since, both.Since)}
			}
			both, ok = s, true
		}
	}
	return both, ok && id.ModuleID == ""
}

// enqueue takes a message in (C2D-28) and delivers it if it can.
func (id *identity) enqueue(h *Hub, m CloudMessage, now time.Time) (*saved, *Error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.gone {
		return nil, noDevice(m.Device)
	}
	if id.mailbox == nil {
		id.mailbox = &mailbox{}
	}
	swept := id.sweep(h, now)
	if len(id.mailbox.pending) >= maxPending {
		return nil, apiError(errQueueFull).because(fmt.Sprintf("%d messages wait for %s", maxPending, m.Device))
	}
	l := &letter{Sequence: h.letters.Add(1), Message: m, Dies: m.Expires}
	if l.Dies.IsZero() {
		l.Dies = now.Add(h.cfg.C2D.TimeToLive)
	}
	id.mailbox.pending = append(id.mailbox.pending, l)
	stored := latest(swept, h.state.put(letterKind, l.key(), l))
	return latest(stored, id.deliver(h, now)), nil
}

// deliver sends what waits to the live session, as far as it is subscribed and has room. A message that is
// older than the subscription is not for it, and dropped (C2D-9, C2D-12, Q9). The caller holds mu.
func (id *identity) deliver(h *Hub, now time.Time) (stored *saved) {
	if id.mailbox == nil {
		return nil
	}
	stored = id.sweep(h, now)
	defer id.setAlarm(h)
	sub, subscribed := id.commandSubscription()
	if id.live == nil || !subscribed {
		return stored
	}
	for _, l := range slices.Clone(id.mailbox.pending) {
		switch {
		case !l.locked.IsZero():
		case l.Sequence <= sub.Since:
			stored = latest(stored, id.end(h, l, statusRejected, now))
		case sub.QoS == 0:
			if l.Deliveries == 0 { // a repetition at QoS 0 is not sent (C2D-31)
				id.live.out.send(l.encode(0))
			}
			stored = latest(stored, id.end(h, l, statusSuccess, now))
		case id.mailbox.full():
			return stored
		default:
			id.mailbox.lock(l, now)
			id.live.out.send(l.encode(1))
			stored = latest(stored, h.state.put(letterKind, l.key(), l))
		}
	}
	return stored
}

func (b *mailbox) full() bool {
	n := 0
	for _, l := range b.unacked {
		n += len(l.Message.Body)
	}
	return len(b.unacked) >= maxUnacked || n >= maxUnackedBytes
}

// lock notes a delivery. A repetition keeps its packet id, as MQTT wants it.
func (b *mailbox) lock(l *letter, now time.Time) {
	l.locked = now
	l.Deliveries++
	for l.Packet == 0 {
		b.packet = b.packet%maxCommandID + 1
		if !slices.ContainsFunc(b.pending, func(other *letter) bool { return other.Packet == b.packet }) {
			l.Packet = b.packet
		}
	}
	b.unacked = append(b.unacked, l)
}

// encode is the PUBLISH that carries l; DUP says that it was sent before (C2D-22).
func (l *letter) encode(qos byte) []byte {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos = commandTopic(&l.Message), l.Message.Body, qos
	if qos > 0 {
		p.MessageID, p.Dup = l.Packet, l.Deliveries > 1
	}
	return encode(p)
}

// acknowledged completes a message (C2D-23), but only the one that was sent first (C2D-24). It returns
// once that is stored.
func (id *identity) acknowledged(s *session, packet uint16) error {
	if packet == 0 || packet > maxCommandID {
		return nil
	}
	stored, why := id.complete(s.hub, packet, time.Now())
	if why != nil {
		s.warn(why)
	}
	return stored.wait()
}

func (id *identity) complete(h *Hub, packet uint16, now time.Time) (stored *saved, why error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	i := -1
	if id.mailbox != nil {
		i = slices.IndexFunc(id.mailbox.unacked, func(l *letter) bool { return l.Packet == packet })
	}
	switch {
	case i < 0:
		return nil, wrong("C2D-25", "a PUBACK for no message that waits for one: its lock was lost (412002), or it was acknowledged before")
	case i > 0:
		return nil, wrong("C2D-24", "a PUBACK out of order: it does not count, and the message will be delivered again")
	}
	stored = id.end(h, id.mailbox.unacked[0], statusSuccess, now)
	return latest(stored, id.deliver(h, now)), nil
}

// end takes a message off the queue, with what is remembered of it. The caller holds mu.
func (id *identity) end(h *Hub, l *letter, status feedbackStatus, now time.Time) *saved {
	b := id.mailbox
	same := func(other *letter) bool { return other == l }
	b.pending, b.unacked = slices.DeleteFunc(b.pending, same), slices.DeleteFunc(b.unacked, same)
	changes := []change{{letterKind, l.key(), nil}}
	if status != statusSuccess {
		h.log.Info().Str("identity", id.name()).Str("clause", status.clause()).Int("deliveries", l.Deliveries).
			Msgf("%s: cloud-to-device message %q is dropped: %s", id.name(), l.Message.MessageID, status)
		d := dropped{DeadLetter{Message: l.Message, Reason: string(status), At: now.UTC(), Deliveries: l.Deliveries}, l.key()}
		b.dead = append(b.dead, d)
		changes = append(changes, change{deadKind, d.key, d.DeadLetter})
		if len(b.dead) > maxDead {
			changes = append(changes, change{deadKind, b.dead[0].key, nil})
			b.dead = slices.Delete(b.dead, 0, 1)
		}
	}
	if !status.wanted(l.Message.Ack) {
		return h.state.write(changes...)
	}
	return h.feedback.add(FeedbackRecord{
		OriginalMessageID: l.Message.MessageID, EnqueuedTime: now.UTC(), Status: string(status), Description: string(status),
		DeviceID: id.DeviceID, GenerationID: id.GenerationID,
	}, changes)
}

// unlockAll takes back what the session that ends did not acknowledge. The caller holds mu.
func (id *identity) unlockAll(h *Hub, now time.Time) (stored *saved) {
	if id.mailbox == nil {
		return nil
	}
	for _, l := range slices.Clone(id.mailbox.unacked) {
		id.mailbox.unlock(l)
	}
	stored = id.sweep(h, now)
	id.setAlarm(h)
	return stored
}

// unlock makes a message that was not acknowledged wait again.
func (b *mailbox) unlock(l *letter) {
	l.locked = time.Time{}
	b.unacked = slices.DeleteFunc(b.unacked, func(other *letter) bool { return other == l })
}

// sweep drops what waited too long or was delivered too often (C2D-26, C2D-27); what is being delivered
// may still be acknowledged. The caller holds mu.
func (id *identity) sweep(h *Hub, now time.Time) (stored *saved) {
	for _, l := range slices.Clone(id.mailbox.pending) {
		switch {
		case !l.locked.IsZero():
		case !now.Before(l.Dies):
			stored = latest(stored, id.end(h, l, statusExpired, now))
		case l.Deliveries >= h.cfg.C2D.MaxDeliveryCount && !h.cfg.C2D.FreeRedelivery:
			stored = latest(stored, id.end(h, l, statusExceeded, now))
		}
	}
	return stored
}

// rejectAll drops everything that waits. The caller holds mu.
func (id *identity) rejectAll(h *Hub, now time.Time) (stored *saved) {
	if id.mailbox == nil {
		return nil
	}
	for _, l := range slices.Clone(id.mailbox.pending) {
		stored = latest(stored, id.end(h, l, statusRejected, now))
	}
	return stored
}

// purge drops everything that waits, as an operator asks for it (C2D-30).
func (id *identity) purge(h *Hub, now time.Time) (n int, stored *saved) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.mailbox == nil {
		return 0, nil
	}
	for _, l := range slices.Clone(id.mailbox.pending) {
		stored = latest(stored, id.end(h, l, statusPurged, now))
		n++
	}
	return n, stored
}

// ring is the alarm that was set for at: locks that ran out are taken back and their messages delivered
// again (C2D-25), and what waited too long is dropped.
func (id *identity) ring(h *Hub, at time.Time) (stored *saved) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if b := id.mailbox; b != nil && b.alarm.Equal(at) {
		b.alarm = time.Time{}
		now := time.Now()
		for _, l := range slices.Clone(b.unacked) {
			if !now.Before(l.locked.Add(h.cfg.C2D.LockTimeout)) {
				b.unlock(l)
			}
		}
		stored = id.deliver(h, now)
	}
	return stored
}

// setAlarm sets the alarm for the next time when something happens to a message. The caller holds mu.
func (id *identity) setAlarm(h *Hub) {
	b := id.mailbox
	var next time.Time
	for _, l := range b.pending {
		at := l.Dies
		if !l.locked.IsZero() {
			at = l.locked.Add(h.cfg.C2D.LockTimeout)
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if !next.IsZero() && (b.alarm.IsZero() || next.Before(b.alarm)) {
		b.alarm = next
		h.alarms.set(next, id)
	}
}

// waiting counts the messages that wait for the identity.
func (id *identity) waiting() int {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.mailbox == nil {
		return 0
	}
	return len(id.mailbox.pending)
}
