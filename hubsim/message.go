package hubsim

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Message is a device-to-cloud message as a consumer of the hub sees it.
//
// Its JSON form is {"sequence":1,"enqueued":"2026-01-02T03:04:05.6Z","device":"d","module":"m",
// "properties":{},"system":{},"body":...}. module is left out for a device. A body that is JSON
// stands there as JSON (white space may change); any other stands as base64 in "bodyBase64".
type Message struct {
	// Sequence counts the messages of the hub from 1, without a hole, across restarts with a Dir.
	Sequence uint64
	// Enqueued is when the hub took it.
	Enqueued time.Time
	Device   string
	Module   string // "" for a message of a device
	// Properties are application properties. A null one is "" (D2C-11).
	Properties map[string]string
	// System are system properties under their hub-side names (D2C-16, D2C-19), such as "message-id".
	System map[string]string
	Body   []byte
}

// messageJSON is Message on the wire.
type messageJSON struct {
	Sequence   uint64            `json:"sequence"`
	Enqueued   time.Time         `json:"enqueued"`
	Device     string            `json:"device"`
	Module     string            `json:"module,omitempty"`
	Properties map[string]string `json:"properties"`
	System     map[string]string `json:"system"`
	Body       json.RawMessage   `json:"body,omitempty"`
	BodyBase64 *[]byte           `json:"bodyBase64,omitempty"`
}

// MarshalJSON is the form that Message describes.
func (m Message) MarshalJSON() ([]byte, error) {
	wire := messageJSON{
		Sequence: m.Sequence, Enqueued: m.Enqueued, Device: m.Device, Module: m.Module,
		Properties: m.Properties, System: m.System,
	}
	if json.Valid(m.Body) {
		wire.Body = m.Body
	} else {
		body := append([]byte{}, m.Body...) // a nil slice would be null
		wire.BodyBase64 = &body
	}
	return json.Marshal(wire)
}

// UnmarshalJSON reads the form that Message describes.
func (m *Message) UnmarshalJSON(data []byte) error {
	var wire messageJSON
	if err := json.Unmarshal(data, &wire); err != nil {
		return fmt.Errorf("hubsim: a message in JSON: %w", err)
	}
	*m = Message{
		Sequence: wire.Sequence, Enqueued: wire.Enqueued, Device: wire.Device, Module: wire.Module,
		Properties: wire.Properties, System: wire.System, Body: wire.Body,
	}
	if wire.BodyBase64 != nil {
		m.Body = *wire.BodyBase64
	}
	return nil
}

// identity is "device" or "device/module".
func (m *Message) identity() string { return identityName(m.Device, m.Module) }

func splitIdentity(id string) (device, module string) {
	device, module, _ = strings.Cut(id, "/")
	return device, module
}
