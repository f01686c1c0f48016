package hubsim_test

import (
	"fmt"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/hubsim"
)

// What the cloud sent survives kill -9, as do the session that it is for and a PUBACK that the hub had: the
// answer to a PINGREQ behind it says that.
func TestCommandsAndTheirCompletionSurviveKill(t *testing.T) {
	cfg := hubsim.Config{HostName: hubConfig().HostName, Dir: t.TempDir()}
	before := startHub(t, cfg)
	connect := before.connectPacket(t, "dev1", false)
	c := before.raw(t)
	c.sendPacket(connect)
	c.expect(packets.Connack)
	c.subscribe(1, 1, "devices/dev1/messages/devicebound/#")
	c.sendPacket(paho.NewControlPacket(paho.Disconnect))
	c.expectClosed()
	const all = 30
	for i := range all {
		if _, err := before.Send(hubsim.CloudMessage{Device: "dev1", Body: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	before.stop()

	completed, delivered := 0, 0
	for range 3 {
		other := startKillable(t, cfg.Dir)
		c := newRawClient(t, dialTLS(t, other.MQTT, before.Hub))
		c.sendPacket(connect)
		if ack := c.expect(packets.Connack); ack.ReasonCode != 0 || !ack.SessionPresent {
			t.Fatalf("CONNACK %d, session present %v", ack.ReasonCode, ack.SessionPresent)
		}
		for range 10 {
			p := c.expect(packets.Publish)
			if string(p.Payload) != fmt.Sprint(completed) {
				t.Fatalf("message %s came, want %d", p.Payload, completed)
			}
			if dup := completed < delivered; p.FixedHeader.Dup != dup {
				t.Errorf("message %s: DUP %v, want %v", p.Payload, p.FixedHeader.Dup, dup)
			}
			c.send([]byte{paho.Puback << 4, 2, byte(p.PacketID >> 8), byte(p.PacketID)})
			completed++
		}
		delivered = completed
		c.send([]byte{0xc0, 0})
		for { // what the PUBACKs made room for comes first
			p, err := c.next()
			if err != nil {
				t.Fatal(err)
			}
			if p.FixedHeader.Type == packets.Pingresp {
				break
			}
			delivered++
		}
		other.kill()
	}
	after := startHub(t, cfg)
	if n, err := after.PurgeCommands("dev1"); n != 0 || err != nil {
		t.Errorf("%d messages wait that were acknowledged (%v)", n, err)
	}
}
