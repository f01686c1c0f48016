package hubsim

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNothingIsDeliveredBeforeTheSubscription(t *testing.T) {
	for name, clean := range map[string]bool{"CleanSession 0": false, "CleanSession 1": true} {
		bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
			h.command(t, "a")
			c, _ := h.session(t, clean)
			h.command(t, "b")
			c.quiet()
			c.subscribe(1, commands)
			h.command(t, "c")
			if got := c.commands(1); got != "c" {
				t.Errorf("%s: got %q", name, got)
			}
			c.quiet()
			h.expectOutcomes(t, "a=Rejected", "b=Rejected")
			if dead := h.DeadLetters("dev1"); len(dead) != 2 || string(dead[1].Message.Body) != "b" || dead[1].Reason != "Rejected" {
				t.Errorf("%s: dead letters %+v", name, dead)
			}
		})
	}
}

// Clients that keep their session do not subscribe again; what waits comes right behind the CONNACK.
func TestAKeptSessionGetsWhatWaitsWithoutSubscribing(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, present := h.session(t, false)
		c.subscribe(1, commands)
		c.leave(true)
		h.command(t, "a")
		h.command(t, "b")
		again, presentAgain := h.session(t, false)
		if present || !presentAgain {
			t.Errorf("session present %v, then %v", present, presentAgain)
		}
		for _, want := range []string{"a", "b"} {
			p := again.command()
			if string(p.Payload) != want || p.Dup {
				t.Errorf("%v %q, want %q", p, p.Payload, want)
			}
			again.ack(p.MessageID)
		}
		again.subscribe(1, commands) // a subscription that is renewed gets no message twice
		again.quiet()
		h.expectOutcomes(t, "a=Success", "b=Success")
	})
}

func TestACleanSessionDropsWhatWaits(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		c.subscribe(1, commands)
		c.leave(true)
		h.command(t, "a")
		c, _ = h.session(t, true)
		c.quiet()
		c.leave(true)
		c, present := h.session(t, false)
		if present {
			t.Error("the old session outlived a clean one")
		}
		c.subscribe(1, commands)
		c.quiet()
		h.expectOutcomes(t, "a=Rejected")
	})
}

func TestUnsubscribingEndsTheDelivery(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		c.subscribe(1, commands, "devices/+/messages/devicebound/#")
		h.command(t, "a")
		p := c.command() // once, for two filters
		c.unsubscribe(commands)
		h.command(t, "b")
		if got := c.commands(1); got != "b" {
			t.Errorf("by the other filter came %q", got)
		}
		c.unsubscribe("devices/+/messages/devicebound/#")
		h.command(t, "c")
		c.ack(p.MessageID) // also a message of an ended subscription is completed
		c.quiet()
		c.leave(true)
		c, _ = h.session(t, false)
		c.quiet()
		h.expectOutcomes(t, "a=Success")
	})
}

func TestAcknowledgementsCountInTheirOrderOnly(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		c.subscribe(1, commands)
		h.command(t, "a")
		h.command(t, "b")
		a, b := c.command(), c.command()
		c.ack(b.MessageID) // too early
		c.ack(a.MessageID)
		c.ack(a.MessageID) // twice
		c.ack(77)          // never sent
		h.expectOutcomes(t, "a=Success")
		pass(time.Minute - feedbackDelay)
		again := c.command()
		if string(again.Payload) != "b" || !again.Dup || again.MessageID != b.MessageID {
			t.Errorf("%v %q", again, again.Payload)
		}
		c.ack(again.MessageID)
		h.expectOutcomes(t, "a=Success", "b=Success")
		for _, want := range []string{`"clause":"C2D-24"`, `"clause":"C2D-25"`} {
			if !strings.Contains(h.log.String(), want) {
				t.Errorf("the log has no %s: %s", want, h.log)
			}
		}
	})
}

func TestALockThatIsLostDeliversAgainUntilTheCountIsFull(t *testing.T) {
	for _, c := range []struct {
		cfg        C2D
		deliveries int
		every      time.Duration
	}{
		{C2D{}, 10, time.Minute},
		{C2D{MaxDeliveryCount: 1}, 1, time.Minute},
		{C2D{LockTimeout: time.Second, MaxDeliveryCount: 3}, 3, time.Second},
		{C2D{LockTimeout: time.Second, FreeRedelivery: true, TimeToLive: 99 * time.Second}, 99, time.Second},
	} {
		bubble(t, Config{C2D: c.cfg}, func(t *testing.T, h *pipeHub) {
			client, _ := h.session(t, false)
			client.subscribe(1, commands)
			start := time.Now()
			h.command(t, "a")
			for i := range c.deliveries {
				p := client.command()
				if at := time.Since(start); p.Dup != (i > 0) || at != time.Duration(i)*c.every {
					t.Fatalf("%+v: delivery %d at %v: %v", c.cfg, i+1, at, p)
				}
			}
			pass(c.every)
			client.quiet()
			want := "a=DeliveryCountExceeded"
			if c.cfg.FreeRedelivery {
				want = "a=Expired"
			}
			h.expectOutcomes(t, want)
			if dead := h.DeadLetters("dev1"); len(dead) != 1 || dead[0].Deliveries != c.deliveries {
				t.Errorf("%+v", dead)
			}
		})
	}
}

func TestALostConnectionDeliversAgainAtOnce(t *testing.T) {
	bubble(t, Config{C2D: C2D{MaxDeliveryCount: 3}}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		c.subscribe(1, commands)
		h.command(t, "a")
		h.command(t, "b")
		first := c.command()
		for range 2 {
			c.leave(false)
			c, _ = h.session(t, false)
			p := c.command()
			if string(p.Payload) != "a" || !p.Dup || p.MessageID != first.MessageID {
				t.Errorf("%v %q", p, p.Payload)
			}
			if got := c.commands(1); got != "b" {
				t.Errorf("then %q", got)
			}
		}
		c.leave(false)
		c, _ = h.session(t, false)
		c.quiet()
		h.expectOutcomes(t, "a=DeliveryCountExceeded", "b=DeliveryCountExceeded")
	})
}

// A take-over is a lost connection too.
func TestATakeOverDeliversAgain(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		c.subscribe(1, commands)
		h.command(t, "a")
		c.command()
		other, _ := h.session(t, false)
		if p := other.command(); string(p.Payload) != "a" || !p.Dup {
			t.Errorf("%v %q", p, p.Payload)
		}
	})
}

func TestWhatWaitsTooLongExpires(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		c.subscribe(1, commands)
		c.leave(true)
		h.command(t, "a") // an hour
		if _, err := h.Send(CloudMessage{Device: "dev1", MessageID: "b", Ack: "negative", Expires: time.Now().Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute - 1)
		if n := h.registry.find("dev1").waiting(); n != 2 {
			t.Errorf("%d wait", n)
		}
		pass(1)
		synctest.Wait()
		if n := h.registry.find("dev1").waiting(); n != 1 {
			t.Errorf("%d wait", n)
		}
		pass(59 * time.Minute)
		synctest.Wait()
		c, _ = h.session(t, false)
		c.quiet()
		h.expectOutcomes(t, "b=Expired", "a=Expired")
	})
}

// What a device has in its hands may be acknowledged also after its time.
func TestADeliveredMessageDoesNotExpireUnderway(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		c.subscribe(1, commands)
		if _, err := h.Send(CloudMessage{Device: "dev1", MessageID: "a", Ack: "full", Expires: time.Now().Add(time.Second)}); err != nil {
			t.Fatal(err)
		}
		p := c.command()
		pass(59 * time.Second)
		c.ack(p.MessageID)
		h.expectOutcomes(t, "a=Success")
	})
}

func TestTheQueueHoldsFiftyMessages(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		c.subscribe(1, commands)
		for i := range maxPending {
			h.command(t, fmt.Sprintf("%02d,", i))
		}
		_, err := h.Send(CloudMessage{Device: "dev1"})
		var bad *Error
		if !errors.As(err, &bad) || bad.Status != 403 || bad.Code != 403004 || bad.Name != "DeviceMaximumQueueDepthExceeded" {
			t.Errorf("the 51st: %v", err)
		}
		for i := range maxPending { // delivered as they are acknowledged, in order
			p := c.command()
			if string(p.Payload) != fmt.Sprintf("%02d,", i) {
				t.Fatalf("message %d is %q", i, p.Payload)
			}
			c.ack(p.MessageID)
		}
		h.command(t, "again")
		if got := c.commands(1); got != "again" {
			t.Error(got)
		}
	})
}

func TestUnacknowledgedMessagesHoldTheNextOnesBack(t *testing.T) {
	for size, want := range map[int]int{1: maxUnacked, 60 << 10: 5} {
		bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
			c, _ := h.session(t, false)
			c.subscribe(1, commands)
			for range 20 {
				if _, err := h.Send(CloudMessage{Device: "dev1", Body: make([]byte, size)}); err != nil {
					t.Fatal(err)
				}
			}
			var first uint16
			for range want {
				first = max(first, c.command().MessageID)
			}
			c.quiet()
			c.ack(first - uint16(want) + 1)
			c.command()
			c.quiet()
		})
	}
}

// reopen is the hub after a restart.
