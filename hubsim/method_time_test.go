package hubsim

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

type methodOutcome struct {
	MethodResult
	err   error
	after time.Duration
}

// call calls a method in the background.
func (h *pipeHub) call(t *testing.T, c MethodCall) <-chan methodOutcome {
	done := make(chan methodOutcome, 1)
	start := time.Now()
	go func() {
		got, err := h.CallMethod(t.Context(), c)
		done <- methodOutcome{got, err, time.Since(start)}
	}()
	return done
}

// methods connects a device that is subscribed to direct methods.
func (h *pipeHub) methods(t *testing.T, device string) *pipeClient {
	t.Helper()
	c := h.connect(t, device, 600)
	c.send(append([]byte{0x82, byte(5 + len(methodFilter)), 0, 1, 0, byte(len(methodFilter))}, methodFilter+"\x01"...))
	c.expect([]byte{0x90, 3, 0, 1, 1})
	return c
}

// request reads a method request and returns its id.
func (c *pipeClient) request() string {
	c.t.Helper()
	p, err := packets.ReadPacket(c.conn)
	if err != nil {
		c.t.Fatal(err)
	}
	_, rid, _ := strings.Cut(p.(*packets.PublishPacket).TopicName, "/?$rid=")
	return rid
}

func TestACallWaitsThirtySecondsUnlessToldOtherwise(t *testing.T) {
	for limit, want := range map[time.Duration]time.Duration{0: 30 * time.Second, 5 * time.Second: 5 * time.Second, 5 * time.Minute: 5 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{})
			c := h.methods(t, "dev1")
			done := h.call(t, MethodCall{Device: "dev1", Name: "m", ResponseTimeout: limit})
			c.request()
			o := <-done
			var bad *Error
			if !errors.As(o.err, &bad) || bad.Code != 504101 || bad.Status != 504 || o.after != want {
				t.Fatalf("%v: %v after %v", limit, o.err, o.after)
			}
			body, err := bad.body(time.Now())
			if err != nil || !strings.Contains(string(body), `\"timeout\":\"`+clock(want)+`\"`) {
				t.Errorf("%v: %s (%v)", limit, body, err)
			}
		})
	}
}

func TestAnAnswerCountsUntilTheLastMomentAndIsDroppedAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.methods(t, "dev1")
		call := MethodCall{Device: "dev1", Name: "m", ResponseTimeout: 10 * time.Second}
		first := h.call(t, call)
		late := c.request()
		pass(11 * time.Second)
		if o := <-first; codeOf(o.err) != 504101 {
			t.Errorf("the first call: %v", o.err)
		}
		second := h.call(t, call)
		rid := c.request()
		if rid == late {
			t.Fatal("two calls have one request id")
		}
		c.send(publishPacket("$iothub/methods/res/200/?$rid="+late, 0, 0, `"late"`)) // not for the second
		pass(9 * time.Second)
		c.send(publishPacket("$iothub/methods/res/201/?$rid="+rid, 0, 0, `"in time"`))
		if o := <-second; o.err != nil || o.Status != 201 || string(o.Payload) != `"in time"` || o.after != 9*time.Second {
			t.Errorf("the second call: %+v", o)
		}
		if text := h.log.String(); strings.Count(text, "dropped") != 1 || !strings.Contains(text, `"clause":"METH-20"`) {
			t.Errorf("the log says %s", text)
		}
	})
}

// A device that was asked before the hub stopped may answer when it is back.
func TestAnAnswerToACallOfAFormerRunAnswersNoOther(t *testing.T) {
	var rids [2]string
	for i := range rids {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{})
			c := h.methods(t, "dev1")
			done := h.call(t, MethodCall{Device: "dev1", Name: "m", ResponseTimeout: time.Second})
			rids[i] = c.request()
			c.send(publishPacket("$iothub/methods/res/200/?$rid="+rids[0], 0, 0, ""))
			if o := <-done; i == 1 && codeOf(o.err) != 504101 {
				t.Errorf("answered with what a former run asked for: %+v", o)
			}
		})
	}
	if rids[0] == rids[1] {
		t.Errorf("both runs began with %s", rids[0])
	}
}

func TestNothingIsQueuedForADeviceThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		if _, err := h.Register("dev1", ""); err != nil {
			t.Fatal(err)
		}
		if o := <-h.call(t, MethodCall{Device: "dev1", Name: "m"}); codeOf(o.err) != 404103 || o.after != 0 {
			t.Errorf("offline: %v after %v", o.err, o.after)
		}
		if o := <-h.call(t, MethodCall{Device: "dev1", Name: "m", ConnectTimeout: 5 * time.Minute}); codeOf(o.err) != 404103 || o.after != 5*time.Minute {
			t.Errorf("offline for five minutes: %v after %v", o.err, o.after)
		}
		deaf := h.connect(t, "dev1", 600)
		waiting := h.call(t, MethodCall{Device: "dev1", Name: "m", ConnectTimeout: time.Minute})
		pass(10 * time.Second)
		_ = deaf.conn.Close()
		pass(10 * time.Second)
		c := h.methods(t, "dev1")
		c.send(publishPacket("$iothub/methods/res/200/?$rid="+c.request(), 0, 0, ""))
		if o := <-waiting; o.err != nil || o.after != 20*time.Second || string(o.Payload) != "null" {
			t.Errorf("a call that waited for the subscription: %+v", o)
		}
		c.send(pingreq)
		c.expect([]byte{0xd0, 0}) // none of the calls before it comes
	})
}

func TestAMethodThatIsThrottledComesLateThenGets429(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{Limits: Limits{MethodBytes: meterStep, Burst: time.Second, Backlog: time.Second}})
		c := h.methods(t, "dev1")
		go func() {
			for range 2 {
				c.send(publishPacket("$iothub/methods/res/200/?$rid="+c.request(), 0, 0, ""))
			}
		}()
		var all []<-chan methodOutcome
		for range 3 {
			all = append(all, h.call(t, MethodCall{Device: "dev1", Name: "m"}))
			synctest.Wait()
		}
		for i, want := range []time.Duration{0, time.Second} {
			if o := <-all[i]; o.err != nil || o.after != want {
				t.Errorf("call %d: %v after %v, want %v", i, o.err, o.after, want)
			}
		}
		if o := <-all[2]; codeOf(o.err) != 429001 || o.after != 0 {
			t.Errorf("the third call: %v after %v", o.err, o.after)
		}
	})
}
