package hubsim

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// certified connects dev1 with a certificate of a that lasts for life.
func (h *pipeHub) certified(t *testing.T, a *authority, life time.Duration) *pipeClient {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "dev1"}, NotBefore: time.Now(), NotAfter: time.Now().Add(life),
	}, a.certificate, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c := h.dialAs(t, leaf)
	p := h.connectPacket(t, "dev1", time.Hour)
	p.PasswordFlag, p.Password, p.Keepalive = false, nil, 0
	c.send(encode(p))
	return c
}

// What the real hub does when the certificate of a connection expires is not known (CON-50): this one
// lets it be, and there is no token that could.
func TestAConnectionOutlivesItsCertificate(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		a, _, err := newAuthority()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.AddDeviceCA(a.pem); err != nil {
			t.Fatal(err)
		}
		if _, err := h.RegisterWith("dev1", "", Credential{X509CA: true}); err != nil {
			t.Fatal(err)
		}
		c := h.certified(t, a, time.Minute)
		c.expect([]byte{0x20, 2, 0, 0})
		for range 10 {
			pass(20 * time.Minute)
			c.quiet()
		}
		late := h.certified(t, a, -time.Second)
		late.expect([]byte{0x20, 2, 0, packets.ErrRefusedNotAuthorised})
		late.expectEnd()
		c.quiet() // a client that is refused takes nothing over
	})
}

// A key that is replaced counts from the next CONNECT on; who is connected stays (CON-51).
func TestAConnectionOutlivesItsKey(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		old := h.connectPacket(t, "dev1", time.Hour)
		c := h.dial(t)
		c.send(encode(old))
		c.expect([]byte{0x20, 2, 0, 0})
		if _, err := h.RegisterWith("dev1", "", Credential{PrimaryKey: newKey()}); err != nil {
			t.Fatal(err)
		}
		c.quiet()
		late := h.dial(t)
		late.send(encode(old))
		late.expect([]byte{0x20, 2, 0, packets.ErrRefusedNotAuthorised})
		late.expectEnd()
		c.quiet()
	})
}
