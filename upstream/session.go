package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
)

const (
	keepAlive      = 240 * time.Second // below the hub's 1177 s, above what mobile networks forbid (CON-42)
	connectTimeout = 20 * time.Second
	commandBacklog = 64  // commands in work per identity; the bridge answers 429 long before
	disconnectWait = 250 // milliseconds for the library's DISCONNECT to be written
	hangUpWait     = time.Second
	// pingTimeout is the library's, whose sign of life may wait behind a message of the largest size (D2C-24).
	pingTimeout = 15*time.Second + (256<<10-usualSize)*time.Second/leastRate
)

var (
	errDrain = errors.New("ended before everything was acknowledged and answered")
	errMoved = errors.New("the identity has just been assigned")
)

// refusedError is the hub's own "no" to a CONNECT.
type refusedError struct {
	code        byte
	certificate bool // is what proved us
}

func (e *refusedError) Error() string {
	text := fmt.Sprintf("the hub refused the connection: %v (code %d)", packets.ConnErrors[e.code], e.code)
	switch {
	case e.credentials() && e.certificate:
		text += "; compare the certificate's thumbprint or authority with what the hub has of the identity, and see that it is enabled there and that this clock is right"
	case e.credentials():
		text += "; compare the identity's key with the hub's, and see that it is enabled there and that this clock is right"
	}
	return text
}

// credentials tells whether it is about who we are.
func (e *refusedError) credentials() bool {
	return e.code == refusedNotAuth || e.code == refusedBadLogin
}

// session is one connection of one identity, from CONNECT to its loss.
type session struct {
	*link
	hub    *hub
	client mqtt.Client
	conn   *dial.Conn
	login  identity.Login // what the connection proved itself with
	events string         // telemetry topic of the identity as the hub knows it
	// letterTopic is that of cloud-to-device messages, up to the property bag.
	letterTopic string
	commands    context.Context // the pool's: what direct methods run under; they may outlive the connection
	ctx         context.Context // ends, with a cause, when the connection is no more
	lose        context.CancelCauseFunc
	flight      *flight
	inbox       serial        // turns of receive
	taken       atomic.Uint64 // PUBLISH packets of the hub that receive has had
	late        *time.Timer   // ends the connection if nothing in flight is acknowledged in time
	refused     serial        // turns of direct methods that are too many
	closing     atomic.Bool   // no command begins any more: it could not be answered
	missed      atomic.Bool   // a change of desired properties was not taken
	canary      atomic.Bool   // the hub has taken one on this connection (suspicion.go)

	// Of the goroutine that sends:
	since    time.Time               // the hub accepted the connection; zero before
	before   uint64                  // messages of the identity that had been acknowledged by then
	sending  context.Context         // ends when no more is to be sent
	stop     context.CancelCauseFunc // of sending
	renewal  *renewal
	window   int    // how many messages may be in flight now
	rounds   uint64 // of the flight, that window has taken into account
	canaries int    // sent

	asking sync.Mutex // guards the fields below
	grants chan grant // what subscribe waits for; nil when it is over
	rids   uint64
	asked  map[string]chan<- twinAnswer // by request id; each has capacity 1
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

// enter makes a connection to h, in its place there; without one it says how the attempt ended.
func (l *link) enter(ctx context.Context, h *hub, place *attempt) (*session, *ending) {
	s := &session{link: l, hub: h, commands: ctx, flight: newFlight(), window: l.pool.cfg.Window}
	s.sending, s.stop = context.WithCancelCause(ctx)
	var lost context.CancelCauseFunc
	s.ctx, lost = context.WithCancelCause(context.WithoutCancel(ctx))
	s.lose = func(err error) {
		s.closing.Store(true)
		lost(err)
		s.stop(err)
	}
	if err := s.open(ctx, place); err != nil {
		s.lose(nil)
		e := &ending{away: !h.pace.reachable(), missed: h.pace.unreached(), proof: lacking(s.login)}
		if !s.since.IsZero() {
			e.lasted = max(time.Since(s.since), 1)
		}
		e.err = l.failed(ctx, s.login, err)
		return nil, e
	}
	l.refusals, l.failures, l.moveAt = 0, 0, time.Time{}
	l.noteConnected(s.login)
	s.before = l.received.Load()
	s.resume()
	return s, nil
}

// deliver sends what the lane has until the connection is lost, ctx ends or the proof is due, and says how
// it ended. On the latter two it first waits for what is in flight. An idle connection spends its life in
// here, in the lane's Next: what the functions on the way there keep on the stack is held by thousands.
func (s *session) deliver() *ending {
	s.begin()
	s.send(s.sending)
	return s.end()
}

// begin arms what may end sending, beside a loss and the context of enter.
func (s *session) begin() {
	s.renewal = s.renew()
	s.late = time.AfterFunc(s.pool.cfg.firstLook(), s.checkProgress)
}

// end finishes what is under way, disconnects, and draws the conclusions.
func (s *session) end() *ending {
	s.renewal.Stop()
	e := &ending{err: context.Cause(s.ctx), missed: s.hub.pace.unreached()}
	if e.err == nil {
		e.err = s.finish(context.Cause(s.sending))
	}
	s.late.Stop()
	s.kept = s.renewal.place
	s.current.Store(nil)
	s.hangUp()
	s.lose(nil)
	e.lasted, e.acked = max(time.Since(s.since), 1), s.received.Load() > s.before || s.canary.Load()
	if e.remote() {
		flying := s.flight.entries()
		e.flying, e.suspect = len(flying), s.suspicion.suspects(flying)
		s.suspicion.lost(flying, s.canary.Load())
	}
	return e
}

// disconnect is the whole of a DISCONNECT (MQTT 3.1.1 section 3.14).
var disconnect = [...]byte{0xe0, 0}

// hangUp says DISCONNECT, and waits until the hub has closed: another connection before that would be a
// take-over to it, and answers of commands that it has not read yet would be lost.
func (s *session) hangUp() {
	if s.ctx.Err() == nil {
		_, _ = s.conn.Write(disconnect[:]) // the connection ends either way
		limit := time.NewTimer(hangUpWait)
		defer limit.Stop()
		select {
		case <-s.ctx.Done():
		case <-limit.C:
		}
	}
	s.client.Disconnect(disconnectWait)
}

// failed counts an attempt that ended without a connection, and says whether the clock is to blame.
func (l *link) failed(ctx context.Context, login identity.Login, err error) error {
	l.failures++
	var refused *refusedError
	if errors.As(err, &refused) && refused.credentials() {
		l.refusals++
		if login.Doubt != nil {
			err = fmt.Errorf("%w (%w)", err, login.Doubt)
		}
		return l.pool.clocks.explain(ctx, login, err)
	}
	if errors.Is(err, identity.ErrRefused) {
		return l.pool.clocks.explain(ctx, login, err)
	}
	return err
}

// open proves who we are, connects and subscribes. It works on a
// goroutine of its own, whose stack, grown by cryptography, is not kept for as long as the connection
// lasts: thousands of identities would each hold it.
func (s *session) open(ctx context.Context, place *attempt) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.hub.pace.end(place, refused) // unless connect says otherwise
		if err = s.prove(ctx); err == nil {
			err = s.connect(ctx)
			s.hub.pace.end(place, resultOf(err, ctx))
		} else if errors.Is(err, errMoved) {
			s.hub.pace.end(place, given)
		}
		if err == nil {
			s.since = time.Now()
			err = s.subscribe(ctx)
		}
	}()
	<-done // connect watches ctx
	return err
}

// prove takes what the connection proves itself with. It must be for the hub whose turn was waited for.
func (s *session) prove(ctx context.Context) (err error) {
	if s.login, err = s.member.Credential.Login(ctx, s.attempt()); err != nil {
		return err
	}
	if !strings.EqualFold(s.login.Hub, s.hub.name) {
		return fmt.Errorf("%w to %s", errMoved, s.login.Hub)
	}
	known := gateway.IdentityID(s.login.ClientID)
	s.events, s.letterTopic = eventsTopic(known), cloudTopic(known)
	return nil
}

// opening is what connect and the library's call for a connection share. The library keeps its call for as
// long as it lives: what is in here is let go with it.
type opening struct {
	ctx  context.Context
	err  error       // why the hub could not be reached
	keep func() bool // lets the connection outlive ctx; false if it has not
}

// dial is that call.
func (s *session) dial(o *opening) (net.Conn, error) {
	conn, err := s.pool.cfg.Dial(o.ctx, s.login)
	if err != nil {
		o.err = err
		return nil, err
	}
	conn.Acks(s.acknowledge)
	conn.Grants(s.granted)
	s.conn = conn
	o.keep = context.AfterFunc(o.ctx, func() { _ = conn.Close() })
	return conn, nil
}

// connect opens the connection.
func (s *session) connect(ctx context.Context) error {
	dialing, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	o := &opening{ctx: dialing, keep: func() bool { return true }}
	defer func() { *o = opening{} }()
	opts := mqtt.NewClientOptions().
		AddBroker("tls://hub"). // only a scheme that paho knows; the connection is ours
		SetClientID(s.login.ClientID).SetUsername(s.username(s.login)).SetPassword(s.login.Password.Reveal()).
		SetProtocolVersion(4).SetCleanSession(false).
		SetAutoReconnect(false).SetConnectRetry(false).SetStore(noStore{}).
		SetKeepAlive(keepAlive).SetPingTimeout(pingTimeout).
		SetConnectTimeout(connectTimeout).SetWriteTimeout(s.pool.cfg.WriteTimeout).
		SetOrderMatters(true).SetAutoAckDisabled(true).
		SetDefaultPublishHandler(s.take).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { s.lose(fmt.Errorf("connection lost: %w", err)) }).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return s.dial(o) })
	s.addWill(opts)
	s.client = mqtt.NewClient(opts)
	token := s.client.Connect()
	select {
	case <-token.Done():
	case <-dialing.Done():
		// A connection that is there already has been closed by now, which ends the library's wait.
		<-token.Done()
		if o.err == nil {
			s.abandon()
			return fmt.Errorf("connecting: the hub does not answer: %w", dialing.Err())
		}
	}
	if o.err != nil {
		return o.err // says more than what the library makes of it
	}
	if err := s.notConnected(token.(*mqtt.ConnectToken)); err != nil {
		return err
	}
	if !o.keep() {
		s.abandon()
		return fmt.Errorf("connecting: %w", context.Cause(dialing))
	}
	return nil
}

// abandon lets the library go that may have connected at the last moment: it takes the end of a connection that
// we close for its own doing, and would keep its goroutines.
func (s *session) abandon() { s.client.Disconnect(disconnectWait) }

// notConnected is why the hub did not accept the connection, nil if it did.
func (s *session) notConnected(token *mqtt.ConnectToken) error {
	err, code := token.Error(), token.ReturnCode()
	switch {
	case err == nil:
		return nil
	case code >= packets.ErrRefusedBadProtocolVersion && code <= packets.ErrRefusedNotAuthorised:
		return &refusedError{code, s.login.Certificate != nil}
	}
	return fmt.Errorf("connecting: %w", err)
}
