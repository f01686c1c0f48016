package hubsim

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// inject sends a message with the fault properties of Microsoft's own tests and reads its PUBACK.
func (c *pipeClient) inject(kind string) {
	c.t.Helper()
	c.send(publishPacket(dev1Telemetry+"AzIoTHub_FaultOperationType="+kind+"&AzIoTHub_FaultOperationCloseReason=boom&"+
		"AzIoTHub_FaultOperationDelayInSecs=2&AzIoTHub_FaultOperationDurationInSecs=10", 1, 99, "x"))
	readAck(c.t, c.conn)
}

func TestAMessageMayAskForAFaultOfItsOwnConnection(t *testing.T) {
	for _, kind := range []string{"KillTcp", "ShutDownMqtt"} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{})
			c := h.connect(t, "dev1", 600)
			c.inject(kind)
			if after := c.expectEnd(); after != 2*time.Second {
				t.Errorf("%s: cut after %v, want 2 s", kind, after)
			}
			if line := h.warning(t); line.Clause != "D2C-30" || !strings.Contains(line.Message, "asked for") {
				t.Errorf("%s: the log says %+v", kind, line)
			}
			h.connect(t, "dev1", 600)
		})
	}
	for kind, want := range map[string]string{"InvokeThrottling": "429001", "InvokeMaxMessageQuota": "403002"} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{})
			c := h.connect(t, "dev1", 600)
			c.inject(kind)
			c.send(publishPacket(dev1Telemetry, 1, 1, "x"))
			readAck(t, c.conn) // the delay is not over
			pass(3 * time.Second)
			c.send(publishPacket(dev1Telemetry, 1, 2, "x"))
			c.expectEnd()
			if line := h.warning(t); !strings.Contains(line.Message, want) {
				t.Errorf("%s: the log says %+v", kind, line)
			}
			pass(10 * time.Second)
			c = h.connect(t, "dev1", 600)
			c.send(publishPacket(dev1Telemetry, 1, 1, "x"))
			readAck(t, c.conn)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.connect(t, "dev1", 600)
		c.inject("InvokeAuthError")
		c.expectEnd()
		refused := h.dial(t)
		refused.send(encode(h.connectPacket(t, "dev1", time.Hour)))
		refused.expect([]byte{0x20, 2, 0, 5})
		pass(11 * time.Second)
		h.connect(t, "dev1", 600)
	})
}

func TestAFaultThatIsNotSimulatedIsAnOrdinaryMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.connect(t, "dev1", 600)
		c.inject("KillAmqpConnection")
		pass(time.Minute)
		c.send(pingreq)
		c.expect([]byte{0xd0, 0})
		if line := h.warning(t); h.Received() != 1 || line.Clause != "D2C-30" || !strings.Contains(line.Message, "KillAmqpConnection") {
			t.Errorf("%d messages, the log says %+v", h.Received(), line)
		}
	})
}

// Faults that wait cost memory: a connection has a number of them at a time.
func TestAConnectionHasAFewFaultsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.connect(t, "dev1", 600)
		for range maxInjections {
			c.inject("InvokeThrottling")
		}
		if log := h.log.String(); strings.Contains(log, "wait for their time") {
			t.Errorf("the log says %s", log)
		}
		c.inject("KillTcp")
		if line := h.warning(t); line.Clause != "D2C-30" || !strings.Contains(line.Message, "16 faults wait") {
			t.Errorf("the log says %+v", line)
		}
		pass(3 * time.Second)
		c.send(pingreq)
		c.expect([]byte{0xd0, 0}) // it was not cut, and has room for another
		if n := h.registry.find("dev1").connection().injecting.Load(); n != 0 || h.Received() != maxInjections+1 {
			t.Errorf("%d faults wait, %d messages are stored", n, h.Received())
		}
	})
}

// A connection that ends does not wait for the faults that it asked for.
func TestAFaultEndsWithItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.connect(t, "dev1", 600)
		c.inject("InvokeThrottling")
		start := time.Now()
		_ = c.conn.Close()
		<-c.over
		if time.Since(start) != 0 {
			t.Errorf("the session ended after %v", time.Since(start))
		}
		pass(5 * time.Second)
		c = h.connect(t, "dev1", 600)
		c.send(publishPacket(dev1Telemetry, 1, 1, "x"))
		readAck(t, c.conn)
	})
}

func TestAConnectionCanBeCutInTheMiddleOfAPacket(t *testing.T) {
	for _, identity := range []string{"dev1", ""} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{})
			c := h.connect(t, "dev1", 600)
			h.CutMidPacket("dev2")
			h.CutMidPacket(identity)
			c.send(publishPacket(dev1Telemetry, 1, 7, "x"))
			if got, err := io.ReadAll(c.conn); err != nil || string(got) != "\x40\x02\x00" {
				t.Errorf("dial %q: got %x (%v), want three bytes of a PUBACK", identity, got, err)
			}
			<-c.over
			if h.Received() != 1 {
				t.Error("the message is not stored")
			}
			c = h.connect(t, "dev1", 600) // it happens once
			c.send(publishPacket(dev1Telemetry, 1, 8, "x"))
			readAck(t, c.conn)
		})
	}
}

func TestAnExpiredTokenIsRefusedAndALaterOneIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		if h.ExpireTokens("dev1") {
			t.Error("nobody is there")
		}
		first := encode(h.connectPacket(t, "dev1", time.Hour))
		c := h.dial(t)
		c.send(first)
		c.expect([]byte{0x20, 2, 0, 0})
		if !h.ExpireTokens("") || c.expectEnd() != 0 {
			t.Error("the connection still stands")
		}
		if !strings.Contains(h.log.String(), "the token expired") {
			t.Errorf("the log says %s", h.log)
		}
		again := h.dial(t)
		again.send(first)
		again.expect([]byte{0x20, 2, 0, 5})
		pass(time.Second)
		renewed := h.dial(t)
		renewed.send(encode(h.connectPacket(t, "dev1", time.Hour)))
		renewed.expect([]byte{0x20, 2, 0, 0})
	})
}

func TestTwinRequestsFailAsOftenAsTheyAreToldTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.twinClient(t)
		h.FailTwins("dev1", 500, 1)
		h.FailTwins("", 429, 2)
		const get = "$iothub/twin/GET/?$rid=1"
		for i, want := range []string{"429", "429", "500", "200"} {
			if got := c.twinStatus(get, ""); got != want {
				t.Errorf("request %d: %s, want %s", i, got, want)
			}
		}
	})
}
