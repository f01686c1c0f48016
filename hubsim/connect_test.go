package hubsim_test

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/hubsim"
)

const knownKey = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// ownerKey is the primary key of the policy iothubowner.
func ownerKey(hub *testHub) string {
	_, key, _ := strings.Cut(hub.ServiceConnectionString(), "SharedAccessKey=")
	return key
}

// connectCase changes a good CONNECT of dev1.
type connectCase struct {
	name string
	edit func(p *paho.ConnectPacket)
}

func setToken(resource, key string, expires time.Time, policy string) func(*paho.ConnectPacket) {
	return func(p *paho.ConnectPacket) { p.Password = []byte(sign(resource, key, expires, policy)) }
}

func setUser(user string) func(*paho.ConnectPacket) {
	return func(p *paho.ConnectPacket) { p.Username = user }
}

func connectHub(t *testing.T) *testHub {
	t.Helper()
	hub := startHub(t, hubConfig())
	if err := hub.RegisterWithKey("dev1", "", knownKey); err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Register("dev1", "mod1"); err != nil {
		t.Fatal(err)
	}
	return hub
}

// connackOf is the CONNACK code that a changed CONNECT of dev1 gets, -1 for none.
func (h *testHub) connackOf(t *testing.T, edit func(*paho.ConnectPacket)) int {
	t.Helper()
	p := h.connectPacket(t, "dev1", true)
	edit(p)
	c := h.raw(t)
	c.sendPacket(p)
	got, err := c.next()
	if err != nil {
		return -1
	}
	if got.FixedHeader.Type != packets.Connack {
		t.Fatalf("packet type %d", got.FixedHeader.Type)
	}
	if got.ReasonCode != 0 {
		c.expectClosed()
	}
	return int(got.ReasonCode)
}

func TestGoodCredentialsOfEveryFormAreLetIn(t *testing.T) {
	hub := connectHub(t)
	later := time.Now().Add(time.Hour)
	const host = "contoso.azure-devices.net"
	for _, c := range []connectCase{
		{"as the document says", func(*paho.ConnectPacket) {}},
		{"small escapes", setToken("contoso.azure-devices.net%2fdevices%2fdev1", knownKey, later, "")},
		{"raw slashes", setToken(host+"/devices/dev1", knownKey, later, "")},
		{"encoded twice", setToken(url.QueryEscape(url.QueryEscape(host+"/devices/dev1")), knownKey, later, "")},
		{"the hub only", setToken(host, knownKey, later, "")},
		{"Device Explorer's api-version", setToken(url.QueryEscape(host+"/devices/dev1/api-version=2016-11-14"), knownKey, later, "")},
		{"gateway policy", setToken(host+"/devices", ownerKey(hub), later, "iothubowner")},
		{"policy on the device", setToken(host+"/devices/dev1", ownerKey(hub), later, "iothubowner")},
		{"valid for a moment", setToken(host, knownKey, time.Now().Add(3*time.Second), "")},
		{"old user name", setUser(host + "/dev1/api-version=2016-11-14")},
		{"shortest user name", setUser(host + "/dev1")},
		{"localhost", setUser("localhost:8883/dev1/?api-version=2021-04-12")},
		{"other case of the host", setUser("Contoso.Azure-Devices.net/dev1/?api-version=2021-04-12")},
		{"an agent", setUser(host + "/dev1/?api-version=2021-04-12&DeviceClientType=a%2F1%20(x)&model-id=dtmi:a;1")},
		{"keep-alive 0", func(p *paho.ConnectPacket) { p.Keepalive = 0 }},
		{"a Will at QoS 2", func(p *paho.ConnectPacket) { p.WillFlag, p.WillQos, p.WillTopic = true, 2, "anything" }},
	} {
		if code := hub.connackOf(t, c.edit); code != 0 {
			t.Errorf("%s: CONNACK %d", c.name, code)
		}
	}
}

func TestBadCredentialsAreRefusedWithFive(t *testing.T) {
	hub := connectHub(t)
	later := time.Now().Add(time.Hour)
	const host = "contoso.azure-devices.net"
	textKey := base64.StdEncoding.EncodeToString([]byte(knownKey)) // as if it had not been decoded
	for _, c := range []connectCase{
		{"another key", setToken(host, textKey, later, "")},
		{"expired", setToken(host, knownKey, time.Now().Add(-time.Second), "")},
		{"for another device", setToken(host+"/devices/dev2", knownKey, later, "")},
		{"for a module", setToken(host+"/devices/dev1/modules/mod1", knownKey, later, "")},
		{"for another hub", setToken("fabrikam.azure-devices.net/devices/dev1", knownKey, later, "")},
		{"unknown policy", setToken(host, ownerKey(hub), later, "admin")},
		{"device key under a policy's name", setToken(host, knownKey, later, "iothubowner")},
		{"policy key without its name", setToken(host, ownerKey(hub), later, "")},
		{"no password", func(p *paho.ConnectPacket) { p.PasswordFlag, p.Password = false, nil }},
		{"empty password", func(p *paho.ConnectPacket) { p.Password = nil }},
		{"the key itself", func(p *paho.ConnectPacket) { p.Password = []byte(knownKey) }},
		{"no user name", func(p *paho.ConnectPacket) { p.UsernameFlag, p.PasswordFlag = false, false }},
		{"a user name of another hub", setUser("fabrikam.azure-devices.net/dev1/?api-version=2021-04-12")},
		{"a user name of another device", setUser(host + "/dev2/?api-version=2021-04-12")},
		{"a bad api-version", setUser(host + "/dev1/?api-version=latest")},
		{"another ClientId", func(p *paho.ConnectPacket) { p.ClientIdentifier = "DEV1" }},
		{"no ClientId", func(p *paho.ConnectPacket) { p.ClientIdentifier = "" }},
		{"an unknown device", func(p *paho.ConnectPacket) {
			p.ClientIdentifier, p.Username = "dev9", host+"/dev9/?api-version=2021-04-12"
		}},
		{"an unknown module", func(p *paho.ConnectPacket) {
			p.ClientIdentifier, p.Username = "dev1/mod9", host+"/dev1/mod9/?api-version=2021-04-12"
		}},
		{"the device's key for its module", func(p *paho.ConnectPacket) {
			p.ClientIdentifier, p.Username = "dev1/mod1", host+"/dev1/mod1/?api-version=2021-04-12"
		}},
	} {
		if code := hub.connackOf(t, c.edit); code != 5 {
			t.Errorf("%s: CONNACK %d, want 5", c.name, code)
		}
	}
}

func TestOtherVersionsOfMQTTAreRefusedWithOne(t *testing.T) {
	hub := connectHub(t)
	for name, packet := range map[string]string{
		"MQTT 5":   "\x10\x11\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x04dev1",
		"MQTT 3.1": "\x10\x12\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x04dev1",
		"level 6":  "\x10\x10\x00\x04MQTT\x06\x02\x00\x3c\x00\x04dev1",
	} {
		c := hub.raw(t)
		c.send([]byte(packet))
		if ack := c.expect(packets.Connack); ack.ReasonCode != 1 {
			t.Errorf("%s: CONNACK %d, want 1", name, ack.ReasonCode)
		}
		c.expectClosed()
	}
}

func TestWhatIsNoConnectIsClosedWithoutAnAnswer(t *testing.T) {
	hub := connectHub(t)
	for name, packet := range map[string]string{
		"PINGREQ first":           "\xc0\x00",
		"PUBLISH first":           "\x30\x03\x00\x01a",
		"reserved flag":           "\x10\x10\x00\x04MQTT\x04\x03\x00\x3c\x00\x04dev1",
		"Will QoS without a Will": "\x10\x10\x00\x04MQTT\x04\x0a\x00\x3c\x00\x04dev1",
		"password without user":   "\x10\x13\x00\x04MQTT\x04\x42\x00\x3c\x00\x04dev1\x00\x01p",
		"bytes left over":         "\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x04dev1x",
		"cut short":               "\x10\x0a\x00\x04MQTT\x04\x02\x00\x3c",
		"HTTP":                    "GET / HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("X: y\r\n", 20) + "\r\n",
	} {
		c := hub.raw(t)
		c.send([]byte(packet))
		t.Log(name)
		c.expectClosed()
	}
}

func TestClearTextGetsNoAnswer(t *testing.T) {
	hub := connectHub(t)
	c := newRawClient(t, dialTCP(t, hub.MQTTAddr()))
	c.sendPacket(hub.connectPacket(t, "dev1", true))
	if p, err := c.next(); err == nil {
		t.Errorf("a client without TLS got packet type %d", p.FixedHeader.Type)
	}
}

func TestIdsAndKeysAreCheckedWhenTheyAreRegistered(t *testing.T) {
	hub := startHub(t, hubConfig())
	for _, id := range []string{"", "a/b", "a b", "ü", strings.Repeat("x", 129)} {
		if _, err := hub.Register(id, ""); err == nil {
			t.Errorf("device %q was registered", id)
		}
	}
	for _, key := range []string{"", "no base64", "c2hvcnQ=", base64.StdEncoding.EncodeToString(make([]byte, 65))} {
		err := hub.RegisterWithKey("dev1", "", key)
		if err == nil {
			t.Errorf("key %q was registered", key)
		}
		if key != "" && strings.Contains(err.Error(), key) {
			t.Errorf("the error repeats the key: %v", err)
		}
	}
	first, err := hub.Register("dev1", "mod1")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := hub.Register("dev1", "mod1"); err != nil || again != first {
		t.Errorf("registering again gave another key (%v)", err)
	}
	if device, err := hub.Register("dev1", ""); err != nil || device == first {
		t.Errorf("the module's device has the module's key, or none (%v)", err)
	}
	if err := hub.RegisterWithKey("dev1", "mod1", knownKey); err != nil {
		t.Fatal(err)
	}
	if key, _ := hub.Register("dev1", "mod1"); key != knownKey {
		t.Error("the key that was set is not the one that counts")
	}
}

func TestAHubCalledLocalhostNeedsNoName(t *testing.T) {
	hub := &testHub{Hub: startHub(t, hubsim.Config{}).Hub, name: "localhost"}
	c := hub.rawConnected(t, "dev1", true)
	c.alive()
	if !strings.HasPrefix(hub.ServiceConnectionString(), "HostName=localhost;SharedAccessKeyName=iothubowner;SharedAccessKey=") {
		t.Errorf("connection string %.60s...", hub.ServiceConnectionString())
	}
}
