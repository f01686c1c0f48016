package hubsim

import (
	"fmt"
	"time"
)

// DropAcks lets the next n PUBACKs to the identity ("device" or "device/module") vanish; the messages
// are stored. With "" it is the next n of the hub, whoever they are for. 0 ends it.
func (h *Hub) DropAcks(identity string, n int) {
	h.dials.set(identity, func(d *dial) { d.dropAcks = n })
}

// DelayAcks holds every following PUBACK to the identity, "" for everybody, back by delay. 0 ends it.
func (h *Hub) DelayAcks(identity string, delay time.Duration) {
	h.dials.set(identity, func(d *dial) { d.delay = delay })
}

// RefuseConnects answers the next n good CONNECTs of the identity, "" of anybody, with a CONNACK of this
// return code (1 to 5), or with code 0 by closing without one. n = 0 ends it.
func (h *Hub) RefuseConnects(identity string, code byte, n int) {
	h.dials.set(identity, func(d *dial) { d.code, d.refuse = code, n })
}

// CloseOnPublish closes the connection on the nth telemetry message of the identity, "" of anybody, from
// now, 1 being the next. That message is neither stored nor acknowledged. It happens once; 0 ends it.
func (h *Hub) CloseOnPublish(identity string, nth int) {
	h.dials.set(identity, func(d *dial) { d.closeIn = nth })
}

// CutMidPacket sends the next packet to the identity, or packets if several leave together, but for the
// last byte and cuts the connection. With "" it is the next packet of the hub. It happens once.
func (h *Hub) CutMidPacket(identity string) {
	h.dials.of(identity).cut.Store(true)
}

// Throttle lets the identity, or with "" all of them together, do perSecond messages, twin requests and
// method calls a second. What is beyond waits up to ten seconds and is rejected then: a message closes
// the connection, twin requests and method calls get 429 (THR-17 to THR-19). 0 rejects everything, a
// negative rate ends it.
func (h *Hub) Throttle(identity string, perSecond float64) {
	h.throttle(identity, perSecond, time.Time{})
}

func (h *Hub) throttle(identity string, perSecond float64, until time.Time) {
	h.dials.set(identity, func(d *dial) {
		d.throttled = window{perSecond >= 0, until}
		d.throttle = &meter{rate: perSecond, burst: time.Second, backlog: 10 * time.Second}
		if perSecond > 0 {
			d.throttle = newMeter(perSecond, Limits{Burst: time.Second, Backlog: 10 * time.Second})
		}
	})
}

// ExhaustQuota makes as if the daily quota of messages were used up for the identity, "" for everybody:
// it connects, and its next message closes the connection (CLOSE-13). false ends it.
func (h *Hub) ExhaustQuota(identity string, on bool) {
	h.dials.set(identity, func(d *dial) { d.quota = window{on: on} })
}

// FailTwins answers the next n twin requests of the identity, "" of anybody, with an HTTP status of 400
// to 599, such as 429 or 500. n = 0 ends it.
func (h *Hub) FailTwins(identity string, status, n int) {
	h.dials.set(identity, func(d *dial) { d.status, d.failTwins = status, n })
}

// FailRegistrations answers the next n requests of a registration id, "" of any, to the provisioning service
// with a status of 400 to 599; from 429 on the device is asked to come again (DPS-11). n = 0 ends it.
func (h *Hub) FailRegistrations(registrationID string, status, n int) {
	h.dials.set(registrationID, func(d *dial) { d.regStatus, d.failRegs = status, n })
}

// dialledRegistration is what FailRegistrations asks for.
func (h *Hub) dialledRegistration(id string) error {
	for _, d := range h.dials.about(id) {
		if err := d.failRegistration(); err != nil {
			return err
		}
	}
	return nil
}

// Kick cuts the connection of the identity, "" of everybody, without a word, and returns once the hub
// has let go of it. It tells whether there was one.
func (h *Hub) Kick(identity string) bool {
	return h.cut(identity, func(s *session) bool {
		s.kill(errKicked)
		return true
	})
}

// ExpireTokens makes as if the token of the identity, "" those of everybody who is connected, had run
// out with its grace: the connection is cut, and only a token of a later expiry is taken again (CON-48).
// It tells whether there was a connection.
func (h *Hub) ExpireTokens(identity string) bool {
	return h.cut(identity, func(s *session) bool {
		if s.expires.IsZero() {
			return false
		}
		s.id.expired.Store(s.expires.Add(-h.cfg.ExpiryGrace).Unix())
		s.kill(errExpired)
		return true
	})
}

// cut lets end choose and end sessions of an identity, "" of everybody, and waits until they have ended.
func (h *Hub) cut(identity string, end func(*session) bool) bool {
	var all []*session
	for _, id := range h.registry.list() {
		if s := id.connection(); s != nil && (identity == "" || identity == id.name()) && end(s) {
			all = append(all, s)
		}
	}
	for _, s := range all {
		<-s.ended
	}
	return len(all) > 0
}

// Faults is one setting of the dials, as POST /hubsim/faults takes it; each field does what the method of
// Hub with its name does. Fields that are left out change nothing.
type Faults struct {
	Identity          string    `json:"identity"` // "device" or "device/module", "" is everybody
	DropAcks          *int      `json:"dropAcks,omitempty"`
	DelayAcks         *string   `json:"delayAcks,omitempty"` // a duration such as "250ms"
	RefuseConnects    *Refusals `json:"refuseConnects,omitempty"`
	CloseOnPublish    *int      `json:"closeOnPublish,omitempty"`
	CutMidPacket      bool      `json:"cutMidPacket,omitempty"`
	Throttle          *float64  `json:"throttle,omitempty"` // a second; 0 rejects everything, -1 ends it
	ExhaustQuota      *bool     `json:"exhaustQuota,omitempty"`
	FailTwins         *Failures `json:"failTwins,omitempty"`
	FailRegistrations *Failures `json:"failRegistrations,omitempty"` // of a registration id
	ExpireTokens      bool      `json:"expireTokens,omitempty"`
	Kick              bool      `json:"kick,omitempty"`
}

// Refusals says how many CONNECTs are answered with which CONNACK return code.
type Refusals struct {
	Code  byte `json:"code"`
	Count int  `json:"count"`
}

// Failures says how many requests are answered with which status.
type Failures struct {
	Status int `json:"status"`
	Count  int `json:"count"`
}

// ArmedFaults lists what is left of the faults that are set, one entry for each identity, that of everybody
// first. What happens at once (Kick, ExpireTokens) is never left.
func (h *Hub) ArmedFaults() []Faults { return h.dials.list(time.Now()) }

// ClearFaults sets every dial back, of one identity and of everybody.
func (h *Hub) ClearFaults() { h.dials.clear("", true) }

// apply sets what f names, or nothing if a value is wrong; cut tells whether a connection was cut.
func (h *Hub) apply(f Faults) (cut bool, err error) {
	var delay time.Duration
	if f.DelayAcks != nil {
		if delay, err = time.ParseDuration(*f.DelayAcks); err != nil {
			return false, err
		}
	}
	if c := f.RefuseConnects; c != nil && c.Code > 5 {
		return false, fmt.Errorf("refuseConnects: code %d is not within [0; 5]", c.Code)
	}
	for name, t := range map[string]*Failures{"failTwins": f.FailTwins, "failRegistrations": f.FailRegistrations} {
		if t != nil && (t.Status < 400 || t.Status > 599) {
			return false, fmt.Errorf("%s: status %d is not within [400; 599]", name, t.Status)
		}
	}
	if f.DelayAcks != nil {
		h.DelayAcks(f.Identity, delay)
	}
	if f.DropAcks != nil {
		h.DropAcks(f.Identity, *f.DropAcks)
	}
	if f.RefuseConnects != nil {
		h.RefuseConnects(f.Identity, f.RefuseConnects.Code, f.RefuseConnects.Count)
	}
	if f.CloseOnPublish != nil {
		h.CloseOnPublish(f.Identity, *f.CloseOnPublish)
	}
	if f.CutMidPacket {
		h.CutMidPacket(f.Identity)
	}
	if f.Throttle != nil {
		h.Throttle(f.Identity, *f.Throttle)
	}
	if f.ExhaustQuota != nil {
		h.ExhaustQuota(f.Identity, *f.ExhaustQuota)
	}
	if f.FailTwins != nil {
		h.FailTwins(f.Identity, f.FailTwins.Status, f.FailTwins.Count)
	}
	if f.FailRegistrations != nil {
		h.FailRegistrations(f.Identity, f.FailRegistrations.Status, f.FailRegistrations.Count)
	}
	if f.ExpireTokens {
		cut = h.ExpireTokens(f.Identity)
	}
	return f.Kick && h.Kick(f.Identity) || cut, nil
}
