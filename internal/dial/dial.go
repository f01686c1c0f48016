// Package dial opens the connection below one MQTT session: TLS 1.2 or better on TCP (8883), or the
// same inside a WebSocket (443). It promises that nothing on the connection can hang or swell without
// a bound: every write has a deadline, unacknowledged data is given up by the kernel, and a packet
// that announces more than it may is refused before anybody allocates for it. An MQTT library speaks
// over it; the telemetry of its user goes past the library, on the same connection.
package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"
)

// Config says where the hub is and what bounds its connection.
type Config struct {
	Address    string         // host:port
	ServerName string         // the name the hub's certificate must carry; also sent as SNI
	Roots      *x509.CertPool // nil: the system's
	WebSocket  bool           // MQTT in binary messages on /$iothub/websocket (CON-9)
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
		conn, err = dialTLS(ctx, cfg, "tcp", cfg.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("hub %s: %w", cfg.Address, err)
	}
	return Guard(conn, cfg.WriteTimeout, cfg.MaxPacket), nil
}

func dialTLS(ctx context.Context, cfg Config, network, address string) (net.Conn, error) {
	dialer := tls.Dialer{
		NetDialer: &net.Dialer{
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 20 * time.Second, Count: 3},
			ControlContext:  userTimeout(cfg.WriteTimeout),
		},
		Config: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName, RootCAs: cfg.Roots},
	}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, explain(err, cfg.ServerName)
	}
	return conn, nil
}

// explain adds the remedy to the two certificate errors an installer meets.
func explain(err error, name string) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; set hub.trust to the CA that signs this hub", err)
	case errors.As(err, &host):
		return fmt.Errorf("%w; hub.host must be the name %q of the certificate", err, name)
	}
	return err
}

func dialWebSocket(ctx context.Context, cfg Config) (net.Conn, error) {
	transport := &http.Transport{
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialTLS(ctx, cfg, network, cfg.Address)
		},
	}
	url := "wss://" + cfg.ServerName + webSocketPath
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: transport},
		Subprotocols: []string{webSocketProto},
	})
	if err != nil {
		transport.CloseIdleConnections() // one that refused the upgrade would be kept for a next request
		return nil, err
	}
	// The connection outlives ctx, which bounds only the dial; closing it ends its reads and writes.
	return websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary), nil
}

// userTimeout sets TCP_USER_TIMEOUT before the connection is made.
func userTimeout(d time.Duration) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, _, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
		return errors.Join(err, failed)
	}
}
