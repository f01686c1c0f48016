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
	"iothub-gateway/buffer"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
)

const (
	keepAlive      = 240 * time.Second // below the hub's 1177 s, above what mobile networks forbid (CON-42)
	pingTimeout    = 15 * time.Second
	connectTimeout = 20 * time.Second
	commandBacklog = 64               // commands in work per identity; the bridge answers 429 long before
	disconnectWait = 250              // milliseconds for the DISCONNECT to be written
	keptBuffer     = 64 << 10         // a sender writes when it has so much together, and keeps no more
	laneRetry      = 30 * time.Second // until a lane that could not be read is tried again
)

var (
	errRenew      = errors.New("the token is due for renewal")
	errAckTimeout = errors.New("no acknowledgement from the hub in time")
	errDrain      = errors.New("stopped before everything in flight was acknowledged")
)

// refusedError is the hub's own "no" to a CONNECT.
type refusedError struct{ code byte }

func (e *refusedError) Error() string {
	text := fmt.Sprintf("the hub refused the connection: %v (code %d)", packets.ConnErrors[e.code], e.code)
	if e.code == refusedNotAuth || e.code == refusedBadLogin {
		text += "; compare the identity's key with the hub's, and see that it is enabled there and that this clock is right"
	}
	return text
}

// session is one connection of one identity, from CONNECT to its loss.
type session struct {
	*link
	client   mqtt.Client
	conn     *dial.Conn
	commands context.Context // the pool's: what direct methods run under; they may outlive the connection
	ctx      context.Context // ends, with a cause, when the connection is no more
	lose     context.CancelCauseFunc
	flight   *flight
	late     *time.Timer // ends the connection if nothing in flight is acknowledged in time
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
func (l *link) serve(ctx context.Context) error {
	s := &session{link: l, commands: ctx, flight: newFlight(l.pool.cfg.Window)}
	s.ctx, s.lose = context.WithCancelCause(context.WithoutCancel(ctx))
	defer s.lose(nil)
	expires, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer s.client.Disconnect(disconnectWait)
	l.noteConnected()

	sending, stop := context.WithCancelCause(s.ctx)
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { stop(context.Cause(ctx)) })()
	defer s.renewal(expires, stop).Stop()
	s.late = time.AfterFunc(l.pool.cfg.AckTimeout, s.checkProgress)
	defer s.late.Stop()
	s.send(sending)
	if lost := context.Cause(s.ctx); lost != nil {
		return lost
	}
	return s.drain(context.Cause(sending))
}

// renewal ends the connection when its token is due: between two commands, so that each is answered
// on the connection it came on, unless the token is about to end.
func (s *session) renewal(expires time.Time, stop context.CancelCauseFunc) *time.Timer {
	life := time.Until(expires)
	var timer *time.Timer
	armed := make(chan struct{}) // closed when timer is set, which a short life could overtake
	timer = time.AfterFunc(renewIn(life, s.random()), func() {
		<-armed
		if s.busy.Load() > 0 && time.Until(expires) > life/20 {
			timer.Reset(time.Second)
			return
		}
		stop(errRenew)
	})
	close(armed)
	return timer
}

// open proves who we are, connects and subscribes, and returns when the proof ends. It works on a
// goroutine of its own, whose stack, grown by cryptography, is not kept for as long as the connection
// lasts: thousands of identities would each hold it.
func (s *session) open(ctx context.Context) (expires time.Time, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var login identity.Login
		if login, err = s.member.Credential.Login(time.Now()); err == nil {
			expires, err = login.Expires, s.connect(ctx, login)
		}
	}()
	<-done // connect watches ctx
	return expires, err
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
	var dialed error                    // why the hub could not be reached; these two are set before the token is done
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
			var conn *dial.Conn
			if conn, dialed = s.pool.cfg.Dial(dialing); dialed != nil {
				return nil, dialed
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
		if dialed != nil {
			return dialed // says more than what the library makes of it
		}
		return fmt.Errorf("connecting: %w", err)
	}
	if !keep() {
		return fmt.Errorf("connecting: %w", context.Cause(dialing))
	}
	if err := s.subscribe(ctx, methodFilter); err != nil {
		s.client.Disconnect(disconnectWait)
		return err
	}
	return nil
}

// subscribe asks for one filter at QoS 0 and looks at what was granted: the library reports a refusal
// as success.
func (s *session) subscribe(ctx context.Context, filter string) error {
	token := s.client.Subscribe(filter, 0, nil).(*mqtt.SubscribeToken)
	timeout := time.NewTimer(connectTimeout)
	defer timeout.Stop()
	select {
	case <-token.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
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

// send takes the lane's entries in order, at most a window ahead of the acknowledgements, and
// publishes them until ctx ends or the connection does.
func (s *session) send(ctx context.Context) {
	var out outgoing
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
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, buffer.ErrClosed):
			s.lose(err)
			return
		case err != nil:
			// The lane cannot go on, but the identity's commands can.
			s.noteTrouble(err)
			if !wait(ctx, laneRetry) {
				return
			}
			continue
		}
		after = entries[len(entries)-1].Seq
		for len(entries) > 0 {
			n := s.pool.shaper.take(ctx, classOf(entries[0].Telemetry.Created, time.Now()), len(entries))
			if n == 0 {
				return
			}
			if err := s.publish(&out, entries[:n]); err != nil {
				s.lose(fmt.Errorf("publishing: %w", err))
				return
			}
			entries = entries[n:]
		}
	}
}

// outgoing are a sender's buffers.
type outgoing struct{ topic, packets []byte }

// publish writes entries past the library: what a window takes leaves in one piece, unless it is large.
func (s *session) publish(out *outgoing, entries []buffer.Entry) error {
	now := time.Now()
	for i := range entries {
		e := &entries[i]
		id, first := s.flight.add(e.Seq, now)
		if first {
			s.late.Reset(s.pool.cfg.AckTimeout)
		}
		out.topic = appendMessageTopic(out.topic[:0], s.events, e.ID(), &e.Telemetry)
		out.packets = appendPublish(out.packets, out.topic, id, e.Telemetry.Body)
		s.noteSent(e.Seq)
		if len(out.packets) < keptBuffer && i < len(entries)-1 {
			continue
		}
		if _, err := s.conn.Write(out.packets); err != nil {
			return err
		}
		out.packets = out.packets[:0]
	}
	if cap(out.packets) > keptBuffer {
		out.packets = nil
	}
	return nil
}

// checkProgress ends a connection on which the hub acknowledges nothing, and looks again while
// something is in flight.
func (s *session) checkProgress() {
	since, some := s.flight.waiting()
	if !some {
		return
	}
	left := s.pool.cfg.AckTimeout - time.Since(since)
	if left <= 0 {
		s.lose(errAckTimeout)
		return
	}
	s.late.Reset(left)
}

// drain waits until nothing is in flight and no command in work any more, and then returns reason.
func (s *session) drain(reason error) error {
	limit := time.NewTimer(s.pool.cfg.DrainTimeout)
	defer limit.Stop()
	look := time.NewTicker(10 * time.Millisecond) // for the commands, whose end nobody tells
	defer look.Stop()
	for {
		if _, some := s.flight.waiting(); !some && s.busy.Load() == 0 {
			return reason
		}
		select {
		case <-s.flight.room:
		case <-look.C:
		case <-limit.C:
			return errDrain
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
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
