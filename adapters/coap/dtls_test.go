package coap

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/rs/zerolog"

	"iothub-gateway/internal/testkit"
)

const envKey = "sixteen byte key"

// vault is where keys come from.
type vault struct {
	mu   sync.Mutex
	keys map[string]string
}

func newVault(identities ...string) *vault {
	v := &vault{keys: make(map[string]string)}
	for _, identity := range identities {
		v.keys[identity] = envKey
	}
	return v
}

func (v *vault) find(identity string) ([]byte, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key, ok := v.keys[identity]
	return []byte(key), ok
}

func (v *vault) set(identity, key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys[identity] = key; key == "" {
		delete(v.keys, identity)
	}
}

// secureConfig is a DTLS listener with a device for each identity.
func secureConfig(v *vault, identities ...string) Config {
	cfg := Config{Name: "field", Listen: "127.0.0.1:0", Keys: v.find, Limits: Limits{Rate: 1e6}}
	for _, identity := range identities {
		cfg.Devices = append(cfg.Devices, Device{Name: identity, PSK: identity, Path: "/v1/" + identity, Points: points(identity)})
	}
	return cfg
}

// roaming is a device's network: its socket can be cut off or exchanged for another.
type roaming struct {
	net.PacketConn
	mu   sync.Mutex
	open []net.PacketConn
}

func newRoaming(t testing.TB, port int) *roaming {
	t.Helper()
	r := &roaming{}
	r.move(t, port)
	t.Cleanup(r.cut)
	return r
}

func (r *roaming) move(t testing.TB, port int) {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.PacketConn = pc
	r.open = append(r.open, pc)
}

func (r *roaming) current() net.PacketConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.PacketConn
}

func (r *roaming) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		pc := r.current()
		n, from, err := pc.ReadFrom(b)
		if err == nil || pc == r.current() {
			return n, from, err
		}
	}
}

func (r *roaming) WriteTo(b []byte, to net.Addr) (int, error) { return r.current().WriteTo(b, to) }

func (r *roaming) port() int { return r.current().LocalAddr().(*net.UDPAddr).Port }

// cut is a power failure: nothing more is sent, not even a goodbye.
func (r *roaming) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pc := range r.open {
		_ = pc.Close()
	}
}

// connect makes a handshake; the client is nil if it fails within the time.
func connect(t testing.TB, network *roaming, address, identity, key string, wait time.Duration, more ...dtls.ClientOption) (*dtls.Conn, error) {
	t.Helper()
	options := append([]dtls.ClientOption{
		dtls.WithPSK(func([]byte) ([]byte, error) { return []byte(key), nil }),
		dtls.WithPSKIdentityHint([]byte(identity)),
		dtls.WithCipherSuites(dtls.TLS_PSK_WITH_AES_128_CCM_8),
	}, more...)
	conn, err := dtls.ClientWithOptions(network, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)), options...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, nil
}

// device connects and must succeed.
func deviceAt(t testing.TB, network *roaming, address, identity string, more ...dtls.ClientOption) wire {
	t.Helper()
	conn, err := connect(t, network, address, identity, envKey, 5*time.Second, more...)
	if err != nil {
		t.Fatalf("%s: %v", identity, err)
	}
	return wire{t, conn}
}

func to(identity string, mid int32, body string) message.Message {
	return request110("v1/"+identity, mid, body)
}

func TestADeviceWithTheRightKeyReports(t *testing.T) {
	for _, suite := range suites() {
		t.Run(suite.String(), func(t *testing.T) {
			s := &sink{}
			a, stop := run(t, secureConfig(newVault("env-17"), "env-17"), s)
			w := deviceAt(t, newRoaming(t, 0), a.Addr(), "env-17", dtls.WithCipherSuites(suite))
			w.ask(to("env-17", 1, temp21), codes.Changed)
			w.ask(to("env-17", 1, temp21), codes.Changed)
			w.write([]byte("\x40\x02garbage"))
			equal(t, "rejected", w.read().Type, message.Reset)
			w.ask(to("env-17", 2, `[{"n":"hum","v":40}`+strings.Repeat(" ", 4000)+`]`), codes.Changed)
			equal(t, "stored", strings.Join(append(s.values("env-17/temp"), s.values("env-17/hum")...), " "), "21 40")
			equal(t, "sessions", a.Stats().Sessions, 1)
			stop()
			if _, err := w.conn.Read(make([]byte, 100)); !errors.Is(err, io.EOF) {
				t.Errorf("the session was not closed: %v", err)
			}
			equal(t, "sessions", a.Stats().Sessions, 0)
		})
	}
}

func TestNobodyGetsInWithAWrongKey(t *testing.T) {
	var log bytes.Buffer
	cfg := secureConfig(newVault("env-17"), "env-17")
	s := &sink{}
	a := New(cfg, zerolog.New(zerolog.SyncWriter(&log)))
	if err := a.Bind(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, s.accept) }()

	// A wrong key and an unknown identity look the same from outside (COAP-42).
	for _, c := range []struct{ identity, key string }{{"env-17", "another key 16 b"}, {"nobody", envKey}, {strings.Repeat("long", 500), envKey}} {
		_, err := connect(t, newRoaming(t, 0), a.Addr(), c.identity, c.key, 300*time.Millisecond)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%.20q: %v", c.identity, err)
		}
	}
	deviceAt(t, newRoaming(t, 0), a.Addr(), "env-17").ask(to("env-17", 1, temp21), codes.Changed)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	equal(t, "rejected", a.Stats().Rejected, 3)
	equal(t, "stored", len(s.taken()), 1)
	text := log.String()
	for _, secret := range []string{envKey, hex.EncodeToString([]byte(envKey)), base64.StdEncoding.EncodeToString([]byte(envKey))} {
		if strings.Contains(text, secret) {
			t.Errorf("a key was logged: %s", text)
		}
	}
	if !strings.Contains(text, "handshake failed") || len(text) > 2000 {
		t.Errorf("log: %s", text)
	}
}

func TestAKeyOpensOnlyItsDevicesPath(t *testing.T) {
	a, _ := run(t, secureConfig(newVault("env-17", "env-18", "spare"), "env-17", "env-18"), &sink{})
	w := deviceAt(t, newRoaming(t, 0), a.Addr(), "env-17")
	w.ask(to("env-18", 1, temp21), codes.Forbidden)
	w.ask(to("env-19", 2, temp21), codes.NotFound)
	w.ask(to("env-17", 3, temp21), codes.Changed)
	deviceAt(t, newRoaming(t, 0), a.Addr(), "spare").ask(to("env-17", 1, temp21), codes.Forbidden)
}

// A device that lost power has no goodbye to say and comes back on the same port (COAP-105).
func TestARebootedDeviceIsNotKeptOut(t *testing.T) {
	for _, options := range [][]dtls.ClientOption{nil, {dtls.WithConnectionIDGenerator(dtls.OnlySendCIDGenerator())}} {
		s := &sink{}
		a, _ := run(t, secureConfig(newVault("env-17"), "env-17"), s)
		before := newRoaming(t, 0)
		deviceAt(t, before, a.Addr(), "env-17", options...).ask(to("env-17", 1, temp21), codes.Changed)
		port := before.port()
		before.cut()

		began := time.Now()
		after := deviceAt(t, newRoaming(t, port), a.Addr(), "env-17", options...)
		after.ask(to("env-17", 1, temp21), codes.Changed) // a new session: not a repetition
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		testkit.Eventually(t, "the old session has ended", func() bool { return a.Stats().Sessions == 1 })
		equal(t, "stored", len(s.taken()), 2)
		after.ask(to("env-17", 2, temp21), codes.Changed)
	}
}

func TestADeviceThatRebootsDuringAHandshakeIsNotKeptOut(t *testing.T) {
	a, _ := run(t, secureConfig(newVault("env-17"), "env-17"), &sink{})
	before := newRoaming(t, 0)
	port := before.port()
	if _, err := before.WriteTo(firstHello(t), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(a.Addr()))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := before.ReadFrom(make([]byte, 2048)); err != nil { // the cookie
		t.Fatal(err)
	}
	before.cut()
	deviceAt(t, newRoaming(t, port), a.Addr(), "env-17").ask(to("env-17", 1, temp21), codes.Changed)
}

// firstHello is the first datagram of a handshake.
func firstHello(t testing.TB) []byte {
	t.Helper()
	listener, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, _ = connect(t, newRoaming(t, 0), listener.LocalAddr().String(), "env-17", envKey, 20*time.Millisecond)
	buffer := make([]byte, 2048)
	n, _, err := listener.ReadFrom(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return buffer[:n]
}

// Anybody can forge the clear text of a datagram, and its source.
func TestAForgedDatagramCannotEndASession(t *testing.T) {
	a, _ := run(t, secureConfig(newVault("env-17"), "env-17"), &sink{})
	network := newRoaming(t, 0)
	w := deviceAt(t, network, a.Addr(), "env-17")
	server := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(a.Addr()))
	hello := firstHello(t)
	for i, forged := range [][]byte{
		{23, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 99, 0, 1, 'x'},   // application data in clear text
		{21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 98, 0, 2, 2, 10}, // an alert
		{21, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 9, 98, 0, 2, 1, 0},  // close_notify that pretends to be protected
		{99, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 97, 0, 1, 0},     // no known type
		{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 96, 0, 1, 0},     // a broken handshake message
		{20, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 95, 0, 1, 1},     // change cipher spec
		[]byte("\x40\x02\x00\x01 no DTLS at all"),
		hello,
	} {
		if _, err := network.WriteTo(forged, server); err != nil {
			t.Fatal(err)
		}
		w.ask(to("env-17", int32(10+i), temp21), codes.Changed)
	}
	equal(t, "sessions", a.Stats().Sessions, 1)
	equal(t, "handshakes", a.Stats().Handshakes, 1)
}

func TestASessionSurvivesAChangeOfAddressByItsConnectionID(t *testing.T) {
	a, _ := run(t, secureConfig(newVault("env-17", "env-18"), "env-17", "env-18"), &sink{})
	network := newRoaming(t, 0)
	w := deviceAt(t, network, a.Addr(), "env-17", dtls.WithConnectionIDGenerator(dtls.OnlySendCIDGenerator()))
	w.ask(to("env-17", 1, temp21), codes.Changed)
	old := network.current()
	port := network.port()
	network.move(t, 0)
	_ = old.Close()
	w.ask(to("env-17", 2, temp21), codes.Changed)
	equal(t, "handshakes", a.Stats().Handshakes, 1)

	// Somebody else gets the old address: both sessions live on.
	deviceAt(t, newRoaming(t, port), a.Addr(), "env-18").ask(to("env-18", 1, temp21), codes.Changed)
	w.ask(to("env-17", 3, temp21), codes.Changed)
	equal(t, "sessions", a.Stats().Sessions, 2)
}
