package hubsim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxEvents is how many connection events a hub remembers.
const maxEvents = 1000

// maxEventText is how much of a text that a client chose an event keeps, bytes.
const maxEventText = 1 << 10

// clip is a copy of the beginning of text.
func clip(text string) string {
	if len(text) > maxEventText {
		return strings.ToValidUTF8(text[:maxEventText], "") + "..."
	}
	return strings.Clone(text)
}

// ConnectionEvent is a record of the hub's operations monitoring about one connection (MON-1).
type ConnectionEvent struct {
	// Sequence counts the events of a Hub from 1; those of a former run are gone.
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"`
	// Operation is deviceConnect, which may have failed, or deviceDisconnect.
	Operation string `json:"operationName"`
	Category  string `json:"category"` // Connections
	Level     string `json:"level"`    // Information or Error
	// Status and Type are 0 if all is well, otherwise such as 404 and 404104.
	Status      int    `json:"statusCode"`
	Type        int    `json:"statusType"`
	Description string `json:"statusDescription"`
	// Device is the ClientId of a refused connection that did not get far enough to have a device.
	Device   string `json:"deviceId"`
	Module   string `json:"moduleId,omitempty"`
	Protocol string `json:"protocol"` // Mqtt or MqttWs
	AuthType string `json:"authType"` // JSON in a string, "" of a refused connection
	// Agent is the DeviceClientType of the user name (MON-2).
	Agent string `json:"sdkVersion"`
	// Milliseconds is how long a connection stood.
	Milliseconds int64 `json:"durationMs"`
}

// events are the newest connection events.
type events struct {
	mu   sync.Mutex // guards the fields below
	next uint64
	all  []ConnectionEvent // the newest maxEvents count
}

// add completes one and keeps it.
func (e *events) add(one ConnectionEvent) ConnectionEvent {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next++
	one.Sequence, one.Category = e.next, "Connections"
	e.all = append(e.all, one)
	if len(e.all) >= 2*maxEvents { // not every time: connections come by the thousand
		e.all = slices.Delete(e.all, 0, maxEvents)
	}
	return one
}

// note keeps a connection event and shows it to those who watch.
func (h *Hub) note(one ConnectionEvent) {
	one = h.events.add(one)
	h.registry.feed.tell(connectionKind, identityName(one.Device, one.Module), one)
}

// ConnectionEvents returns the newest thousand connection events with Sequence > after, oldest first.
func (h *Hub) ConnectionEvents(after uint64) []ConnectionEvent {
	h.events.mu.Lock()
	defer h.events.mu.Unlock()
	all := []ConnectionEvent{}
	for _, e := range h.events.all[max(0, len(h.events.all)-maxEvents):] {
		if e.Sequence > after {
			all = append(all, e)
		}
	}
	return all
}

// event is what every event of a session has in common; err is why it was refused or ended.
func (s *session) event(operation string, err error) ConnectionEvent {
	e := ConnectionEvent{Time: time.Now().UTC(), Operation: operation, Level: "Information", Protocol: "Mqtt"}
	if _, ok := s.conn.(websocketConn); ok {
		e.Protocol = "MqttWs"
	}
	if s.id != nil {
		e.Device, e.Module, e.Agent = s.id.DeviceID, s.id.ModuleID, s.agent
		e.AuthType = authMethod(s.marks, s.id.ModuleID)
	}
	if err != nil {
		e.Level, e.Type, e.Description = "Error", statusType(err), clip(err.Error())
		e.Status = e.Type / 1000
	}
	return e
}

// connected notes a connection that was let in.
func (s *session) connected() {
	s.since = time.Now()
	s.hub.note(s.event("deviceConnect", nil))
}

// refused notes one that was not.
func (s *session) refused(clientID string, err error) {
	e := s.event("deviceConnect", err)
	e.Device, e.Module = splitIdentity(clip(clientID))
	s.hub.note(e)
}

// disconnected notes the end of one that was let in.
func (s *session) disconnected(err error) {
	e := s.event("deviceDisconnect", err)
	e.Milliseconds = time.Since(s.since).Milliseconds()
	s.hub.note(e)
	if s.shown {
		s.showState("deviceDisconnected")
	}
}

// statusType is the hub's code of a refusal or of an end (MON-10).
func statusType(err error) int {
	var m *misuse
	var refused *refusal
	var bad *violation
	switch {
	case errors.As(err, &m) && m.code != 0:
		return m.code
	case errors.As(err, &refused) && refused.code == 3:
		return 503001
	case errors.As(err, &refused) && refused.code > 3:
		return 401003
	case errors.As(err, &refused), errors.As(err, &bad):
		return 400000
	}
	return 404104
}

// active notes that a session did what makes a device count as connected: it sent a message or
// subscribed to cloud-to-device messages (MON-5).
func (s *session) active() {
	if s.hub.cfg.ConnectionStateEvents && !s.shown {
		s.shown = true
		s.showState("deviceConnected")
	}
}

// showState puts a connection state event among the telemetry (MON-6).
func (s *session) showState(operation string) {
	now := time.Now().UTC()
	hubName, _, _ := strings.Cut(hostOnly(s.hub.cfg.HostName), ".")
	var b bagBuilder
	for _, p := range [][2]string{
		{"hubName", hubName}, {"deviceId", s.id.DeviceID}, {"moduleId", s.id.ModuleID}, {"opType", operation},
		{"iothub-message-schema", "deviceConnectionStateNotification"}, {"operationTimestamp", now.Format(time.RFC3339Nano)},
		{"$.ct", "application/json"}, {"$.ce", "utf-8"},
	} {
		b.system(p[0], p[1])
	}
	r := record{
		generation: s.id.GenerationID, marks: s.marks | markState, identity: s.topics.id, bag: []byte(b.String()),
		body: fmt.Appendf(nil, `{"sequenceNumber":"%s"}`, s.hub.stateSequence(now)),
	}
	if _, err := s.hub.store.append(&r, &s.waiter); err != nil {
		s.warn(fmt.Errorf("a connection state event is lost: %w", err))
	}
}

// stateSequence is 64 hex digits that grow with every call, also over restarts.
func (h *Hub) stateSequence(now time.Time) string {
	for {
		last := h.lastState.Load()
		next := max(last+1, now.UnixNano())
		if h.lastState.CompareAndSwap(last, next) {
			return fmt.Sprintf("%064X", next)
		}
	}
}
