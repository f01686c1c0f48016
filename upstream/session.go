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
	"iothub-gateway/internal/dial"
)

const (
	keepAlive      = 240 * time.Second // below the hub's 1177 s, above what mobile networks forbid (CON-42)
	pingTimeout    = 15 * time.Second
	connectTimeout = 20 * time.Second
	commandBacklog = 64       // commands in work per identity; the bridge answers 429 long before
	disconnectWait = 250      // milliseconds for the DISCONNECT to be written
	keptBuffer     = 64 << 10 // a sender's buffer beyond this is not kept
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

// session is one connection of one identity, from CONNECT to its loss.
type session struct {
	*link
	client   mqtt.Client
	conn     *dial.Conn
	commands context.Context // what direct methods run under: they may outlive the connection
	ctx      context.Context // ends, with a cause, when the connection is no more
	lose     context.CancelCauseFunc
	flight   *flight
	drained  chan struct{} // closed when the sender has ended and nothing is in flight
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
	s := &session{link: l, commands: commands, flight: newFlight(l.pool.cfg.Window), drained: make(chan struct{})}
	s.ctx, s.lose = context.WithCancelCause(context.WithoutCancel(ctx))
	defer s.lose(nil)
	if err := s.connect(ctx, login); err != nil {
		return err
	}
	defer s.client.Disconnect(disconnectWait)
	l.noteConnected()

	sending, stop := context.WithCancel(s.ctx)
	defer stop()
	// The link waits for the sender at its end, not here: the next connection need not wait until
	// the sender has noticed the loss of this one.
	l.work.Go(func() {
		s.send(sending)
		s.drain()
	})
	return s.supervise(ctx, stop, renewIn(time.Until(login.Expires), l.random()))
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
	keep := func() bool { return true } // lets the connection outlive dialing
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
			conn, err := s.pool.cfg.Dial(dialing)
			if err != nil {
				return nil, err
			}
			conn.Acks(s.acknowledge)
			s.conn = conn
			keep = context.AfterFunc(dialing, func() { _ = conn.Close() })
			return conn, nil
		})
	s.client = mqtt.NewClient(opts)
	token := s.client.Connect()
	select {
	case <-token.Done():
	case <-dialing.Done():
		// A connection that is there already has been closed by now, which ends the library's wait.
		<-token.Done()
		return fmt.Errorf("connecting: %w", dialing.Err())
	}
	if err := token.Error(); err != nil {
		if code := token.(*mqtt.ConnectToken).ReturnCode(); code >= packets.ErrRefusedBadProtocolVersion && code <= packets.ErrRefusedNotAuthorised {
			return &refusedError{code}
		}
		return fmt.Errorf("connecting: %w", err)
	}
	if !keep() {
		return fmt.Errorf("connecting: %w", context.Cause(dialing))
	}
	if err := s.subscribe(methodFilter); err != nil {
		s.client.Disconnect(disconnectWait)
		return err
	}
	return nil
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
// ctx ends or the connection does. It writes past the library: what a window takes leaves in one piece.
func (s *session) send(ctx context.Context) {
	var topic, packets []byte
	for after := s.acked.Load(); ; {
		free := s.flight.free()
		if free == 0 {
			select {
			case <-s.flight.room:
				continue
			case <-ctx.Done():
				return
			}
		}
		entries, err := s.member.Lane.Next(ctx, after, free)
		if err != nil {
			if ctx.Err() == nil {
				s.lose(err)
			}
			return
		}
		packets = packets[:0]
		now := time.Now()
		for i := range entries {
			e := &entries[i]
			topic = appendMessageTopic(topic[:0], s.events, messageID(s.pool.cfg.QueueID, e.Seq), &e.Telemetry)
			packets = appendPublish(packets, topic, s.flight.add(e.Seq, now), e.Telemetry.Body)
			s.noteSent(e.Seq)
			after = e.Seq
		}
		if _, err := s.conn.Write(packets); err != nil {
			s.lose(fmt.Errorf("publishing: %w", err))
			return
		}
		if cap(packets) > keptBuffer {
			packets = nil
		}
	}
}

// drain waits until nothing is in flight any more, or the connection is lost.
func (s *session) drain() {
	for {
		if _, some := s.flight.waiting(); !some {
			close(s.drained)
			return
		}
		select {
		case <-s.flight.room:
		case <-s.ctx.Done():
			return
		}
	}
}

// acknowledge releases the queue's entry that a PUBACK is about. It is called on the goroutine that
// reads the connection.
func (s *session) acknowledge(id uint16) {
	seq, err := s.flight.ack(id, time.Now())
	if err != nil {
		s.lose(err)
		return
	}
	s.member.Lane.Ack(seq)
	s.noteAcked(seq)
}

// supervise waits for the end of the connection and says why it came. stop ends the sender; it is
// called when ctx ends or the token is due, and what is in flight then has DrainTimeout to arrive.
func (s *session) supervise(ctx context.Context, stop func(), renewal time.Duration) error {
	renew := time.NewTimer(renewal)
	defer renew.Stop()
	look := time.NewTicker(max(s.pool.cfg.AckTimeout/4, time.Millisecond))
	defer look.Stop()
	stopping, drained, reason := ctx.Done(), (<-chan struct{})(nil), error(nil)
	var late <-chan time.Time
	for {
		select {
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-drained:
			return reason
		case <-late:
			return errDrain
		case <-look.C:
			if since, some := s.flight.waiting(); some && time.Since(since) > s.pool.cfg.AckTimeout {
				return errAckTimeout
			}
			continue
		case <-renew.C:
			reason = errRenew
		case <-stopping:
			reason, stopping = ctx.Err(), nil
		}
		stop()
		drained = s.drained
		if late == nil {
			late = time.After(s.pool.cfg.DrainTimeout)
		}
	}
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
