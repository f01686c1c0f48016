package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
	"iothub-gateway/upstream"
)

const (
	bodySize = 200
	warmup   = 1500 * time.Millisecond
	measured = 4 * time.Second
)

func body() []byte {
	b := make([]byte, bodySize)
	for i := range b {
		b[i] = 'x'
	}
	copy(b, `{"v":"`)
	copy(b[bodySize-2:], `"}`)
	return b
}

// rate counts what the hub accepts per second after the warm-up.
func rate(ctx context.Context, hub *hubsim.Hub) (float64, error) {
	if err := pause(ctx, warmup); err != nil {
		return 0, err
	}
	before, start := hub.Received(), time.Now()
	if err := pause(ctx, measured); err != nil {
		return 0, err
	}
	return float64(hub.Received()-before) / time.Since(start).Seconds(), nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newHub starts an in-memory hub with n identities.
func newHub(n int) (*hubsim.Hub, []account, func() error, error) {
	hub, err := hubsim.New(hubsim.Config{MaxStored: 64 << 20})
	if err != nil {
		return nil, nil, nil, err
	}
	accounts, err := register(hub, n)
	if err != nil {
		return nil, nil, nil, err
	}
	return hub, accounts, background(hub.Run), nil
}

// durableRate is how many messages per second the product takes from Put to PUBACK over n identities.
func durableRate(ctx context.Context, n int) (result float64, err error) {
	hub, accounts, stopHub, err := newHub(n)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stopHub()) }()
	rig, err := newGatewayRig(hub, accounts)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rig.close()) }()
	if err := rig.connected(ctx); err != nil {
		return 0, err
	}
	stop := background(func(ctx context.Context) error { return produce(ctx, rig, hub, accounts) })
	result, err = rate(ctx, hub)
	return result, errors.Join(err, stop())
}

const (
	// producers is how many goroutines call Put at a time.
	producers = 256
	// perPut is how many messages each call makes durable, of as many identities: a poll cycle of a
	// link that serves several devices.
	perPut = 8
)

// produce keeps the queue supplied, at most ahead messages ahead of the hub.
func produce(ctx context.Context, rig *gatewayRig, hub *hubsim.Hub, accounts []account) error {
	ahead := uint64(4000 + 32*len(accounts))
	var put atomic.Uint64
	var group sync.WaitGroup
	for p := range producers {
		group.Go(func() {
			messages := make([]gateway.Telemetry, perPut)
			content := body()
			for i := p * perPut; ctx.Err() == nil; i += producers * perPut {
				for k := range messages {
					messages[k] = gateway.Telemetry{Identity: accounts[(i+k)%len(accounts)].id, Body: content, Created: time.Now()}
				}
				if rig.queue.Put(ctx, messages...) != nil {
					return
				}
				for put.Add(perPut); put.Load() > hub.Received()+ahead; {
					if pause(ctx, time.Millisecond) != nil {
						return
					}
				}
			}
		})
	}
	group.Wait()
	return nil
}

// bareRate is how many messages per second paho alone publishes over n connections, with as many in
// flight on each as the product has.
func bareRate(ctx context.Context, n int) (result float64, err error) {
	hub, accounts, stopHub, err := newHub(n)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stopHub()) }()
	clients, err := bareClients(ctx, hub, accounts)
	if err != nil {
		return 0, err
	}
	stop := background(func(ctx context.Context) error {
		var group sync.WaitGroup
		for i, c := range clients {
			group.Go(func() { publish(ctx, c, "devices/"+string(accounts[i].id)+"/messages/events/") })
		}
		group.Wait()
		return nil
	})
	result, err = rate(ctx, hub)
	err = errors.Join(err, stop())
	for _, c := range clients {
		c.Disconnect(100)
	}
	return result, err
}

func bareClients(ctx context.Context, hub *hubsim.Hub, accounts []account) ([]mqtt.Client, error) {
	return connectBare(ctx, target(hub), accounts, 1e6)
}

// connectBare connects paho as its documentation does, over TLS of its own, at most so many a second.
func connectBare(ctx context.Context, hub dial.Config, accounts []account, perSecond float64) ([]mqtt.Client, error) {
	pace := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
	defer pace.Stop()
	dialer := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: hub.Roots, ServerName: hub.ServerName}}
	var clients []mqtt.Client
	for _, a := range accounts {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		login, err := a.credential.Login(ctx, identity.Attempt{Now: time.Now()})
		if err != nil {
			return nil, err
		}
		o := mqtt.NewClientOptions().AddBroker("tls://hub").SetClientID(login.ClientID).SetUsername(login.Username).
			SetPassword(login.Password.Reveal()).SetProtocolVersion(4).SetKeepAlive(240 * time.Second).SetAutoReconnect(false).
			SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
				return dialer.DialContext(ctx, "tcp", hub.Address)
			})
		c := mqtt.NewClient(o)
		token := c.Connect()
		token.Wait()
		if token.Error() != nil {
			return nil, token.Error()
		}
		clients = append(clients, c)
	}
	return clients, nil
}

// publish keeps a window of messages in flight.
func publish(ctx context.Context, c mqtt.Client, topic string) {
	payload := body()
	window := make(chan mqtt.Token, upstream.DefaultWindow-1)
	defer close(window)
	go func() {
		for token := range window {
			select {
			case <-token.Done():
			case <-ctx.Done():
			}
		}
	}()
	for ctx.Err() == nil {
		select {
		case window <- c.Publish(topic, 1, false, payload):
		case <-ctx.Done():
		}
	}
}
