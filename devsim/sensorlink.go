package devsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	dtlsnet "github.com/pion/dtls/v3/pkg/net"
	coapdtls "github.com/plgd-dev/go-coap/v3/dtls"
	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/net/blockwise"
	"github.com/plgd-dev/go-coap/v3/options"
	coapudp "github.com/plgd-dev/go-coap/v3/udp"
	"github.com/plgd-dev/go-coap/v3/udp/client"
	"github.com/rs/zerolog"

	"iothub-gateway/adapters/coap"
)

const (
	minPeriod     = time.Second
	maxPeriod     = 30 * time.Second
	defaultPeriod = 5 * time.Second
	// maxRetransmit is how often a report is repeated while no answer comes (RFC 7252 section 4.8).
	maxRetransmit = 4
	// maxDoublings bounds the wait between attempts to connect: 16 times the first.
	maxDoublings = 4
	// mtu is also room for an answer larger than any datagram that is worth reading (COAP-113).
	mtu = 16384
)

// pace is how long sensors wait for what.
type pace struct {
	ack       time.Duration // ACK_TIMEOUT of RFC 7252 section 4.8
	handshake time.Duration // a DTLS handshake
	retry     time.Duration // after the first report without an answer
}

// periodOf is how often a device reports of which this is the longest normal silence.
func periodOf(expect time.Duration) time.Duration {
	if expect == 0 {
		return defaultPeriod
	}
	return min(max(expect/4, minPeriod), maxPeriod)
}

// sensor is one simulated device. Its goroutine alone speaks to the listener.
type sensor struct {
	of       *Sensors
	at       coap.Device
	listener string
	plain    bool
	seed     uint64
	period   time.Duration
	first    time.Duration // from the start to the first report
	report   report        // of.mu guards its values
	asks     chan chan<- outcome
	log      zerolog.Logger
	mute     atomic.Bool
	acked    atomic.Uint64

	// The goroutine's own.
	conn     *client.Conn // nil: not connected
	failures uint64       // reports without an answer since the last answer
	noted    string       // the last outcome that was logged
}

// outcome is the answer to a report, or why there is none.
type outcome struct {
	code string
	err  error
}

// run reports until ctx ends.
func (o *sensor) run(ctx context.Context) {
	defer o.hangUp()
	timer := time.NewTimer(o.first)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case answer := <-o.asks:
			answer <- o.send(ctx)
		case <-timer.C:
			if o.mute.Load() {
				timer.Reset(o.period)
				continue
			}
			got := o.send(ctx)
			if ctx.Err() != nil {
				return
			}
			o.note(got)
			timer.Reset(o.rest(got))
		}
	}
}

// rest is how long the sensor waits after an outcome: its period, or, while it is not answered, a
// time that doubles with each failure and differs from sensor to sensor.
func (o *sensor) rest(got outcome) time.Duration {
	if got.err == nil {
		o.failures = 0
		return o.period
	}
	o.failures++
	delay := o.of.pace.retry << min(o.failures-1, maxDoublings)
	return time.Duration((0.75 + 0.5*fraction(o.seed+o.failures)) * float64(delay))
}

// note logs an outcome that differs from the one before.
func (o *sensor) note(got outcome) {
	now := got.code
	if got.err != nil {
		now = "no answer"
	}
	if now == o.noted {
		return
	}
	o.noted = now
	switch {
	case got.err != nil:
		o.log.Warn().Err(got.err).Msg("reports are not answered")
	case got.code == changed:
		o.log.Info().Stringer("period", o.period).Msg("reports are taken")
	default:
		o.log.Warn().Str("code", got.code).Msg("reports are refused")
	}
}

var errClosed = errors.New("it has ended the session, or nothing listens there any more")

// changed is the answer to a report that was taken (COAP-62).
const changed = "2.04"

// send makes one report, on the session there is or a new one. A session on which no answer came is
// not used again: the listener may have forgotten it.
func (o *sensor) send(ctx context.Context) outcome {
	if o.conn != nil && o.conn.Context().Err() != nil {
		o.hangUp() // the listener has said goodbye
	}
	if o.conn == nil {
		conn, err := o.connect(ctx)
		if err != nil {
			return outcome{err: err}
		}
		o.conn = conn
	}
	body, err := o.compose()
	if err != nil {
		return outcome{err: fmt.Errorf("devsim: sensor %s: %w", o.at.Name, err)}
	}
	ctx, cancel := context.WithTimeout(ctx, (maxRetransmit+1)*o.ackTimeout())
	defer cancel()
	answer, err := o.conn.Post(ctx, "", mediaOf(o.report.format), bytes.NewReader(body), pathOf(o.at.Path)...)
	if err != nil {
		remote := o.conn.RemoteAddr()
		if ctx.Err() == nil && o.conn.Context().Err() != nil {
			err = errClosed // the library calls it cancelled
		}
		o.hangUp()
		return outcome{err: fmt.Errorf("devsim: sensor %s: no answer from listener %s at %s: %w", o.at.Name, o.listener, remote, err)}
	}
	defer o.conn.ReleaseMessage(answer)
	if answer.Code() == codes.Changed {
		o.acked.Add(1)
	}
	return outcome{code: fmt.Sprintf("%d.%02d", answer.Code()>>5, answer.Code()&31)}
}

// pathOf is a path as the options of a request (RFC 7252 section 6.4). The library would leave empty
// segments out, which are segments as well (COAP-53).
func pathOf(path string) (way message.Options) {
	path = strings.TrimPrefix(path, "/")
	if path == "" {
		return nil
	}
	for _, segment := range strings.Split(path, "/") {
		way = append(way, message.Option{ID: message.URIPath, Value: []byte(segment)})
	}
	return way
}

// compose takes the values of now, but for the first report, whose values are known, and writes them.
func (o *sensor) compose() ([]byte, error) {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	if o.report.begun {
		now := tickOf(o.of.now())
		for _, p := range o.report.places {
			p.sent = p.read(now)
		}
	}
	o.report.begun = true
	return o.report.body("urn:dev:sim:" + o.at.Name + ":")
}

// ackTimeout is the first wait for an answer: each sensor has one of its own, so that those that
// began together do not repeat together (RFC 7252 section 4.2).
func (o *sensor) ackTimeout() time.Duration {
	return time.Duration((1 + 0.5*fraction(o.seed+1)) * float64(o.of.pace.ack))
}

// connect opens a socket, and a DTLS session on it unless the listener is plain. Plain reports come
// from 127.0.0.1.
func (o *sensor) connect(ctx context.Context) (*client.Conn, error) {
	address := o.of.cfg.Addr(o.listener)
	if address == "" {
		return nil, fmt.Errorf("devsim: sensor %s: listener %s does not listen", o.at.Name, o.listener)
	}
	fail := func(err error) (*client.Conn, error) {
		return nil, fmt.Errorf("devsim: sensor %s: listener %s at %q: %w", o.at.Name, o.listener, address, err)
	}
	var dialer net.Dialer
	if o.plain {
		dialer.LocalAddr = &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	}
	socket, err := dialer.DialContext(ctx, "udp", reachable(address))
	if err != nil {
		return fail(err)
	}
	if o.plain {
		return coapudp.Client(socket.(*net.UDPConn), o.options()...), nil
	}
	secure, err := o.handshake(ctx, socket)
	if err != nil {
		_ = socket.Close()
		return fail(err)
	}
	return coapdtls.Client(secure, o.options()...), nil
}

// handshake makes a DTLS 1.2 session with the device's pre-shared key (COAP-40).
func (o *sensor) handshake(ctx context.Context, socket net.Conn) (*dtls.Conn, error) {
	key := o.of.cfg.Key(o.at.PSK)
	if len(key) == 0 {
		return nil, fmt.Errorf("no key for PSK identity %q", o.at.PSK)
	}
	conn, err := dtls.ClientWithOptions(dtlsnet.PacketConnFromConn(socket), socket.RemoteAddr(),
		dtls.WithPSK(func([]byte) ([]byte, error) { return key, nil }),
		dtls.WithPSKIdentityHint([]byte(o.at.PSK)),
		dtls.WithCipherSuites(dtls.TLS_PSK_WITH_AES_128_CCM_8))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.of.pace.handshake)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("handshake as %q: %w", o.at.PSK, err)
	}
	return conn, nil
}

func (o *sensor) options() []coapudp.Option {
	return []coapudp.Option{
		options.WithCloseSocket(),
		options.WithErrors(func(error) {}), // what matters is returned by Post
		options.WithPeriodicRunner(o.of.clock.add),
		// One more than is ever sent: after the last the library would stop listening for its answer.
		options.WithTransmission(1, o.ackTimeout(), maxRetransmit+1),
		options.WithBlockwise(true, blockwise.SZX1024, (maxRetransmit+1)*o.ackTimeout()),
		options.WithMTU(mtu),
	}
}

// hangUp ends the session, if there is one, and what runs for it.
func (o *sensor) hangUp() {
	if o.conn == nil {
		return
	}
	_ = o.conn.Close() // it is of no use any more either way
	<-o.conn.Done()
	o.conn = nil
}

// reachable is where a socket can be reached that listens on this address: one that listens
// everywhere, on this machine.
func reachable(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().IsUnspecified() {
		return address
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()).String()
}

// clock reminds go-coap's connections of what they have to send again. The library's own looks every
// 4 s only, and has a goroutine for each connection.
type clock struct {
	mu    sync.Mutex
	hands []func(time.Time) bool
}

// add has f called at every tick until it returns false.
func (c *clock) add(f func(time.Time) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hands = append(c.hands, f)
}

// run ticks until ctx ends.
func (c *clock) run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			c.tick(now)
		}
	}
}

func (c *clock) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.hands[:0]
	for _, f := range c.hands {
		if f(now) {
			kept = append(kept, f)
		}
	}
	clear(c.hands[len(kept):])
	c.hands = kept
}
