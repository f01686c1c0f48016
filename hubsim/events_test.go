package hubsim

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestConnectionsRaiseEventsThatSayHowTheyEnded(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   func(h *pipeHub, c *pipeClient)
		level string
		code  int
	}{
		{"DISCONNECT", func(_ *pipeHub, c *pipeClient) { c.send(disconnect) }, "Information", 0},
		{"lost", func(_ *pipeHub, c *pipeClient) { _ = c.conn.Close() }, "Error", 404104},
		{"silence", func(*pipeHub, *pipeClient) { pass(time.Minute) }, "Error", 404104},
		{"taken over", func(h *pipeHub, c *pipeClient) { h.connect(c.t, "dev1", 600) }, "Error", 400027},
		{"expired", func(h *pipeHub, _ *pipeClient) { h.ExpireTokens("dev1") }, "Error", 401003},
		{"QoS 2", func(_ *pipeHub, c *pipeClient) { c.send(publishPacket(dev1Telemetry, 2, 1, "")) }, "Error", 400000},
		{"too large", func(_ *pipeHub, c *pipeClient) {
			go func() { _, _ = c.conn.Write(publishPacket(dev1Telemetry, 1, 1, strings.Repeat("x", maxMessage+1))) }()
			c.expectEnd()
		}, "Error", 413001},
		{"quota", func(h *pipeHub, c *pipeClient) {
			h.ExhaustQuota("dev1", true)
			c.send(publishPacket(dev1Telemetry, 1, 1, ""))
		}, "Error", 403002},
		{"throttled", func(h *pipeHub, c *pipeClient) {
			h.Throttle("dev1", 0)
			c.send(publishPacket(dev1Telemetry, 1, 1, ""))
		}, "Error", 429001},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{})
			client := h.dial(t)
			p := h.connectPacket(t, "dev1", time.Hour)
			p.Keepalive, p.Username = 10, p.Username+"&DeviceClientType=agent%2F1%20(x)"
			client.send(encode(p))
			client.expect([]byte{0x20, 2, 0, 0})
			pass(2 * time.Second)
			c.end(h, client)
			<-client.over
			all := h.ConnectionEvents(0)
			came, gone := all[0], all[1]
			if came.Operation != "deviceConnect" || came.Level != "Information" || came.Device != "dev1" || came.Category != "Connections" ||
				came.Protocol != "Mqtt" || came.Agent != "agent/1 (x)" || !strings.Contains(came.AuthType, `"type":"sas"`) || came.Sequence != 1 || came.Type != 0 {
				t.Errorf("%s: it began with %+v", c.name, came)
			}
			if gone.Operation != "deviceDisconnect" || gone.Level != c.level || gone.Type != c.code || gone.Status != c.code/1000 ||
				gone.Milliseconds < 2000 || (gone.Description == "") != (c.code == 0) || gone.Sequence != 2 {
				t.Errorf("%s: it ended with %+v", c.name, gone)
			}
		})
	}
}

func TestARefusedConnectionRaisesAnEventWithTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		for i, edit := range []func(){
			func() { h.RefuseConnects("dev1", 5, 1) },
			func() { h.RefuseConnects("dev1", 3, 1) },
			func() { h.RefuseConnects("dev1", 1, 1) },
		} {
			edit()
			c := h.dial(t)
			c.send(encode(h.connectPacket(t, "dev1", time.Hour)))
			c.expect([]byte{0x20, 2, 0, []byte{5, 3, 1}[i]})
			_ = c.conn.Close()
			<-c.over
		}
		for i, e := range h.ConnectionEvents(0) {
			if want := []int{401003, 503001, 400000}[i]; e.Type != want || e.Operation != "deviceConnect" || e.Level != "Error" || e.Device != "dev1" {
				t.Errorf("%+v, want %d", e, want)
			}
		}
	})
}

// A thousand events must not be a thousand times what a CONNECT can hold.
func TestAnEventKeepsABoundedPartOfWhatAClientSays(t *testing.T) {
	long := strings.Repeat("ü", 30000)
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		good := h.connectPacket(t, "dev1", time.Hour)
		good.Username += "&DeviceClientType=" + long
		h.dial(t).send(encode(good))
		synctest.Wait()
		bad := h.connectPacket(t, "dev1", time.Hour)
		bad.ClientIdentifier = long
		refused := h.dial(t)
		refused.send(encode(bad))
		refused.expect([]byte{0x20, 2, 0, 5})
		pass(time.Second)
		all := h.ConnectionEvents(0)
		if len(all) != 2 || all[0].Agent == "" || all[1].Device == "" || !strings.Contains(all[1].Description, "ClientId") {
			t.Fatalf("%d events: %.300v", len(all), all)
		}
		for _, e := range all {
			if text, err := json.Marshal(e); err != nil || len(text) > 4*maxEventText {
				t.Errorf("an event of %d bytes (%v)", len(text), err)
			}
		}
	})
}

func TestTheNewestEventsAreKept(t *testing.T) {
	h := &Hub{}
	for i := range 3*maxEvents + 5 {
		h.events.add(ConnectionEvent{Device: fmt.Sprint(i)})
		if i%499 != 0 {
			continue
		}
		all := h.ConnectionEvents(0)
		want := min(i+1, maxEvents)
		if len(all) != want || all[0].Sequence != uint64(i+2-want) || all[want-1].Device != fmt.Sprint(i) {
			t.Fatalf("after %d: %d events from %d", i+1, len(all), all[0].Sequence)
		}
	}
	if rest := h.ConnectionEvents(3 * maxEvents); len(rest) != 5 {
		t.Errorf("%d events behind %d", len(rest), 3*maxEvents)
	}
}

// A device counts as connected once it sends or subscribes to cloud-to-device messages (MON-5).
func TestConnectionStateEventsStandAmongTheTelemetry(t *testing.T) {
	filter := "devices/dev1/messages/devicebound/#"
	subscribe := append([]byte{0x82, byte(5 + len(filter)), 0, 1, 0, byte(len(filter))}, filter+"\x00"...)
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{ConnectionStateEvents: true})
		bare := h.connect(t, "dev1", 600)
		bare.send(disconnect)
		<-bare.over
		if got := h.Messages(0, 0); len(got) != 0 {
			t.Errorf("a bare connection raised %+v", got)
		}
		c := h.connect(t, "dev1", 600)
		c.send(subscribe)
		c.expect([]byte{0x90, 3, 0, 1, 0})
		c.send(publishPacket(dev1Telemetry, 1, 1, "x"))
		readAck(t, c.conn)
		c.send(disconnect)
		<-c.over
		all := h.Messages(0, 0)
		if len(all) != 3 || string(all[1].Body) != "x" || h.Received() != 1 {
			t.Fatalf("messages %+v", all)
		}
		last := ""
		for i, opType := range map[int]string{0: "deviceConnected", 2: "deviceDisconnected"} {
			m := all[i]
			if m.Properties["opType"] != opType || m.Properties["hubName"] != "contoso" || m.Properties["deviceId"] != "dev1" ||
				m.Properties["iothub-message-schema"] != "deviceConnectionStateNotification" || m.Properties["operationTimestamp"] == "" ||
				m.System["iothub-message-source"] != "deviceConnectionStateEvents" || m.System["content-type"] != "application/json" {
				t.Errorf("%s: %+v", opType, m)
			}
		}
		for _, i := range []int{0, 2} {
			var body struct{ SequenceNumber string }
			if err := json.Unmarshal(all[i].Body, &body); err != nil || len(body.SequenceNumber) != 64 || body.SequenceNumber <= last {
				t.Errorf("sequence %s after %s (%v)", body.SequenceNumber, last, err)
			}
			last = body.SequenceNumber
		}
		if all[1].System["iothub-message-source"] != "Telemetry" {
			t.Errorf("telemetry comes from %s", all[1].System["iothub-message-source"])
		}
	})
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.connect(t, "dev1", 600)
		c.send(publishPacket(dev1Telemetry, 1, 1, "x"))
		readAck(t, c.conn)
		c.send(disconnect)
		<-c.over
		if got := h.Messages(0, 0); len(got) != 1 {
			t.Errorf("events that nobody asked for: %+v", got)
		}
	})
}
