package hubsim

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Topics of the provisioning service (DPS-6, DPS-7, DPS-9).
const (
	registrationAnswers = "$dps/registrations/res/#"
	registrationAnswer  = "$dps/registrations/res/"
	registerTopic       = "$dps/registrations/PUT/iotdps-register/?"
	statusTopic         = "$dps/registrations/GET/iotdps-get-operationstatus/?"
)

// registrant is the connection of a device that asks the provisioning service which hub is its own.
type registrant struct {
	*session
	ctx        context.Context // of the hub: an assignment outlives the connection
	id         string          // the registration id
	token      *token          // nil with a certificate
	subscribed bool
}

// registrationUser is a user name of the provisioning service taken apart (DPS-2).
type registrationUser struct {
	scope, id  string
	parameters map[string]string
}

// parseRegistrationUser reads {idScope}/registrations/{registrationId}/api-version=...; ok tells whether it
// has that form. With "/?" as at a hub it is taken too.
func parseRegistrationUser(text string) (u registrationUser, ok bool) {
	scope, rest, found := strings.Cut(text, "/registrations/")
	if !found || scope == "" || strings.Contains(scope, "/") {
		return u, false
	}
	id, query, _ := strings.Cut(rest, "/")
	return registrationUser{scope, id, parseParameters(strings.TrimPrefix(query, "?"))}, true
}

// isRegistrant tells whether a CONNECT is for the provisioning service: its user name begins with an id
// scope, not with the hub's name.
func (h *Hub) isRegistrant(user string) bool {
	u, ok := parseRegistrationUser(user)
	return ok && !answersTo(h.cfg.HostName, u.scope)
}

// admitRegistrant judges a CONNECT to the provisioning service. Whether the device is enrolled is known
// when it registers.
func (h *Hub) admitRegistrant(p *packets.ConnectPacket, chain []*x509.Certificate, now time.Time) (*registrant, *refusal) {
	const no = packets.ErrRefusedNotAuthorised
	u, _ := parseRegistrationUser(p.Username)
	switch {
	case !strings.EqualFold(u.scope, h.provisioner.scope):
		return nil, refuse(no, wrong("DPS-2", "the id scope is %q, this provisioning service's is %q", u.scope, h.provisioner.scope))
	case p.ClientIdentifier != u.id:
		return nil, refuse(no, wrong("DPS-2", "ClientId %q is not the registration id %q, which the user name says", p.ClientIdentifier, u.id))
	}
	if err := checkRegistrationID(u.id); err != nil {
		return nil, refuse(no, wrong("DPS-14", "%v", err))
	}
	if err := checkVersion(u.parameters["api-version"]); err != nil {
		return nil, refuse(no, wrong("DPS-2", "user name: api-version %q is not a date since 2016-11-14", u.parameters["api-version"]))
	}
	r := &registrant{id: u.id}
	if len(p.Password) == 0 {
		if len(chain) == 0 {
			return nil, refuse(no, wrong("DPS-3, DPS-4", "neither a password nor a client certificate"))
		}
		return r, nil
	}
	t, err := parseToken(string(p.Password))
	if err != nil {
		return nil, refuse(no, fmt.Errorf("the password is no token: %w", err))
	}
	resource, err := url.PathUnescape(t.resource)
	switch {
	case err != nil || !strings.EqualFold(resource, u.scope+"/registrations/"+u.id):
		return nil, refuse(no, wrong("DPS-3", "token: sr %q is not %s/registrations/%s", t.resource, u.scope, u.id))
	case !now.Before(t.expiry):
		return nil, refuse(no, wrong("DPS-3", "token: it expired on %s; is the clock right?", t.expiry.UTC().Format(time.RFC3339)))
	}
	r.token = &t
	return r, nil
}

// greet makes s the session of a registrant.
func (s *session) greet(ctx context.Context, p *packets.ConnectPacket) error {
	r, bad := s.hub.admitRegistrant(p, s.chain, time.Now())
	if bad != nil {
		return s.turnAway(p, bad)
	}
	r.session, r.ctx = s, ctx
	s.registrant, s.idle = r, idleLimit(p.Keepalive)
	s.out.send(connack(packets.Accepted, false)) // its session is always a fresh one (DPS-5)
	return nil
}

// handle answers a packet other than PUBLISH; done is a DISCONNECT.
func (r *registrant) handle(packet packets.ControlPacket) (done bool, err error) {
	switch p := packet.(type) {
	case *packets.PingreqPacket:
		r.out.send([]byte{packets.Pingresp << 4, 0})
	case *packets.SubscribePacket:
		ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		ack.MessageID = p.MessageID
		for i, filter := range p.Topics {
			if filter != registrationAnswers {
				return false, violates("DPS-6", "SUBSCRIBE to %q; the provisioning service has %s only", clip(filter), registrationAnswers)
			}
			ack.ReturnCodes = append(ack.ReturnCodes, min(p.Qoss[i], 1))
			r.subscribed = true
		}
		r.out.send(encode(ack))
	case *packets.UnsubscribePacket:
		r.subscribed = false
		ack := packets.NewControlPacket(packets.Unsuback).(*packets.UnsubackPacket)
		ack.MessageID = p.MessageID
		r.out.send(encode(ack))
	case *packets.DisconnectPacket:
		return true, nil
	}
	return false, nil
}

// publish answers a request (DPS-7 to DPS-11).
func (r *registrant) publish(header byte, body []byte) error {
	p, err := parsePublish(header, body)
	if err != nil {
		return violates("CLOSE-16", "malformed PUBLISH: %v", err)
	}
	if p.qos == 2 {
		return violates("DPS-5, CLOSE-1", "PUBLISH at QoS 2")
	}
	topic := string(p.topic)
	query, register := strings.CutPrefix(topic, registerTopic)
	poll := false
	if !register {
		query, poll = strings.CutPrefix(topic, statusTopic)
	}
	parameters := parseParameters(query)
	if !register && !poll || parameters["$rid"] == "" {
		return violates("DPS-7, DPS-9", "%q is not a topic of the provisioning service", clip(topic))
	}
	if p.qos == 1 {
		r.out.ack(pendingAck{packet: p.packet})
	}
	var answer registrationAnswerBody
	if err = r.hub.dialledRegistration(r.id); err == nil {
		if register {
			answer, err = r.register(p.payload)
		} else {
			answer, err = r.status(parameters["operationId"])
		}
	}
	return r.answer(parameters["$rid"], answer, err)
}

// registrationAnswerBody is the body of a good answer.
type registrationAnswerBody struct {
	OperationID       string             `json:"operationId"`
	Status            string             `json:"status"`
	RegistrationState *RegistrationState `json:"registrationState,omitempty"`
}

// answer sends an answer, or err in its place.
func (r *registrant) answer(rid string, body registrationAnswerBody, err error) error {
	status := http.StatusOK
	text, bad := json.Marshal(body)
	if body.Status == "assigning" {
		status = http.StatusAccepted
	}
	if err != nil {
		e := toldOf(err)
		r.hub.complain(r.id, fmt.Errorf("registration refused: %w", err))
		status = e.Status
		text, bad = e.deviceBody(time.Now())
	}
	if bad != nil {
		return bad
	}
	if !r.subscribed {
		r.hub.complain(r.id, wrong("DPS-6", "there is no subscription to %s: answers reach nobody", registrationAnswers))
		return nil
	}
	message := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	message.TopicName = fmt.Sprintf("%s%d/?$rid=%s", registrationAnswer, status, rid)
	if status == http.StatusAccepted || status >= http.StatusTooManyRequests {
		message.TopicName += fmt.Sprintf("&retry-after=%d", r.hub.retryAfter())
	}
	message.Payload = text
	r.out.send(encode(message))
	return nil
}

// register begins an operation (DPS-7, DPS-8).
func (r *registrant) register(body []byte) (answer registrationAnswerBody, err error) {
	var request struct {
		RegistrationID string          `json:"registrationId"`
		Payload        json.RawMessage `json:"payload"`
	}
	if len(strings.TrimSpace(string(body))) > 0 {
		if err := json.Unmarshal(body, &request); err != nil {
			return answer, apiError(errArgument).because("BadRequest: " + err.Error())
		}
	}
	if request.RegistrationID != "" && !strings.EqualFold(request.RegistrationID, r.id) {
		return answer, apiError(errArgument).because(fmt.Sprintf("BadRequest: registrationId is %q, the connection is of %q", request.RegistrationID, r.id))
	}
	e, c, err := r.hub.provisioner.attest(r, time.Now())
	if err != nil {
		return answer, err
	}
	id := random(24)
	op := &registering{
		id:         fmt.Sprintf("5.%x.%x-%x-%x-%x-%x", id[:8], id[8:12], id[12:14], id[14:16], id[16:18], id[18:24]),
		enrollment: e, credential: c, name: r.id, payload: request.Payload, done: make(chan struct{}),
	}
	p := r.hub.provisioner
	p.mu.Lock()
	p.operations[strings.ToLower(r.id)] = op
	p.mu.Unlock()
	r.hub.sessions.Go(func() { r.hub.assign(r.ctx, op) })
	return registrationAnswerBody{OperationID: op.id, Status: "assigning"}, nil
}

// status tells how far an operation is (DPS-9, DPS-10).
func (r *registrant) status(id string) (answer registrationAnswerBody, err error) {
	p := r.hub.provisioner
	p.mu.Lock()
	op := p.operations[strings.ToLower(r.id)]
	p.mu.Unlock()
	if op == nil || op.id != id {
		return answer, errNotRegistered()
	}
	select {
	case <-op.done:
	default:
		return registrationAnswerBody{OperationID: id, Status: "assigning"}, nil
	}
	return registrationAnswerBody{OperationID: id, Status: op.state.Status, RegistrationState: &op.state}, nil
}

// retryAfter is in whole seconds, at least 1.
func (h *Hub) retryAfter() int {
	return max(1, int((h.cfg.Provisioning.RetryAfter+time.Second-1)/time.Second))
}
