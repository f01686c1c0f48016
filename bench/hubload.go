package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"golang.org/x/sync/errgroup"

	"iothub-gateway/identity"
)

// connectOf is the CONNECT of a device whose key is base64; its connection may be idle for half an hour.
func connectOf(device, key string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return nil, err
	}
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.ClientIdentifier = "MQTT", 4, device
	p.UsernameFlag, p.Username = true, "localhost/"+device+"/?api-version=2021-04-12"
	token := identity.Token("localhost/devices/"+device, raw, time.Now().Add(time.Hour), "")
	p.PasswordFlag, p.Password = true, []byte(token.Reveal())
	var b bytes.Buffer
	err = p.Write(&b)
	return b.Bytes(), err
}

// enter connects one device and waits until it is let in.
func (s *server) enter(ctx context.Context, device int, cfg *tls.Config) (*tls.Conn, error) {
	dialer := tls.Dialer{Config: cfg}
	raw, err := dialer.DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil, err
	}
	conn := raw.(*tls.Conn)
	if _, err := conn.Write(s.login[device]); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	var ack [4]byte
	if _, err := io.ReadFull(conn, ack[:]); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if ack[3] != 0 {
		return nil, errors.Join(fmt.Errorf("%s: CONNACK %d", deviceName(device), ack[3]), conn.Close())
	}
	return conn, nil
}

// enterAll connects every device and returns the connections, and how many came about each second.
func (s *server) enterAll(ctx context.Context, cfg *tls.Config) (conns []*tls.Conn, perSecond float64, err error) {
	conns = make([]*tls.Conn, len(s.login))
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for d := range dialers {
		group.Go(func() error {
			for i := d; i < len(conns); i += dialers {
				if conns[i], err = s.enter(ctx, i, cfg); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = group.Wait()
	return conns, float64(len(conns)) / time.Since(start).Seconds(), err
}

func closeAll(conns []*tls.Conn) {
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

// loadTLS is the client side's configuration: one session cache for all devices, which are one client to
// the server. The chain is not looked at, so that the server is what is measured.
func loadTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(dialers)}
}

// sessionMemory is how many bytes an idle session costs a server that holds idleDevices of them; the
// clients are in this process.
func sessionMemory(ctx context.Context, role string) (bytesEach float64, err error) {
	s, err := startServer(ctx, role, idleDevices)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	before := s.Held
	conns, _, err := s.enterAll(ctx, loadTLS())
	defer closeAll(conns)
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return 0, err
	}
	after, err := s.held()
	return float64(after-before) / idleDevices, err
}

// connectRate is how many devices a second a server lets in, each in a TLS session of its own, or for
// resumed in one that another device began.
func connectRate(ctx context.Context, role string, resumed bool) (perSecond float64, err error) {
	s, err := startServer(ctx, role, connects)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	cfg := loadTLS()
	if !resumed {
		cfg.ClientSessionCache = nil
	}
	conns, perSecond, err := s.enterAll(ctx, cfg)
	defer closeAll(conns)
	if err != nil {
		return 0, err
	}
	again := 0
	for _, c := range conns {
		if c.ConnectionState().DidResume {
			again++
		}
	}
	if resumed && again < connects*9/10 || !resumed && again > 0 { // the first ones have nothing to resume
		return 0, fmt.Errorf("%d of %d TLS sessions were resumed", again, connects)
	}
	return perSecond, nil
}
