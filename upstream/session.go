package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
)

const (
	keepAlive      = 240 * time.Second // below the hub's 1177 s, above what mobile networks forbid (CON-42)
	pingTimeout    = 15 * time.Second
	connectTimeout = 20 * time.Second
	commandBacklog = 64  // commands in work per identity; the bridge answers 429 long before
	disconnectWait = 250 // milliseconds for the DISCONNECT to be written
)

var (
	errRenew      = errors.New("the token is due for renewal")
	errAckTimeout = errors.New("no acknowledgement from the hub in time")
	errDrain      = errors.New("stopped before everything in flight was acknowledged")
)

// refusedError is the hub's own "no" to a CONNECT.
type refusedError struct{ code byte }

func (e *refusedError) Error() string {
	return fmt.Sprintf("the hub refused the connection: %v (code %d)", packets.ConnErrors[e.code], e.code)
}

// sent is one message in flight.
type sent struct {
	seq   uint64
	token mqtt.Token
}

// session is one connection of one identity, from CONNECT to its loss.
type session struct {
	*link
	client   mqtt.Client
	commands context.Context // what direct methods run under: they may outlive the connection
	ctx      context.Context // ends, with a cause, when the connection is no more
	lose     context.CancelCauseFunc
	slots    chan struct{} // one element a message in flight
	inflight chan sent     // in the order sent; closed when the sender has ended
}

// noStore keeps paho from remembering messages: a token that it completes from memory after a loss
// would pass for an acknowledgement that never came.
type noStore struct{}

func (noStore) Open()                             {}
func (noStore) Close()                            {}
func (noStore) Reset()                            {}
func (noStore) Del(string)                        {}
func (noStore) Put(string, packets.ControlPacket) {}
func (noStore) Get(string) packets.ControlPacket  { return nil }
func (noStore) All() []string                     { return nil }

// serve connects, delivers until the connection is lost, ctx ends or the token is due, and says why
// it ended. On the latter two it first waits for what is in flight.
func (l *link) serve(ctx, commands context.Context) error {
	login, err := l.member.Credential.Login(time.Now())
	if err != nil {
		return err
	}
	s := &session{link: l, commands: commands, slots: make(chan struct{}, l.pool.cfg.Window), inflight: make(chan sent, l.pool.cfg.Window)}
	s.ctx, s.lose = context.WithCancelCause(context.WithoutCancel(ctx))
	defer s.lose(nil)
	if err := s.connect(ctx, login); err != nil {
		return err
	}
	defer s.client.Disconnect(disconnectWait)
	l.noteConnected()

	sending, stop := context.WithCancel(s.ctx)
	defer stop()
	// The link waits for the sender at its end, not here: after a loss it can be held up in the
	// library for a write timeout, and the next connection need not wait for that.
	l.work.Go(func() {
		defer close(s.inflight)
		s.send(sending)
	})
	return s.collect(ctx, stop, renewIn(time.Until(login.Expires), l.random()))
}

// renewIn is when to renew a token that holds for life: between 75 and 85 % of it, so that thousands
// of identities do not renew together (CON-49).
func renewIn(life time.Duration, r float64) time.Duration {
	return time.Duration((0.75 + 0.10*r) * float64(life))
}

// connect opens the connection and subscribes to direct methods.
func (s *session) connect(ctx context.Context, login identity.Login) error {
	dialing, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var conn net.Conn
	opts := mqtt.NewClientOptions().
		AddBroker("tls://hub"). // only a scheme that paho knows; the connection is ours
		SetClientID(login.ClientID).SetUsername(login.Username).SetPassword(login.Password.Reveal()).
		SetProtocolVersion(4).SetCleanSession(false).
		SetAutoReconnect(false).SetConnectRetry(false).SetStore(noStore{}).
		SetKeepAlive(keepAlive).SetPingTimeout(pingTimeout).
		SetConnectTimeout(connectTimeout).SetWriteTimeout(s.pool.cfg.WriteTimeout).
		SetOrderMatters(true).SetAutoAckDisabled(true).
		SetDefaultPublishHandler(s.receive).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { s.lose(fmt.Errorf("connection lost: %w", err)) }).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			var err error
			conn, err = s.pool.cfg.Dial(dialing)
			return conn, err
		})
	s.client = mqtt.NewClient(opts)
	token := s.client.Connect()
	select {
	case <-token.Done():
	case <-dialing.Done():
		// The library bounds its own wait for the CONNACK; closing what was dialled ends it at once.
		s.client.Disconnect(0)
		if conn != nil {
			_ = conn.Close()
		}
		<-token.Done()
		return fmt.Errorf("connecting: %w", dialing.Err())
	}
	if err := token.Error(); err != nil {
		if code := token.(*mqtt.ConnectToken).ReturnCode(); code >= packets.ErrRefusedBadProtocolVersion && code <= packets.ErrRefusedNotAuthorised {
			return &refusedError{code}
		}
		return fmt.Errorf("connecting: %w", err)
	}
	return s.subscribe(methodFilter)
}

// subscribe asks for one filter at QoS 0 and looks at what was granted: the library reports a refusal
// as success.
func (s *session) subscribe(filter string) error {
	token := s.client.Subscribe(filter, 0, nil).(*mqtt.SubscribeToken)
	timeout := time.NewTimer(connectTimeout)
	defer timeout.Stop()
	select {
	case <-token.Done():
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-timeout.C:
		return fmt.Errorf("subscribing to %s: %w", filter, errAckTimeout)
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("subscribing to %s: %w", filter, err)
	}
	if granted := token.Result()[filter]; granted > 1 {
		return fmt.Errorf("subscribing to %s: the hub refused (0x%02x)", filter, granted)
	}
	return nil
}

// send publishes the lane's entries in order, at most a window ahead of the acknowledgements, until
// ctx ends or the connection does.
func (s *session) send(ctx context.Context) {
	var topic []byte
	for after := s.acked.Load(); ; {
		entries, err := s.member.Lane.Next(ctx, after, s.pool.cfg.Window)
		if err != nil {
			if ctx.Err() == nil {
				s.lose(err)
			}
			return
		}
		for i := range entries {
			select {
			case s.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			e := &entries[i]
			topic = appendMessageTopic(topic[:0], s.events, messageID(s.pool.cfg.QueueID, e.Seq), &e.Telemetry)
			s.inflight <- sent{e.Seq, s.client.Publish(string(topic), 1, false, e.Telemetry.Body)}
			s.noteSent(e.Seq)
			after = e.Seq
		}
	}
}

// collect takes the acknowledgements in the order of sending and releases the queue's entries. stop
// ends the sender; it is called when ctx ends or after renewal has come due.
func (s *session) collect(ctx context.Context, stop func(), renewal time.Duration) error {
	renew := time.NewTimer(renewal)
	defer renew.Stop()
	late := time.NewTimer(s.pool.cfg.AckTimeout)
	defer late.Stop()
	stopping := ctx.Done()
	var drained <-chan time.Time
	var reason error
	var head *sent
	for {
		incoming, acked := s.inflight, (<-chan struct{})(nil)
		if head != nil {
			incoming, acked = nil, head.token.Done()
		}
		select {
		case m, more := <-incoming:
			if !more {
				return firstOf(reason, context.Cause(s.ctx))
			}
			head = &m
			late.Reset(s.pool.cfg.AckTimeout)
			continue
		case <-acked:
			if err := head.token.Error(); err != nil {
				return fmt.Errorf("publishing: %w", err)
			}
			s.acknowledge(head.seq)
			head = nil
			continue
		case <-s.ctx.Done():
			s.sweep(head)
			return context.Cause(s.ctx)
		case <-late.C:
			if head != nil {
				return errAckTimeout
			}
			continue
		case <-drained:
			return errDrain
		case <-renew.C:
			reason = firstOf(reason, errRenew)
		case <-stopping:
			reason, stopping = ctx.Err(), nil
		}
		stop()
		if drained == nil {
			drained = time.After(s.pool.cfg.DrainTimeout)
		}
	}
}

// sweep releases what was acknowledged before the connection went but not yet looked at.
func (s *session) sweep(head *sent) {
	for head != nil {
		select {
		case <-head.token.Done():
		default:
			return
		}
		if head.token.Error() != nil {
			return
		}
		s.acknowledge(head.seq)
		select {
		case m, more := <-s.inflight:
			if !more {
				return
			}
			head = &m
		default:
			return
		}
	}
}

func (s *session) acknowledge(seq uint64) {
	s.member.Lane.Ack(seq)
	s.noteAcked(seq)
	<-s.slots
}

// receive is called on the library's own goroutine, which must never wait: a command is handed to a
// goroutine that the link owns.
func (s *session) receive(_ mqtt.Client, m mqtt.Message) {
	m.Ack()
	name, rid, ok := parseMethodTopic(m.Topic())
	if !ok {
		s.log.Warn().Str("topic", m.Topic()).Msg("message on a topic nobody subscribed to")
		return
	}
	command := gateway.Command{Identity: s.member.ID, Name: name, Payload: m.Payload()}
	if !s.dispatch(func() { s.answer(command, rid) }) {
		s.log.Warn().Str("method", name).Msg("too many direct methods at once; this one is left unanswered")
	}
}

// answer carries a command out and publishes the reply, if the connection that asked still stands.
func (s *session) answer(c gateway.Command, rid string) {
	reply := s.pool.handle(s.commands, c)
	if s.ctx.Err() != nil {
		s.log.Warn().Str("method", c.Name).Int("status", reply.Status).Msg("method done, but the connection that asked is gone; the answer cannot be delivered")
		return
	}
	token := s.client.Publish(methodReplyTopic(reply.Status, rid), 0, false, reply.Body)
	select {
	case <-token.Done():
	case <-s.ctx.Done():
	}
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
