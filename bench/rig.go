package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
	"iothub-gateway/upstream"
)

// background runs f until stop is called, which returns f's error.
func background(f func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	return func() error {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}
}

// account is one identity that the hub knows.
type account struct {
	id         gateway.IdentityID
	credential *identity.SAS
}

// register makes n identities known to hub.
func register(hub *hubsim.Hub, n int) ([]account, error) {
	var all []account
	for i := range n {
		id := gateway.IdentityID(fmt.Sprintf("dev%04d", i))
		key, err := hub.Register(string(id), "")
		if err != nil {
			return nil, err
		}
		sas, err := identity.NewSAS("localhost", id, identity.NewSecret(key), time.Hour)
		if err != nil {
			return nil, err
		}
		all = append(all, account{id, sas})
	}
	return all, nil
}

// target is where the product connects.
func target(hub *hubsim.Hub) dial.Config {
	return dial.Config{Address: hub.MQTTAddr(), ServerName: "localhost", Roots: hub.CAPool(), WriteTimeout: upstream.DefaultWriteTimeout, MaxPacket: 320 * 1024}
}

// dialer opens what the product opens.
func dialer(hub *hubsim.Hub) func(context.Context, identity.Login) (*dial.Conn, error) {
	cfg := target(hub)
	return func(ctx context.Context, _ identity.Login) (*dial.Conn, error) { return dial.Hub(ctx, cfg) }
}

// gatewayRig is the product from the queue to the hub.
type gatewayRig struct {
	dir       string
	queue     *buffer.Queue
	pool      *upstream.Pool
	stopPool  func() error
	stopQueue func() error
}

func newGatewayRig(hub *hubsim.Hub, accounts []account) (*gatewayRig, error) {
	dir, err := os.MkdirTemp(".", "bench-queue-")
	if err != nil {
		return nil, err
	}
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(dir, "queue")})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return startRig(dir, queue, accounts, rigOptions{open: dialer(hub), rate: 1e6}), nil
}

// rigOptions say how a rig connects.
type rigOptions struct {
	open func(context.Context, identity.Login) (*dial.Conn, error)
	rate float64 // connections a second
}

// startRig runs a queue in dir and the pool of accounts.
func startRig(dir string, queue *buffer.Queue, accounts []account, o rigOptions) *gatewayRig {
	r := &gatewayRig{dir: dir, queue: queue, stopQueue: background(queue.Run)}
	r.connect(accounts, o)
	return r
}

// connect starts the pool of accounts.
func (r *gatewayRig) connect(accounts []account, o rigOptions) {
	var members []upstream.Member
	for _, a := range accounts {
		members = append(members, upstream.Member{ID: a.id, Credential: a.credential, Lane: r.queue.Lane(a.id)})
	}
	r.pool = upstream.NewPool(upstream.Config{Dial: o.open, ConnectRate: o.rate, TwinRate: 1e6, Log: zerolog.Nop()}, members, noMethods)
	r.stopPool = background(r.pool.Run)
}

func noMethods(context.Context, gateway.Command) gateway.Reply {
	return gateway.Reply{Status: 404, Body: []byte("{}")}
}

// connected waits until all identities are.
func (r *gatewayRig) connected(ctx context.Context) error {
	return poll(ctx, func() bool {
		for _, l := range r.pool.Stats() {
			if !l.Connected {
				return false
			}
		}
		return true
	})
}

func (r *gatewayRig) close() error {
	return errors.Join(r.stopPool(), r.stopQueue(), r.queue.Close(), os.RemoveAll(r.dir))
}

// poll waits until check is true.
func poll(ctx context.Context, check func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
