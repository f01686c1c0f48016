package hubsim_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"iothub-gateway/hubsim"
)

// testHub is a hub that runs until the test ends.
type testHub struct {
	*hubsim.Hub
	name string
	stop func()
}

func hubConfig() hubsim.Config { return hubsim.Config{HostName: "contoso.azure-devices.net"} }

func startHub(t testing.TB, cfg hubsim.Config) *testHub {
	t.Helper()
	hub, err := hubsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if t, ok := t.(*testing.T); ok {
		hub.Tap(tap(t))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- hub.Run(ctx) }()
	h := &testHub{Hub: hub, name: cfg.HostName}
	stopped := false
	h.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(h.stop)
	return h
}

// sign makes a token of the resource, which stands in sr as it is given.
func sign(sr, key string, expires time.Time, policy string) string {
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		panic(err)
	}
	se := strconv.FormatInt(expires.Unix(), 10)
	mac := hmac.New(sha256.New, raw)
	mac.Write([]byte(sr + "\n" + se))
	token := "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))) + "&se=" + se
	if policy != "" {
		token += "&skn=" + policy
	}
	return token
}

// password is a good token of a device or "device/module".
func (h *testHub) password(t testing.TB, identity string) string {
	t.Helper()
	device, module, _ := strings.Cut(identity, "/")
	key, err := h.Register(device, module)
	if err != nil {
		t.Fatal(err)
	}
	resource := h.name + "/devices/" + device
	if module != "" {
		resource += "/modules/" + module
	}
	return sign(url.QueryEscape(resource), key, time.Now().Add(time.Hour), "")
}

func (h *testHub) user(identity string) string {
	return h.name + "/" + identity + "/?api-version=2021-04-12"
}

// pahoOptions are the options of a client that connects once and does nothing on its own.
func (h *testHub) pahoOptions(t testing.TB, identity string) *mqtt.ClientOptions {
	t.Helper()
	return mqtt.NewClientOptions().AddBroker("ssl://" + h.MQTTAddr()).SetClientID(identity).
		SetUsername(h.user(identity)).SetPassword(h.password(t, identity)).
		SetTLSConfig(&tls.Config{RootCAs: h.CAPool()}).SetProtocolVersion(4).
		SetAutoReconnect(false).SetConnectRetry(false).SetOrderMatters(false).SetConnectTimeout(10 * time.Second)
}

// paho connects a client that is disconnected at the end of the test.
func (h *testHub) paho(t testing.TB, identity string) mqtt.Client {
	t.Helper()
	return connectPaho(t, h.pahoOptions(t, identity))
}

func connectPaho(t testing.TB, options *mqtt.ClientOptions) mqtt.Client {
	t.Helper()
	client := mqtt.NewClient(options)
	token := client.Connect()
	if !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		t.Fatalf("connect %s: %v", options.ClientID, token.Error())
	}
	t.Cleanup(func() { client.Disconnect(0) })
	return client
}

// methodCall is a call that waits 50 ms for its answer.
func methodCall(identity, name string) hubsim.MethodCall {
	device, module, _ := strings.Cut(identity, "/")
	return hubsim.MethodCall{Device: device, Module: module, Name: name, ResponseTimeout: 50 * time.Millisecond}
}

func dialTLS(t testing.TB, address string, trust *hubsim.Hub) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: trust.CAPool(), ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func dialTCP(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func mqttConnect(options *mqtt.ClientOptions) error {
	client := mqtt.NewClient(options)
	defer client.Disconnect(0)
	token := client.Connect()
	token.Wait()
	return token.Error()
}

func removeAll(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
