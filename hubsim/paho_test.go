package hubsim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/google/go-cmp/cmp"

	"iothub-gateway/hubsim"
)

// The seed's minimal client (D2C-29), and what becomes of its message.
func TestPahoSendsAMessageWithProperties(t *testing.T) {
	hub := startHub(t, hubConfig())
	client := hub.paho(t, "dev1/mod1")
	before := time.Now().Add(-time.Second)
	topic := "devices/dev1/modules/mod1/messages/events/%24.mid=m1&%24.cid=c1&%24.uid=u&%24.ct=application%2Fjson&%24.ce=utf-8" +
		"&%24.on=out&%24.sub=comp&%24.schema=s&%24.ctime=2026-01-02&%24.new=x&iothub-connection-device-id=liar&alert=true&empty=&null"
	token := client.Publish(topic, 1, true, `{id=123}`)
	if token.Wait(); token.Error() != nil {
		t.Fatal(token.Error())
	}
	all := hub.Messages(0, 0)
	if len(all) != 1 {
		t.Fatalf("%d messages", len(all))
	}
	m := all[0]
	if m.Sequence != 1 || m.Device != "dev1" || m.Module != "mod1" || string(m.Body) != `{id=123}` {
		t.Errorf("message %+v", m)
	}
	if m.Enqueued.Before(before) || m.Enqueued.After(time.Now()) {
		t.Errorf("enqueued %v", m.Enqueued)
	}
	want := map[string]string{"alert": "true", "empty": "", "null": "", "mqtt-retain": "true", "iothub-connection-device-id": "liar"}
	if diff := cmp.Diff(want, m.Properties); diff != "" {
		t.Errorf("application properties (-want +got):\n%s", diff)
	}
	generation := m.System["iothub-connection-auth-generation-id"]
	enqueued := m.Enqueued.Format(time.RFC3339Nano)
	want = map[string]string{
		"message-id": "m1", "correlation-id": "c1", "user-id": "u", "content-type": "application/json", "content-encoding": "utf-8",
		"outputName": "out", "dt-subject": "comp", "iothub-message-schema": "s", "iothub-creation-time-utc": "2026-01-02", "$.new": "x",
		"iothub-connection-device-id": "dev1", "iothub-connection-module-id": "mod1", "iothub-connection-auth-generation-id": generation,
		"iothub-connection-auth-method": `{"scope":"module","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`,
		"iothub-enqueuedtime":           enqueued, "iothub-message-source": "Telemetry", "x-opt-sequence-number": "1", "x-opt-enqueued-time": enqueued,
	}
	if diff := cmp.Diff(want, m.System); diff != "" || generation == "" {
		t.Errorf("system properties (-want +got):\n%s", diff)
	}
}

func TestTheNameOfTheRetainPropertyIsConfigurable(t *testing.T) {
	cfg := hubConfig()
	cfg.RetainProperty = "x-opt-retain"
	hub := startHub(t, cfg)
	hub.paho(t, "dev1").Publish(dev1Events, 1, true, "x").Wait()
	if got := hub.Messages(0, 0)[0].Properties; !cmp.Equal(got, map[string]string{"x-opt-retain": "true"}) {
		t.Errorf("properties %v", got)
	}
}

func TestADuplicateIsASecondMessageThatSaysSo(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.send([]byte("\x32\x24\x00\x1d" + dev1Events + "\x00\x01xyz"))
	c.send([]byte("\x3a\x24\x00\x1d" + dev1Events + "\x00\x01xyz"))
	c.expectPuback(1)
	c.expectPuback(1)
	all := hub.Messages(0, 0)
	if len(all) != 2 || all[0].Properties["mqtt-dup"] != "" || all[1].Properties["mqtt-dup"] != "true" || string(all[1].Body) != "xyz" {
		t.Errorf("%+v", all)
	}
}

func TestMessagesOfAConnectionAreStoredInTheirOrder(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		cfg := hubConfig()
		cfg.Dir = dir
		hub := startHub(t, cfg)
		const devices, each = 8, 200
		var all sync.WaitGroup
		for d := range devices {
			device := fmt.Sprintf("dev%d", d)
			client := hub.paho(t, device)
			all.Go(func() {
				for i := range each {
					client.Publish("devices/"+device+"/messages/events/", byte(i%2), false, fmt.Sprint(i)) // both QoS
				}
				if token := client.Publish("devices/"+device+"/messages/events/", 1, false, fmt.Sprint(each)); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
					t.Errorf("%s: %v", device, token.Error())
				}
			})
		}
		all.Wait()
		next := map[string]int{}
		for i, m := range hub.Messages(0, 0) {
			if m.Sequence != uint64(i+1) {
				t.Fatalf("message %d has sequence %d", i, m.Sequence)
			}
			if string(m.Body) != fmt.Sprint(next[m.Device]) {
				t.Fatalf("%s: message %s where %d was due", m.Device, m.Body, next[m.Device])
			}
			next[m.Device]++
		}
		if hub.Received() != devices*(each+1) || len(next) != devices {
			t.Errorf("%d messages received from %d devices", hub.Received(), len(next))
		}
		hub.stop()
	}
}

func TestAWatcherSeesStoredMessagesThenNewOnesUntilItLeaves(t *testing.T) {
	hub := startHub(t, hubConfig())
	client := hub.paho(t, "dev1")
	publish := func(from, to int) {
		for i := from; i <= to; i++ {
			client.Publish(dev1Events, 1, false, fmt.Sprint(i)).Wait()
		}
	}
	publish(1, 600)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan hubsim.Message)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for m := range hub.Watch(ctx, 100) {
			seen <- m
		}
	}()
	expect := func(from, to int) {
		t.Helper()
		for i := from; i <= to; i++ {
			select {
			case m := <-seen:
				if string(m.Body) != fmt.Sprint(i) || m.Sequence != uint64(i) {
					t.Fatalf("message %d (%s), want %d", m.Sequence, m.Body, i)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("message %d did not come", i)
			}
		}
	}
	expect(101, 300)
	publish(601, 900) // while the watcher is slow: nobody waits for it, and it misses nothing
	expect(301, 900)
	publish(901, 901)
	expect(901, 901)
	cancel()
	<-ended
	for range hub.Watch(ctx, 0) {
		t.Fatal("a watcher whose time is over got a message")
	}
}

func TestAMessageInJSONReadsBack(t *testing.T) {
	for _, body := range []string{`{"t":21.5}`, `null`, `"text"`, `12345678901234567890`, ``, `{id=123}`, "\x00\xff"} {
		m := hubsim.Message{
			Sequence: 7, Enqueued: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Device: "d", Module: "m",
			Properties: map[string]string{"a": "<b>"}, System: map[string]string{"message-id": "x"}, Body: []byte(body),
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(text, &fields); err != nil {
			t.Fatal(err)
		}
		if _, isJSON := fields["body"]; isJSON != json.Valid([]byte(body)) {
			t.Errorf("%q: %s", body, text)
		}
		var back hubsim.Message
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, back); diff != "" {
			t.Errorf("%q (-want +got):\n%s", body, diff)
		}
	}
}

// A paho client with a session answers a method without subscribing again.
func TestPahoAnswersAMethod(t *testing.T) {
	hub := startHub(t, hubConfig())
	options := hub.pahoOptions(t, "dev1").SetCleanSession(false)
	options.SetDefaultPublishHandler(func(c mqtt.Client, m mqtt.Message) {
		u, err := url.Parse("x:///" + m.Topic())
		if err != nil {
			t.Error(err)
			return
		}
		c.Publish("$iothub/methods/res/202/?$rid="+u.Query().Get("$rid"), 1, false, m.Payload())
	})
	first := connectPaho(t, options)
	if token := first.Subscribe("$iothub/methods/POST/#", 1, nil); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	call := methodCall("dev1", "reboot")
	call.Payload, call.ResponseTimeout, call.ConnectTimeout = json.RawMessage(`{"x":1}`), 5*time.Second, 5*time.Second
	for range 2 {
		got, err := hub.CallMethod(t.Context(), call)
		if err != nil || got.Status != 202 || string(got.Payload) != `{"x":1}` {
			t.Fatalf("%+v, %v", got, err)
		}
		first.Disconnect(50)
		first = connectPaho(t, options)
	}
}
