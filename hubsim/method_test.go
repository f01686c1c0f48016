package hubsim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/hubsim"
)

// answering connects an identity that answers method calls with answer's status and body.
func answering(t *testing.T, hub *testHub, identity string, answer func(name, body string) (status, payload string)) *rawClient {
	t.Helper()
	c := hub.rawConnected(t, identity, true)
	c.subscribe(1, 1, "$iothub/methods/POST/#")
	done := make(chan struct{})
	t.Cleanup(func() { _ = c.conn.Close(); <-done })
	go func() {
		defer close(done)
		for {
			p, err := c.next()
			if err != nil {
				return
			}
			name, rid, found := strings.Cut(strings.TrimPrefix(p.TopicName, "$iothub/methods/POST/"), "/?$rid=")
			if !found || p.FixedHeader.Qos != 0 {
				t.Errorf("request %s at QoS %d", p.TopicName, p.FixedHeader.Qos)
			}
			status, payload := answer(name, string(p.Payload))
			c.publish("$iothub/methods/res/"+status+"/?$rid="+rid, 0, 0, payload)
		}
	}()
	return c
}

// codeOf is the code of an *hubsim.Error, 0 for another error, 1 for none.
func codeOf(err error) int {
	var bad *hubsim.Error
	switch {
	case err == nil:
		return 1
	case errors.As(err, &bad):
		return bad.Code
	}
	return 0
}

func TestAMethodCallComesBackWithWhatTheDeviceAnswered(t *testing.T) {
	hub := startHub(t, hubConfig())
	echo := func(name, body string) (string, string) {
		return "200", `{"name":"` + name + `","body":` + orNull(body) + `}`
	}
	answering(t, hub, "dev1", echo)
	answering(t, hub, "dev1/mod1", echo)
	for _, c := range []struct{ identity, payload, want string }{
		{"dev1", `{"delay":5}`, `{"name":"reboot","body":{"delay":5}}`},
		{"dev1/mod1", `"text"`, `{"name":"reboot","body":"text"}`},
		{"dev1", `null`, `{"name":"reboot","body":null}`},
		{"dev1", ``, `{"name":"reboot","body":null}`},
		{"dev1", `[1,2]`, `{"name":"reboot","body":[1,2]}`},
	} {
		call := methodCall(c.identity, "reboot")
		call.ResponseTimeout, call.Payload = 5*time.Second, json.RawMessage(c.payload)
		got, err := hub.CallMethod(t.Context(), call)
		if err != nil || got.Status != 200 || string(got.Payload) != c.want {
			t.Errorf("%s %s: %d %s, %v; want %s", c.identity, c.payload, got.Status, got.Payload, err, c.want)
		}
	}
}

func orNull(s string) string {
	if s == "" {
		return "null"
	}
	return s
}

func TestADeviceAnswersWithItsOwnStatusAndAnyBody(t *testing.T) {
	hub := startHub(t, hubConfig())
	answering(t, hub, "dev1", func(_, body string) (string, string) {
		var answer [2]string
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Error(err)
		}
		return answer[0], answer[1]
	})
	for answer, want := range map[[2]string]string{
		{"200", `{"ok":true}`}: `200 {"ok":true}`,
		{"404", ``}:            `404 null`,
		{"0", `7`}:             `0 7`,
		{"-3", `"x"`}:          `-3 "x"`,
		{"200", `not json`}:    `200 "not json"`, // METH-21
	} {
		payload, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		call := methodCall("dev1", "m")
		call.ResponseTimeout, call.Payload = 5*time.Second, payload
		got, err := hub.CallMethod(t.Context(), call)
		if text := fmt.Sprintf("%d %s", got.Status, got.Payload); err != nil || text != want {
			t.Errorf("%v: %s (%v), want %s", answer, text, err, want)
		}
	}
}

func TestCallsThatCannotBeMadeSayWhy(t *testing.T) {
	hub := startHub(t, hubConfig())
	for _, identity := range []string{"offline", "deaf", "mute/mod"} {
		device, module, _ := strings.Cut(identity, "/")
		if _, err := hub.Register(device, module); err != nil {
			t.Fatal(err)
		}
	}
	hub.rawConnected(t, "deaf", true)
	hub.rawConnected(t, "mute/mod", true).subscribe(1, 0, "$iothub/methods/POST/#")
	large := json.RawMessage(`"` + strings.Repeat("x", 128<<10-1) + `"`)
	for _, c := range []struct {
		identity, name string
		payload        json.RawMessage
		code           int
	}{
		{"nobody", "m", nil, 404001},
		{"nobody/mod", "m", nil, 404001},
		{"deaf/mod", "m", nil, 404010},
		{"offline", "m", nil, 404103},
		{"deaf", "m", nil, 404103}, // connected, but not subscribed (METH-14)
		{"mute/mod", "m", nil, 504101},
		{"mute/mod", "", nil, 400004},
		{"mute/mod", "re boot", nil, 400004},
		{"mute/mod", "a/b", nil, 400004},
		{"mute/mod", "größe", nil, 400004},
		{"mute/mod", "component*reboot", nil, 504101}, // Plug and Play's form is fine
		{"mute/mod", "m", json.RawMessage("{"), 400004},
		{"mute/mod", "m", large, 413001},
		{"mute/mod", "m", large[1 : len(large)-1][:5], 400004},
	} {
		call := methodCall(c.identity, c.name)
		call.Payload = c.payload
		if _, err := hub.CallMethod(t.Context(), call); codeOf(err) != c.code {
			t.Errorf("%s %s: %v, want %d", c.identity, c.name, err, c.code)
		}
	}
}

func TestACallWaitsForTheDeviceToConnect(t *testing.T) {
	hub := startHub(t, hubConfig())
	if _, err := hub.Register("dev1", ""); err != nil {
		t.Fatal(err)
	}
	call := methodCall("dev1", "m")
	call.ConnectTimeout = 30 * time.Millisecond
	start := time.Now()
	if _, err := hub.CallMethod(t.Context(), call); codeOf(err) != 404103 || time.Since(start) < call.ConnectTimeout {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	call.ConnectTimeout, call.ResponseTimeout = 10*time.Second, 10*time.Second
	type outcome struct {
		got hubsim.MethodResult
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		got, err := hub.CallMethod(t.Context(), call)
		done <- outcome{got, err}
	}()
	answering(t, hub, "dev1", func(string, string) (string, string) { return "201", "" })
	if o := <-done; o.err != nil || o.got.Status != 201 {
		t.Errorf("%+v", o)
	}
}

func TestACallEndsWithItsConnectionItsTimeOrItsCaller(t *testing.T) {
	hub := startHub(t, hubConfig())
	call := methodCall("dev1", "m")
	call.ResponseTimeout = 10 * time.Second
	for name, c := range map[string]struct {
		end  func(c *rawClient, cancel func())
		code int
	}{
		"disconnected":    {func(c *rawClient, _ func()) { _ = c.conn.Close() }, 404103},
		"kicked":          {func(*rawClient, func()) { hub.Kick("dev1") }, 404103},
		"taken over":      {func(*rawClient, func()) { hub.rawConnected(t, "dev1", true) }, 400027},
		"the caller left": {func(_ *rawClient, cancel func()) { cancel() }, 0},
	} {
		client := hub.rawConnected(t, "dev1", true)
		client.subscribe(1, 0, "$iothub/methods/POST/#")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := hub.CallMethod(ctx, call)
			done <- err
		}()
		client.expect(packets.Publish)
		c.end(client, cancel)
		if err := <-done; codeOf(err) != c.code {
			t.Errorf("%s: %v, want %d", name, err, c.code)
		}
		cancel()
	}
}

func TestALateOrUnknownAnswerIsDroppedAndTheConnectionStays(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, "$iothub/methods/POST/#")
	if _, err := hub.CallMethod(t.Context(), methodCall("dev1", "m")); codeOf(err) != 504101 {
		t.Fatal(err)
	}
	request := c.expect(packets.Publish)
	_, rid, _ := strings.Cut(request.TopicName, "$rid=")
	c.publish("$iothub/methods/res/200/?$rid="+rid, 1, 5, "{}")
	c.expectPuback(5) // an answer at QoS 1 is acknowledged all the same
	c.publish("$iothub/methods/res/200/?$rid=nonsense", 0, 0, "{}")
	c.alive()
}

func TestTooManyOpenCallsAreRefused(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, "$iothub/methods/POST/#")
	ctx, cancel := context.WithCancel(t.Context())
	call := methodCall("dev1", "m")
	call.ResponseTimeout = time.Minute
	codes := make(chan int, 101)
	for range 101 {
		go func() {
			_, err := hub.CallMethod(ctx, call)
			codes <- codeOf(err)
		}()
	}
	if code := <-codes; code != 403800 {
		t.Errorf("the first to fail has %d", code)
	}
	cancel()
	for range 100 {
		if code := <-codes; code != 0 {
			t.Errorf("another call has %d", code)
		}
	}
}
