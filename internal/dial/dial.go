// Package dial opens the connection below one MQTT session: TLS 1.2 or better on TCP (8883), or the
// same inside a WebSocket (443), either of them through an HTTP proxy if there is one. It promises that
// nothing on the connection can hang or swell without a bound: every write has a deadline, unacknowledged
// data is given up by the kernel, and a packet that announces more than it may is refused before anybody
// allocates for it. An MQTT library speaks over it; the telemetry of its user goes past the library, on
// the same connection.
package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// Config says where the hub is and what bounds its connection.
type Config struct {
	Address    string         // host:port
	ServerName string         // the name the hub's certificate must carry; also sent as SNI
	Roots      *x509.CertPool // nil: the system's
	WebSocket  bool           // MQTT in binary messages on /$iothub/websocket (CON-9)
	Proxy      *Proxy         // nil: straight to Address
	// Certificate proves who we are, where that is not done with a password (CON-29); nil: none.
	Certificate *tls.Certificate
	// WriteTimeout bounds each write and, as TCP_USER_TIMEOUT, how long sent data may stay
	// unacknowledged: a half-open connection is noticed after that, not after the kernel's 15 minutes.
	WriteTimeout time.Duration
	// MaxPacket is the longest MQTT packet that may arrive, in bytes after the fixed header.
	MaxPacket int
}

const (
	webSocketPath  = "/$iothub/websocket"
	webSocketProto = "mqtt"
)

// Hub connects, shakes hands and returns the guarded connection. ctx bounds the whole of it.
func Hub(ctx context.Context, cfg Config) (*Conn, error) {
	var conn net.Conn
	var err error
	if cfg.WebSocket {
		conn, err = dialWebSocket(ctx, cfg)
	} else {
		conn, err = dialTLS(ctx, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("hub %s: %w", cfg.Address, err)
	}
	return Guard(conn, cfg.WriteTimeout, cfg.MaxPacket), nil
}

// dialTLS connects and shakes hands. SNI is always sent (CON-13).
func dialTLS(ctx context.Context, cfg Config) (net.Conn, error) {
	raw, err := dialTCP(ctx, cfg)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName, RootCAs: cfg.Roots}
	if cfg.Certificate != nil {
		// Sent whatever authorities the server says it knows: the hub decides by the CONNECT (CON-16).
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cfg.Certificate, nil }
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, explain(err, cfg.ServerName)
	}
	return conn, nil
}

// ErrClock is wrapped by the error of a handshake that failed because of the time: as this machine's clock
// has it, the server's certificate is not valid yet or not valid any more.
var ErrClock = errors.New("is this machine's clock right?")

// explain adds the remedy to the certificate errors that an installer meets.
func explain(err error, name string) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; set hub.trust to the CA that signs this hub", err)
	case errors.As(err, &host):
		return fmt.Errorf("%w; hub.host must be the name %q of the certificate", err, name)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w; %w", err, ErrClock)
	}
	return err
}

func dialWebSocket(ctx context.Context, cfg Config) (net.Conn, error) {
	client := httpClient(cfg)
	ws, response, err := websocket.Dial(ctx, "wss://"+cfg.ServerName+webSocketPath, &websocket.DialOptions{
		HTTPClient:   client,
		Subprotocols: []string{webSocketProto},
	})
	if err != nil {
		client.CloseIdleConnections() // one that refused the upgrade would be kept for a next request
		return nil, refusedUpgrade(err, response)
	}
	// The connection outlives ctx, which bounds only the dial; closing it ends its reads and writes.
	return webSocket{websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary)}, nil
}

// webSocket is a connection whose end by the server reads as the end of the stream, whatever the server says
// that its reason was: above, nobody tells the transports apart.
type webSocket struct{ net.Conn }

func (c webSocket) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if websocket.CloseStatus(err) >= 0 {
		err = fmt.Errorf("%w (%w)", io.EOF, err)
	}
	return n, err
}

// refusedUpgrade says what a server that speaks HTTP but no WebSocket answered.
func refusedUpgrade(err error, response *http.Response) error {
	if response == nil {
		return err
	}
	return fmt.Errorf("no WebSocket on %s (HTTP %s): %w", webSocketPath, response.Status, err)
}

// httpClient speaks HTTPS over connections that are made like the hub's.
func httpClient(cfg Config) *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialTLS(ctx, cfg) }},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// ServerTime is what the clock of the HTTPS server at cfg.Address shows: the Date of its answer, whatever
// that is (RFC 9110 section 6.6.1), to the second. ctx bounds the whole of it.
func ServerTime(ctx context.Context, cfg Config) (time.Time, error) {
	client := httpClient(cfg)
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+cfg.ServerName+"/", nil)
	if err != nil {
		return time.Time{}, fmt.Errorf("time of %s: %w", cfg.Address, err)
	}
	response, err := client.Do(request)
	if err != nil {
		return time.Time{}, fmt.Errorf("time of %s: %w", cfg.Address, err)
	}
	_ = response.Body.Close()
	at, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("time of %s: its answer has no date", cfg.Address)
	}
	return at, nil
}
