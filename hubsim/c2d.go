package hubsim

import (
	"fmt"
	"strings"
	"time"
)

const (
	maxLetter  = 64 << 10 // body and properties of a cloud-to-device message, bytes (C2D-28)
	maxPending = 50       // cloud-to-device messages that wait for a device (C2D-28)
)

// C2D says what becomes of cloud-to-device messages; the zero C2D is what IoT Hub does by default.
type C2D struct {
	// LockTimeout is how long a device may take to acknowledge a message before it is delivered again
	// (C2D-25); 0 is 1 minute.
	LockTimeout time.Duration
	// TimeToLive is how long a message waits if it says nothing itself (C2D-27); 0 is 1 hour.
	TimeToLive time.Duration
	// MaxDeliveryCount is how often a message is delivered before it is dropped (C2D-26), 1 to 100; 0 is 10.
	MaxDeliveryCount int
	// FreeRedelivery delivers messages without counting (open question Q8).
	FreeRedelivery bool
}

func (c C2D) withDefaults() C2D {
	if c.LockTimeout <= 0 {
		c.LockTimeout = time.Minute
	}
	if c.TimeToLive <= 0 {
		c.TimeToLive = time.Hour
	}
	if c.MaxDeliveryCount <= 0 {
		c.MaxDeliveryCount = 10
	}
	return c
}

// CloudMessage is a cloud-to-device message.
type CloudMessage struct {
	Device string `json:"deviceId"`
	// MessageID is at most 128 of the characters of D2C-16; "" is given one if Ack asks for feedback.
	MessageID       string `json:"messageId,omitempty"`
	CorrelationID   string `json:"correlationId,omitempty"`
	UserID          string `json:"userId,omitempty"`
	ContentType     string `json:"contentType,omitempty"`
	ContentEncoding string `json:"contentEncoding,omitempty"`
	// Ack says which outcome the sender wants to hear of: "none", "positive", "negative" or "full"
	// (C2D-21). "" is none.
	Ack string `json:"ack,omitempty"`
	// Expires is when it is dropped; zero is after C2D.TimeToLive (C2D-27).
	Expires time.Time `json:"expires,omitzero"`
	// Properties are the application's; nil is null (C2D-19).
	Properties map[string]*string `json:"properties,omitempty"`
	Body       []byte             `json:"bodyBase64,omitempty"`
}

// size is what counts towards the limit, as with telemetry (D2C-24).
func (m *CloudMessage) size() int {
	n := len(m.Body)
	for _, text := range []string{m.MessageID, m.CorrelationID, m.UserID, m.ContentType, m.ContentEncoding} {
		n += len(text)
	}
	for name, value := range m.Properties {
		n += len(name)
		if value != nil {
			n += len(*value)
		}
	}
	return n
}

func (m *CloudMessage) check() *Error {
	bad := func(format string, args ...any) *Error {
		return apiError(errArgument).because(fmt.Sprintf(format, args...))
	}
	switch m.Ack {
	case "", "none", "positive", "negative", "full":
	default:
		return bad("ack is %q, not none, positive, negative or full", m.Ack)
	}
	for _, id := range []string{m.MessageID, m.CorrelationID} {
		if len(id) > 128 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return bad("the id %q is not at most 128 printable characters", id)
		}
	}
	for name := range m.Properties {
		if name == "" {
			return bad("a property has no name")
		}
	}
	if size := m.size(); size > maxLetter {
		return apiError(errTooLarge).because(fmt.Sprintf("a message of %d bytes, the limit is %d", size, maxLetter))
	}
	if topic := commandTopic(m); len(topic) > maxTopic {
		return bad("the properties take %d bytes in a topic, which holds %d", len(topic), maxTopic)
	}
	return nil
}

// Send puts a message into the queue of its device, which may be offline, and returns the message id
// once the message is stored. Its error is an *Error, such as 404001 for an unknown device, 403004 for a
// full queue (C2D-28) and 413001 for more than 64 KiB; or it says why the message could not be stored.
func (h *Hub) Send(m CloudMessage) (messageID string, err error) {
	if h.cfg.Limits.Basic {
		return "", apiError(errTier)
	}
	id := h.registry.find(m.Device)
	if id == nil || id.ModuleID != "" {
		return "", noDevice(m.Device)
	}
	if bad := m.check(); bad != nil {
		return "", bad
	}
	if m.MessageID == "" && m.Ack != "" && m.Ack != "none" {
		m.MessageID = newMessageID()
	}
	stored, bad := id.enqueue(h, m, time.Now())
	if bad != nil {
		return "", bad
	}
	return m.MessageID, stored.wait()
}

// PurgeCommands drops all messages that wait for a device and tells how many they were (C2D-30). The
// error is an *Error for an unknown device, or says why it could not be stored.
func (h *Hub) PurgeCommands(device string) (int, error) {
	id := h.registry.find(device)
	if id == nil || id.ModuleID != "" {
		return 0, noDevice(device)
	}
	n, stored := id.purge(h, time.Now())
	return n, stored.wait()
}

// DeadLetter is a message that no device got. The real hub does not show them.
type DeadLetter struct {
	Message CloudMessage `json:"message"`
	// Reason is a status of Feedback other than Success.
	Reason     string    `json:"reason"`
	At         time.Time `json:"at"`
	Deliveries int       `json:"deliveries"`
}

// DeadLetters returns the newest 50 messages to a device that were dropped, oldest first.
func (h *Hub) DeadLetters(device string) []DeadLetter {
	id := h.registry.find(device)
	if id == nil {
		return nil
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.mailbox == nil {
		return nil
	}
	var all []DeadLetter
	for _, d := range id.mailbox.dead {
		all = append(all, d.DeadLetter)
	}
	return all
}
