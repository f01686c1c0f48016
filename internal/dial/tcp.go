package dial

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Proxy is an HTTP proxy that is asked for a tunnel to the hub (RFC 9110 section 9.3.6).
type Proxy struct {
	Address string // host:port
	// Login is asked for each connection for the user name and password that the proxy wants (RFC 7617);
	// nil if it lets everybody through.
	Login func() (user, password string, err error)
}

// longestAnswer bounds the header of a proxy's answer, in bytes.
const longestAnswer = 16 << 10

// dialTCP connects to the hub, or to the proxy and through it.
func dialTCP(ctx context.Context, cfg Config) (net.Conn, error) {
	dialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 20 * time.Second, Count: 3},
		ControlContext:  userTimeout(cfg.WriteTimeout),
	}
	if cfg.Proxy == nil {
		conn, err := dialer.DialContext(ctx, "tcp", cfg.Address)
		return conn, advise(err, cfg.WebSocket)
	}
	conn, err := dialer.DialContext(ctx, "tcp", cfg.Proxy.Address)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", cfg.Proxy.Address, err)
	}
	if err := cfg.Proxy.tunnel(ctx, conn, cfg.Address); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("proxy %s: %w", cfg.Proxy.Address, err)
	}
	return conn, nil
}

// advise adds what an installer can do about a hub that cannot be reached: many a firewall drops what goes to
// port 8883.
func advise(err error, webSocket bool) error {
	var unknown *net.DNSError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; is the name spelt right, and does this machine's DNS work?", err)
	case webSocket:
		return fmt.Errorf("%w; is there a firewall on the way, or must it go through a proxy (hub.proxy)?", err)
	}
	return fmt.Errorf("%w; if a firewall closes the port, hub.transport: websocket uses 443", err)
}

// tunnel asks the proxy at the other end of conn to pass everything on to address.
func (p *Proxy) tunnel(ctx context.Context, conn net.Conn, address string) error {
	request := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if p.Login != nil {
		user, password, err := p.Login()
		if err != nil {
			return err
		}
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + "\r\n"
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	in := bufio.NewReader(io.LimitReader(conn, longestAnswer))
	answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("no answer to CONNECT: %w", err))
	}
	// The body is not closed: there is none, and what would be read for one is the tunnel's.
	switch {
	case !stop():
		return ctx.Err()
	case answer.StatusCode == http.StatusProxyAuthRequired:
		return errors.New("it wants another user name or password (HTTP 407); set user and password of hub.proxy")
	case answer.StatusCode/100 != 2:
		return fmt.Errorf("it opens no tunnel to %s: HTTP %s", address, answer.Status)
	case in.Buffered() > 0:
		return errors.New("it sent data of its own into the tunnel")
	}
	return nil
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
