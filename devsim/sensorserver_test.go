package devsim

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	coapdtls "github.com/plgd-dev/go-coap/v3/dtls"
	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/message/pool"
	coapnet "github.com/plgd-dev/go-coap/v3/net"
	"github.com/plgd-dev/go-coap/v3/net/responsewriter"
	"github.com/plgd-dev/go-coap/v3/options"
	coapudp "github.com/plgd-dev/go-coap/v3/udp"
	"github.com/plgd-dev/go-coap/v3/udp/client"

	"iothub-gateway/internal/testkit"
)

// post is a report as it arrived.
type post struct {
	path   []string
	media  message.MediaType
	psk    string
	from   netip.Addr
	random string // of the client in the handshake: one a session
	body   []byte
}

// server is a CoAP listener made of nothing but the library's server.
type server struct {
	addr string
	stop func()

	mu      sync.Mutex
	posts   []post
	answer  codes.Code
	slow    time.Duration // how long it takes to answer
	deaf    int           // datagrams that it does not hear
	unheard int
}

func newServer() *server { return &server{answer: codes.Changed} }

func (s *server) handle(w *responsewriter.ResponseWriter[*client.Conn], r *pool.Message) {
	got := post{}
	got.media, _ = r.ContentFormat()
	if r.Body() != nil {
		got.body, _ = io.ReadAll(r.Body())
	}
	for _, o := range r.Options() {
		if o.ID == message.URIPath {
			got.path = append(got.path, string(o.Value))
		}
	}
	if at, err := netip.ParseAddrPort(w.Conn().RemoteAddr().String()); err == nil {
		got.from = at.Addr()
	}
	if secure, ok := w.Conn().NetConn().(*dtls.Conn); ok {
		state, _ := secure.ConnectionState()
		got.psk = string(state.IdentityHint)
		random := state.RemoteRandomBytes()
		got.random = string(random[:])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slow > 0 {
		<-time.After(s.slow)
	}
	if r.Code() == codes.POST && r.Type() == message.Confirmable {
		s.posts = append(s.posts, got)
	}
	_ = w.SetResponse(s.answer, message.TextPlain, nil)
}

// hear is asked before a datagram is understood.
func (s *server) hear(*client.Conn, *pool.Message) (drop bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf == 0 {
		return false, nil
	}
	s.deaf--
	s.unheard++
	return true, nil
}

func (s *server) all() []post {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.posts)
}

func (s *server) turn(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// wait returns the posts once there are n of them.
func (s *server) wait(t testing.TB, n int) []post {
	t.Helper()
	testkit.Eventually(t, "the reports arrive", func() bool { return len(s.all()) >= n })
	return s.all()
}

// ticks makes the library's servers look at their sessions; it ends with the server.
type ticks struct{ running sync.WaitGroup }

func (k *ticks) add(ctx context.Context) func(func(time.Time) bool) {
	return func(f func(time.Time) bool) {
		k.running.Go(func() {
			for f(time.Now()) && wait(ctx, 10*time.Millisecond) {
			}
		})
	}
}

// listenPlain serves UDP at the address, port 0 for any.
func listenPlain(t testing.TB, address string) *server {
	t.Helper()
	l, err := coapnet.NewListenUDP("udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	s, k := newServer(), &ticks{}
	ctx, cancel := context.WithCancel(context.Background())
	library := coapudp.NewServer(
		options.WithHandlerFunc(s.handle), options.WithRequestMonitor(s.hear),
		options.WithPeriodicRunner(k.add(ctx)), options.WithErrors(func(error) {}))
	s.serve(t, func() error { return library.Serve(l) }, func() { library.Stop(); _ = l.Close(); cancel(); k.running.Wait() })
	s.addr = l.LocalAddr().String()
	return s
}

// listenSecure serves DTLS with these keys.
func listenSecure(t testing.TB, address string, keys map[string]string) *server {
	t.Helper()
	l, err := coapnet.NewDTLSListener("udp4", address, coapnet.NewDTLSServerOptions(
		dtls.WithPSK(func(identity []byte) ([]byte, error) {
			if key, ok := keys[string(identity)]; ok {
				return []byte(key), nil
			}
			return nil, errors.New("no such identity")
		}),
		dtls.WithPSKIdentityHint([]byte("gateway")),
		dtls.WithCipherSuites(dtls.TLS_PSK_WITH_AES_128_CCM_8)))
	if err != nil {
		t.Fatal(err)
	}
	s, k := newServer(), &ticks{}
	ctx, cancel := context.WithCancel(context.Background())
	library := coapdtls.NewServer(
		options.WithHandlerFunc(s.handle), options.WithRequestMonitor(s.hear), options.WithDTLSHandshakeTimeout(500*time.Millisecond),
		options.WithPeriodicRunner(k.add(ctx)), options.WithErrors(func(error) {}))
	s.serve(t, func() error { return library.Serve(l) }, func() { library.Stop(); _ = l.Close(); cancel(); k.running.Wait() })
	s.addr = l.Addr().String()
	return s
}

// serve runs a server of the library until the test ends or stop is called.
func (s *server) serve(t testing.TB, run func() error, end func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = run()
	}()
	s.stop = sync.OnceFunc(func() {
		end()
		<-done
	})
	t.Cleanup(s.stop)
}

// silentPort is a socket that takes datagrams and says nothing.
func silentPort(t testing.TB) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}

// directory says where listeners are; it can change.
type directory struct {
	mu    sync.Mutex
	addr  string
	asked int
}

func (d *directory) find(string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	return d.addr
}

func (d *directory) move(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addr = addr
}

func (d *directory) times() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

// keyOf gives every identity one key.
func keyOf(string) []byte { return []byte(sensorKey) }

const sensorKey = "sixteen byte key"

// hasty makes the sensors of a test report every few milliseconds and wait no longer for anything.
func hasty(s *Sensors) *Sensors {
	s.pace = pace{ack: 40 * time.Millisecond, handshake: 500 * time.Millisecond, retry: 10 * time.Millisecond}
	for _, o := range s.sensors {
		o.period, o.first = 20*time.Millisecond, time.Millisecond
	}
	return s
}

// reported makes a device report and fails without an answer.
func reported(t testing.TB, s *Sensors, device string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	code, err := s.Report(ctx, device)
	if err != nil {
		t.Fatal(err)
	}
	return code
}
