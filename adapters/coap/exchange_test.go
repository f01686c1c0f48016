package coap

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

func netipPort(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

func peerAt(port uint16) udpPeer { return udpPeer{arrival: arrival{from: netipPort(port)}} }

func TestADuplicateIsOneForAsLongAsItsExchangeLives(t *testing.T) {
	for _, c := range []struct {
		kind     message.Type
		lifetime time.Duration
	}{{message.Confirmable, exchangeLifetime}, {message.NonConfirmable, nonLifetime}} {
		e, now := newExchanges(), time.Now()
		m := post(1, temp21)
		m.Type = c.kind
		r := received(t, m)
		x := &exchange{request: r, from: peerAt(1), received: now}
		e.begin(x)
		e.finish(x, answer{code: codes.Changed}, now)
		for _, at := range []time.Duration{0, 24 * time.Second, c.lifetime} {
			e.expire(now.Add(at))
			if _, again := e.repeated(peerAt(1), &r, now.Add(at)); !again {
				t.Errorf("%v after %v is taken for new", c.kind, at)
			}
		}
		if _, again := e.repeated(peerAt(2), &r, now); again {
			t.Error("the same number from another endpoint is taken for a repetition")
		}
		after := now.Add(c.lifetime + time.Second)
		if _, again := e.repeated(peerAt(1), &r, after); again {
			t.Errorf("%v is remembered for longer than %v", c.kind, c.lifetime)
		}
		e.expire(after)
		equal(t, "remembered", len(e.known)+len(e.queues[0])+len(e.queues[1]), 0)
	}
}

func TestAReusedMessageIDReplacesTheOlderExchange(t *testing.T) {
	e, now := newExchanges(), time.Now()
	first, second := received(t, post(1, temp21)), received(t, post(1, temp21+" "))
	a := &exchange{request: first, from: peerAt(1), received: now}
	b := &exchange{request: second, from: peerAt(1), received: now.Add(time.Minute)}
	e.begin(a)
	e.finish(a, answer{code: codes.Changed}, now)
	if _, again := e.repeated(peerAt(1), &second, now); again {
		t.Fatal("another message passes for a repetition")
	}
	e.begin(b)
	e.expire(now.Add(exchangeLifetime + time.Second)) // a is gone, b is not
	if _, again := e.repeated(peerAt(1), &second, now); !again {
		t.Error("the newer exchange went with the older")
	}
}

func TestAnAnsweredRequestKeepsNothingOfItsSession(t *testing.T) {
	e, now := newExchanges(), time.Now()
	s := &session{cid: "12345678"}
	x := &exchange{request: received(t, post(1, temp21)), from: s, received: now}
	e.begin(x)
	e.finish(x, answer{code: codes.Changed}, now)
	if x.from != nil || x.payload != nil || x.path != nil {
		t.Errorf("kept: %+v", x)
	}
	if _, again := e.repeated(s, &x.request, now); !again {
		t.Error("its repetition is taken for new")
	}
	if _, again := e.repeated(&session{cid: "87654321"}, &x.request, now); again {
		t.Error("the same message in another session is taken for a repetition")
	}
}

func TestRememberedRequestsAreBounded(t *testing.T) {
	e, now := newExchanges(), time.Now()
	r := received(t, post(1, temp21, message.Option{ID: message.NoResponse, Value: []byte{26}}))
	for i := range maxRemembered + 100 {
		r.mid, r.confirmable = uint16(i%7), i%2 == 0 // also those that replace each other
		now = now.Add(time.Microsecond)
		x := &exchange{request: r, from: peerAt(uint16(i)), received: now}
		e.begin(x)
		e.finish(x, answer{code: codes.Changed}, now)
	}
	if n := len(e.queues[0]) + len(e.queues[1]); n > maxRemembered || len(e.known) > n {
		t.Errorf("%d exchanges, %d known", n, len(e.known))
	}
	equal(t, "running", len(e.running), 0)
}

func TestASeparateAnswerIsRepeatedAsTheRFCSaysAndThenGivenUp(t *testing.T) {
	e, now := newExchanges(), time.Now()
	x := &exchange{request: received(t, post(1, temp21)), from: peerAt(1), received: now}
	e.begin(x)
	if due := e.tick(now.Add(ackAfter - time.Millisecond)); len(due) != 0 {
		t.Errorf("too early: %v", due)
	}
	now = now.Add(ackAfter)
	due := e.tick(now)
	if len(due) != 1 || string(due[0].datagram) != string(header(message.Acknowledgement, 1)) {
		t.Fatalf("no empty acknowledgement: %v", due)
	}
	if due := e.tick(now); len(due) != 0 {
		t.Errorf("acknowledged twice: %v", due)
	}
	sent := e.finish(x, answer{code: codes.Changed}, now)
	var waits []time.Duration
	began, end := now, now.Add(2*time.Minute)
	for last := now; now.Before(end); now = now.Add(tickEvery) {
		for _, o := range e.tick(now) {
			equal(t, "repetition", string(o.datagram), string(sent))
			waits = append(waits, now.Sub(last))
			last = now
		}
	}
	if len(waits) != maxRetransmit {
		t.Fatalf("repeated after %v", waits)
	}
	if first := waits[0]; first < 2*time.Second || first > 3*time.Second+2*tickEvery {
		t.Errorf("first repeated after %v", first)
	}
	for i := 1; i < len(waits); i++ {
		if d := waits[i] - 2*waits[i-1]; d < -3*tickEvery || d > 3*tickEvery {
			t.Errorf("repeated after %v: not doubled", waits)
		}
	}
	equal(t, "waiting", len(e.separate), 0)
	if reply, again := e.repeated(peerAt(1), &x.request, began); !again || string(reply) != string(header(message.Acknowledgement, 1)) {
		t.Errorf("a repetition is answered % x", reply)
	}
}

func TestAnAcknowledgementOrResetEndsTheRepetition(t *testing.T) {
	e, now := newExchanges(), time.Now()
	x := &exchange{request: received(t, post(1, temp21)), from: peerAt(1), received: now, acked: true}
	e.begin(x)
	m := decoded(t, e.finish(x, answer{code: codes.Changed}, now))
	e.settled(peerAt(2), uint16(m.MessageID)) // somebody else's
	equal(t, "waiting", len(e.separate), 1)
	e.settled(peerAt(1), uint16(m.MessageID))
	equal(t, "waiting", len(e.separate), 0)
}

func TestSeparateAnswersAreBounded(t *testing.T) {
	e, now := newExchanges(), time.Now()
	var last message.Message
	for i := range maxSeparate + 1 {
		x := &exchange{request: received(t, post(1, temp21)), from: peerAt(uint16(i)), received: now, acked: true}
		e.begin(x)
		last = decoded(t, e.finish(x, answer{code: codes.Changed}, now))
	}
	equal(t, "waiting", len(e.separate), maxSeparate)
	equal(t, "the last is sent once", last.Type, message.NonConfirmable)
	equal(t, "the last", fmt.Sprint(last.Code), "Changed")
}
