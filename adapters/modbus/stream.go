package modbus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// stream carries bytes to and from the devices of a link: a TCP or TLS connection, or a serial port.
type stream interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// defaultDial opens a TCP connection with explicit keep-alive (MB-16).
func defaultDial() dialFunc {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3,
	}}
	return d.DialContext
}

// opener is how the stream of a link is opened (MB-115).
func opener(cfg Config, dial dialFunc) func(context.Context) (stream, error) {
	switch {
	case cfg.Serial != nil:
		return func(context.Context) (stream, error) { return openSerial(cfg.Address, *cfg.Serial) }
	case cfg.TLS != nil:
		return func(ctx context.Context) (stream, error) { return dialTLS(ctx, cfg, dial) }
	}
	return func(ctx context.Context) (stream, error) { return dial(ctx, "tcp", cfg.Address) }
}

// dialTLS opens a TLS connection of version 1.2 or later (MB-18).
func dialTLS(ctx context.Context, cfg Config, dial dialFunc) (stream, error) {
	client := cfg.TLS.Client.Clone()
	if client == nil {
		client = &tls.Config{}
	}
	client.MinVersion = max(client.MinVersion, tls.VersionTLS12)
	if client.ServerName == "" {
		host, _, err := net.SplitHostPort(cfg.Address)
		if err != nil {
			return nil, err
		}
		client.ServerName = host
	}
	plain, err := dial(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(plain, client)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = plain.Close()
		return nil, fmt.Errorf("tls: %w", err)
	}
	return conn, nil
}

// peekTime is how long a stream that cannot be looked into without waiting is listened to.
const peekTime = time.Millisecond

// drain reads what has come, up to len(b) bytes, without waiting. An error says that the stream has
// ended.
func drain(s stream, b []byte) (int, error) {
	direct, ok := s.(syscall.Conn)
	if !ok {
		_ = s.SetReadDeadline(time.Now().Add(peekTime))
		n, err := s.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		return n, err
	}
	// A deadline may pass before the first look under load, so the descriptor is read itself.
	raw, err := direct.SyscallConn()
	if err != nil {
		return 0, err
	}
	_ = s.SetReadDeadline(time.Time{})
	n, cause := 0, error(nil)
	err = raw.Read(func(fd uintptr) bool {
		n, cause = syscall.Read(int(fd), b)
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case errors.Is(cause, syscall.EAGAIN), errors.Is(cause, syscall.EINTR):
		return 0, nil
	case cause != nil:
		return 0, cause
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
