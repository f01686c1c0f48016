package upstream

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
)

func TestADirectMethodIsAnsweredOnTheConnectionItCameOn(t *testing.T) {
	r := newRig(t)
	r.handle = func(_ context.Context, c gateway.Command) gateway.Reply {
		body, _ := json.Marshal(map[string]string{"identity": string(c.Identity), "name": c.Name, "payload": string(c.Payload)})
		return gateway.Reply{Status: 201, Body: body}
	}
	r.run("d1", "d1/m")
	for _, module := range []string{"", "m"} {
		got, err := r.hub.CallMethod(t.Context(), hubsim.MethodCall{Device: "d1", Module: module, Name: "set", Payload: json.RawMessage(`{"v":1}`), ConnectTimeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		var body map[string]string
		if err := json.Unmarshal(got.Payload, &body); err != nil {
			t.Fatal(err)
		}
		want := strings.TrimSuffix("d1/"+module, "/")
		if got.Status != 201 || body["identity"] != want || body["name"] != "set" || body["payload"] != `{"v":1}` {
			t.Errorf("module %q: %d %v", module, got.Status, body)
		}
	}
}

func TestASlowCommandHoldsUpNeitherTelemetryNorOtherCommands(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	r.handle = func(ctx context.Context, c gateway.Command) gateway.Reply {
		if c.Name == "slow" {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return gateway.Reply{Status: 200, Body: []byte(`{}`)}
	}
	r.run("d1")
	slow := make(chan error, 1)
	go func() {
		_, err := r.hub.CallMethod(context.Background(), hubsim.MethodCall{Device: "d1", Name: "slow", ConnectTimeout: 10 * time.Second})
		slow <- err
	}()
	if _, err := r.hub.CallMethod(t.Context(), hubsim.MethodCall{Device: "d1", Name: "fast", ConnectTimeout: 10 * time.Second}); err != nil {
		t.Error(err)
	}
	r.put("d1", 100)
	r.eventually("the queue is empty", r.empty)
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
}

func TestACommandInWorkIsAnsweredAcrossARenewal(t *testing.T) {
	r := newRig(t)
	r.life = 3 * time.Second // due for renewal after about 2.4 s
	r.handle = func(ctx context.Context, _ gateway.Command) gateway.Reply {
		select {
		case <-time.After(2700 * time.Millisecond):
		case <-ctx.Done():
		}
		return gateway.Reply{Status: 200, Body: []byte(`{"done":true}`)}
	}
	r.run("d1")
	r.eventually("connected", func() bool { return r.hub.Connected("d1") })
	got, err := r.hub.CallMethod(t.Context(), hubsim.MethodCall{Device: "d1", Name: "long", ConnectTimeout: 5 * time.Second})
	if err != nil || got.Status != 200 {
		t.Errorf("the answer: %+v, %v", got, err)
	}
	r.eventually("the token was renewed afterwards", func() bool { return r.pool.Stats()[0].Connects > 1 })
}

func TestACommandInWorkIsAnsweredBeforeTheConnectionStops(t *testing.T) {
	r := newRig(t)
	started := make(chan struct{})
	r.handle = func(ctx context.Context, _ gateway.Command) gateway.Reply {
		close(started)
		<-ctx.Done()
		return gateway.Reply{Status: 503, Body: []byte(`{}`)}
	}
	stop := r.run("d1")
	answer := make(chan hubsim.MethodResult, 1)
	go func() {
		got, err := r.hub.CallMethod(context.Background(), hubsim.MethodCall{Device: "d1", Name: "long", ConnectTimeout: 5 * time.Second})
		if err != nil {
			t.Error(err)
		}
		answer <- got
	}()
	<-started
	stop()
	if got := <-answer; got.Status != 503 {
		t.Errorf("answered %+v", got)
	}
}
