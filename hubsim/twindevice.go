package hubsim

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	twinPrefix    = "$iothub/twin/" // of what a client publishes about its twin
	twinAnswer    = "$iothub/twin/res/"
	twinFilter    = "$iothub/twin/res/#"
	desiredPrefix = "$iothub/twin/PATCH/properties/desired/"
	desiredFilter = "$iothub/twin/PATCH/properties/desired/#"

	// twinPackets is where the packet ids of twin messages at QoS 1 begin. Nothing is sent again, so that
	// their PUBACKs mean nothing; ids below it are for messages whose PUBACKs do.
	twinPackets = 0x8000
)

// twinRequest is the topic of what a client publishes about its twin.
type twinRequest struct {
	path string
	rid  string
	base *uint64 // $version, nil without one (TWIN-18)
}

// parseTwinTopic reads "GET/?$rid={rid}" or another path, what follows $iothub/twin/. The request id is
// echoed as it came, so it must be fit for a topic (TWIN-4).
func parseTwinTopic(rest []byte) (twinRequest, error) {
	path, query, _ := strings.Cut(string(rest), "?")
	r := twinRequest{path: path}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		switch {
		case name == "$rid" && r.rid == "":
			r.rid = value
		case name == "$version" && r.base == nil:
			version, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				version = 0 // no section ever has it: the answer is 412
			}
			r.base = &version
		}
	}
	if r.rid == "" {
		return r, wrong("TWIN-19", "the topic has no ?$rid=")
	}
	for _, c := range []byte(r.rid) {
		if c <= ' ' || c > '~' || c == '+' || c == '#' {
			return r, wrong("TWIN-4, CLOSE-4", "the request id %q has a character that a topic or a property must not have", r.rid)
		}
	}
	return r, nil
}

// twinRequest answers a GET or a PATCH of the reported properties (TWIN-2 to TWIN-11).
func (s *session) twinRequest(rest, payload []byte) error {
	request, err := parseTwinTopic(rest)
	if err != nil {
		return &violation{fmt.Errorf("PUBLISH to %s%s: %w", twinPrefix, rest, err)}
	}
	topic := "200/?$rid=" + request.rid
	var body []byte
	switch request.path {
	case "GET/":
		if err = s.queueTwin(twinRead, 0); err == nil {
			body, err = s.hub.readTwin(s.id)
		}
	case "PATCH/properties/reported/":
		var version uint64
		if err = s.queueTwin(twinUpdate, len(payload)); err == nil {
			version, err = s.hub.reportTwin(s.id, payload, request.base)
		}
		topic = fmt.Sprintf("204/?$rid=%s&$version=%d", request.rid, version)
	default:
		err = wrong("TWIN-19", "%s%s is neither a GET nor a PATCH of reported properties", twinPrefix, request.path)
	}
	if cause := s.cause(); cause != nil {
		return cause
	}
	if err != nil {
		bad := twinError(err)
		s.warn(fmt.Errorf("request about the twin: %w: IoT Hub answers %d", err, bad.Status))
		topic = fmt.Sprintf("%d/?$rid=%s", bad.Status, request.rid)
		if body, err = bad.deviceBody(time.Now()); err != nil {
			return err
		}
	}
	return s.answerTwin(topic, body)
}

// queueTwin makes a request wait while they come faster than the hub's limit (THR-7, THR-8, THR-19).
func (s *session) queueTwin(op operation, size int) error {
	if s.hub.cfg.Limits.Basic {
		return apiError(errTier)
	}
	for _, d := range s.dials {
		if err := d.failTwin(); err != nil {
			return err
		}
	}
	wait, err := s.hub.take(op, size, s.dials)
	if err != nil || wait <= 0 {
		return err
	}
	select {
	case <-time.After(wait):
		return nil
	case <-s.closing:
		return s.reason
	}
}

// twinError is err as the hub's errors show it: what is wrong with a document is 400 (TWIN-33).
func twinError(err error) *Error {
	var bad *Error
	var m *misuse
	switch {
	case errors.As(err, &bad):
		return bad
	case errors.As(err, &m):
		return apiError(errArgument).because(m.what)
	}
	return apiError(errInternal).because(err.Error())
}

// answerTwin sends an answer at the QoS of the subscription (TWIN-25); without one it is lost (TWIN-1). A
// client that asks and does not read is not read from.
func (s *session) answerTwin(topic string, body []byte) error {
	_, qos, ok := s.id.listener(twinFilter)
	if !ok {
		s.warn(wrong("TWIN-1", "a request about the twin before SUBSCRIBE to %s: the answer is lost", twinFilter))
		return nil
	}
	s.out.send(s.message(twinAnswer+topic, body, qos))
	if !s.out.wait(s.closing) {
		return s.reason
	}
	return nil
}

// message is a PUBLISH of the hub about a twin.
func (s *session) message(topic string, body []byte, qos byte) []byte {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos = topic, body, qos
	if qos > 0 {
		p.MessageID = twinPackets | uint16(s.twinMessages.Add(1))
	}
	return encode(p)
}

// listener is the live session and the granted QoS if the identity is connected and subscribed to filter.
func (id *identity) listener(filter string) (s *session, qos byte, ok bool) {
	id.mu.Lock()
	defer id.mu.Unlock()
	sub, ok := id.filters[filter]
	return id.live, sub.QoS, ok && id.live != nil
}

// notifyDesired tells the device what the service side changed, if it listens; nothing is kept for later
// (TWIN-12 to TWIN-14). The caller holds the twin's mu.
func (h *Hub) notifyDesired(id *identity, patch object, version uint64) error {
	s, qos, ok := id.listener(desiredFilter)
	if !ok {
		return nil
	}
	body, err := appendObject(nil, patch, version)
	if err != nil {
		return err
	}
	if h.limits.count(len(body), time.Now()) != nil {
		return nil // the quota counts notifications too (THR-14)
	}
	packet := s.message(desiredPrefix+"?$version="+strconv.FormatUint(version, 10), body, qos)
	if !s.out.offer(packet) {
		h.complain(id.name(), wrong("TWIN-14", "it does not read what the hub sends: a change of the desired properties is lost"))
	}
	return nil
}

// openTwin locks an identity's twin.
func (id *identity) openTwin() *twin {
	id.twin.mu.Lock()
	if id.twin.Changes == 0 {
		id.twin.twinState = freshTwin()
	}
	return &id.twin
}

// readTwin is the properties of an identity's twin.
func (h *Hub) readTwin(id *identity) ([]byte, error) {
	t := id.openTwin()
	defer t.mu.Unlock()
	return t.properties()
}

// reportTwin applies a reported patch and returns the new version once it is stored.
func (h *Hub) reportTwin(id *identity, patch []byte, base *uint64) (version uint64, err error) {
	note := func() (*saved, error) {
		t := id.openTwin()
		defer t.mu.Unlock()
		if t.gone {
			return nil, apiError(errNoDevice)
		}
		reported, err := t.report(patch, base, time.Now())
		if err != nil {
			return nil, err
		}
		version = t.Reported.Version
		h.tellTwin(id, TwinEvent{Operation: "updateTwin", Version: t.Changes, Reported: reported})
		return h.state.put(twinKind, id.name(), t.twinState), nil
	}
	stored, err := note()
	if err != nil {
		return 0, err
	}
	return version, stored.wait()
}

// noteModel keeps the Plug and Play model that a client announces (SVC-17).
func (h *Hub) noteModel(id *identity, model string) error {
	t := id.openTwin()
	if model == "" || model == t.Model || t.gone {
		t.mu.Unlock()
		return nil
	}
	t.Model = model
	stored := h.state.put(twinKind, id.name(), t.twinState)
	t.mu.Unlock()
	return stored.wait()
}

// loadTwins takes over what a former run stored.
func (h *Hub) loadTwins() error {
	return h.state.each(twinKind, func(name string, text []byte) error {
		id := h.registry.find(name)
		if id == nil {
			return nil
		}
		return id.twin.load(text)
	})
}
