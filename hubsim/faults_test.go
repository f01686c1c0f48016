package hubsim_test

import (
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang/packets"
)

const dev1Events = "devices/dev1/messages/events/"

func TestDroppedAcknowledgementsAreStoredMessages(t *testing.T) {
	hub := startHub(t, hubConfig())
	for _, identity := range []string{"dev1", ""} {
		c := hub.rawConnected(t, "dev1", true)
		before := hub.Received()
		hub.DropAcks(identity, 2)
		for id := range uint16(4) {
			c.publish(dev1Events, 1, id+1, "x")
		}
		c.expectPuback(3)
		c.expectPuback(4)
		if got := hub.Received() - before; got != 4 {
			t.Errorf("dial %q: %d messages are stored", identity, got)
		}
		c.alive()
	}
	hub.DropAcks("dev2", 1)
	c := hub.rawConnected(t, "dev1", true)
	c.publish(dev1Events, 1, 9, "x")
	c.expectPuback(9)
}

func TestDelayedAcknowledgementsComeLate(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	hub.DelayAcks("", 250*time.Millisecond)
	start := time.Now()
	c.publish(dev1Events, 1, 1, "x")
	c.alive() // everything but the PUBACK goes on
	c.expectPuback(1)
	if after := time.Since(start); after < 250*time.Millisecond {
		t.Errorf("PUBACK after %v", after)
	}
	hub.DelayAcks("", 0)
	c.publish(dev1Events, 1, 2, "x")
	c.expectPuback(2)
}

func TestAKickCutsTheConnectionAndSaysWhetherThereWasOne(t *testing.T) {
	hub := startHub(t, hubConfig())
	if hub.Kick("dev1") || hub.Kick("") {
		t.Error("kicked, and nobody is there")
	}
	first, second := hub.rawConnected(t, "dev1", true), hub.rawConnected(t, "dev1/mod1", true)
	if !hub.Connected("dev1") || !hub.Connected("dev1/mod1") || hub.Connected("dev2") {
		t.Error("Connected is wrong")
	}
	if !hub.Kick("dev1") || hub.Connected("dev1") {
		t.Error("kicked, and still connected")
	}
	first.expectClosed()
	second.alive()
	if !hub.Kick("") {
		t.Error("kicking everybody found nobody")
	}
	second.expectClosed()
	hub.rawConnected(t, "dev1", true).alive()
}

func TestRefusedConnectsGetTheCodeThatWasDialled(t *testing.T) {
	hub := connectHub(t)
	same := func(*paho.ConnectPacket) {}
	hub.RefuseConnects("dev1", 3, 2)
	hub.RefuseConnects("", 5, 1)
	want := []int{5, 3, 3, 0}
	for i, code := range want {
		if got := hub.connackOf(t, same); got != code {
			t.Errorf("CONNECT %d: CONNACK %d, want %d", i, got, code)
		}
	}
	hub.RefuseConnects("dev1", 0, 1)
	if got := hub.connackOf(t, same); got != -1 {
		t.Errorf("CONNACK %d, want none", got)
	}
	hub.RefuseConnects("dev1", 3, 100)
	hub.RefuseConnects("dev1", 0, 0)
	if got := hub.connackOf(t, same); got != 0 {
		t.Errorf("the dial is off, CONNACK %d", got)
	}
}

func TestThePublishThatClosesIsNeitherStoredNorAcknowledged(t *testing.T) {
	hub := startHub(t, hubConfig())
	for _, identity := range []string{"dev1", ""} {
		c := hub.rawConnected(t, "dev1", true)
		before := hub.Received()
		hub.CloseOnPublish(identity, 3)
		for id := range uint16(3) {
			c.publish(dev1Events, 1, id+1, "x")
		}
		c.expectPuback(1)
		c.expectPuback(2)
		c.expectClosed()
		if got := hub.Received() - before; got != 2 {
			t.Errorf("dial %q: %d messages are stored, want 2", identity, got)
		}
		c = hub.rawConnected(t, "dev1", true)
		for id := range uint16(5) {
			c.publish(dev1Events, 1, id+1, "x")
			c.expectPuback(id + 1)
		}
	}
}
