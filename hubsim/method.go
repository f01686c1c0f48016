package hubsim

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	maxMethodPayload = 128 << 10 // each way, bytes (METH-8)
	maxMethodCalls   = 100       // at a time and identity; the real number is not known (METH-18)
	methodTimeout    = 30 * time.Second
)

// MethodCall is a direct method call from the service side.
type MethodCall struct {
	Device, Module string // Module is "" for a device
	Name           string // METH-7
	// Payload is JSON of at most 128 KiB; nil sends an empty body, which REST never does: a call without a
	// payload reaches the device as null there (METH-9).
	Payload json.RawMessage
	// ResponseTimeout is how long the device may take; 0 is 30 s. REST allows 5 to 300 s (METH-10).
	ResponseTimeout time.Duration
	// ConnectTimeout is how long to wait for the device to connect and subscribe; 0 fails at once.
	ConnectTimeout time.Duration
}

// MethodResult is the device's answer: its own status, and JSON, null for an empty body (METH-13).
type MethodResult struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload"`
}

// answer is a PUBLISH to $iothub/methods/res/.
type answer struct {
	status  int
	payload json.RawMessage
}

// calls are the open method calls of a session: methods follow the live connection (C2D-14).
type calls struct {
	mu   sync.Mutex // guards the fields below
	open map[string]chan answer
	over bool
}

// begin opens a call; the channel gets at most one answer, and is closed when the session ends first.
func (c *calls) begin(rid string) (chan answer, *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= maxMethodCalls {
		return nil, apiError(errTooManyCalls)
	}
	answered := make(chan answer, 1)
	if c.over {
		close(answered)
	} else {
		c.open[rid] = answered
	}
	return answered, nil
}

// finish takes a call off the list; false means that it was not there.
func (c *calls) finish(rid string) (chan answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answered, ok := c.open[rid]
	delete(c.open, rid)
	return answered, ok
}

// fail ends all open calls.
func (c *calls) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for rid, answered := range c.open {
		close(answered)
		delete(c.open, rid)
	}
}

// CallMethod calls a direct method over the device's MQTT connection, the same way as REST does, and
// returns what the device answered. Its error is an *Error with the hub's code, such as 404103 for a
// device that is not connected or not subscribed, or ctx's.
func (h *Hub) CallMethod(ctx context.Context, c MethodCall) (MethodResult, error) {
	start := time.Now()
	result, err := h.callMethod(ctx, c)
	h.tellMethod(c, start, result.Status, err)
	return result, err
}

func (h *Hub) callMethod(ctx context.Context, c MethodCall) (MethodResult, error) {
	id, err := h.callee(c)
	if err != nil {
		return MethodResult{}, err
	}
	if err := h.queueMethod(ctx, id, len(c.Payload)); err != nil {
		return MethodResult{}, err
	}
	rid := strconv.FormatUint(h.requests.Add(1), 16)
	request := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	request.TopicName = methodRequest + c.Name + "/?$rid=" + rid // nothing follows the rid (METH-5)
	request.Payload = c.Payload
	var s *session
	var answered chan answer
	var bad *Error
	err = waitSubscribed(ctx, id, c.ConnectTimeout, func(now *session) {
		s = now
		if answered, bad = s.calls.begin(rid); bad == nil {
			s.out.offer(encode(request)) // QoS 0 (METH-4, Q11): a client that does not read does not answer
		}
	})
	switch {
	case err != nil:
		return MethodResult{}, err
	case bad != nil:
		return MethodResult{}, bad
	}
	defer s.calls.finish(rid)
	limit := c.ResponseTimeout
	if limit <= 0 {
		limit = methodTimeout
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case a, ok := <-answered:
		if !ok {
			return MethodResult{}, lostCall(s)
		}
		return MethodResult{Status: a.status, Payload: a.payload}, nil
	case <-timer.C:
		return MethodResult{}, apiError(errNoAnswer).after(limit)
	case <-ctx.Done():
		return MethodResult{}, ctx.Err()
	}
}

// queueMethod makes a call wait while they come faster than the hub's limit (METH-22, THR-6, THR-21).
func (h *Hub) queueMethod(ctx context.Context, id *identity, size int) error {
	wait, err := h.take(methodOperation, size, h.dials.about(id.name()))
	if err != nil || wait <= 0 {
		return err
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// callee checks a call and finds whom it is for.
func (h *Hub) callee(c MethodCall) (*identity, error) {
	if h.cfg.Limits.Basic {
		return nil, apiError(errTier)
	}
	if c.Name == "" || strings.ContainsFunc(c.Name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`$()<>@,;:\"/[]?={}`, r)
	}) {
		return nil, apiError(errArgument).because(fmt.Sprintf("the method name %q has a character that is not allowed", c.Name))
	}
	if len(c.Payload) > maxMethodPayload {
		return nil, apiError(errTooLarge).because(fmt.Sprintf("a payload of %d bytes, the limit is %d", len(c.Payload), maxMethodPayload))
	}
	if len(c.Payload) > 0 && !json.Valid(c.Payload) {
		return nil, apiError(errArgument).because("the payload is not JSON")
	}
	id, err := h.lookUp(c.Device, c.Module)
	if err == nil && !h.registry.enabled(id) {
		return nil, apiError(errNoDevice).because("the device is disabled")
	}
	return id, err
}

// waitSubscribed waits until the identity is connected and subscribed to methods (METH-11, METH-14), and has
// its session used.
func waitSubscribed(ctx context.Context, id *identity, limit time.Duration, use func(*session)) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		found, changed := id.subscriber(methodFilter, use)
		if found {
			return nil
		}
		if limit <= 0 {
			return apiError(errOffline).after(0)
		}
		select {
		case <-changed:
		case <-timer.C:
			return apiError(errOffline).after(limit)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lostCall is the end of a call whose connection ended first (METH-17).
func lostCall(s *session) *Error {
	if s.cause() == errTakenOver {
		return apiError(errReplaced)
	}
	return apiError(errOffline).after(0)
}

// methodAnswer hands a device's answer to the call that waits for it. One for a call that is over is
// dropped (METH-20).
func (s *session) methodAnswer(rest, payload []byte) error {
	status, rid, err := parseMethodAnswer(rest)
	if err != nil {
		return &violation{fmt.Errorf("PUBLISH to %s%s: %w", methodAnswer, rest, err)}
	}
	if len(payload) > maxMethodPayload {
		return violates("METH-8", "a method answer of %d bytes, the limit is %d", len(payload), maxMethodPayload)
	}
	if err := s.hub.limits.count(len(payload), time.Now()); err != nil {
		return rejected(err)
	}
	answered, waiting := s.calls.finish(rid)
	if !waiting {
		s.hub.log.Info().Str("identity", s.id.name()).Str("clause", "METH-20").Msgf("%s: answer to method call %q, which is over or never was: dropped", s.id.name(), clip(rid))
		return nil
	}
	a := answer{status: status, payload: json.RawMessage("null")}
	switch {
	case json.Valid(payload):
		a.payload = append(json.RawMessage(nil), payload...)
	case len(payload) > 0:
		s.warn(wrong("METH-21", "a method answer that is not JSON; it is passed on as a string"))
		if a.payload, err = json.Marshal(string(payload)); err != nil {
			return err
		}
	}
	answered <- a // holds one, and nobody else sends: finish gave it to us alone
	return nil
}
