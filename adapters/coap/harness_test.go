package coap

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/udp/coder"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	gateway "iothub-gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDisk = errors.New("disk full")

// sink is what accept hands readings to: it remembers every call and answers as told.
type sink struct {
	mu    sync.Mutex
	calls [][]gateway.Sample
	fail  func(samples []gateway.Sample) error
	gate  chan struct{} // accept waits for a token if not nil
	busy  int           // calls under way: more than one at a time breaks the contract
	worst int
}

func (s *sink) accept(ctx context.Context, samples []gateway.Sample) error {
	s.mu.Lock()
	s.busy++
	s.worst = max(s.worst, s.busy)
	gate, fail := s.gate, s.fail
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.busy--
		s.mu.Unlock()
	}()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fail != nil {
		if err := fail(samples); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, slices.Clone(samples))
	return nil
}

func (s *sink) taken() [][]gateway.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// values are the good readings of a point so far.
func (s *sink) values(p gateway.PointID) []string {
	var all []string
	for _, call := range s.taken() {
		for _, sample := range call {
			if sample.Point == p && sample.Err == nil {
				all = append(all, sample.Value.String())
			}
		}
	}
	return all
}

// loopback permits the tests.
func loopback() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

func points(device string) []Point {
	return []Point{
		{ID: gateway.PointID(device + "/temp"), Source: FromSenML, Key: "temp"},
		{ID: gateway.PointID(device + "/hum"), Source: FromSenML, Key: "hum"},
		{ID: gateway.PointID(device + "/level"), Source: FromJSON, Key: "/level"},
		{ID: gateway.PointID(device + "/body"), Source: FromBody},
	}
}

// plainConfig is a listener with one device, which the tests are.
func plainConfig() Config {
	return Config{
		Name: "vlan4", Listen: "127.0.0.1:0", Plain: true, Allow: loopback(),
		Limits:  Limits{Rate: 1e6},
		Devices: []Device{{Name: "d", From: loopback()[0], Path: "/v1/t", Points: points("d")}},
	}
}

// run starts a listener that ends with the test, or when the returned function is called.
func run(t testing.TB, cfg Config, s *sink) (a *Adapter, stop func()) {
	t.Helper()
	a = New(cfg, zerolog.Nop())
	if err := a.Bind(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, s.accept) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if s.worst > 1 {
			t.Errorf("accept was called by %d goroutines at a time", s.worst)
		}
	})
	t.Cleanup(stop)
	return a, stop
}

// wire is a UDP socket that speaks to a listener, datagram by datagram.
type wire struct {
	t    testing.TB
	conn net.Conn
}

func dial(t testing.TB, address string) wire {
	t.Helper()
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return wire{t, conn}
}

func (w wire) write(datagram []byte) {
	w.t.Helper()
	if _, err := w.conn.Write(datagram); err != nil {
		w.t.Fatal(err)
	}
}

// read waits for the next message.
func (w wire) read() message.Message {
	w.t.Helper()
	m, ok := w.poll(5 * time.Second)
	if !ok {
		w.t.Fatal("no answer")
	}
	return m
}

// silent fails if a message comes. What follows on the same path proves that none is under way.
func (w wire) silent() {
	w.t.Helper()
	const mid = 0xfffe
	w.write([]byte{0x40, 0, mid >> 8, mid & 0xff}) // a ping
	if m := w.read(); m.Type != message.Reset || m.MessageID != mid {
		w.t.Fatalf("an answer came: %s", show(m))
	}
}

func (w wire) poll(wait time.Duration) (message.Message, bool) {
	w.t.Helper()
	if err := w.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		w.t.Fatal(err)
	}
	buffer := make([]byte, 2048)
	n, err := w.conn.Read(buffer)
	if err != nil {
		return message.Message{}, false
	}
	return decoded(w.t, buffer[:n]), true
}

func decoded(t testing.TB, datagram []byte) message.Message {
	t.Helper()
	m := message.Message{Options: make(message.Options, 0, 16)}
	if _, err := coder.DefaultCoder.Decode(datagram, &m); err != nil {
		t.Fatalf("% x: %v", datagram, err)
	}
	return m
}

func show(m message.Message) string { return m.Type.String() + " " + dotted(m.Code) + " " + m.String() }

// ask sends a request and expects this code in its acknowledgement.
func (w wire) ask(m message.Message, code codes.Code) message.Message {
	w.t.Helper()
	w.write(encoded(w.t, m))
	got := w.read()
	if got.Code != code || got.Type != message.Acknowledgement || got.MessageID != m.MessageID || string(got.Token) != string(m.Token) {
		w.t.Fatalf("got %s, want %s for message %d", show(got), dotted(code), m.MessageID)
	}
	return got
}

func encoded(t testing.TB, m message.Message) []byte {
	t.Helper()
	size, err := coder.DefaultCoder.Size(m)
	if err != nil {
		t.Fatal(err)
	}
	datagram := make([]byte, size)
	if _, err := coder.DefaultCoder.Encode(m, datagram); err != nil {
		t.Fatal(err)
	}
	return datagram
}

// post is a confirmable POST of SenML to the device's path.
func post(mid int32, body string, extra ...message.Option) message.Message {
	return request110("v1/t", mid, body, extra...)
}

func request110(path string, mid int32, body string, extra ...message.Option) message.Message {
	m := message.Message{
		Type: message.Confirmable, Code: codes.POST, MessageID: mid, Token: message.Token{byte(mid), 1}, Payload: []byte(body),
	}
	for _, segment := range segmentsOf(path) {
		m.Options = append(m.Options, message.Option{ID: message.URIPath, Value: []byte(segment)})
	}
	m.Options = append(m.Options, uintOption(message.ContentFormat, 110))
	for _, o := range extra {
		if o.ID == message.ContentFormat {
			m.Options = m.Options.Remove(o.ID)
		}
		if o.Value != nil {
			m.Options = m.Options.Add(o)
		}
	}
	return m
}

func block1(num int, more bool, szx uint8) message.Option {
	return uintOption(message.Block1, block{num: num, more: more, szx: szx}.encode())
}

const temp21 = `[{"n":"temp","v":21}]`

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
