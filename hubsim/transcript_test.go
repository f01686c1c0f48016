package hubsim_test

import (
	"strings"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/internal/testkit"
)

// What the reference transcripts (testdata/transcripts.txt) say byte for byte is here for more topics and identities.

func TestTranscriptConnectSubscribePublish(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.raw(t)
	c.sendPacket(hub.connectPacket(t, "dev1", false))
	if ack := c.expect(packets.Connack); ack.SessionPresent || ack.ReasonCode != 0 {
		t.Fatalf("CONNACK sp=%v rc=%d, want sp=0 rc=0", ack.SessionPresent, ack.ReasonCode)
	}
	p := paho.NewControlPacket(paho.Subscribe).(*paho.SubscribePacket)
	p.MessageID = 9
	p.Topics = []string{"$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#", "devices/dev1/messages/devicebound/#"}
	p.Qoss = []byte{0, 0, 0, 2}
	c.sendPacket(p)
	if ack := c.expect(packets.Suback); ack.PacketID != 9 || !cmp.Equal(ack.ReasonCodes, []byte{0, 0, 0, 1}) {
		t.Fatalf("SUBACK %d %v, want [0 0 0 1]", ack.PacketID, ack.ReasonCodes)
	}
	c.publish("devices/dev1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8&a=1", 1, 3, `{"t":1}`)
	c.expectPuback(3)
	stored := hub.Messages(0, 0)
	if len(stored) != 1 || string(stored[0].Body) != `{"t":1}` || stored[0].Properties["a"] != "1" || stored[0].System["content-type"] != "application/json" {
		t.Fatalf("a PUBACK came, and %+v is stored", stored)
	}
	c.alive()
}

func TestTranscriptWhatEndsInATCPClose(t *testing.T) {
	hub := startHub(t, hubConfig())
	for _, c := range []struct {
		topic string
		qos   byte
	}{
		{"devices/dev1/messages/events/", 2},
		{"devices/dev1/message/events/", 1},
		{"devices/dev1/messages/events/a=b+c", 1},
		{"devices/dev1/messages/events/a=b/c", 0},
		{"devices/dev2/messages/events/", 1},
	} {
		client := hub.rawConnected(t, "dev1", true)
		client.publish(c.topic, c.qos, 1, "x")
		client.expectClosed()
	}
	if stored := hub.Messages(0, 0); len(stored) != 0 {
		t.Errorf("%d messages are stored", len(stored))
	}
}

func TestTranscriptTakeOver(t *testing.T) {
	hub := startHub(t, hubConfig())
	first := hub.rawConnected(t, "dev1", true)
	module := hub.rawConnected(t, "dev1/mod1", true)
	second := hub.rawConnected(t, "dev1", true)
	first.expectClosed()
	second.alive()
	module.alive() // it has an id of its own
}

func TestTranscriptWill(t *testing.T) {
	hub := startHub(t, hubConfig())
	p := hub.connectPacket(t, "dev1/mod1", true)
	p.WillFlag, p.WillTopic, p.WillMessage = true, "devices/dev1/modules/mod1/messages/events/reason=gone", []byte("bye")
	c := hub.raw(t)
	c.sendPacket(p)
	c.expect(packets.Connack)
	_ = c.conn.Close()
	testkit.Eventually(t, "the message is there", func() bool { return len(hub.Messages(0, 0)) == 1 })
	m := hub.Messages(0, 0)[0]
	if m.Device != "dev1" || m.Module != "mod1" || m.Properties["iothub-MessageType"] != "Will" || m.Properties["reason"] != "gone" || string(m.Body) != "bye" {
		t.Errorf("the Will is %+v", m)
	}
}

func TestSubscriptionsSurviveOnlyWithCleanSessionZero(t *testing.T) {
	hub := startHub(t, hubConfig())
	const filter = "$iothub/methods/POST/#"
	callable := func() bool {
		_, err := hub.CallMethod(t.Context(), methodCall("dev1", "ping"))
		return err == nil || !strings.Contains(err.Error(), "404103")
	}
	session := func(clean bool) (*rawClient, bool) {
		c := hub.raw(t)
		c.sendPacket(hub.connectPacket(t, "dev1", clean))
		return c, c.expect(packets.Connack).SessionPresent
	}
	c, present := session(false)
	if present || callable() {
		t.Errorf("a first session: present %v, callable %v", present, callable())
	}
	c.subscribe(1, 0, filter)
	if !callable() {
		t.Error("subscribed and not callable")
	}
	c.expect(packets.Publish)
	c, present = session(false)
	if !present || !callable() {
		t.Errorf("a second session with CleanSession 0: present %v, callable %v", present, callable())
	}
	c.expect(packets.Publish)
	c, present = session(true)
	if present || callable() {
		t.Errorf("a session with CleanSession 1: present %v, callable %v", present, callable())
	}
	c.subscribe(1, 0, filter)
	c, present = session(false)
	if present || callable() {
		t.Errorf("a session behind CleanSession 1: present %v, callable %v", present, callable())
	}
	c.alive()
}

func TestASixthSubscriptionClosesAndUnsubscribingMakesRoom(t *testing.T) {
	hub := startHub(t, hubConfig())
	five := []string{
		"$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#",
		"devices/dev1/modules/mod1/inputs/#", "devices/dev1/modules/mod1/messages/devicebound/#",
	}
	c := hub.rawConnected(t, "dev1/mod1", true)
	c.subscribe(1, 1, five...)
	c.subscribe(2, 0, five[0]) // again is not another
	unsubscribe := paho.NewControlPacket(paho.Unsubscribe).(*paho.UnsubscribePacket)
	unsubscribe.MessageID, unsubscribe.Topics = 3, []string{five[0], "never/subscribed"}
	c.sendPacket(unsubscribe)
	if ack := c.expect(packets.Unsuback); ack.PacketID != 3 {
		t.Errorf("UNSUBACK %d", ack.PacketID)
	}
	if granted := c.subscribe(4, 1, "devices/dev1/modules/mod1/#"); !cmp.Equal(granted, []byte{1}) {
		t.Errorf("granted %v", granted)
	}
	p := paho.NewControlPacket(paho.Subscribe).(*paho.SubscribePacket)
	p.MessageID, p.Topics, p.Qoss = 5, []string{five[0]}, []byte{0}
	c.sendPacket(p)
	c.expectClosed()
}

func TestAForeignFilterClosesOrIsRefused(t *testing.T) {
	cfg := hubConfig()
	hub := startHub(t, cfg)
	c := hub.rawConnected(t, "dev1", true)
	p := paho.NewControlPacket(paho.Subscribe).(*paho.SubscribePacket)
	p.MessageID, p.Topics, p.Qoss = 5, []string{"$iothub/twin/res/#", "plant/#"}, []byte{0, 0}
	c.sendPacket(p)
	c.expectClosed()

	cfg.RefuseFilters = true
	lenient := startHub(t, cfg)
	c = lenient.rawConnected(t, "dev1", true)
	if granted := c.subscribe(5, 1, "$iothub/twin/res/#", "plant/#"); !cmp.Equal(granted, []byte{1, 0x80}) {
		t.Errorf("granted %v, want [1 128]", granted)
	}
	c.alive()
}

// Packets behind a CONNECT, sent before its CONNACK, are handled after it (CON-33).
func TestPipelinedPacketsAreHandledAfterTheConnack(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.raw(t)
	publish := paho.NewControlPacket(paho.Publish).(*paho.PublishPacket)
	publish.TopicName, publish.Qos, publish.MessageID, publish.Payload = "devices/dev1/messages/events/", 1, 77, []byte("x")
	c.send(append(wire(hub.connectPacket(t, "dev1", true)), append(wire(publish), 0xc0, 0)...))
	c.expect(packets.Connack)
	c.expectPuback(77)
	c.expect(packets.Pingresp)
}

func TestTheLargestMessageIsTaken(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.publish("devices/dev1/messages/events/ab=c", 1, 1, strings.Repeat("x", 262144-3))
	c.expectPuback(1)
	c.publish("devices/dev1/messages/events/ab=c", 1, 2, strings.Repeat("x", 262144-2))
	c.expectClosed()
	if got := hub.Messages(0, 0); len(got) != 1 || len(got[0].Body) != 262141 {
		t.Errorf("%d messages are stored", len(got))
	}
}
