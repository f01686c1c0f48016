package hubsim

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"
)

const commands = "devices/dev1/messages/devicebound/#"

// session connects dev1 for an hour of silence and tells whether a session was there.
func (h *pipeHub) session(t *testing.T, clean bool) (*pipeClient, bool) {
	t.Helper()
	c := h.dial(t)
	p := h.connectPacket(t, "dev1", 240*time.Hour)
	p.CleanSession, p.Keepalive = clean, 0
	c.send(encode(p))
	ack, ok := c.packet().(*packets.ConnackPacket)
	if !ok || ack.ReturnCode != 0 {
		t.Fatalf("CONNACK %v", ack)
	}
	return c, ack.SessionPresent
}

// packet reads one.
func (c *pipeClient) packet() packets.ControlPacket {
	c.t.Helper()
	p, err := packets.ReadPacket(c.conn)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// command reads a PUBLISH.
func (c *pipeClient) command() *packets.PublishPacket {
	c.t.Helper()
	p, ok := c.packet().(*packets.PublishPacket)
	if !ok {
		c.t.Fatalf("not a PUBLISH")
	}
	return p
}

// commands reads PUBLISHes and returns their bodies.
func (c *pipeClient) commands(n int) (bodies string) {
	c.t.Helper()
	for range n {
		bodies += string(c.command().Payload)
	}
	return bodies
}

func (c *pipeClient) subscribe(qos byte, filters ...string) []byte {
	c.t.Helper()
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID, p.Topics = 1, filters
	for range filters {
		p.Qoss = append(p.Qoss, qos)
	}
	c.send(encode(p))
	ack, ok := c.packet().(*packets.SubackPacket)
	if !ok {
		c.t.Fatal("no SUBACK")
	}
	return ack.ReturnCodes
}

func (c *pipeClient) unsubscribe(filter string) {
	c.t.Helper()
	p := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
	p.MessageID, p.Topics = 1, []string{filter}
	c.send(encode(p))
	if _, ok := c.packet().(*packets.UnsubackPacket); !ok {
		c.t.Fatal("no UNSUBACK")
	}
}

// ack acknowledges and waits until the hub has it.
func (c *pipeClient) ack(packet uint16) {
	c.t.Helper()
	c.send([]byte{packets.Puback << 4, 2, byte(packet >> 8), byte(packet)})
	synctest.Wait()
}

// quiet checks that the hub sends nothing but an answer to PINGREQ.
func (c *pipeClient) quiet() {
	c.t.Helper()
	c.send(pingreq)
	c.expect([]byte{0xd0, 0})
}

// leave says goodbye, or without a word goes away.
func (c *pipeClient) leave(goodbye bool) {
	c.t.Helper()
	if goodbye {
		c.send(disconnect)
	}
	_ = c.conn.Close()
	<-c.over
}

// command sends one to dev1 with a body, asking for full feedback.
func (h *pipeHub) command(t *testing.T, body string) {
	t.Helper()
	if _, err := h.Send(CloudMessage{Device: "dev1", MessageID: body, Ack: "full", Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

// outcomes are the feedback records as "id=status", all of them.
func (h *pipeHub) outcomes() (all []string) {
	pass(feedbackDelay)
	for _, f := range h.Feedback(0) {
		for _, r := range f.Records {
			all = append(all, r.OriginalMessageID+"="+r.Status)
		}
	}
	return all
}

func (h *pipeHub) expectOutcomes(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, h.outcomes()); diff != "" {
		t.Errorf("feedback (-want +got):\n%s", diff)
	}
}

// bubble runs a test with a hub whose clock is the bubble's.
func bubble(t *testing.T, cfg Config, f func(t *testing.T, h *pipeHub)) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, cfg)
		if _, err := h.Register("dev1", ""); err != nil {
			t.Fatal(err)
		}
		f(t, h)
	})
}
