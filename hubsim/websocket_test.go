package hubsim_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"

	"github.com/coder/websocket"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	paho "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/mochi-mqtt/server/v2/packets"
)

// webDial opens a WebSocket; protocol is the sub-protocol, "" for none.
func (h *testHub) webDial(t *testing.T, path, protocol string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.CAPool()}}
	t.Cleanup(transport.CloseIdleConnections)
	options := &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport},
		HTTPHeader: http.Header{"Origin": {"https://" + h.name + ":443"}}, // Python sends one
	}
	if protocol != "" {
		options.Subprotocols = []string{protocol}
	}
	return websocket.Dial(t.Context(), "wss://"+h.HTTPSAddr()+path, options)
}

// splitConn sends every Write as many small messages.
type splitConn struct {
	net.Conn
	size int
}

func (c splitConn) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); sent += c.size {
		if _, err := c.Conn.Write(p[sent:min(sent+c.size, len(p))]); err != nil {
			return sent, err
		}
	}
	return len(p), nil
}

func TestMQTTOverWebSocketHoweverItIsCut(t *testing.T) {
	hub := startHub(t, hubConfig())
	for _, c := range []struct {
		path, protocol string
		size           int
	}{
		{"/$iothub/websocket", "mqtt", 1 << 20},
		{"/$iothub/websocket", "MQTT", 1}, // the C SDK's spelling; Node cuts packets like this
		{"/$iothub/websocket?iothub-no-client-cert=true", "mqtt", 3},
		{"/%24iothub/websocket", "mqtt", 100},
	} {
		socket, _, err := hub.webDial(t, c.path, c.protocol)
		if err != nil {
			t.Fatalf("%s %s: %v", c.path, c.protocol, err)
		}
		if socket.Subprotocol() != c.protocol {
			t.Errorf("sub-protocol %q, want %q", socket.Subprotocol(), c.protocol)
		}
		client := newRawClient(t, splitConn{websocket.NetConn(context.Background(), socket, websocket.MessageBinary), c.size})
		publish := paho.NewControlPacket(paho.Publish).(*paho.PublishPacket)
		publish.TopicName, publish.Qos, publish.MessageID, publish.Payload = dev1Events, 1, 77, []byte("over the web")
		client.send(append(wire(hub.connectPacket(t, "dev1", true)), wire(publish)...)) // two packets in a message
		client.expect(packets.Connack)
		client.expectPuback(77)
		client.alive()
		client.publish("not/a/topic", 0, 0, "")
		client.expectClosed()
	}
	if got := hub.Received(); got != 4 {
		t.Errorf("%d messages", got)
	}
}

func TestAWebSocketElsewhereOrForSomethingElseIsRefused(t *testing.T) {
	hub := startHub(t, hubConfig())
	for _, c := range []struct{ path, protocol string }{
		{"/$iothub/websocket", ""}, {"/$iothub/websocket", "amqp"}, {"/mqtt", "mqtt"}, {"/", "mqtt"},
	} {
		socket, response, err := hub.webDial(t, c.path, c.protocol)
		if err == nil {
			_ = socket.CloseNow()
			t.Errorf("%s with %q was let in", c.path, c.protocol)
			continue
		}
		if response == nil || response.StatusCode != http.StatusBadRequest {
			t.Errorf("%s with %q: %v, want status 400", c.path, c.protocol, err)
		}
	}
}

func TestTakeOverWorksAcrossTransports(t *testing.T) {
	hub := startHub(t, hubConfig())
	direct := hub.rawConnected(t, "dev1", true)
	options := hub.pahoOptions(t, "dev1")
	options.Servers = nil
	options.AddBroker("wss://" + hub.HTTPSAddr() + "/$iothub/websocket")
	client := connectPaho(t, options)
	direct.expectClosed()
	if token := client.Publish(dev1Events, 1, false, "x"); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	lost := make(chan struct{})
	options.SetConnectionLostHandler(func(mqtt.Client, error) { close(lost) })
	connectPaho(t, options)
	hub.rawConnected(t, "dev1", true).alive()
	<-lost
}
