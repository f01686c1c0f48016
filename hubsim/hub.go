package hubsim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// Hub is one simulated IoT Hub. Its methods may be called from any goroutine, also before Run; what is
// kept in Dir stays readable after it.
type Hub struct {
	cfg         Config
	log         zerolog.Logger
	ca          *authority
	state       *state
	registry    *registry
	provisioner *provisioner
	store       *store
	dials       *dials
	limits      *limiter     // nil without limits
	mqtt        net.Listener // plain; TLS is on top of it
	https       net.Listener
	workload    net.Listener // of IoT Edge's workload API; nil without a socket
	tls         *tls.Config
	lock        *os.File // holds Dir, nil in memory
	// tap, unless nil, stands between a session and its connection: tests listen in.
	tap func(net.Conn) net.Conn

	received  atomic.Uint64
	requests  atomic.Uint64 // method calls
	letters   atomic.Uint64 // the sequence of the newest cloud-to-device message
	feedback  feedback
	alarms    *alarms
	events    events
	lastState atomic.Int64 // the newest sequence of a connection state event
	buffers   sync.Pool    // of packet readers
	started   atomic.Bool
	sessions  sync.WaitGroup // one for each session; Add only while a listener is served
}

// New binds both listeners and loads, or makes, the certificate authority and the state. It starts
// nothing: call Run, which also lets go of the listeners. It fails if an address is in use, or if Dir
// is another hub's, cannot be written, or is damaged.
func New(cfg Config) (*Hub, error) {
	h := newHub(cfg)
	if err := h.open(); err != nil {
		h.release()
		return nil, fmt.Errorf("hubsim: %w", err)
	}
	return h, nil
}

// newHub is a hub without listeners and state.
func newHub(cfg Config) *Hub {
	h := &Hub{
		cfg: cfg.withDefaults(), log: cfg.Log, dials: &dials{all: map[string]*dial{}},
		limits: newLimiter(cfg.Limits), alarms: newAlarms(),
	}
	// A device may answer a call of a former run late: that must be the answer to no call of this one.
	h.requests.Store(uint64(rand.Uint32()))
	return h
}

func (h *Hub) open() (err error) {
	dir, messages, file := h.cfg.Dir, "", ""
	if dir != "" {
		messages, file = filepath.Join(dir, "messages"), filepath.Join(dir, "state.db")
		if h.lock, err = lockDir(dir); err != nil {
			return err
		}
	}
	if h.ca, err = openAuthority(dir); err != nil {
		return err
	}
	if h.state, err = openState(file); err != nil {
		return err
	}
	if h.registry, err = openRegistry(h.state, dir); err != nil {
		return err
	}
	if h.provisioner, err = openProvisioner(h.state, h.cfg.Provisioning); err != nil {
		return err
	}
	if err = h.loadTwins(); err != nil {
		return err
	}
	if err = h.restore(); err != nil {
		return err
	}
	h.store = newStore(messages, h.cfg.MaxStored, func(err error) {
		h.log.Warn().Err(err).Msg("stored messages")
	})
	cut, err := h.store.recover(func(r record) {
		if id := h.registry.find(r.identity); id != nil {
			id.messages.Add(1)
			id.active.Store(r.at)
		}
	})
	if err != nil {
		return err
	}
	if cut > 0 {
		h.log.Warn().Int64("bytes", cut).Msg("the last message file ended in an unfinished write, which was never acknowledged: cut off")
	}
	return h.bindListeners()
}

// bindListeners makes the hub's certificate and takes its addresses.
func (h *Hub) bindListeners() error {
	certificate, err := h.ca.server(hostOnly(h.cfg.HostName))
	if err != nil {
		return err
	}
	// No ALPN but HTTP/1.1: a WebSocket cannot be opened over HTTP/2 here.
	h.tls = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}
	h.tls.ClientAuth = tls.RequestClientCert // CONNECT decides whether one was needed (CON-16)
	if h.mqtt, err = net.Listen("tcp", h.cfg.MQTT); err != nil {
		return err
	}
	if h.https, err = net.Listen("tcp", h.cfg.HTTPS); err != nil || h.cfg.WorkloadSocket == "" {
		return err
	}
	h.workload, err = listenWorkload(h.cfg.WorkloadSocket)
	return err
}

// lockDir makes dir and keeps other hubs out of it.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another hub: %w", dir, err), f.Close())
	}
	return f, nil
}

// release lets go of what open took.
func (h *Hub) release() {
	for _, l := range []net.Listener{h.mqtt, h.https, h.workload} {
		if l != nil {
			_ = l.Close()
		}
	}
	if h.state != nil {
		if err := h.state.close(); err != nil {
			h.log.Error().Err(err).Msg("the last changes are not stored")
		}
	}
	if h.lock != nil {
		_ = h.lock.Close()
	}
}

// Run serves both listeners until ctx ends, and returns nil then; everything it started has ended and
// everything that was acknowledged is on disk. It returns an error when it cannot go on, such as a full
// disk. A Hub runs once.
func (h *Hub) Run(ctx context.Context) error {
	if h.started.Swap(true) {
		return errors.New("hubsim: a hub runs only once")
	}
	defer h.release()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var disk, doors sync.WaitGroup
	disk.Go(func() {
		if err := h.store.commit(); err != nil {
			stop(&fatal{err})
		}
	})
	doors.Go(func() {
		select {
		case <-h.state.broken:
			stop(&fatal{h.state.failure})
		case <-ctx.Done():
		}
	})
	doors.Go(func() { h.watchClock(ctx) })
	doors.Go(func() { h.listen(ctx) })
	for address, serve := range h.servers() {
		doors.Go(func() {
			if err := serve(ctx); err != nil {
				stop(&fatal{fmt.Errorf("hubsim: %s: %w", address, err)})
			}
		})
	}
	h.log.Info().Str("mqtt", h.MQTTAddr()).Str("https", h.HTTPSAddr()).Msg("hub is up")
	doors.Wait()
	h.sessions.Wait()
	h.store.close()
	disk.Wait()
	h.log.Info().Msg("hub is down")
	var bad *fatal
	if errors.As(context.Cause(ctx), &bad) {
		return bad.error
	}
	return nil
}

// servers are what serves HTTP, by address.
func (h *Hub) servers() map[string]func(context.Context) error {
	all := map[string]func(context.Context) error{h.HTTPSAddr(): h.serveHTTPS}
	if h.workload != nil {
		all[h.cfg.WorkloadSocket] = func(ctx context.Context) error { return h.serve(ctx, h.workload, h.workloadHandler()) }
	}
	return all
}

// fatal is what ends Run other than its ctx.
type fatal struct{ error }

// listen accepts MQTT connections until ctx ends.
func (h *Hub) listen(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { _ = h.mqtt.Close() })()
	for ctx.Err() == nil {
		raw, err := h.mqtt.Accept()
		if err != nil {
			// Out of descriptors, most likely: connections will end, and it will work again.
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		h.sessions.Go(func() { h.serveTLS(ctx, raw) })
	}
}

// serveTLS serves one MQTT connection over TLS.
func (h *Hub) serveTLS(ctx context.Context, raw net.Conn) {
	conn := tls.Server(raw, h.tls)
	limit, cancel := context.WithTimeout(ctx, firstPacketLimit)
	err := conn.HandshakeContext(limit)
	cancel()
	if err != nil {
		_ = raw.Close()
		h.log.Warn().Err(err).Str("clause", "CON-3, CON-11").Msg(raw.RemoteAddr().String() + ": no TLS connection; is the client set up for TLS 1.2 and for this hub's ca.pem?")
		return
	}
	s := h.newSession(conn, raw.Close)
	s.chain = conn.ConnectionState().PeerCertificates
	s.run(ctx)
}

// MQTTAddr is the host:port where MQTT over TLS is served.
func (h *Hub) MQTTAddr() string { return h.mqtt.Addr().String() }

// HTTPSAddr is the host:port where REST and MQTT over WebSocket are served.
func (h *Hub) HTTPSAddr() string { return h.https.Addr().String() }

// CAPEM is the certificate of the hub's authority, for a client's trust file.
func (h *Hub) CAPEM() []byte { return append([]byte(nil), h.ca.pem...) }

// CAPool trusts the hub's authority and nothing else.
func (h *Hub) CAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(h.ca.certificate)
	return pool
}

// Register makes a device, or with a module id a module and its device, unless they exist. It returns
// the primary key in base64, "" of one that proves itself with a certificate. The error names a bad id,
// or says why it could not be stored.
func (h *Hub) Register(device, module string) (key string, err error) {
	reg, err := h.registry.register(wish{device: device, module: module})
	return reg.PrimaryKey, err
}

// RegisterWithKey is RegisterWith a primary key: base64 of 16 to 64 bytes.
func (h *Hub) RegisterWithKey(device, module, key string) error {
	if key == "" {
		return errors.New("hubsim: the key is empty")
	}
	_, err := h.RegisterWith(device, module, Credential{PrimaryKey: key})
	return err
}

// SetEnabled disables a device or module, or enables it again. A disabled one is cut off, as are the
// modules of a disabled device, and none of them may connect (CON-36, CON-51). The error is an *Error
// with 404001 or 404010, or says why it could not be stored.
func (h *Hub) SetEnabled(device, module string, enabled bool) error {
	_, err := h.registry.register(wish{device: device, module: module, need: mustExist, edit: func(reg *registration) error {
		reg.setStatus(!enabled, time.Now())
		return nil
	}})
	if err == nil && !enabled {
		h.cutDisabled(device)
	}
	return err
}

// cutDisabled ends the connections of a device and its modules that may not connect any more (CON-51).
func (h *Hub) cutDisabled(device string) {
	for _, id := range h.registry.family(device) {
		if s := id.connection(); s != nil && !h.registry.enabled(id) {
			s.kill(errDisabled)
			<-s.ended
		}
	}
}

// Unregister deletes a device with its modules, or a module, with everything that is theirs but their
// telemetry, and cuts them off (CON-51). The error is as SetEnabled's.
func (h *Hub) Unregister(device, module string) error {
	if _, err := h.lookUp(device, module); err != nil {
		return err
	}
	name := identityName(device, module)
	var changes []change
	for {
		family := h.registry.family(name)
		for _, id := range family {
			if s := id.abandon(); s != nil {
				s.kill(errDeleted)
				<-s.ended
			}
			changes = append(changes, id.traces()...)
		}
		// Its name is free once its traces are noted: what is registered under it anew keeps its own.
		if stored, done := h.registry.remove(family, name, changes); done {
			return stored.wait()
		}
	}
}

// ServiceConnectionString is the connection string of the policy iothubowner (CON-8).
func (h *Hub) ServiceConnectionString() string { return h.PolicyConnectionString("iothubowner") }

// PolicyConnectionString is the connection string of a shared access policy: iothubowner, service, device,
// registryRead or registryReadWrite (SAS-13); "" if there is none of that name.
func (h *Hub) PolicyConnectionString(name string) string {
	for _, p := range h.registry.policies {
		if p.Name == name {
			return "HostName=" + h.cfg.HostName + ";SharedAccessKeyName=" + p.Name + ";SharedAccessKey=" + p.PrimaryKey
		}
	}
	return ""
}

// Received counts the telemetry messages that this Hub accepted since New, at QoS 0 and 1.
func (h *Hub) Received() uint64 { return h.received.Load() }

// Connected tells whether "device" or "device/module" has a connection.
func (h *Hub) Connected(identity string) bool {
	id := h.registry.find(identity)
	return id != nil && id.connection() != nil
}
