package hubsim

import (
	"sync"
	"sync/atomic"
	"time"
)

// dials are the faults that a test has set.
type dials struct {
	mu  sync.Mutex // guards all
	all map[string]*dial
}

// dial holds the faults of one identity, or those for every identity.
type dial struct {
	armed atomic.Bool // false: nothing is set, and nobody needs to look

	mu       sync.Mutex // guards the fields below
	dropAcks int
	delay    time.Duration
	refuse   int
	code     byte
	closeIn  int
}

// of is the dial of an identity; "" is the one for every identity.
func (d *dials) of(identity string) *dial {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.all[identity]
	if one == nil {
		one = &dial{}
		d.all[identity] = one
	}
	return one
}

// set changes a dial.
func (d *dials) set(identity string, change func(*dial)) {
	one := d.of(identity)
	one.mu.Lock()
	defer one.mu.Unlock()
	change(one)
	one.armed.Store(one.dropAcks > 0 || one.delay > 0 || one.refuse > 0 || one.closeIn > 0)
}

// refuseConnect tells whether this CONNECT is to be refused, and how.
func (d *dial) refuseConnect() (code byte, refused bool) {
	if !d.armed.Load() {
		return 0, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse <= 0 {
		return 0, false
	}
	d.refuse--
	return d.code, true
}

// closeNow counts a PUBLISH and tells whether it is the one that closes.
func (d *dial) closeNow() bool {
	if !d.armed.Load() {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closeIn <= 0 {
		return false
	}
	d.closeIn--
	return d.closeIn == 0
}

// onAck changes a PUBACK that is about to be queued.
func (d *dial) onAck(a *pendingAck) {
	if !d.armed.Load() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dropAcks > 0 && !a.drop {
		d.dropAcks--
		a.drop = true
	}
	if d.delay > 0 {
		a.due = time.Now().Add(d.delay)
	}
}

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

// Kick cuts the connection of the identity, "" of everybody, without a word, and returns once the hub
// has let go of it. It tells whether there was one.
func (h *Hub) Kick(identity string) bool {
	var cut []*session
	for _, id := range h.registry.list() {
		if s := id.connection(); s != nil && (identity == "" || identity == id.name()) {
			s.kill(errKicked)
			cut = append(cut, s)
		}
	}
	for _, s := range cut {
		<-s.ended
	}
	return len(cut) > 0
}

// Faults is one setting of the dials, as POST /hubsim/faults takes it. Fields that are left out change
// nothing.
type Faults struct {
	Identity       string    `json:"identity"` // "device" or "device/module", "" is everybody
	DropAcks       *int      `json:"dropAcks,omitempty"`
	DelayAcks      *string   `json:"delayAcks,omitempty"` // a duration such as "250ms"
	RefuseConnects *Refusals `json:"refuseConnects,omitempty"`
	CloseOnPublish *int      `json:"closeOnPublish,omitempty"`
	Kick           bool      `json:"kick,omitempty"`
}

// Refusals says how many CONNECTs are answered with which CONNACK return code.
type Refusals struct {
	Code  byte `json:"code"`
	Count int  `json:"count"`
}

// apply sets what f names; kicked tells whether a connection was cut.
func (h *Hub) apply(f Faults) (kicked bool, err error) {
	if f.DelayAcks != nil {
		delay, err := time.ParseDuration(*f.DelayAcks)
		if err != nil {
			return false, err
		}
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
	return f.Kick && h.Kick(f.Identity), nil
}
