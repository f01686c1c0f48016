package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/amenzhinsky/iothub/iotdevice"
	iotmqtt "github.com/amenzhinsky/iothub/iotdevice/transport/mqtt"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// community is a device on the community's SDK for Go. It differs from Microsoft's: its tokens name the
// whole hub, its user name has no "?", its request ids are hex, and its sessions are clean.
type community struct {
	*iotdevice.Client
	t   *testing.T
	ctx context.Context
}

// startCommunity connects dev1 to hub. The SDK is as it comes; its options are told where the hub is.
func startCommunity(t *testing.T, hub *hubsim.Hub) *community {
	t.Helper()
	key, err := hub.Register("dev1", "")
	if err != nil {
		t.Fatal(err)
	}
	there := iotmqtt.WithClientOptionsConfig(func(o *mqtt.ClientOptions) {
		o.Servers = nil
		o.AddBroker("tls://" + hub.MQTTAddr())
		o.SetTLSConfig(&tls.Config{RootCAs: hub.CAPool()}).SetMaxReconnectInterval(100 * time.Millisecond)
	})
	client, err := iotdevice.NewFromConnectionString(iotmqtt.New(there), "HostName="+sdkName+";DeviceId=dev1;SharedAccessKey="+key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(func() {
		cancel()
		_ = client.Close()
	})
	c := &community{Client: client, t: t, ctx: ctx}
	c.must(client.Connect(ctx))
	return c
}

func (c *community) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func TestTheCommunitysGoSDKFindsAnIoTHub(t *testing.T) {
	var log testkit.Log
	hub := startHubAs(t, hubsim.Config{HostName: sdkName, Log: zerolog.New(&log)})
	c := startCommunity(t, hub)
	c.must(c.SendEvent(c.ctx, []byte("hi"), iotdevice.WithSendMessageID("m1"), iotdevice.WithSendProperty("sp ace", "a/b=c&d+ü")))
	c.must(c.SendEvent(c.ctx, nil, iotdevice.WithSendQoS(0)))
	testkit.Within(t, 10*time.Second, "both messages have arrived", func() bool { return hub.Received() == 2 })
	m := hub.Messages(0, 1)[0]
	if diff := cmp.Diff(map[string]string{"sp ace": "a/b=c&d+ü"}, m.Properties); diff != "" || string(m.Body) != "hi" || m.System["message-id"] != "m1" {
		t.Errorf("stored is %+v; properties (-want +got):\n%s", m, diff)
	}
	c.must(c.RegisterMethod(c.ctx, "reboot", func(p map[string]any) (int, map[string]any, error) {
		return 202, map[string]any{"called": p}, nil
	}))
	called := func() {
		t.Helper()
		got, err := hub.CallMethod(t.Context(), hubsim.MethodCall{
			Device: "dev1", Name: "reboot", Payload: json.RawMessage(`{"delay":5}`), ConnectTimeout: 20 * time.Second,
		})
		if err != nil || got.Status != 202 || string(got.Payload) != `{"called":{"delay":5}}` {
			t.Errorf("the method is answered %d %s, %v", got.Status, got.Payload, err)
		}
	}
	called()
	c.seesItsTwin(hub)
	c.takesAMessage(hub)
	if !hub.Kick("dev1") {
		t.Fatal("there was no connection to cut")
	}
	called() // it has connected again and subscribed again
	if !strings.Contains(log.String(), "old short form") {
		t.Errorf("the hub does not say that the user name has an old form:\n%s", log.String())
	}
}

func (c *community) seesItsTwin(hub *hubsim.Hub) {
	c.t.Helper()
	changes, err := c.SubscribeTwinUpdates(c.ctx)
	c.must(err)
	serviceOf(c.t, hub).do("PATCH", "/twins/dev1?api-version=2021-04-12", `{"properties":{"desired":{"interval":10}}}`, nil)
	select {
	case got := <-changes.C():
		if diff := cmp.Diff(iotdevice.TwinState{"interval": 10.0, "$version": 2.0}, got); diff != "" {
			c.t.Errorf("the change (-want +got):\n%s", diff)
		}
	case <-c.ctx.Done():
		c.t.Fatal("no change of the twin came")
	}
	version, err := c.UpdateTwinState(c.ctx, iotdevice.TwinState{"fw": "1"})
	if err != nil || version != 2 {
		c.t.Errorf("reporting gives version %d, %v", version, err)
	}
	desired, reported, err := c.RetrieveTwinState(c.ctx)
	if err != nil || desired.Version() != 2 || desired["interval"] != 10.0 || reported.Version() != 2 || reported["fw"] != "1" {
		c.t.Errorf("the twin is %v, %v, %v", desired, reported, err)
	}
}

func (c *community) takesAMessage(hub *hubsim.Hub) {
	c.t.Helper()
	letters, err := c.SubscribeEvents(c.ctx)
	c.must(err)
	value := "a/b=c&d+ü"
	_, err = hub.Send(hubsim.CloudMessage{Device: "dev1", MessageID: "m1", CorrelationID: "c1", Properties: map[string]*string{"p": &value}, Body: []byte("open")})
	c.must(err)
	select {
	case m := <-letters.C():
		if string(m.Payload) != "open" || m.MessageID != "m1" || m.CorrelationID != "c1" || m.To != "/devices/dev1/messages/deviceBound" {
			c.t.Errorf("the message is %+v", m)
		}
	case <-c.ctx.Done():
		c.t.Fatal("no message came")
	}
}
