package hubsim

import (
	"bytes"
	"strconv"
	"time"
)

// faultPrefix begins the names of the properties with which Microsoft's own tests make the service fail
// (D2C-30).
const faultPrefix = "AzIoTHub_Fault"

// maxInjected bounds the times that a message may name.
const maxInjected = time.Hour

// maxInjections is how many faults of a connection wait for their time.
const maxInjections = 16

// injection is what the properties of a message ask for.
type injection struct {
	kind          string
	delay, during time.Duration
}

// injected reads the fault properties of a message; ok is false if it has none.
func (b *bag) injected() (i injection, ok bool) {
	for _, p := range b.pairs {
		if !bytes.HasPrefix(p.name, []byte(faultPrefix)) {
			continue
		}
		switch string(p.name[len(faultPrefix):]) {
		case "OperationType":
			i.kind, ok = string(p.value), true
		case "OperationDelayInSecs":
			i.delay = injectedTime(p.value)
		case "OperationDurationInSecs":
			i.during = injectedTime(p.value)
		}
	}
	return i, ok
}

// injectedTime is a number of seconds, 0 if it is none.
func injectedTime(text []byte) time.Duration {
	n, err := strconv.ParseUint(string(text), 10, 16)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxInjected)
}

// inject does what a stored message asks for, after its delay and if the connection still stands then.
func (s *session) inject() {
	i, ok := s.bag.injected()
	if !ok {
		return
	}
	act := s.injection(i)
	if act == nil {
		s.warn(wrong("D2C-30", "the fault %q is not simulated: the message is an ordinary one", i.kind))
		return
	}
	if s.injecting.Add(1) > maxInjections {
		s.injecting.Add(-1)
		s.warn(wrong("D2C-30", "%d faults wait for their time already: the message is an ordinary one", maxInjections))
		return
	}
	s.injections.Go(func() {
		defer s.injecting.Add(-1)
		timer := time.NewTimer(i.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
			s.hub.log.Info().Str("identity", s.id.name()).Str("clause", "D2C-30").Msgf("%s: the fault %q, which it asked for", s.id.name(), i.kind)
			act()
		case <-s.closing:
		}
	})
}

// injection is how to do it, nil if that is not known. Throttling, quota and authentication fail for the
// duration; the first two show at the next message.
func (s *session) injection(i injection) func() {
	name := s.id.name()
	end := func() time.Time { return time.Now().Add(i.during) }
	switch i.kind {
	case "KillTcp":
		return func() { s.kill(errInjected) }
	case "ShutDownMqtt":
		return func() { s.hangUp(errInjected) }
	case "InvokeThrottling":
		return func() { s.hub.throttle(name, 0, end()) }
	case "InvokeMaxMessageQuota":
		return func() { s.hub.dials.set(name, func(d *dial) { d.quota = window{true, end()} }) }
	case "InvokeAuthError":
		return func() {
			s.hub.dials.set(name, func(d *dial) { d.locked = window{true, end()} })
			s.kill(errInjected)
		}
	}
	return nil
}
