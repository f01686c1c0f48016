package dial

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/faultnet"
	"iothub-gateway/internal/testkit"
)

// proxy is an HTTP proxy that only knows CONNECT.
type proxy struct {
	t        *testing.T
	listener net.Listener
	wants    string // Proxy-Authorization; "" lets everybody through
	answer   string // said instead of opening a tunnel
	tunnels  sync.WaitGroup

	mu   sync.Mutex // guards seen
	seen []string   // request lines
}

func newProxy(t *testing.T, wants, answer string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: listener, wants: wants, answer: answer}
	p.tunnels.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.tunnels.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() { listener.Close(); p.tunnels.Wait() })
	return p
}

func (p *proxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

func (p *proxy) serve(conn net.Conn) {
	defer conn.Close()
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	p.mu.Lock()
	p.seen = append(p.seen, request.Method+" "+request.RequestURI+" "+request.Host)
	p.mu.Unlock()
	switch {
	case p.answer != "":
		_, _ = io.WriteString(conn, p.answer)
		return
	case request.Header.Get("Proxy-Authorization") != p.wants:
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
		return
	}
	far, err := net.Dial("tcp", request.RequestURI)
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	defer far.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { _, _ = io.Copy(far, conn); far.Close() }()
	_, _ = io.Copy(conn, far)
}

// target is a hub to connect to.
func target(t *testing.T, ws bool) Config {
	t.Helper()
	hub, err := hubsim.New(hubsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Background(t, hub.Run)
	address := hub.MQTTAddr()
	if ws {
		address = hub.HTTPSAddr()
	}
	return Config{Address: address, ServerName: "localhost", Roots: hub.CAPool(), WebSocket: ws, WriteTimeout: 5 * time.Second, MaxPacket: 1 << 16}
}

// ping sends a CONNECT without a password and reads the refusal: somebody speaks MQTT at the other end.
func ping(t *testing.T, cfg Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := Hub(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	connect := append([]byte{0x10, 14, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 2}, "d1"...)
	if _, err := conn.Write(connect); err != nil {
		return err
	}
	answer := make([]byte, 4)
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 0x20 {
		return fmt.Errorf("answer %x: %w", answer, err)
	}
	return nil
}

func TestBothTransportsPassThroughAProxyWithAndWithoutCredentials(t *testing.T) {
	const basic = "Basic "
	wants := basic + base64.StdEncoding.EncodeToString([]byte("plant:s3cret"))
	for _, ws := range []bool{false, true} {
		cfg := target(t, ws)
		for name, c := range map[string]struct {
			wants, answer string
			login         func() (string, string, error)
			bad           string // in the error; "": it works
		}{
			"open":           {},
			"with password":  {wants: wants, login: func() (string, string, error) { return "plant", "s3cret", nil }},
			"wrong password": {wants: wants, login: func() (string, string, error) { return "plant", "other", nil }, bad: "user and password of hub.proxy"},
			"none given":     {wants: wants, bad: "HTTP 407"},
			"no secret":      {login: func() (string, string, error) { return "", "", errors.New("file:p: secret is missing") }, bad: "secret is missing"},
			"forbidden":      {answer: "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", bad: "HTTP 403 Forbidden"},
			"no proxy":       {answer: "SSH-2.0-OpenSSH\r\n", bad: "no answer to CONNECT"},
			"hangs up":       {answer: "HTTP/1.1 ", bad: "no answer to CONNECT"},
			"talks first":    {answer: "HTTP/1.1 200 OK\r\n\r\n\x16\x03", bad: "data of its own"},
		} {
			p := newProxy(t, c.wants, c.answer)
			cfg.Proxy = &Proxy{Address: p.listener.Addr().String(), Login: c.login}
			err := ping(t, cfg)
			switch {
			case c.bad == "" && err != nil:
				t.Errorf("%s, WebSocket %t: %v", name, ws, err)
			case c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad) || !strings.Contains(err.Error(), "proxy ") || strings.Contains(err.Error(), "s3cret")):
				t.Errorf("%s, WebSocket %t: %v, want %q", name, ws, err, c.bad)
			}
			if seen := p.requests(); len(seen) > 0 && seen[0] != "CONNECT "+cfg.Address+" "+cfg.Address {
				t.Errorf("%s: the proxy was asked %q", name, seen)
			}
		}
		cfg.Proxy = &Proxy{Address: "127.0.0.1:1"}
		if err := ping(t, cfg); err == nil || !strings.Contains(err.Error(), "proxy 127.0.0.1:1: ") {
			t.Errorf("no proxy there: %v", err)
		}
	}
}

func TestAProxyThatNeverAnswersIsLeftWhenTheContextEnds(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Hub(ctx, Config{Address: "h:8883", ServerName: "h", Proxy: &Proxy{Address: silent.Addr().String()}, WriteTimeout: time.Second})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestTheServerIsToldItsNameAndMustSpeakTLS12OrBetterAndProveItself(t *testing.T) {
	good := target(t, false)
	other := target(t, false) // another authority
	var names []string
	var mu sync.Mutex
	server := func(change func(*tls.Config)) string {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			mu.Lock()
			defer mu.Unlock()
			names = append(names, hello.ServerName)
			return nil, nil
		}}
		change(s.TLS)
		s.Config.ErrorLog = nil
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"another authority": {func(c *Config) { c.Roots = other.Roots }, "set hub.trust"},
		"the system's own":  {func(c *Config) { c.Roots = nil }, "set hub.trust"},
		"another name":      {func(c *Config) { c.ServerName = "plant7.example" }, `hub.host must be the name "plant7.example"`},
		"TLS 1.1": {func(c *Config) {
			c.Address = server(func(s *tls.Config) { s.MinVersion, s.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
		}, "protocol version"},
	} {
		cfg := good
		c.change(&cfg)
		if err := ping(t, cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := ping(t, good); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(names) != 1 || names[0] != "localhost" {
		t.Errorf("names in the hello: %q", names)
	}
}

func TestAClientCertificateIsSentWhateverTheServerAsksFor(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 1 {
			w.Header().Set("Sec-WebSocket-Protocol", "mqtt")
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	nobody := x509.NewCertPool() // the authorities that the server says it knows
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, ClientCAs: nobody}
	s.StartTLS()
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	cfg := Config{
		Address: s.Listener.Addr().String(), ServerName: "example.com", Roots: roots, WebSocket: true,
		Certificate: &s.TLS.Certificates[0], WriteTimeout: time.Second,
	}
	if _, err := Hub(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "418") || !strings.Contains(err.Error(), "no WebSocket on /$iothub/websocket") {
		t.Errorf("%v", err)
	}
}

func TestAServersClockIsReadFromItsAnswerAlsoThroughAProxy(t *testing.T) {
	cfg := target(t, true)
	p := newProxy(t, "", "")
	for _, by := range []*Proxy{nil, {Address: p.listener.Addr().String()}} {
		cfg.Proxy = by
		at, err := ServerTime(t.Context(), cfg)
		if off := time.Since(at); err != nil || off < -2*time.Second || off > time.Minute {
			t.Errorf("%v, %v", at, err)
		}
	}
	if len(p.requests()) != 1 {
		t.Errorf("the proxy saw %q", p.requests())
	}
	cfg.Roots = nil
	if _, err := ServerTime(t.Context(), cfg); err == nil {
		t.Error("a server that nobody trusts was believed")
	}
}

func TestACertificateThatIsNotValidYetIsAskedAboutTheClock(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.StartTLS()
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	err := explain(s.Certificate().VerifyHostname("x.example"), "x.example")
	if errors.Is(err, ErrClock) {
		t.Errorf("a name is no matter of the clock: %v", err)
	}
	_, err = s.Certificate().Verify(x509.VerifyOptions{Roots: roots, CurrentTime: s.Certificate().NotBefore.Add(-time.Hour)})
	if err = explain(fmt.Errorf("handshake: %w", err), "x"); !errors.Is(err, ErrClock) {
		t.Errorf("%v", err)
	}
}

func TestAHalfOpenConnectionIsGivenUpByTheKernelWhileSomethingIsSent(t *testing.T) {
	cfg := target(t, false)
	network, err := faultnet.New(cfg.Address)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Background(t, network.Run)
	cfg.Address, cfg.WriteTimeout = network.Addr(), 2*time.Second
	conn, err := Hub(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	network.Set(faultnet.Condition{HalfOpen: true})
	gone := time.Now()
	if _, err := conn.Write([]byte{0xc0, 0}); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1))
	if took := time.Since(gone); err == nil || took > 15*time.Second {
		t.Errorf("noticed after %v: %v", took, err)
	}
}

func TestAHubThatCannotBeReachedComesWithAdvice(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	for webSocket, advice := range map[bool]string{false: "hub.transport: websocket", true: "hub.proxy"} {
		_, err := Hub(t.Context(), Config{Address: address, ServerName: "localhost", WebSocket: webSocket, WriteTimeout: time.Second})
		if err == nil || !strings.Contains(err.Error(), advice) || !strings.Contains(err.Error(), address) {
			t.Errorf("WebSocket %t: %v", webSocket, err)
		}
	}
}
