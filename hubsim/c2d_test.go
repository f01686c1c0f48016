package hubsim

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
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

func TestTranscriptCommand(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		c.subscribe(1, commands)
		if _, err := h.Send(CloudMessage{
			Device: "dev1", MessageID: "m1", Ack: "full", Properties: map[string]*string{"p": new("a b")}, Body: []byte("body"),
		}); err != nil {
			t.Fatal(err)
		}
		p := c.command()
		want := "devices/dev1/messages/devicebound/%24.mid=m1&%24.to=%2Fdevices%2Fdev1%2Fmessages%2FdeviceBound&iothub-ack=full&p=a%20b"
		if p.TopicName != want || p.Qos != 1 || p.Dup || p.Retain || string(p.Payload) != "body" || p.MessageID == 0 || p.MessageID > 0x4000 {
			t.Errorf("%v %q", p, p.Payload)
		}
		c.ack(p.MessageID)
		sent := time.Now().UTC()
		pass(feedbackDelay - 1)
		if got := h.Feedback(0); len(got) != 0 {
			t.Errorf("feedback before its time: %+v", got)
		}
		pass(1)
		id := h.registry.find("dev1")
		if diff := cmp.Diff([]Feedback{{
			Sequence: 1, ContentType: "application/vnd.microsoft.iothub.feedback.json",
			Records: []FeedbackRecord{{"m1", sent, "Success", "Success", "dev1", id.GenerationID}},
		}}, h.Feedback(0)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTheTopicCarriesEveryProperty(t *testing.T) {
	const to = "%24.to=%2Fdevices%2Fdev%3A1%2Fmessages%2FdeviceBound"
	for want, m := range map[string]CloudMessage{
		to:                                    {},
		to + "&prop1&prop2=&prop3=a%20string": {Properties: map[string]*string{"prop1": nil, "prop2": new(""), "prop3": new("a string")}},
		to + "&%24x=%2B%23%2F%C3%BC%7E~":      {Properties: map[string]*string{"$x": new("+#/ü\u007e~")}},
		"%24.mid=m&" + to + "&%24.cid=c&%24.uid=u&%24.exp=2026-11-26T07%3A00%3A00.1250000Z&%24.ct=application%2Fjson&%24.ce=utf-8&iothub-ack=none": {
			MessageID: "m", CorrelationID: "c", UserID: "u", ContentType: "application/json", ContentEncoding: "utf-8", Ack: "none",
			Expires: time.Date(2026, 11, 26, 8, 0, 0, 125e6, time.FixedZone("CET", 3600)),
		},
	} {
		m.Device = "dev:1"
		want = strings.ReplaceAll(want, "%7E~", "~~")
		if got := commandTopic(&m); got != "devices/dev:1/messages/devicebound/"+want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

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

func TestTheQoSIsThatOfTheSubscription(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		if granted := c.subscribe(2, commands); granted[0] != 1 {
			t.Errorf("granted %d", granted[0])
		}
		h.command(t, "a")
		if p := c.command(); p.Qos != 1 {
			t.Errorf("QoS %d", p.Qos)
		}
		if granted := c.subscribe(0, commands); granted[0] != 0 {
			t.Errorf("granted %d", granted[0])
		}
		h.command(t, "b")
		if p := c.command(); p.Qos != 0 || p.MessageID != 0 {
			t.Errorf("QoS %d", p.Qos)
		}
		h.expectOutcomes(t, "b=Success") // completed as it was written
		pass(time.Minute)                // a's lock is lost, and at QoS 0 it is not sent again
		c.quiet()
		h.expectOutcomes(t, "b=Success", "a=Success")
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

func TestWhatIsNoCommandIsRefused(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		if _, err := h.Register("dev1", "mod1"); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			m    CloudMessage
			code int
		}{
			"unknown device":   {CloudMessage{Device: "dev9"}, 404001},
			"a module":         {CloudMessage{Device: "dev1/mod1"}, 404001},
			"ack":              {CloudMessage{Device: "dev1", Ack: "maybe"}, 400004},
			"a long id":        {CloudMessage{Device: "dev1", MessageID: strings.Repeat("x", 129)}, 400004},
			"no property name": {CloudMessage{Device: "dev1", Properties: map[string]*string{"": nil}}, 400004},
			"too large":        {CloudMessage{Device: "dev1", Body: make([]byte, maxLetter+1)}, 413001},
			"with properties":  {CloudMessage{Device: "dev1", Body: make([]byte, maxLetter-1), Properties: map[string]*string{"a": new("b")}}, 413001},
			"a long topic":     {CloudMessage{Device: "dev1", Properties: map[string]*string{"a": new(strings.Repeat("ü", 20000))}}, 400004},
		} {
			_, err := h.Send(c.m)
			var bad *Error
			if !errors.As(err, &bad) || bad.Code != c.code {
				t.Errorf("%s: %v, want %d", name, err, c.code)
			}
		}
		if _, err := h.Send(CloudMessage{Device: "dev1", Body: make([]byte, maxLetter)}); err != nil {
			t.Error(err)
		}
	})
}

func TestABasicHubHasNoCommands(t *testing.T) {
	bubble(t, Config{Limits: Limits{Basic: true}}, func(t *testing.T, h *pipeHub) {
		_, err := h.Send(CloudMessage{Device: "dev1"})
		var bad *Error
		if !errors.As(err, &bad) || bad.Code != 403010 {
			t.Errorf("%v, want 403010", err)
		}
	})
}

func TestFeedbackIsWhatTheSenderAskedFor(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		c, _ := h.session(t, false)
		c.subscribe(1, commands)
		for _, completed := range []bool{true, false} {
			for _, ack := range []string{"", "none", "positive", "negative", "full"} {
				if _, err := h.Send(CloudMessage{Device: "dev1", MessageID: "m-" + ack, Ack: ack}); err != nil {
					t.Fatal(err)
				}
				p := c.command()
				if completed {
					c.ack(p.MessageID)
				}
			}
		}
		if n, err := h.PurgeCommands("dev1"); n != 5 || err != nil {
			t.Errorf("%d purged (%v)", n, err)
		}
		h.expectOutcomes(t, "m-positive=Success", "m-full=Success", "m-negative=Purged", "m-full=Purged")
		if _, err := h.Send(CloudMessage{Device: "dev1", Ack: "full"}); err != nil {
			t.Fatal(err)
		}
		if p := c.command(); !strings.Contains(p.TopicName, "/%24.mid=") {
			t.Errorf("feedback is wanted for a message without an id: %s", p.TopicName)
		}
	})
}

func TestFeedbackIsSentWhenItIsFullOrAfterFifteenSeconds(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, h *pipeHub) {
		for i := range 70 {
			h.command(t, fmt.Sprint(i))
			if _, err := h.PurgeCommands("dev1"); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.Feedback(0); len(got) != 1 || len(got[0].Records) != 64 {
			t.Fatalf("%d messages", len(got))
		}
		pass(15 * time.Second)
		if got := h.Feedback(1); len(got) != 1 || len(got[0].Records) != 6 || got[0].Sequence != 2 {
			t.Fatalf("%+v", got)
		}
		h.command(t, "late")
		if _, err := h.PurgeCommands("dev1"); err != nil {
			t.Fatal(err)
		}
		pass(15 * time.Second)
		if got := h.Feedback(2); len(got) != 1 || len(got[0].Records) != 1 {
			t.Errorf("a message that was sent has grown: %+v", got)
		}
	})
}

// reopen is the hub after a restart.
func (h *pipeHub) reopen(t *testing.T, path string) *pipeHub {
	t.Helper()
	if err := h.state.close(); err != nil {
		t.Fatal(err)
	}
	return openPipeHub(t, Config{}, path)
}

func TestSessionsAndCommandsSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "state.db")
		h := openPipeHub(t, Config{}, path)
		c, _ := h.session(t, false)
		c.subscribe(1, commands)
		for _, body := range []string{"a", "b", "c"} {
			h.command(t, body)
		}
		first := c.command()
		c.commands(2)
		c.ack(first.MessageID)
		c.leave(true)
		h.command(t, "d")

		h = h.reopen(t, path)
		c, present := h.session(t, false)
		if !present {
			t.Error("the session is gone")
		}
		for _, want := range []struct {
			body string
			dup  bool
		}{{"b", true}, {"c", true}, {"d", false}} {
			p := c.command()
			if string(p.Payload) != want.body || p.Dup != want.dup {
				t.Errorf("%v %q, want %+v", p, p.Payload, want)
			}
			c.ack(p.MessageID)
		}
		c.quiet()
		c.unsubscribe(commands)
		h.command(t, "e")
		c.subscribe(1, commands)
		c.leave(true)

		h = h.reopen(t, path)
		if dead := h.DeadLetters("dev1"); len(dead) != 1 || dead[0].Message.MessageID != "e" {
			t.Errorf("dead letters %+v", dead)
		}
		h.command(t, "f") // and the time to live goes on
		pass(30 * time.Minute)
		h = h.reopen(t, path)
		pass(30 * time.Minute)
		synctest.Wait()
		c, _ = h.session(t, false)
		c.quiet()
		h.expectOutcomes(t, "a=Success", "b=Success", "c=Success", "d=Success", "e=Rejected", "f=Expired")
		c.leave(true)
		c, _ = h.session(t, true)
		c.leave(true)

		h = h.reopen(t, path)
		if _, present := h.session(t, false); present {
			t.Error("a session that a clean one ended is back")
		}
		if err := h.state.close(); err != nil {
			t.Fatal(err)
		}
	})
}
