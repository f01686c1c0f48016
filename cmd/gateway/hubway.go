package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
	"iothub-gateway/mapping"
	"iothub-gateway/upstream"
)

// The ports of a hub and of a provisioning service (CON-1, DPS-1).
const (
	mqttPort  = 8883
	httpsPort = 443
)

// hubWay opens connections to hubs and to provisioning services as the mapping says.
type hubWay struct {
	hub  mapping.Hub
	edge *identity.Edge // nil outside of IoT Edge
	// roots are whom to trust; nil means the system's, or those of IoT Edge inside of it.
	roots *x509.CertPool
	proxy *dial.Proxy // nil: none
	// pace is how often the mapping's provisioning service is asked.
	pace *identity.Pace
	// address is host:port of the server called host, for simulators on ports of their own; "" or nil: the
	// host's usual port.
	address func(host string, port int) string
}

// newHubWay reads what the mapping says, and what the environment does inside of IoT Edge.
func newHubWay(cfg serviceConfig) (*hubWay, error) {
	hub := cfg.plant.Hub
	w := &hubWay{hub: hub, roots: cfg.roots, address: cfg.address, pace: identity.NewPace(identity.ProvisioningRate)}
	if p := hub.Proxy; p != nil {
		w.proxy = &dial.Proxy{Address: p.Address}
		if p.User != "" {
			w.proxy.Login = func() (user, password string, err error) {
				secret, err := cfg.secrets.Resolve(p.Password)
				return p.User, secret.Reveal(), err
			}
		}
	}
	if !hub.Edge || cfg.keys != nil {
		return w, nil
	}
	lookup := cfg.environment
	if lookup == nil {
		lookup = os.LookupEnv
	}
	var err error
	if w.edge, err = identity.EdgeModule(lookup); err != nil {
		return nil, fmt.Errorf("hub.edge: %w", err)
	}
	if w.hub.Host == "" {
		w.hub.Host = w.edge.Hub
	}
	w.hub.GatewayHost = w.edge.Gateway
	return w, nil
}

// host is the name of the hub of all identities that are not provisioned; "" if there is none.
func (w *hubWay) host() string { return w.hub.Host }

// toHub connects to the hub of a login, or to the IoT Edge gateway before it.
func (w *hubWay) toHub(ctx context.Context, to identity.Login) (*dial.Conn, error) {
	target, err := w.target(ctx, to.Hub, w.mqttPort())
	if err != nil {
		return nil, err
	}
	target.Certificate = to.Certificate
	return dial.Hub(ctx, target)
}

// toService connects to the provisioning service called host.
func (w *hubWay) toService(ctx context.Context, host string, proof *tls.Certificate) (*dial.Conn, error) {
	target, err := w.direct(host, w.mqttPort())
	if err != nil {
		return nil, err
	}
	target.Certificate = proof
	return dial.Hub(ctx, target)
}

// time is what the clock of a login's hub shows, or that of the service that refused to name it.
func (w *hubWay) time(ctx context.Context, of identity.Login) (time.Time, error) {
	target, err := w.target(ctx, of.Hub, httpsPort)
	if err != nil {
		return time.Time{}, err
	}
	return dial.ServerTime(ctx, target)
}

func (w *hubWay) mqttPort() int {
	if w.hub.Transport == "websocket" {
		return httpsPort
	}
	return mqttPort
}

// target is where the hub called host is reached, at the usual port of what is spoken or at the mapping's.
func (w *hubWay) target(ctx context.Context, host string, port int) (dial.Config, error) {
	usual := port == w.mqttPort() // the mapping's port is that of the connection
	switch {
	case w.hub.GatewayHost != "":
		host = w.hub.GatewayHost
		if usual && w.hub.GatewayPort != 0 {
			port = w.hub.GatewayPort
		}
	case host == w.hub.Host && usual && w.hub.Port != 0:
		port = w.hub.Port
	}
	target, err := w.direct(host, port)
	if err == nil && w.edge != nil && w.roots == nil {
		target.Roots, err = edgeRoots(ctx, w.edge)
	}
	return target, err
}

// direct is the server called host, or host:port.
func (w *hubWay) direct(host string, port int) (dial.Config, error) {
	name, number, withPort := strings.Cut(host, ":")
	if withPort {
		var err error
		if port, err = strconv.Atoi(number); err != nil {
			return dial.Config{}, fmt.Errorf("%s: %w", host, err)
		}
	}
	target := dial.Config{
		ServerName: name, Roots: w.roots, WebSocket: w.hub.Transport == "websocket", Proxy: w.proxy,
		WriteTimeout: upstream.DefaultWriteTimeout, MaxPacket: maxPacket,
	}
	if w.address != nil {
		target.Address = w.address(name, port)
	}
	if target.Address == "" {
		target.Address = net.JoinHostPort(name, strconv.Itoa(port))
	}
	return target, nil
}

// edgeRoots asks the runtime whom its edgeHub is signed by: it exchanges that authority now and then.
func edgeRoots(ctx context.Context, edge *identity.Edge) (*x509.CertPool, error) {
	text, err := edge.Trust(ctx)
	if err != nil || len(text) == 0 {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("the trust bundle of IoT Edge holds no PEM certificate")
	}
	return pool, nil
}

// trustedRoots reads the mapping's hub.trust; nil means the system's certificates.
func trustedRoots(hub mapping.Hub, dir string) (*x509.CertPool, error) {
	if hub.Trust == "" {
		return nil, nil
	}
	path := strings.TrimPrefix(hub.Trust, "file:")
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("hub.trust: %w; put the certificate of the hub's authority there", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("hub.trust: %s holds no PEM certificate", path)
	}
	return pool, nil
}
