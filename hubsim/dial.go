package hubsim

import (
	"maps"
	"slices"
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
	cut   atomic.Bool // the next write stops in the middle of a packet

	mu        sync.Mutex // guards the fields below
	dropAcks  int
	delay     time.Duration
	refuse    int
	code      byte
	closeIn   int
	failTwins int
	status    int
	failRegs  int // registrations, with regStatus
	regStatus int
	throttle  *meter // nil is off
	throttled window
	quota     window
	locked    window // CONNECTs are refused with 5
}

// window is when a fault holds: never, until a time, or for good.
type window struct {
	on    bool
	until time.Time // zero is for good
}

func (w window) holds(now time.Time) bool { return w.on && (w.until.IsZero() || now.Before(w.until)) }

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

// about are the dials that an identity is subject to.
func (d *dials) about(identity string) [2]*dial { return [2]*dial{d.of(""), d.of(identity)} }

// set changes a dial.
func (d *dials) set(identity string, change func(*dial)) {
	one := d.of(identity)
	one.mu.Lock()
	defer one.mu.Unlock()
	change(one)
	one.armed.Store(one.dropAcks > 0 || one.delay > 0 || one.refuse > 0 || one.closeIn > 0 || one.failTwins > 0 || one.failRegs > 0 ||
		one.throttled.on || one.quota.on || one.locked.on)
}

// clear sets everything back for an identity, and for everybody with everything if all is true.
func (d *dials) clear(identity string, all bool) {
	d.mu.Lock()
	names := slices.Collect(maps.Keys(d.all))
	d.mu.Unlock()
	for _, name := range names {
		if !all && name != identity {
			continue
		}
		d.of(name).cut.Store(false)
		d.set(name, func(one *dial) {
			one.dropAcks, one.delay, one.refuse, one.closeIn, one.failTwins, one.failRegs = 0, 0, 0, 0, 0, 0
			one.throttled, one.quota, one.locked = window{}, window{}, window{}
		})
	}
}

// list shows what is set, by identity; that of everybody, which has none, comes first.
func (d *dials) list(now time.Time) []Faults {
	d.mu.Lock()
	all := maps.Clone(d.all)
	d.mu.Unlock()
	set := []Faults{}
	for _, identity := range slices.Sorted(maps.Keys(all)) {
		if f, any := all[identity].shown(now); any {
			f.Identity = identity
			set = append(set, f)
		}
	}
	return set
}

// shown is what is left of the faults that a dial holds; any is false if there are none.
func (d *dial) shown(now time.Time) (f Faults, any bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dropAcks > 0 {
		f.DropAcks = new(d.dropAcks)
	}
	if d.delay > 0 {
		f.DelayAcks = new(d.delay.String())
	}
	if d.refuse > 0 {
		f.RefuseConnects = &Refusals{d.code, d.refuse}
	}
	if d.locked.holds(now) {
		f.RefuseConnects = &Refusals{5, 1}
	}
	if d.closeIn > 0 {
		f.CloseOnPublish = new(d.closeIn)
	}
	if d.throttled.holds(now) {
		f.Throttle = new(d.throttle.rate)
	}
	if d.quota.holds(now) {
		f.ExhaustQuota = new(true)
	}
	if d.failTwins > 0 {
		f.FailTwins = &Failures{d.status, d.failTwins}
	}
	if d.failRegs > 0 {
		f.FailRegistrations = &Failures{d.regStatus, d.failRegs}
	}
	f.CutMidPacket = d.cut.Load()
	return f, f != Faults{}
}

// refuseConnect tells whether this CONNECT is to be refused, and how.
func (d *dial) refuseConnect(now time.Time) (code byte, refused bool) {
	if !d.armed.Load() {
		return 0, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locked.holds(now) {
		return 5, true
	}
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
		if due := time.Now().Add(d.delay); due.After(a.due) {
			a.due = due
		}
	}
}

// failTwin is the error that the next twin request gets, nil if it is not to fail.
func (d *dial) failTwin() error {
	if !d.armed.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failTwins <= 0 {
		return nil
	}
	d.failTwins--
	return &Error{Status: d.status, Code: d.status*1000 + 1, Name: "Dialled", Message: "set by a dial"}
}

// failRegistration is the error that the next request to the provisioning service gets, nil if it is not to fail.
func (d *dial) failRegistration() error {
	if !d.armed.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failRegs <= 0 {
		return nil
	}
	d.failRegs--
	return &Error{Status: d.regStatus, Code: d.regStatus*1000 + 1, Name: "Dialled", Message: "set by a dial"}
}

// take asks for a message, a twin request or a method call, as limiter.take does.
func (d *dial) take(now time.Time) (delay time.Duration, err error) {
	if !d.armed.Load() {
		return 0, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.quota.holds(now) {
		return 0, apiError(errQuota)
	}
	if d.throttled.holds(now) {
		return d.throttle.take(1, now)
	}
	return 0, nil
}

// take asks the hub's limits and the dials for an operation about an identity. delay is how long it must
// wait; an error rejects it.
func (h *Hub) take(op operation, size int, about [2]*dial) (delay time.Duration, err error) {
	if h.limits == nil && !about[0].armed.Load() && !about[1].armed.Load() {
		return 0, nil
	}
	now := time.Now()
	for _, d := range about {
		more, err := d.take(now)
		if err != nil {
			return 0, err
		}
		delay = max(delay, more)
	}
	more, err := h.limits.take(op, size, now)
	return max(delay, more), err
}
