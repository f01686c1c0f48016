package hubsim

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// admission is what a good CONNECT proves.
type admission struct {
	id      *identity
	expires time.Time // of the token, without the grace; zero with a certificate
	marks   marks
	agent   string // what the client says about itself
	model   string // its Plug and Play model
	warning error  // what is wrong with it and does not matter
}

// connect reads the CONNECT, judges it and answers.
func (s *session) connect(ctx context.Context) error {
	s.deadline = time.Now().Add(firstPacketLimit)
	if err := s.conn.SetDeadline(s.deadline); err != nil {
		return err
	}
	header, body, err := s.in.next()
	if err != nil {
		return broken(err)
	}
	packet, bad := readConnect(header, body)
	if bad == nil && s.hub.isRegistrant(packet.Username) {
		return s.greet(ctx, packet)
	}
	var got admission
	if bad == nil {
		got, bad = s.hub.admit(packet, s.chain, time.Now())
	}
	if bad == nil {
		bad = s.hub.dialledRefusal(packet.ClientIdentifier)
	}
	if bad == nil {
		bad = s.queue(ctx)
	}
	if bad != nil {
		return s.turnAway(packet, bad)
	}
	s.take(packet, got)
	if err := s.hub.noteModel(got.id, got.model); err != nil {
		return err
	}
	present, err := got.id.bind(ctx, s, packet.CleanSession)
	if errors.Is(err, errDeleted) { // since it was admitted
		return s.turnAway(packet, refuse(packets.ErrRefusedNotAuthorised, err))
	}
	if err != nil {
		return err
	}
	if !s.hub.registry.enabled(got.id) { // disabled since it was admitted
		return errors.Join(errDisabled, got.id.unbind(s))
	}
	s.connected()
	got.id.active.Store(time.Now().UnixNano())
	s.hub.log.Info().Str("identity", got.id.name()).Bool("session_present", present).Msg(got.id.name() + ": connected")
	if got.warning != nil {
		s.warn(got.warning)
	}
	return nil
}

// take fills in what CONNECT settled.
func (s *session) take(p *packets.ConnectPacket, got admission) {
	s.id, s.marks, s.agent = got.id, got.marks, got.agent
	s.topics = topicsOf(got.id.DeviceID, got.id.ModuleID)
	if !got.expires.IsZero() {
		s.expires = got.expires.Add(s.hub.cfg.ExpiryGrace)
	}
	s.idle = idleLimit(p.Keepalive)
	s.dials = s.hub.dials.about(got.id.name())
	s.out.dials = s.dials[:]
	if p.WillFlag {
		s.will = p
	}
}

// idleLimit is one and a half keep-alives, at most idleCap; keep-alive 0 is the cap too (CON-42).
func idleLimit(keepAlive uint16) time.Duration {
	if keepAlive == 0 {
		return idleCap
	}
	return min(time.Duration(keepAlive)*1500*time.Millisecond, idleCap)
}

// readConnect decodes the first packet. The protocol level comes first: what follows it in another
// version of MQTT has another form (CON-32).
func readConnect(header byte, body []byte) (*packets.ConnectPacket, *refusal) {
	if header>>4 != packets.Connect {
		return nil, refuse(0, wrong("CLOSE-16", "the first packet is not CONNECT but type %d", header>>4))
	}
	if level, ok := protocolLevel(body); ok && level != 4 {
		return nil, refuse(packets.ErrRefusedBadProtocolVersion, wrong("CON-32", "protocol level %d; IoT Hub speaks MQTT 3.1.1, level 4", level))
	}
	packet, err := unpack(header, body)
	if err != nil {
		return nil, refuse(0, wrong("CLOSE-16", "malformed CONNECT: %v", err))
	}
	p := packet.(*packets.ConnectPacket)
	switch {
	case p.ProtocolName != "MQTT":
		return nil, refuse(packets.ErrRefusedBadProtocolVersion, wrong("CON-32", "protocol %q is not MQTT", p.ProtocolName))
	case p.ReservedBit != 0, p.WillQos == 3, !p.WillFlag && (p.WillQos != 0 || p.WillRetain), p.PasswordFlag && !p.UsernameFlag:
		return nil, refuse(0, wrong("CLOSE-16", "malformed CONNECT: flags that contradict each other"))
	}
	return p, nil
}

func protocolLevel(body []byte) (level byte, ok bool) {
	if len(body) < 2 {
		return 0, false
	}
	at := 2 + int(binary.BigEndian.Uint16(body))
	if at >= len(body) {
		return 0, false
	}
	return body[at], true
}

// admit judges who the client is and whether it may connect.
func (h *Hub) admit(p *packets.ConnectPacket, chain []*x509.Certificate, now time.Time) (admission, *refusal) {
	const no = packets.ErrRefusedNotAuthorised
	user, err := parseUserName(p.Username)
	if err != nil {
		return admission{}, refuse(no, fmt.Errorf("user name: %w", err))
	}
	name := identityName(user.device, user.module)
	switch {
	case !answersTo(h.cfg.HostName, user.host):
		return admission{}, refuse(no, wrong("CON-19", "the user name is for the hub %q, this one is %q", user.host, h.cfg.HostName))
	case p.ClientIdentifier != name:
		return admission{}, refuse(no, wrong("CON-17, CON-18, CON-26", "ClientId %q is not %q, which the user name says", p.ClientIdentifier, name))
	}
	id := h.registry.find(name)
	if id == nil {
		return admission{}, refuse(no, coded(404001, "CON-35", "no such device or module is registered"))
	}
	if !h.registry.enabled(id) {
		return admission{}, refuse(no, coded(403012, "CON-36", "the device is disabled"))
	}
	got := admission{id: id, agent: clip(user.parameters["DeviceClientType"]), model: clip(user.parameters["model-id"])}
	if err := h.prove(p, chain, now, &got); err != nil {
		return admission{}, refuse(no, err)
	}
	if user.short {
		got.warning = wrong("CON-21", "a user name of the old short form; use {host}/{device}/?api-version=...")
	}
	if user.parameters["api-version"] == "" {
		got.warning = wrong("CON-19, CON-21", "no api-version in the user name; twins may misbehave")
	}
	return got, nil
}

// prove checks the password, or without one the client's certificate (CON-31), and completes got.
func (h *Hub) prove(p *packets.ConnectPacket, chain []*x509.Certificate, now time.Time, got *admission) error {
	if len(p.Password) == 0 {
		got.marks |= markX509
		return h.checkCertificate(chain, got.id, now)
	}
	t, err := parseToken(string(p.Password))
	if err != nil {
		return fmt.Errorf("the password is no token: %w", err)
	}
	got.expires = t.expiry
	if t.policy != "" {
		got.marks |= markPolicy
	}
	if err := h.checkToken(t, got.id, now); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	return nil
}

// checkToken says why t does not prove id, nil if it does.
func (h *Hub) checkToken(t token, id *identity, now time.Time) error {
	if t.policy != "" {
		if err := h.checkPolicy(t, deviceConnect); err != nil {
			return err
		}
	} else if c := h.registry.credential(id); c.kind() != byKey {
		return wrong("CON-30", "%s does not prove itself with a key of its own", id.name())
	} else if !t.signedWith(c.PrimaryKey) && !t.signedWith(c.SecondaryKey) {
		return wrong("SAS-4, SAS-5", "the signature is not made with a key of %s; is the key base64-decoded, and sr signed as it is sent?", id.name())
	}
	path := "devices/" + id.DeviceID
	if id.ModuleID != "" {
		path += "/modules/" + id.ModuleID
	}
	switch {
	case !t.covers(h.cfg.HostName, path):
		return wrong("SAS-3, SAS-8", "sr %q does not cover %s/%s", t.resource, h.cfg.HostName, path)
	case t.expiry.Unix() <= id.expired.Load():
		return wrong("CON-35", "a dial made it expire; a token of a later expiry is taken")
	case !now.Before(t.expiry):
		return wrong("CON-35, CON-40", "it expired on %s; is the clock right?", t.expiry.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkPolicy says why the shared access policy that t names did not sign it or does not grant want.
func (h *Hub) checkPolicy(t token, want right) error {
	for _, p := range h.registry.policies {
		if p.Name != t.policy {
			continue
		}
		if !t.signedWith(p.PrimaryKey) && !t.signedWith(p.SecondaryKey) {
			return wrong("SAS-12", "the signature is not made with a key of the policy %s", p.Name)
		}
		for _, granted := range p.Rights {
			if granted == want {
				return nil
			}
		}
		return wrong("SAS-12, SAS-13", "the policy %s does not grant %s", p.Name, want)
	}
	return wrong("SAS-12", "there is no policy %q", t.policy)
}

// dialledRefusal is what RefuseConnects asks for.
func (h *Hub) dialledRefusal(clientID string) *refusal {
	for _, d := range h.dials.about(clientID) {
		if code, refused := d.refuseConnect(time.Now()); refused {
			return refuse(code, errDialled)
		}
	}
	return nil
}

// queue makes a connection wait while they come faster than the hub's limit (THR-20).
func (s *session) queue(ctx context.Context) *refusal {
	wait, err := s.hub.limits.take(connectOperation, 0, time.Now())
	if err != nil {
		return refuse(packets.ErrRefusedServerUnavailable, coded(429001, "CON-37, THR-2, THR-20", "connections come faster than the hub's limit, and too many wait already"))
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return nil
}

// turnAway answers a CONNECT that is refused. It reads on for a moment, lest packets that the client sent
// behind its CONNECT make the network stack throw the CONNACK away.
func (s *session) turnAway(p *packets.ConnectPacket, bad *refusal) error {
	who := s.conn.RemoteAddr().String()
	if p != nil && p.ClientIdentifier != "" {
		who = p.ClientIdentifier
	}
	if bad.code != 0 {
		if _, err := s.conn.Write(connack(bad.code, false)); err == nil {
			if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
			}
			_ = s.conn.SetReadDeadline(time.Now().Add(linger))
			_, _ = io.CopyN(io.Discard, s.conn, maxPacket)
		}
	}
	s.hub.complain(who, bad)
	s.refused(who, bad)
	return errTurnedAway
}

func connack(code byte, present bool) []byte {
	ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	ack.ReturnCode, ack.SessionPresent = code, present
	return encode(ack)
}
