package hubsim

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const dev1Telemetry = "devices/dev1/messages/events/"

// codeOf is the hub's code of an error, 0 for none.
func codeOf(err error) int {
	var bad *Error
	if errors.As(err, &bad) {
		return bad.Code
	}
	return 0
}

func TestARateLetsBurstsThroughThenQueuesThenRejects(t *testing.T) {
	l := newLimiter(Limits{Telemetry: 10, Burst: 2 * time.Second, Backlog: 3 * time.Second})
	start := time.Unix(1000, 0)
	var waits []time.Duration
	for {
		wait, err := l.take(telemetryOperation, 0, start)
		if err != nil {
			if codeOf(err) != 429001 {
				t.Errorf("rejected with %v", err)
			}
			break
		}
		waits = append(waits, wait)
	}
	if len(waits) != 50 || waits[19] != 0 || waits[20] != 100*time.Millisecond || waits[49] != 3*time.Second {
		t.Errorf("%d let through, waiting %v", len(waits), waits)
	}
	if wait, err := l.take(telemetryOperation, 0, start.Add(time.Second)); err != nil || wait != 2100*time.Millisecond {
		t.Errorf("a second later: %v, %v", wait, err) // served at the rate meanwhile
	}
	if wait, err := l.take(telemetryOperation, 0, start.Add(time.Hour)); err != nil || wait != 0 {
		t.Errorf("an hour later: %v, %v", wait, err)
	}
	if wait, err := l.take(twinRead, 0, start); err != nil || wait != 0 {
		t.Errorf("an operation without a limit: %v, %v", wait, err)
	}
}

func TestMethodPayloadsCountInStepsOfFourKilobytes(t *testing.T) {
	l := newLimiter(Limits{MethodBytes: 4096, Burst: time.Second, Backlog: time.Hour})
	start := time.Unix(1000, 0)
	for i, size := range []int{0, 1, 4096, 4097, 128 << 10} {
		want := []time.Duration{0, 1, 2, 4, 36}[i] * time.Second
		if wait, err := l.take(methodOperation, size, start); err != nil || wait != want {
			t.Errorf("payload %d: waits %v (%v), want %v", size, wait, err, want)
		}
	}
}

func TestTheDailyQuotaCountsStepsAndBeginsAnewAtMidnight(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	l := newLimiter(Limits{DailyMessages: 10})
	for _, c := range []struct {
		op   operation
		size int
		at   time.Time
		code int
	}{
		{telemetryOperation, 0, noon, 0},                     // 1
		{telemetryOperation, 4096, noon, 0},                  // 2
		{twinUpdate, 4097, noon, 0},                          // 4
		{methodOperation, 5 * 4096, noon, 0},                 // 9
		{twinRead, 8192, noon, 403002},                       // would be 11
		{twinRead, 1, noon, 0},                               // 10
		{telemetryOperation, 0, noon, 403002},                // no more today
		{connectOperation, 0, noon, 0},                       // not counted
		{registryOperation, 0, noon, 0},                      // not counted
		{commandOperation, 0, noon, 403002},                  //
		{telemetryOperation, 0, noon.Add(12 * time.Hour), 0}, // tomorrow
	} {
		if _, err := l.take(c.op, c.size, c.at); codeOf(err) != c.code {
			t.Errorf("%+v: %v", c, err)
		}
	}
	free := newLimiter(Limits{DailyMessages: 3, Meter: 512})
	if _, err := free.take(telemetryOperation, 1537, noon); codeOf(err) != 403002 {
		t.Errorf("four steps of half a kilobyte: %v", err)
	}
}

// THR-14: what a device and the service side do, and what the hub does for them.
func TestMessagesAnswersAndNotificationsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{Limits: Limits{DailyMessages: 100}})
		c := h.connect(t, "dev1", 600)
		for _, filter := range []string{twinFilter, desiredFilter, methodFilter} {
			c.send(append([]byte{0x82, byte(5 + len(filter)), 0, 1, 0, byte(len(filter))}, filter+"\x00"...))
			c.expect([]byte{0x90, 3, 0, 1, 0})
		}
		counts := func(what string, want int64, act func()) {
			t.Helper()
			before := h.limits.quota.used
			act()
			synctest.Wait()
			if got := h.limits.quota.used - before; got != want {
				t.Errorf("%s counts %d, want %d", what, got, want)
			}
		}
		counts("telemetry of 9 KB", 3, func() { c.send(publishPacket(dev1Telemetry, 0, 0, strings.Repeat("x", 9000))) })
		counts("a twin read", 1, func() { c.twinStatus("$iothub/twin/GET/?$rid=1", "") })
		counts("a twin update", 1, func() { c.twinStatus("$iothub/twin/PATCH/properties/reported/?$rid=1", "{}") })
		counts("a notification", 1, func() {
			if _, _, err := h.editTwin(h.registry.find("dev1"), edit{desired: object{"a": true}}, ""); err != nil {
				t.Error(err)
			}
			c.request()
		})
		counts("a method request and its answer", 2, func() {
			done := h.call(t, MethodCall{Device: "dev1", Name: "m"})
			c.send(publishPacket("$iothub/methods/res/200/?$rid="+c.request(), 0, 0, ""))
			<-done
		})
		counts("a ping", 0, func() {
			c.send(pingreq)
			c.expect([]byte{0xd0, 0})
		})
	})
}

func TestTheTiersHaveTheirLimits(t *testing.T) {
	for _, c := range []struct {
		tier  string
		units int
		want  string
	}{
		{"F1", 1, "connects 100 telemetry 100 reads 100 updates 50 methods 163840 registry 1.67 daily 8000 basic false"},
		{"S1", 1, "connects 100 telemetry 100 reads 100 updates 50 methods 163840 registry 1.67 daily 400000 basic false"},
		{"S1", 20, "connects 240 telemetry 240 reads 100 updates 50 methods 3276800 registry 33.33 daily 8000000 basic false"},
		{"S2", 20, "connects 2400 telemetry 2400 reads 200 updates 100 methods 9830400 registry 33.33 daily 120000000 basic false"},
		{"B2", 1, "connects 120 telemetry 120 reads 100 updates 50 methods 491520 registry 1.67 daily 6000000 basic true"},
		{"S3", 2, "connects 12000 telemetry 12000 reads 1000 updates 500 methods 50331648 registry 166.67 daily 600000000 basic false"},
	} {
		l, err := TierLimits(c.tier, c.units)
		got := fmt.Sprintf("connects %.0f telemetry %.0f reads %.0f updates %.0f methods %.0f registry %.2f daily %d basic %v",
			l.Connects, l.Telemetry, l.TwinReads, l.TwinUpdates, l.MethodBytes, l.Registry, l.DailyMessages, l.Basic)
		if err != nil || got != c.want || l.Commands != l.Registry {
			t.Errorf("%s with %d units: %s (%v), want %s", c.tier, c.units, got, err, c.want)
		}
	}
	for tier, units := range map[string]int{"S4": 1, "": 1, "S1": 0, "F1": 2} {
		if _, err := TierLimits(tier, units); err == nil {
			t.Errorf("%q with %d units is a tier", tier, units)
		}
	}
}

func TestThrottledTelemetryIsAcknowledgedLateThenCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{Limits: Limits{Telemetry: 1, Burst: 2 * time.Second, Backlog: 4 * time.Second}})
		c := h.connect(t, "dev1", 600)
		start := time.Now()
		go func() {
			for i := range 7 {
				_, _ = c.conn.Write(publishPacket(dev1Telemetry, 1, uint16(i+1), "x"))
			}
		}()
		for i, want := range []time.Duration{0, 0} {
			if id := readAck(t, c.conn); int(id) != i+1 || time.Since(start) != want {
				t.Errorf("PUBACK %d after %v, want %d after %v", id, time.Since(start), i+1, want)
			}
		}
		c.expectEnd() // the seventh would wait five seconds
		if h.Received() != 6 {
			t.Errorf("%d messages were taken, want 6", h.Received())
		}
		if line := h.warning(t); !strings.Contains(line.Message, "(429001): IoT Hub closes the connection") || !strings.Contains(line.Clause, "CLOSE-14") {
			t.Errorf("the log says %+v", line)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{Limits: Limits{Telemetry: 1}})
		c := h.connect(t, "dev1", 600)
		start := time.Now()
		for i := range 3 {
			c.send(publishPacket(dev1Telemetry, 1, uint16(i+1), "x"))
		}
		for i := range 3 {
			if id := readAck(t, c.conn); int(id) != i+1 || time.Since(start) != time.Duration(i)*time.Second {
				t.Errorf("PUBACK %d after %v", id, time.Since(start))
			}
		}
	})
}

func TestAnExhaustedQuotaLetsConnectAndClosesOnTheNextMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{Limits: Limits{DailyMessages: 1}})
		c := h.connect(t, "dev1", 600)
		c.send(publishPacket(dev1Telemetry, 1, 1, "x"))
		readAck(t, c.conn)
		c.send(publishPacket(dev1Telemetry, 1, 2, "x"))
		c.expectEnd()
		if line := h.warning(t); !strings.Contains(line.Message, "daily quota (403002)") {
			t.Errorf("the log says %+v", line)
		}
		h.connect(t, "dev1", 600).send(publishPacket(dev1Telemetry, 0, 0, "x"))
		if _, err := h.CallMethod(t.Context(), MethodCall{Device: "dev1", Name: "m"}); codeOf(err) != 403002 {
			t.Errorf("a method call: %v", err)
		}
	})
}

func TestConnectionsBeyondTheLimitWaitThenAreRefusedWithThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{Limits: Limits{Connects: 1, Burst: time.Second, Backlog: time.Second}})
		start := time.Now()
		h.connect(t, "dev1", 600)
		h.connect(t, "dev2", 600)
		if after := time.Since(start); after != time.Second {
			t.Errorf("the second connection was let in after %v", after)
		}
		third := h.dial(t)
		third.send(encode(h.connectPacket(t, "dev3", time.Hour)))
		synctest.Wait()
		fourth := h.dial(t)
		fourth.send(encode(h.connectPacket(t, "dev4", time.Hour)))
		got := make([]byte, 4)
		if _, err := io.ReadFull(fourth.conn, got); err != nil || got[3] != packets.ErrRefusedServerUnavailable {
			t.Errorf("the fourth got %x (%v), want CONNACK 3", got, err)
		}
		third.expect([]byte{0x20, 2, 0, 0})
	})
}

// twinStatus sends a twin request and returns the status that it is answered with.
func (c *pipeClient) twinStatus(topic, body string) string {
	c.t.Helper()
	c.send(publishPacket(topic, 0, 0, body))
	p, err := packets.ReadPacket(c.conn)
	if err != nil {
		c.t.Fatal(err)
	}
	status, _, _ := strings.Cut(strings.TrimPrefix(p.(*packets.PublishPacket).TopicName, twinAnswer), "/")
	return status
}

func (h *pipeHub) twinClient(t *testing.T) *pipeClient {
	c := h.connect(t, "dev1", 600)
	c.send(append([]byte{0x82, byte(5 + len(twinFilter)), 0, 1, 0, byte(len(twinFilter))}, twinFilter+"\x00"...))
	c.expect([]byte{0x90, 3, 0, 1, 0})
	return c
}

func TestThrottledTwinRequestsComeLateThenGet429(t *testing.T) {
	const get, report = "$iothub/twin/GET/?$rid=1", "$iothub/twin/PATCH/properties/reported/?$rid=1"
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{Limits: Limits{TwinReads: 1, TwinUpdates: 0.5, Burst: time.Second, Backlog: time.Second}})
		c := h.twinClient(t)
		start := time.Now()
		for i, want := range []time.Duration{0, time.Second, 2 * time.Second} {
			if status := c.twinStatus(get, ""); status != "200" || time.Since(start) != want {
				t.Errorf("GET %d: %s after %v, want %v", i, status, time.Since(start), want)
			}
		}
		if status := c.twinStatus(report, "{}"); status != "204" {
			t.Errorf("the first PATCH: %s", status)
		}
		if status := c.twinStatus(report, "{}"); status != "429" { // it would wait two seconds
			t.Errorf("the second PATCH: %s", status)
		}
		if text := h.log.String(); !strings.Contains(text, "IoT Hub answers 429") {
			t.Errorf("the log says %s", text)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{Limits: Limits{Basic: true}})
		if status := h.twinClient(t).twinStatus(get, ""); status != "403" {
			t.Errorf("a basic hub: %s", status)
		}
		if _, err := h.CallMethod(t.Context(), MethodCall{Device: "dev1", Name: "m"}); codeOf(err) != 403010 {
			t.Errorf("a method call on a basic hub: %v", err)
		}
	})
}

func TestADialThrottlesOneIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.twinClient(t)
		h.Throttle("dev1", 1)
		start := time.Now()
		for i := range 4 {
			c.send(publishPacket(dev1Telemetry, 1, uint16(i+1), "x"))
		}
		for range 4 {
			readAck(t, c.conn)
		}
		if after := time.Since(start); after != 3*time.Second {
			t.Errorf("four messages at one a second took %v", after)
		}
		h.Throttle("dev1", 0)
		if status := c.twinStatus("$iothub/twin/GET/?$rid=1", ""); status != "429" {
			t.Errorf("a twin request: %s", status)
		}
		if _, err := h.CallMethod(t.Context(), MethodCall{Device: "dev1", Name: "m"}); codeOf(err) != 429001 {
			t.Errorf("a method call: %v", err)
		}
		c.send(publishPacket(dev1Telemetry, 1, 9, "x"))
		c.expectEnd()
		other := h.connect(t, "dev2", 600)
		other.send(publishPacket("devices/dev2/messages/events/", 1, 1, "x"))
		readAck(t, other.conn)
		h.Throttle("dev1", -1)
		c = h.connect(t, "dev1", 600)
		c.send(publishPacket(dev1Telemetry, 1, 1, "x"))
		readAck(t, c.conn)
	})
}

func TestThrottlingThatIsOffCostsNoMemory(t *testing.T) {
	h := newPipeHub(t, Config{})
	about := h.dials.about("dev1")
	if n := testing.AllocsPerRun(100, func() {
		if _, err := h.take(telemetryOperation, 100, about); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
