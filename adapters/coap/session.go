package coap

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
)

const (
	handshakeTimeout = 30 * time.Second
	recordBuffer     = 8 << 10 // the DTLS library takes no larger records in
	maxShownIdentity = 64
)

// suites are the cipher suites: the one every constrained device has (RFC 7252 section 9.1.3.1)
// and those that OpenSSL and GnuTLS offer with a pre-shared key.
func suites() []dtls.CipherSuiteID {
	return []dtls.CipherSuiteID{
		dtls.TLS_PSK_WITH_AES_128_CCM_8,
		dtls.TLS_PSK_WITH_AES_128_CCM,
		dtls.TLS_PSK_WITH_AES_256_CCM_8,
		dtls.TLS_PSK_WITH_AES_128_GCM_SHA256,
		dtls.TLS_PSK_WITH_CHACHA20_POLY1305_SHA256,
		dtls.TLS_PSK_WITH_AES_128_CBC_SHA256,
	}
}

// session is one DTLS session: an endpoint that has proven to know the key of an identity.
type session struct {
	addr   netip.AddrPort // where the handshake came from
	cid    string         // the connection id that the peer may use
	hello  hello
	began  time.Time
	pipe   *pipe
	conn   *dtls.Conn
	ctx    context.Context // of the handshake
	cancel context.CancelFunc

	// Written by the handshake, before the session is established.
	asked, known bool // the peer named an identity; there is one
	identity     string
	key          [sha256.Size]byte // a digest: the key is kept by whoever was asked for it

	heard atomic.Int64 // when the peer last sent something, Unix nanoseconds

	// Guarded by the door's lock.
	proven      bool // the peer returned the cookie
	established bool
	taken       int       // bytes of the handshake so far
	superseded  time.Time // when the same identity opened a newer one
}

// newSession makes the server's end of a handshake that begins. Each session has a connection id of
// its own, so that the door knows it from the start.
func newSession(s *socket, a arrival, keys keyring) (*session, error) {
	cid := make([]byte, cidSize)
	if _, err := rand.Read(cid); err != nil {
		return nil, err
	}
	n := &session{addr: a.from, cid: string(cid), began: time.Now(), pipe: newPipe(s)}
	conn, err := dtls.ServerWithOptions(n.pipe, net.UDPAddrFromAddrPort(a.from),
		dtls.WithPSK(func(identity []byte) ([]byte, error) { return n.ask(keys, string(identity)) }),
		dtls.WithCipherSuites(suites()...),
		dtls.WithConnectionIDGenerator(func() []byte { return cid }),
	)
	if err != nil {
		return nil, fmt.Errorf("dtls: %w", err)
	}
	n.conn = conn
	n.ctx, n.cancel = context.WithTimeout(context.Background(), handshakeTimeout)
	return n, nil
}

// keyring is Config.Keys.
type keyring func(identity string) (key []byte, ok bool)

// find is a key, or an invented one: an unknown identity must look like a wrong key (COAP-42).
func (k keyring) find(identity string) (key []byte, known bool, err error) {
	if k != nil {
		if key, known = k(identity); known && len(key) > 0 {
			return key, true, nil
		}
	}
	key = make([]byte, sha256.Size)
	_, err = rand.Read(key)
	return key, false, err
}

// ask looks up the key that the handshake needs.
func (s *session) ask(keys keyring, identity string) ([]byte, error) {
	key, known, err := keys.find(identity)
	s.asked, s.known = true, known
	s.identity, s.key = identity, sha256.Sum256(key)
	return key, err
}

// valid tells whether the session's key is still the identity's key.
func (s *session) valid(keys keyring) bool {
	key, known, err := keys.find(s.identity)
	digest := sha256.Sum256(key)
	return err == nil && known && subtle.ConstantTimeCompare(digest[:], s.key[:]) == 1
}

// handshake runs until the peer has proven that it knows the key.
func (s *session) handshake() error { return s.conn.HandshakeContext(s.ctx) }

// read hands every message of the peer to handle until the session ends.
func (s *session) read(handle func([]byte)) {
	buffer := make([]byte, recordBuffer)
	for {
		n, err := s.conn.Read(buffer)
		if err != nil {
			return
		}
		s.heard.Store(time.Now().UnixNano())
		handle(buffer[:n])
	}
}

// end makes handshake and read return. It does not wait.
func (s *session) end() {
	s.cancel()
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
}

// close says goodbye to the peer and lets go of everything.
func (s *session) close() {
	s.end()
	_ = s.conn.Close()
	_ = s.pipe.Close()
}

// remote is where the peer is now: with a connection id it may have moved.
func (s *session) remote() netip.AddrPort {
	if addr, ok := s.conn.RemoteAddr().(*net.UDPAddr); ok {
		return unmapped(addr.AddrPort())
	}
	return s.addr
}

func (s *session) id() endpointID {
	return endpointID{session: binary.BigEndian.Uint64([]byte(s.cid))}
}

func (s *session) send(datagram []byte) { _, _ = s.conn.Write(datagram) }

// shown is as much of an identity as is printed: whoever knocks chooses it.
func shown(identity string) string {
	if len(identity) > maxShownIdentity {
		return identity[:maxShownIdentity] + "..."
	}
	return identity
}

// doubt says what may be wrong with a handshake that failed. A wrong key shows only in that the
// peer's last message means nothing.
func (s *session) doubt() string {
	switch {
	case !s.asked:
		return "the peer gave up before it named an identity"
	case !s.known:
		return "no such identity"
	}
	return "wrong key, or the peer gave up"
}
