package hubsim_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	paho "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// signer issues certificates; the zero signer issues ones that sign themselves.
type signer struct{ own *tls.Certificate }

// issue makes a certificate for a CN that lasts until notAfter.
func (s signer) issue(t *testing.T, name string, isCA bool, notAfter time.Time) (signer, tls.Certificate) {
	t.Helper()
	c := testkit.Issue(t, s.own, x509.Certificate{Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true, IsCA: isCA, NotAfter: notAfter})
	return signer{&c}, c
}

func (s signer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.own.Leaf.Raw})
}

// withCertificate connects over TLS with a client certificate, nil for none, and without a password, and
// returns the CONNACK code.
func (h *testHub) withCertificate(t *testing.T, identity string, certificate *tls.Certificate) int {
	t.Helper()
	cfg := &tls.Config{RootCAs: h.CAPool(), ServerName: "localhost"}
	if certificate != nil {
		cfg.Certificates = []tls.Certificate{*certificate}
	}
	conn, err := tls.Dial("tcp", h.MQTTAddr(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := newRawClient(t, conn)
	c.sendPacket(h.certificateConnect(identity))
	code := int(c.expect(packets.Connack).ReasonCode)
	if code == 0 {
		c.alive()
		root := "devices/" + strings.Replace(identity, "/", "/modules/", 1)
		c.publish(root+"/messages/events/", 1, 1, "by certificate")
		c.expectPuback(1)
	} else {
		c.expectClosed()
	}
	return code
}

// certificateConnect is a CONNECT without a password.
func (h *testHub) certificateConnect(identity string) *paho.ConnectPacket {
	p := paho.NewControlPacket(paho.Connect).(*paho.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.Keepalive, p.CleanSession = "MQTT", 4, 60, true
	p.ClientIdentifier, p.UsernameFlag, p.Username = identity, true, h.user(identity)
	return p
}

func register(t *testing.T, hub *testHub, identity string, c hubsim.Credential) {
	t.Helper()
	device, module, _ := strings.Cut(identity, "/")
	if _, err := hub.RegisterWith(device, module, c); err != nil {
		t.Fatal(err)
	}
}

func TestACertificateProvesADeviceByItsThumbprint(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	later := time.Now().Add(time.Hour)
	one, oneKey := signer{}.issue(t, "whatever", false, later)
	two, twoKey := signer{}.issue(t, "dev1", false, later)
	_, otherKey := signer{}.issue(t, "dev1", false, later)
	short := sha1.Sum(one.own.Leaf.Raw)
	colons := strings.ToLower(strings.Trim(fmt.Sprintf("% X", sha256.Sum256(two.own.Leaf.Raw)), " "))
	register(t, hub, "dev1", hubsim.Credential{Thumbprint: fmt.Sprintf("%x", short), SecondaryThumbprint: strings.ReplaceAll(colons, " ", ":")})
	register(t, hub, "dev1/mod1", hubsim.Credential{Thumbprint: fmt.Sprintf("%X", short)})
	register(t, hub, "dev2", hubsim.Credential{})
	for range 2 { // and again after a restart
		for _, c := range []struct {
			identity    string
			certificate *tls.Certificate
			want        int
		}{
			{"dev1", &oneKey, 0}, {"dev1", &twoKey, 0}, {"dev1", &otherKey, 5}, {"dev1", nil, 5},
			{"dev1/mod1", &oneKey, 0}, {"dev1/mod1", &twoKey, 5}, {"dev2", &oneKey, 5},
		} {
			if got := hub.withCertificate(t, c.identity, c.certificate); got != c.want {
				t.Errorf("%s: CONNACK %d, want %d", c.identity, got, c.want)
			}
		}
		hub.stop()
		hub = startHub(t, cfg)
	}
	if m := hub.Messages(0, 1)[0]; m.System["iothub-connection-auth-method"] != `{"scope":"device","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}` {
		t.Errorf("the message says %s", m.System["iothub-connection-auth-method"])
	}
}

func TestACertificateProvesADeviceByItsAuthority(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	later := time.Now().Add(time.Hour)
	root, _ := signer{}.issue(t, "plant root", true, later)
	middle, _ := root.issue(t, "line 3", true, later)
	stranger, _ := signer{}.issue(t, "plant root", true, later)
	_, direct := root.issue(t, "dev1", false, later)
	_, below := middle.issue(t, "dev1", false, later)
	chained := tls.Certificate{Certificate: append(below.Certificate, middle.own.Leaf.Raw), PrivateKey: below.PrivateKey}
	_, module := root.issue(t, "dev1/mod1", false, later)
	_, expired := root.issue(t, "dev1", false, time.Now().Add(-time.Minute))
	_, foreign := stranger.issue(t, "dev1", false, later)
	if err := hub.AddDeviceCA(root.pem()); err != nil {
		t.Fatal(err)
	}
	register(t, hub, "dev1", hubsim.Credential{X509CA: true})
	register(t, hub, "dev1/mod1", hubsim.Credential{X509CA: true})
	for range 2 { // and again after a restart
		for name, c := range map[string]struct {
			identity    string
			certificate *tls.Certificate
			want        int
		}{
			"by the root":           {"dev1", &direct, 0},
			"with its intermediate": {"dev1", &chained, 0},
			"a gap in the chain":    {"dev1", &below, 5},
			"another device's":      {"dev1", &module, 5},
			"a module's":            {"dev1/mod1", &module, 0},
			"expired":               {"dev1", &expired, 5},
			"another authority's":   {"dev1", &foreign, 5},
			"none":                  {"dev1", nil, 5},
		} {
			if got := hub.withCertificate(t, c.identity, c.certificate); got != c.want {
				t.Errorf("%s: CONNACK %d, want %d", name, got, c.want)
			}
		}
		hub.stop()
		hub = startHub(t, cfg)
	}
}

// A token does not help a device that proves itself with a certificate, but that of a policy does, and a
// password goes before a certificate (CON-31).
func TestAPasswordGoesBeforeACertificate(t *testing.T) {
	hub := startHub(t, hubConfig())
	own, ownKey := signer{}.issue(t, "dev1", false, time.Now().Add(time.Hour))
	key, err := hub.Register("dev1", "")
	if err != nil {
		t.Fatal(err)
	}
	resource, later := hub.name+"/devices", time.Now().Add(time.Hour)
	connack := func(token string) int {
		conn, err := tls.Dial("tcp", hub.MQTTAddr(), &tls.Config{RootCAs: hub.CAPool(), ServerName: "localhost", Certificates: []tls.Certificate{ownKey}})
		if err != nil {
			t.Fatal(err)
		}
		p := hub.certificateConnect("dev1")
		p.PasswordFlag, p.Password = true, []byte(token)
		c := newRawClient(t, conn)
		c.sendPacket(p)
		return int(c.expect(packets.Connack).ReasonCode)
	}
	if code := connack(sign(resource, key, later, "")); code != 0 {
		t.Errorf("a good token beside a certificate: CONNACK %d", code)
	}
	register(t, hub, "dev1", hubsim.Credential{Thumbprint: fmt.Sprintf("%x", sha1.Sum(own.own.Leaf.Raw))})
	if code := connack(sign(resource, key, later, "")); code != 5 {
		t.Errorf("the token of a key that it had: CONNACK %d", code)
	}
	if code := connack(sign(resource, ownerKey(hub), later, "iothubowner")); code != 0 {
		t.Errorf("the token of a policy: CONNACK %d", code)
	}
	if code := connack(""); code != 0 {
		t.Errorf("an empty password: CONNACK %d", code)
	}
	register(t, hub, "dev1", hubsim.Credential{PrimaryKey: knownKey})
	if code := connack(sign(resource, knownKey, later, "")); code != 0 {
		t.Errorf("back to keys: CONNACK %d", code)
	}
	if code := connack(""); code != 5 {
		t.Errorf("back to keys, with a certificate: CONNACK %d", code)
	}
}

func TestACertificateWorksOverWebSocket(t *testing.T) {
	hub := startHub(t, hubConfig())
	own, ownKey := signer{}.issue(t, "dev1", false, time.Now().Add(time.Hour))
	register(t, hub, "dev1", hubsim.Credential{Thumbprint: fmt.Sprintf("%x", sha1.Sum(own.own.Leaf.Raw))})
	for want, certificates := range map[byte][]tls.Certificate{0: {ownKey}, 5: nil} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: hub.CAPool(), ServerName: "localhost", Certificates: certificates}}
		t.Cleanup(transport.CloseIdleConnections)
		conn, _, err := websocket.Dial(t.Context(), "wss://"+hub.HTTPSAddr()+"/$iothub/websocket?iothub-no-client-cert=true", &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{"mqtt"},
		})
		if err != nil {
			t.Fatal(err)
		}
		c := newRawClient(t, websocket.NetConn(t.Context(), conn, websocket.MessageBinary))
		c.sendPacket(hub.certificateConnect("dev1"))
		if ack := c.expect(packets.Connack); ack.ReasonCode != want {
			t.Errorf("CONNACK %d, want %d", ack.ReasonCode, want)
		}
	}
}

func TestCredentialsThatContradictAreRefused(t *testing.T) {
	hub := startHub(t, hubConfig())
	thumb := strings.Repeat("ab", 20)
	for _, c := range []hubsim.Credential{
		{PrimaryKey: "short"}, {SecondaryKey: "short"}, {Thumbprint: "xyz"}, {Thumbprint: "abcd"}, {SecondaryThumbprint: thumb + "ab"},
		{PrimaryKey: knownKey, Thumbprint: thumb}, {SecondaryKey: knownKey, X509CA: true}, {Thumbprint: thumb, X509CA: true},
	} {
		if _, err := hub.RegisterWith("dev1", "", c); err == nil {
			t.Errorf("%+v was registered", c)
		}
	}
	leaf, _ := signer{}.issue(t, "dev1", false, time.Now().Add(time.Hour))
	for _, text := range [][]byte{nil, []byte("no PEM"), leaf.pem(), bytes.ReplaceAll(leaf.pem(), []byte("A"), []byte("B"))} {
		if err := hub.AddDeviceCA(text); err == nil {
			t.Errorf("%.40q was taken as an authority", text)
		}
	}
}

func TestCertificatesAreRegisteredOverREST(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	later := time.Now().Add(time.Hour)
	own, ownKey := signer{}.issue(t, "dev1", false, later)
	root, _ := signer{}.issue(t, "root", true, later)
	_, byRoot := root.issue(t, "dev2", false, later)
	thumb := fmt.Sprintf("%X", sha1.Sum(own.own.Leaf.Raw))
	for _, c := range []struct{ method, path, body, want string }{
		{"PUT", "/hubsim/devices/dev1", `{"thumbprint":"` + strings.ToLower(thumb) + `"}`, `{"deviceId":"dev1","thumbprint":"` + thumb + `"}`},
		{"PUT", "/hubsim/devices/dev2", `{"x509ca":true}`, `{"deviceId":"dev2","x509ca":true}`},
		{"PUT", "/hubsim/devices/dev2", ``, `{"deviceId":"dev2","x509ca":true}`}, // stays as it is
		{"POST", "/hubsim/authorities", string(root.pem()), `{}`},
		{"POST", "/hubsim/authorities", "no PEM", ""},
		{"PUT", "/hubsim/devices/dev2", `{"x509ca":true,"thumbprint":"` + thumb + `"}`, ""},
		{"PUT", "/hubsim/devices/dev2", `{"status":"away"}`, ""},
	} {
		status, _, answer := service.do(c.method, c.path, c.body)
		if c.want == "" && status != 400 || c.want != "" && answer != c.want {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, status, answer)
		}
	}
	if a, b := hub.withCertificate(t, "dev1", &ownKey), hub.withCertificate(t, "dev2", &byRoot); a+b != 0 {
		t.Errorf("CONNACK %d and %d", a, b)
	}
	_, _, answer := service.do("GET", "/devices/dev1?api-version=2021-04-12", "")
	if want := `"authentication":{"type":"selfSigned","symmetricKey":{"primaryKey":null,"secondaryKey":null},"x509Thumbprint":{"primaryThumbprint":"` + thumb + `","secondaryThumbprint":null}}`; !strings.Contains(answer, want) {
		t.Errorf("the registry says %s", answer)
	}
}

func TestADisabledDeviceIsCutOffAndRefused(t *testing.T) {
	hub := startHub(t, hubConfig())
	device, module := hub.rawConnected(t, "dev1", true), hub.rawConnected(t, "dev1/mod1", true)
	other := hub.rawConnected(t, "dev2", true)
	service := hub.rest(t)
	if status, _, answer := service.do("PUT", "/hubsim/devices/dev1", `{"status":"disabled"}`); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	device.expectClosed()
	module.expectClosed()
	other.alive()
	for _, identity := range []string{"dev1", "dev1/mod1"} {
		c := hub.raw(t)
		c.sendPacket(hub.connectPacket(t, identity, true))
		if ack := c.expect(packets.Connack); ack.ReasonCode != 5 {
			t.Errorf("%s: CONNACK %d", identity, ack.ReasonCode)
		}
	}
	if _, _, answer := service.do("GET", "/devices/dev1?api-version=2021-04-12", ""); !strings.Contains(answer, `"status":"disabled"`) {
		t.Errorf("the registry says %s", answer)
	}
	if err := hub.SetEnabled("dev1", "", true); err != nil {
		t.Fatal(err)
	}
	hub.rawConnected(t, "dev1/mod1", true)
	if err := hub.SetEnabled("dev1", "mod1", false); err != nil {
		t.Fatal(err)
	}
	if hub.Connected("dev1/mod1") {
		t.Error("a disabled module is connected")
	}
	hub.rawConnected(t, "dev1", true)
	if err := hub.SetEnabled("dev9", "", false); err == nil {
		t.Error("an unknown device was disabled")
	}
}

func TestADeletedDeviceIsCutOffAndLeavesNothing(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	device, module := hub.rawConnected(t, "dev1", false), hub.rawConnected(t, "dev1/mod1", true)
	device.subscribe(1, 1, "devices/dev1/messages/devicebound/#", "$iothub/twin/res/#")
	for range 2 {
		if _, err := hub.Send(hubsim.CloudMessage{Device: "dev1", Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	device.expect(packets.Publish)
	device.expect(packets.Publish)
	good := hub.connectPacket(t, "dev1", false)
	service := hub.rest(t)
	if status, _, answer := service.do("DELETE", "/hubsim/devices/dev1", ""); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	device.expectClosed()
	module.expectClosed()
	c := hub.raw(t)
	c.sendPacket(good)
	if ack := c.expect(packets.Connack); ack.ReasonCode != 5 {
		t.Errorf("CONNACK %d", ack.ReasonCode)
	}
	if status, code, _ := service.do("DELETE", "/hubsim/devices/dev1", ""); status != 404 || code != "DeviceNotFound" {
		t.Errorf("deleting it again: %d %s", status, code)
	}
	for range 2 { // and after a restart
		c = hub.raw(t)
		c.sendPacket(hub.connectPacket(t, "dev1", false)) // registers it anew
		if ack := c.expect(packets.Connack); ack.ReasonCode != 0 || ack.SessionPresent {
			t.Errorf("CONNACK %d, session present %v", ack.ReasonCode, ack.SessionPresent)
		}
		c.alive()
		if dead := hub.DeadLetters("dev1"); len(dead) != 0 {
			t.Errorf("dead letters %+v", dead)
		}
		if err := hub.Unregister("dev1", ""); err != nil {
			t.Fatal(err)
		}
		hub.stop()
		hub = startHub(t, cfg)
	}
}
