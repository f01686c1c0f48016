package hubsim

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	// firstPacketLimit is how long a client may take for its CONNECT (CON-33).
	firstPacketLimit = 30 * time.Second
	// linger is how long the hub still deals with a client that it hangs up on.
	linger = 250 * time.Millisecond
	// maxWarnings bounds what the log says about one session.
	maxWarnings = 100
	// idleCap bounds one and a half keep-alives (CON-42).
	idleCap = 1767 * time.Second
)

// Why a session ended.
var (
	errTakenOver  = coded(400027, "CON-45, CLOSE-11", "another connection with the same id took over")
	errKicked     = errors.New("cut by a dial")
	errDialled    = errors.New("refused by a dial")
	errInjected   = wrong("D2C-30", "cut by a fault that a message of it asked for")
	errIdle       = coded(404104, "CON-42, CLOSE-9", "no packet for one and a half keep-alives")
	errExpired    = coded(401003, "CON-48, CLOSE-10", "the token expired and the grace is over")
	errDisabled   = coded(403012, "CON-51, CLOSE-12", "the device was disabled")
	errDeleted    = coded(404001, "CON-51, CLOSE-12", "the device was deleted")
	errTurnedAway = errors.New("refused") // logged with the true reason where it was refused
	errNoConnect  = wrong("CON-33, CLOSE-16", "no CONNECT within 30 s")
)

// session is one MQTT connection, from its first byte to its last. The goroutine in run reads and
// decides; outbox.run writes.
type session struct {
	hub   *Hub
	conn  net.Conn
	abort func() error // cuts conn at once

	// owned by run
	in       *packetReader
	bag      bag
	deadline time.Time // of the read that is waiting
	idle     time.Duration
	expires  time.Time
	topics   topics
	warned   map[string]bool
	agent    string                 // what the client says about itself
	since    time.Time              // of the connection
	shown    bool                   // a connection state event went out (MON-6)
	will     *packets.ConnectPacket // nil without one

	// set before anybody else sees the session, then never changed
	chain []*x509.Certificate // the client's, its own first; empty without one
	id    *identity
	// registrant, unless nil, is what it is in place of an identity's: a device's that looks for its hub.
	registrant *registrant
	marks      marks
	dials      [2]*dial
	out        *outbox
	waiter     waiter
	calls      calls

	twinMessages atomic.Uint32  // at QoS 1
	injections   sync.WaitGroup // faults that wait for their time (D2C-30)
	injecting    atomic.Int32   // how many they are

	once    sync.Once
	reason  error         // why it is closing; readable once closing is closed
	closing chan struct{} // closed: stop
	ended   chan struct{} // closed: nothing of it is left
}

// newSession makes the session of a connection; abort must cut it at once.
func (h *Hub) newSession(conn net.Conn, abort func() error) *session {
	if h.tap != nil {
		conn = h.tap(conn)
	}
	s := &session{
		hub: h, conn: conn, abort: abort,
		out:     newOutbox(conn, h.cfg.ReadAhead),
		calls:   calls{open: map[string]chan answer{}},
		warned:  map[string]bool{},
		closing: make(chan struct{}), ended: make(chan struct{}),
	}
	s.in = newPacketReader(idleReader{s})
	s.in.pool = &h.buffers
	s.waiter.stored = s.out.stored
	return s
}

// idleReader gives every read the time until the keep-alive or the token runs out. A packet restarts the
// clock, a byte does not (CON-43).
type idleReader struct{ *session }

func (r idleReader) Read(p []byte) (int, error) {
	if r.in.complete {
		r.in.complete = false
		r.deadline = time.Now().Add(r.idle)
		if !r.expires.IsZero() && r.expires.Before(r.deadline) {
			r.deadline = r.expires
		}
		if err := r.conn.SetReadDeadline(r.deadline); err != nil {
			return 0, err
		}
	}
	return r.conn.Read(p)
}

// kill makes the session end for reason; the first reason stands. It does not wait.
func (s *session) kill(reason error) {
	s.once.Do(func() {
		s.reason = reason
		close(s.closing)
		_ = s.abort()
	})
}

// hangUp is kill that says goodbye on the TLS layer.
func (s *session) hangUp(reason error) {
	s.once.Do(func() {
		s.reason = reason
		close(s.closing)
		_ = s.conn.Close()
	})
}

// cause is why the session is closing, nil if it is not.
func (s *session) cause() error {
	select {
	case <-s.closing:
		return s.reason
	default:
		return nil
	}
}

// run serves the connection until it ends and leaves nothing behind.
func (s *session) run(ctx context.Context) {
	defer close(s.ended)
	defer context.AfterFunc(ctx, func() { s.kill(errStopped) })()
	defer s.conn.Close()
	if err := s.connect(ctx); err != nil {
		s.logEnd(s.because(err))
		return
	}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		if err := s.out.run(stop); err != nil {
			s.kill(err)
		}
	})
	err := s.because(s.loop())
	s.once.Do(func() { // the connection stays until the last PUBACK is written
		s.reason = err
		close(s.closing)
	})
	close(stop)
	cut := time.AfterFunc(linger, func() { _ = s.abort() }) // if the client does not read
	writer.Wait()
	cut.Stop()
	s.injections.Wait()
	s.calls.fail()
	if s.registrant != nil {
		s.logEnd(err)
		return
	}
	s.leaveWill(err)
	s.disconnected(err)
	s.logEnd(err)
	if err := s.id.unbind(s); err != nil {
		s.warn(err)
	}
}

// because finds the reason behind an error of reading: a kill, or a deadline, shows as that first.
func (s *session) because(err error) error {
	if cause := s.cause(); cause != nil {
		return cause
	}
	var bad *violation
	if err == nil || errors.As(err, &bad) || time.Now().Before(s.deadline) {
		return err
	}
	switch {
	case s.id == nil && s.registrant == nil:
		return errNoConnect
	case !s.expires.IsZero() && !s.deadline.Before(s.expires):
		return errExpired
	}
	return errIdle
}

// loop handles packets until the end; nil is a DISCONNECT.
func (s *session) loop() error {
	for {
		header, body, err := s.in.next()
		if err != nil {
			return broken(err)
		}
		select {
		case <-s.closing:
			return s.reason
		default:
		}
		done, err := s.handle(header, body)
		if done || err != nil {
			return err
		}
	}
}

// broken is the violation behind an error of the packet reader, if it is one.
func broken(err error) error {
	switch {
	case errors.Is(err, errTooLong):
		return violates("CLOSE-8", "%v", err)
	case errors.Is(err, errBadLength):
		return violates("CLOSE-16", "%v", err)
	}
	return err
}

// handle answers one packet; done is a DISCONNECT.
func (s *session) handle(header byte, body []byte) (done bool, err error) {
	if header>>4 == packets.Publish {
		if s.registrant != nil {
			return false, s.registrant.publish(header, body)
		}
		return false, s.publish(header, body)
	}
	switch header >> 4 {
	case packets.Connack, packets.Suback, packets.Unsuback, packets.Pingresp, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		return false, violates("CLOSE-16", "a client must not send %s", packets.PacketNames[header>>4])
	case packets.Connect:
		return false, violates("CLOSE-16", "a second CONNECT")
	}
	packet, err := unpack(header, body)
	if err != nil {
		return false, violates("CLOSE-16", "malformed packet: %v", err)
	}
	if s.registrant != nil {
		return s.registrant.handle(packet)
	}
	switch p := packet.(type) {
	case *packets.PingreqPacket:
		s.out.send([]byte{packets.Pingresp << 4, 0})
	case *packets.SubscribePacket:
		err = s.subscribe(p)
	case *packets.UnsubscribePacket:
		err = s.unsubscribe(p)
	case *packets.PubackPacket:
		err = s.id.acknowledged(s, p.MessageID)
	case *packets.DisconnectPacket:
		return true, nil
	}
	if err == nil && !s.out.wait(s.closing) { // a client that does not read is not read from
		err = s.reason
	}
	return false, err
}

// logEnd writes the one line about the end of the session.
func (s *session) logEnd(err error) {
	name := s.conn.RemoteAddr().String()
	switch {
	case s.id != nil:
		name = s.id.name()
	case s.registrant != nil:
		name = s.registrant.id
	}
	var bad *misuse
	switch {
	case errors.Is(err, errTurnedAway):
	case err == nil:
		s.hub.log.Info().Str("identity", name).Msg(name + ": disconnected")
	case errors.As(err, &bad):
		s.hub.complain(name, err)
	default:
		s.hub.log.Info().Str("identity", name).Err(err).Msg(name + ": connection lost")
	}
}

// warn logs a thing that the hub tolerates, once for each session.
func (s *session) warn(err error) {
	if text := clip(err.Error()); !s.warned[text] && len(s.warned) < maxWarnings {
		s.warned[text] = true
		s.hub.complain(s.id.name(), err)
	}
}
