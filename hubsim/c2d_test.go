package hubsim

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

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
