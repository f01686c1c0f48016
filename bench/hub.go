package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"iothub-gateway/hubsim"
)

const (
	idleDevices = 9000 // that one hub holds
	connects    = 3000 // that a rate is taken from
	dialers     = 32   // that connect at a time
)

// hubPlan is what a child that is a server is told on its standard input, on one line.
type hubPlan struct {
	Keys []string // of dev0000 and so on, base64
}

// hubPlace is what it answers: where it is. Then it answers each further line with the bytes it holds.
type hubPlace struct {
	Address string
	CA      []byte // of a hub, PEM
	Held    int64
}

// serveHub is a hub in a process of its own.
func serveHub(in *json.Decoder, out *json.Encoder) error {
	var plan hubPlan
	if err := in.Decode(&plan); err != nil {
		return err
	}
	hub, err := hubsim.New(hubsim.Config{MaxStored: 1 << 20})
	if err != nil {
		return err
	}
	for i, key := range plan.Keys {
		if err := hub.RegisterWithKey(deviceName(i), "", key); err != nil {
			return err
		}
	}
	stop := background(hub.Run)
	return errors.Join(tellHeld(in, out, hubPlace{Address: hub.MQTTAddr(), CA: hub.CAPEM()}), stop())
}

// serveBare is the least that can hold a TLS connection: it answers what comes with a fixed CONNACK, and
// one goroutine a connection waits for more.
func serveBare(in *json.Decoder, out *json.Encoder) error {
	var plan hubPlan
	if err := in.Decode(&plan); err != nil {
		return err
	}
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return err
	}
	var conns sync.WaitGroup
	stop := background(func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return nil
			}
			conns.Go(func() { answerConnect(ctx, conn) })
		}
	})
	err = errors.Join(tellHeld(in, out, hubPlace{Address: listener.Addr().String()}), stop())
	conns.Wait()
	return err
}

func answerConnect(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	buf := make([]byte, 512)
	if _, err := conn.Read(buf); err != nil {
		return
	}
	if _, err := conn.Write([]byte{packets.Connack << 4, 2, 0, 0}); err != nil {
		return
	}
	_, _ = conn.Read(buf)
}

// tellHeld says where the server is, then how many bytes it holds, each time it is asked.
func tellHeld(in *json.Decoder, out *json.Encoder, place hubPlace) error {
	for {
		place.Held = residentBytes()
		if err := out.Encode(place); err != nil {
			return err
		}
		var again bool
		if err := in.Decode(&again); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// selfSigned is a certificate with a key like the hub's; the clients here do not look at it.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// child is a process of this program in another role.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// startChild runs a role, tells it the plan, and reads what it answers into place.
func startChild(ctx context.Context, role string, plan, place any) (c child, err error) {
	c.cmd = exec.CommandContext(ctx, os.Args[0])
	c.cmd.Env, c.cmd.Stderr = append(os.Environ(), childRole+"="+role), os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return c, err
	}
	output, err := c.cmd.StdoutPipe()
	if err != nil {
		return c, err
	}
	c.out = json.NewDecoder(bufio.NewReader(output))
	if err := c.cmd.Start(); err != nil {
		return c, err
	}
	return c, errors.Join(json.NewEncoder(c.in).Encode(plan), c.out.Decode(place))
}

// stop ends the child, which ends with its input.
func (c child) stop() error { return errors.Join(c.in.Close(), c.cmd.Wait()) }

// server is a child that devices connect to.
type server struct {
	hubPlace
	child
	keys  []string
	login [][]byte // the CONNECT of each device
}

// startServer runs a child, "hub" or "bare server", that knows n devices.
func startServer(ctx context.Context, role string, n int) (s *server, err error) {
	s = &server{}
	for i := range n {
		key := fmt.Sprintf("%048d", i) // 36 bytes in base64
		login, err := connectOf(deviceName(i), key)
		if err != nil {
			return nil, err
		}
		s.keys, s.login = append(s.keys, key), append(s.login, login)
	}
	s.child, err = startChild(ctx, role, hubPlan{Keys: s.keys}, &s.hubPlace)
	return s, err
}

// held asks how many bytes the server holds.
func (s *server) held() (int64, error) {
	err := errors.Join(json.NewEncoder(s.in).Encode(true), s.out.Decode(&s.hubPlace))
	return s.Held, err
}

func deviceName(i int) string { return fmt.Sprintf("dev%04d", i) }
