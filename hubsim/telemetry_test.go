package hubsim_test

import (
	"bytes"
	"strings"
	"testing"
)

func TestAnyBytesAreABodyAndEveryPublishIsOneMessage(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	bodies := []string{"", "{id=123}", "\x00\xff\xfe", `[{"body":"a"},{"body":"b"}]`, strings.Repeat("x", 200<<10)}
	for i, body := range bodies {
		c.publish(dev1Events, 1, uint16(i+1), body)
		c.expectPuback(uint16(i + 1))
	}
	all := hub.Messages(0, 0)
	if len(all) != len(bodies) {
		t.Fatalf("%d messages, want %d", len(all), len(bodies))
	}
	for i, m := range all {
		if !bytes.Equal(m.Body, []byte(bodies[i])) {
			t.Errorf("body %d is %.40q, want %.40q", i, m.Body, bodies[i])
		}
	}
}

func TestQoSZeroIsStoredAndNotAcknowledged(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.publish(dev1Events, 0, 0, "x")
	c.alive() // the next packet is the answer to the ping
	if got := hub.Messages(0, 0); len(got) != 1 || string(got[0].Body) != "x" {
		t.Errorf("%+v", got)
	}
}

func TestATopicMayBeAsLongAsMQTTLetsIt(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	value := strings.Repeat("v", 65535-len(dev1Events)-2)
	c.publish(dev1Events+"a="+value, 1, 1, "x")
	c.expectPuback(1)
	if got := hub.Messages(0, 0)[0].Properties["a"]; got != value {
		t.Errorf("%d bytes of %d came", len(got), len(value))
	}
}

func TestTopicsInEveryToleratedFormAreTelemetry(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	const root = "devices/dev1/messages/events"
	for i, tail := range []string{"", "/", "/a=1", "/a=1/", "/?a=1", "/%24.exp=2030-01-01T00%3A00%3A00Z"} {
		c.publish(root+tail, 1, uint16(i+1), "x")
		c.expectPuback(uint16(i + 1))
	}
	for i, want := range []string{"", "", "1", "1", "1", ""} {
		if got := hub.Messages(0, 0)[i].Properties["a"]; got != want {
			t.Errorf("message %d has a=%q, want %q", i, got, want)
		}
	}
}
