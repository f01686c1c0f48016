package hubsim

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAWillIsLeftByWhoeverDoesNotSayGoodbye(t *testing.T) {
	for name, c := range map[string]struct {
		topic string
		end   func(h *pipeHub, c *pipeClient)
		want  string
	}{
		"connection lost":    {"devices/dev1/messages/events/a=1", func(_ *pipeHub, c *pipeClient) { _ = c.conn.Close() }, "1Will"},
		"no bag":             {"devices/dev1/messages/events/", func(_ *pipeHub, c *pipeClient) { _ = c.conn.Close() }, "Will"},
		"silence":            {"devices/dev1/messages/events/a=1", func(_ *pipeHub, c *pipeClient) { c.expectEnd() }, "1Will"},
		"violation":          {"devices/dev1/messages/events/a=1", func(_ *pipeHub, c *pipeClient) { c.send(publishPacket("x", 0, 0, "")) }, "1Will"},
		"DISCONNECT":         {"devices/dev1/messages/events/a=1", func(_ *pipeHub, c *pipeClient) { c.send(disconnect) }, ""},
		"a topic not for it": {"somewhere/else", func(_ *pipeHub, c *pipeClient) { _ = c.conn.Close() }, ""},
		"a malformed bag":    {"devices/dev1/messages/events/a=b+c", func(_ *pipeHub, c *pipeClient) { _ = c.conn.Close() }, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{})
			client := h.dial(t)
			p := h.connectPacket(t, "dev1", time.Hour)
			p.WillFlag, p.WillTopic, p.WillMessage, p.WillRetain, p.Keepalive = true, c.topic, []byte("gone"), true, 60
			client.send(encode(p))
			client.expect([]byte{0x20, 2, 0, 0})
			c.end(h, client)
			<-client.over
			got := ""
			for _, m := range h.Messages(0, 0) {
				if string(m.Body) != "gone" || m.Properties["mqtt-retain"] != "true" {
					t.Errorf("%s: message %+v", name, m)
				}
				got += m.Properties["a"] + m.Properties["iothub-MessageType"]
			}
			if got != c.want {
				t.Errorf("%s: messages %q, want %q; log: %s", name, got, c.want, h.log)
			}
		})
	}
}

// A Will may be as large as CONNECT lets it, and ask for QoS 2: it is an ordinary message (WILL-7, WILL-9).
func TestALargeWillAtQoSTwoIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.dial(t)
		p := h.connectPacket(t, "dev1", time.Hour)
		p.WillFlag, p.WillQos, p.WillTopic, p.WillMessage = true, 2, "devices/dev1/messages/events/", make([]byte, 65535)
		c.send(encode(p))
		c.expect([]byte{0x20, 2, 0, 0})
		_ = c.conn.Close()
		<-c.over
		if got := h.Messages(0, 0); len(got) != 1 || len(got[0].Body) != 65535 || got[0].Properties["mqtt-retain"] != "" {
			t.Errorf("%d messages", len(got))
		}
		if line := h.warning(t); line.Clause != "WILL-7" {
			t.Errorf("the log says %+v", line)
		}
	})
}
