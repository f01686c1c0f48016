package identity

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	gateway "iothub-gateway"
	"iothub-gateway/internal/dial"
)

const (
	provisioningVersion = "2019-03-31" // DPS-2
	provisioningPolicy  = "registration"
	provisioningFilter  = "$dps/registrations/res/#"
	provisioningAnswer  = "$dps/registrations/res/"
	// provisioningWait bounds a registration as a whole, and pollWait is the pause between questions
	// where the service names none (DPS-11).
	provisioningWait = 2 * time.Minute
	pollWait         = 2 * time.Second
	mostRetry        = 3600 // seconds of a retry-after that are believed
	compareEnrolment = "compare id scope, registration id and key with the enrolment, and see that it is enabled"
)

// register asks the service where the device belongs, and waits for the answer (DPS-6 to DPS-11).
func (p *Provisioned) register(ctx context.Context, now time.Time) (assignment, error) {
	if err := p.cfg.Pace.wait(ctx); err != nil {
		return assignment{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, provisioningWait)
	defer cancel()
	password, proof, err := p.prove(now)
	if err != nil {
		return assignment{}, err
	}
	conn, err := p.cfg.Dial(ctx, p.cfg.Host, proof)
	if err != nil {
		return assignment{}, err
	}
	c := &registrar{conn: conn, pace: p.cfg.Pace}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := c.connect(p.cfg, password); err != nil {
		return assignment{}, errors.Join(ctx.Err(), err)
	}
	answer, err := c.assign(ctx, p.cfg.Registration)
	if err != nil {
		return assignment{}, errors.Join(ctx.Err(), err)
	}
	return assignment{Scope: p.cfg.Scope, Registration: p.cfg.Registration, Hub: answer.AssignedHub, Device: answer.DeviceID}, nil
}

// prove is the token or the certificate that the service believes (DPS-3, DPS-4).
func (p *Provisioned) prove(now time.Time) (password Secret, proof *tls.Certificate, err error) {
	if p.cfg.Key == nil {
		pair, err := p.cfg.Load()
		if err == nil {
			err = CheckPeriod(pair, now)
		}
		return Secret{}, &pair, err
	}
	key, err := p.deviceKey()
	if err != nil {
		return Secret{}, nil, err
	}
	raw, err := decodeKey(key)
	if err != nil {
		return Secret{}, nil, err
	}
	return Token(p.cfg.Scope+"/registrations/"+p.cfg.Registration, raw, now.Add(p.cfg.Life), provisioningPolicy), nil, nil
}

// registrar is one conversation with the service: question and answer, one after the other.
type registrar struct {
	conn *dial.Conn
	pace *Pace
	last int // request id
}

// connect says who we are and where answers go.
func (c *registrar) connect(cfg ProvisioningConfig, password Secret) error {
	hello := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	hello.ProtocolName, hello.ProtocolVersion, hello.CleanSession = "MQTT", 4, true
	hello.Keepalive = uint16((2 * provisioningWait).Seconds())
	hello.ClientIdentifier = cfg.Registration
	hello.UsernameFlag, hello.Username = true, cfg.Scope+"/registrations/"+cfg.Registration+"/api-version="+provisioningVersion
	if text := password.Reveal(); text != "" {
		hello.PasswordFlag, hello.Password = true, []byte(text)
	}
	if err := hello.Write(c.conn); err != nil {
		return err
	}
	answer, err := packets.ReadPacket(c.conn)
	if err != nil {
		return fmt.Errorf("no answer to CONNECT: %w", err)
	}
	switch ack, ok := answer.(*packets.ConnackPacket); {
	case !ok:
		return errors.New("the service answered CONNECT with something else")
	case ack.ReturnCode == packets.ErrRefusedBadUsernameOrPassword, ack.ReturnCode == packets.ErrRefusedNotAuthorised:
		return fmt.Errorf("%s: %w (code %d); %s", cfg.Host, ErrRefused, ack.ReturnCode, compareEnrolment)
	case ack.ReturnCode != packets.Accepted:
		return fmt.Errorf("%s refused the connection: %w (code %d)", cfg.Host, packets.ConnErrors[ack.ReturnCode], ack.ReturnCode)
	}
	ask := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	ask.MessageID, ask.Topics, ask.Qoss = 1, []string{provisioningFilter}, []byte{1}
	return ask.Write(c.conn)
}

// registrationState is what the service says about a device (DPS-10).
type registrationState struct {
	AssignedHub  string `json:"assignedHub"`
	DeviceID     string `json:"deviceId"`
	ErrorCode    int    `json:"errorCode"`
	ErrorMessage string `json:"errorMessage"`
}

// provisioningReply is the body of an answer (DPS-8, DPS-10, DPS-11).
type provisioningReply struct {
	OperationID string            `json:"operationId"`
	Status      string            `json:"status"`
	State       registrationState `json:"registrationState"`
	ErrorCode   int               `json:"errorCode"`
	Message     string            `json:"message"`
}

// assign registers, and asks until the service has decided.
func (c *registrar) assign(ctx context.Context, registration string) (registrationState, error) {
	body, err := json.Marshal(map[string]string{"registrationId": registration})
	if err != nil {
		return registrationState{}, err
	}
	topic := "$dps/registrations/PUT/iotdps-register/?$rid="
	query := ""
	for {
		about, reply, err := c.exchange(topic, query, body)
		switch {
		case err != nil:
			return registrationState{}, err
		case about.status >= 429 && about.retry > provisioningWait: // this conversation is over by then
			return registrationState{}, fmt.Errorf("the service is busy (%d) and wants to be left alone for %v", about.status, about.retry)
		case about.status >= 429: // the same question again; others wait with theirs
			c.pace.busy(about.retry)
		case about.status == 401:
			return registrationState{}, fmt.Errorf("%w: %s (%d); %s", ErrRefused, reply.Message, reply.ErrorCode, compareEnrolment)
		case about.status >= 300:
			return registrationState{}, fmt.Errorf("the service answers %d: %s (%d)", about.status, reply.Message, reply.ErrorCode)
		case reply.Status == "assigned":
			return reply.State, reply.State.check()
		case reply.Status == "assigning", reply.Status == "unassigned" && about.status == 202:
			if !plainID(reply.OperationID) {
				return registrationState{}, errors.New("the service names no operation to ask for")
			}
			topic, query, body = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=", "&operationId="+reply.OperationID, []byte(" ")
		default:
			return registrationState{}, fmt.Errorf("the device is %s: %s (%d); look at its enrolment", reply.Status, reply.State.ErrorMessage, reply.State.ErrorCode)
		}
		select {
		case <-time.After(about.retry):
		case <-ctx.Done():
			return registrationState{}, ctx.Err()
		}
	}
}

// check wants names that can stand in user names and topics.
func (s registrationState) check() error {
	host, port, withPort := strings.Cut(s.AssignedHub, ":")
	if !plainID(host) || withPort && !plainID(port) || s.DeviceID == "" || strings.ContainsAny(s.DeviceID, "/+#\x00") || gateway.IdentityID(s.DeviceID).Module() != "" {
		return fmt.Errorf("the service assigned %q at %q, which cannot be", s.DeviceID, s.AssignedHub)
	}
	return nil
}

// plainID tells whether text is made of letters, digits, '-', '.' and '_', and not empty.
func plainID(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._", r))
	})
}

// exchange asks one question and waits for its answer.
func (c *registrar) exchange(topic, query string, body []byte) (about provisioningTopic, reply provisioningReply, err error) {
	c.last++
	ask := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	ask.Qos, ask.MessageID = 1, uint16(c.last+1)
	ask.TopicName, ask.Payload = topic+strconv.Itoa(c.last)+query, body
	if err := ask.Write(c.conn); err != nil {
		return about, reply, err
	}
	for {
		packet, err := packets.ReadPacket(c.conn)
		if err != nil {
			return about, reply, fmt.Errorf("the service hung up: %w", err)
		}
		publish, ok := packet.(*packets.PublishPacket)
		if !ok {
			continue // SUBACK and PUBACK: what counts is the answer
		}
		if publish.Qos == 1 {
			ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			ack.MessageID = publish.MessageID
			if err := ack.Write(c.conn); err != nil {
				return about, reply, err
			}
		}
		if about, ok = parseProvisioningTopic(publish.TopicName); !ok || about.rid != strconv.Itoa(c.last) {
			continue
		}
		if err := json.Unmarshal(publish.Payload, &reply); err != nil && about.status < 300 {
			return about, reply, fmt.Errorf("the service's answer is no JSON: %w", err)
		}
		return about, reply, nil
	}
}

// provisioningTopic is what the topic of an answer says.
type provisioningTopic struct {
	status int
	rid    string
	retry  time.Duration // until the next question
}

// parseProvisioningTopic takes the topic of an answer apart (DPS-8, DPS-11).
func parseProvisioningTopic(topic string) (t provisioningTopic, ok bool) {
	rest, ok := strings.CutPrefix(topic, provisioningAnswer)
	status, query, found := strings.Cut(rest, "/?")
	code, err := strconv.Atoi(status)
	values, badQuery := url.ParseQuery(query)
	if !ok || !found || err != nil || badQuery != nil || code < 100 || code > 999 {
		return t, false
	}
	t = provisioningTopic{status: code, rid: values.Get("$rid"), retry: pollWait}
	if seconds, err := strconv.Atoi(values.Get("retry-after")); err == nil && seconds >= 0 {
		t.retry = time.Duration(min(seconds, mostRetry)) * time.Second
	}
	return t, t.rid != ""
}
