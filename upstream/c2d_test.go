package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// letterRig is a pool whose identities take cloud-to-device messages.
type letterRig struct {
	*rig
	notes *testkit.Notes

	mu       sync.Mutex // guards the fields below
	executed []string   // message ids, or bodies of those without
	reply    func(context.Context, gateway.CloudMessage) gateway.Reply
}

func newLetterRig(t *testing.T) *letterRig {
	t.Helper()
	r := &letterRig{rig: newRigAt(t, hubsim.Config{C2D: hubsim.C2D{LockTimeout: time.Second}}), notes: &testkit.Notes{}}
	r.reply = func(context.Context, gateway.CloudMessage) gateway.Reply {
		return gateway.Reply{Status: 200, Body: []byte(`{"point":"boiler/mode","written":"auto"}`)}
	}
	r.cfg.State, r.cfg.ReportEvery = r.notes, 10*time.Millisecond
	r.cfg.Message = func(ctx context.Context, m gateway.CloudMessage) gateway.Reply {
		r.mu.Lock()
		name := m.ID
		if name == "" {
			name = string(m.Body)
		}
		r.executed = append(r.executed, name)
		reply := r.reply
		r.mu.Unlock()
		return reply(ctx, m)
	}
	r.member = func(m *Member) { m.Messages = true }
	return r
}

func (r *letterRig) done() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string{}, r.executed...)
}

func (r *letterRig) answer(f func(context.Context, gateway.CloudMessage) gateway.Reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reply = f
}

func (r *letterRig) send(m hubsim.CloudMessage) {
	r.t.Helper()
	m.Device = "d1"
	if _, err := r.hub.Send(m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *letterRig) connected() {
	r.t.Helper()
	r.eventually("connected and subscribed", func() bool { return r.pool.Stats()[0].Connected })
}

// completed waits until the hub has nothing left for the device.
func (r *letterRig) completed() {
	r.t.Helper()
	r.eventually("the messages are acknowledged", func() bool {
		device := r.rest("GET", "/devices/d1", "")
		return device["cloudToDeviceMessageCount"] == 0.0
	})
}

func TestACloudMessageIsExecutedAndThenAcknowledgedInOrder(t *testing.T) {
	r := newLetterRig(t)
	var seen gateway.CloudMessage
	r.answer(func(_ context.Context, m gateway.CloudMessage) gateway.Reply {
		if m.ID == "m1" {
			seen = m
		}
		return gateway.Reply{Status: 200, Body: []byte(`{"point":"boiler/mode","written":"auto"}`)}
	})
	r.run("d1")
	r.connected()
	command := "mode"
	r.send(hubsim.CloudMessage{MessageID: "m1", Ack: "full", Properties: map[string]*string{"command": &command, "none": nil}, Body: []byte(`{"mode":"auto"}`)})
	for i := 2; i <= 20; i++ {
		r.send(hubsim.CloudMessage{MessageID: fmt.Sprintf("m%d", i), Body: []byte(`{}`)})
	}
	r.completed()
	for i, id := range r.done() {
		if id != fmt.Sprintf("m%d", i+1) {
			t.Errorf("number %d was %s", i+1, id)
		}
	}
	if len(r.done()) != 20 || len(r.hub.DeadLetters("d1")) != 0 {
		t.Errorf("executed %v, dead %v", r.done(), r.hub.DeadLetters("d1"))
	}
	if got := fmt.Sprint(seen.Identity, seen.Properties, string(seen.Body)); got != `d1[{command mode} {none }]{"mode":"auto"}` {
		t.Errorf("the first was %s", got)
	}
	r.eventually("the outcome is reported", func() bool {
		said := r.reported("d1", lastMessage)
		return strings.Contains(said, `"id":"m20"`) && strings.Contains(said, `"status":200`) && strings.Contains(said, `"written":"auto"`)
	})
}

func TestAMessageThatWaitedForTheDeviceIsNotLostBeforeTheSubscription(t *testing.T) {
	r := newLetterRig(t)
	stop := r.run("d1")
	r.connected()
	stop()
	r.send(hubsim.CloudMessage{MessageID: "m1"}) // pushed right behind the CONNACK (C2D-13)
	r.run("d1")
	r.completed()
	if got := r.done(); len(got) != 1 {
		t.Errorf("executed %v", got)
	}
}

func TestARedeliveryIsExecutedOnceAlsoAfterARestart(t *testing.T) {
	for _, id := range []string{"m1", ""} {
		t.Run("id "+id, func(t *testing.T) {
			r := newLetterRig(t)
			stop := r.run("d1")
			r.connected()
			r.answer(func(context.Context, gateway.CloudMessage) gateway.Reply {
				r.hub.Kick("d1") // the acknowledgement cannot arrive
				return gateway.Reply{Status: 200, Body: []byte(`{}`)}
			})
			r.send(hubsim.CloudMessage{MessageID: id, Body: []byte("text")})
			r.eventually("it is executed", func() bool { return len(r.done()) == 1 })
			stop()
			r.run("d1")
			r.completed()
			if got := r.done(); len(got) != 1 {
				t.Errorf("executed %v", got)
			}
			r.connected()
			r.send(hubsim.CloudMessage{MessageID: id + "2", Body: []byte("text")})
			r.completed()
			if got := r.done(); len(got) != 2 {
				t.Errorf("a message of its own was taken for the same: %v", got)
			}
		})
	}
}

func TestAMessageWhoseExecutionWasInterruptedIsUncertainAndNotRepeated(t *testing.T) {
	r := newLetterRig(t)
	_ = r.notes.Put(t.Context(), "c2d/d1", executed{}.with(keyOf(&gateway.CloudMessage{ID: "m1"}, ""), begun).note()) // it is in memory
	r.run("d1")
	r.connected()
	r.send(hubsim.CloudMessage{MessageID: "m1"})
	r.completed()
	r.eventually("the outcome is reported", func() bool { return strings.Contains(r.reported("d1", lastMessage), `"code":"uncertain"`) })
	if got := r.done(); len(got) != 0 {
		t.Errorf("executed %v", got)
	}
}

func TestAnExpiredMessageIsNotExecuted(t *testing.T) {
	r := newLetterRig(t)
	release := make(chan struct{})
	r.answer(func(_ context.Context, m gateway.CloudMessage) gateway.Reply {
		if m.ID == "slow" {
			<-release
		}
		return gateway.Reply{Status: 200, Body: []byte(`{}`)}
	})
	r.run("d1")
	r.connected()
	r.send(hubsim.CloudMessage{MessageID: "slow"})
	until := time.Now().Add(300 * time.Millisecond)
	r.send(hubsim.CloudMessage{MessageID: "short", Expires: until})
	r.eventually("the second has expired behind the first", func() bool { return time.Now().After(until.Add(100 * time.Millisecond)) })
	close(release)
	r.completed()
	if got := fmt.Sprint(r.done()); got != "[slow]" {
		t.Errorf("executed %v", got)
	}
}

func TestWhatCannotBeNotedIsNotExecutedAndSaysSo(t *testing.T) {
	r := newLetterRig(t)
	r.run("d1")
	r.connected()
	r.notes.Fail(errors.New("disk full"))
	r.send(hubsim.CloudMessage{MessageID: "m1"})
	r.completed()
	r.eventually("the outcome is reported", func() bool { return strings.Contains(r.reported("d1", lastMessage), `disk full`) })
	if got := r.done(); len(got) != 0 {
		t.Errorf("executed %v", got)
	}
}

func TestEveryMessageIsAcknowledgedInOrderWithin45SecondsHoweverLongTheFirstTakes(t *testing.T) {
	var executed atomic.Int32
	cfg := Config{State: &testkit.Notes{}, Message: func(ctx context.Context, _ gateway.CloudMessage) gateway.Reply {
		executed.Add(1)
		<-ctx.Done() // a device that never answers
		return gateway.Reply{Status: 504, Body: []byte(`{"code":"no-answer"}`)}
	}}
	m := member("d", holdsFor("d", time.Hour))
	m.Messages = true
	bubble(t, cfg, []Member{m}, nil, func(hub *pipeHub, _ *Pool) {
		start := time.Now()
		for packet := range uint16(20) {
			hub.push(t, packet+1)
		}
		later(time.Minute)
		acks := hub.now().acks
		for i, a := range acks {
			if a.packet != uint16(i+1) || a.at.Sub(start) > 45*time.Second {
				t.Errorf("acknowledgement %d is of packet %d, after %v", i+1, a.packet, a.at.Sub(start))
			}
		}
		if len(acks) != 20 || executed.Load() != 1 {
			t.Errorf("%d acknowledgements, %d executions: what came too late for its turn is refused", len(acks), executed.Load())
		}
		hub.push(t, 21)
		later(time.Second)
		if executed.Load() != 2 {
			t.Error("the next one has its turn at once")
		}
	})
}

func TestAMessageThatFindsTheGatewayStoppingIsLeftToTheHub(t *testing.T) {
	r := newLetterRig(t)
	r.answer(func(ctx context.Context, _ gateway.CloudMessage) gateway.Reply {
		<-ctx.Done()
		return gateway.Reply{Status: 503, Body: []byte(`{"code":"stopping"}`)}
	})
	stop := r.run("d1")
	r.connected()
	r.send(hubsim.CloudMessage{MessageID: "m1"})
	r.eventually("it has begun", func() bool { return len(r.done()) == 1 })
	stop()
	r.answer(func(context.Context, gateway.CloudMessage) gateway.Reply {
		return gateway.Reply{Status: 200, Body: []byte(`{}`)}
	})
	r.run("d1")
	r.completed()
	if got := len(r.done()); got != 2 {
		t.Errorf("%d attempts", got)
	}
}

func TestWithoutRulesNoMessagesAreSubscribed(t *testing.T) {
	r := newLetterRig(t)
	r.member = nil
	r.run("d1")
	r.connected()
	r.send(hubsim.CloudMessage{MessageID: "m1"})
	if device := r.rest("GET", "/devices/d1", ""); device["cloudToDeviceMessageCount"] != 1.0 || len(r.done()) != 0 {
		t.Errorf("%v waits, executed %v", device["cloudToDeviceMessageCount"], r.done())
	}
}

func TestMoreDirectMethodsThanAreTakenAtOnceAreAnsweredBusy(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	var working sync.WaitGroup
	working.Add(commandBacklog)
	r.handle = func(context.Context, gateway.Command) gateway.Reply {
		working.Done()
		<-release
		return gateway.Reply{Status: 200, Body: []byte(`{}`)}
	}
	r.run("d1")
	r.eventually("connected", func() bool { return r.pool.Stats()[0].Connected })
	call := hubsim.MethodCall{Device: "d1", Name: "slow"}
	var calls sync.WaitGroup
	for range commandBacklog {
		calls.Go(func() {
			if got, err := r.hub.CallMethod(context.Background(), call); err != nil || got.Status != 200 {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	working.Wait()
	for range 3 {
		got, err := r.hub.CallMethod(t.Context(), call)
		if err != nil || got.Status != 429 || !strings.Contains(string(got.Payload), `"code":"busy"`) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	close(release)
	calls.Wait()
}

// stuck is a State on a disk that hangs.
type stuck struct{ *testkit.Notes }

func (stuck) Put(ctx context.Context, _ string, _ []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestADiskThatHangsHoldsUpNeitherTheAcknowledgementNorTheStop(t *testing.T) {
	m := member("d", holdsFor("d", time.Hour))
	m.Messages = true
	cfg := Config{State: stuck{&testkit.Notes{}}, Message: func(context.Context, gateway.CloudMessage) gateway.Reply {
		t.Error("a message that cannot be noted was executed")
		return gateway.Reply{Status: 200, Body: []byte("{}")}
	}}
	bubble(t, cfg, []Member{m}, nil, func(hub *pipeHub, pool *Pool) {
		sent := time.Now()
		hub.push(t, 7)
		later(time.Minute)
		if acks := hub.now().acks; len(acks) != 1 || acks[0].at.Sub(sent) > 45*time.Second {
			t.Errorf("acknowledged %v, want once within 45 s", acks)
		}
		hub.push(t, 8)
		later(time.Second)
	})
}
