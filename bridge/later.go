package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gateway "iothub-gateway"
)

const (
	// mostWaiting is how many writes may wait for one device: their note stays below 64 KiB.
	mostWaiting = 64
	// The pause between two attempts doubles from the first to the last.
	firstRetry, lastRetry = time.Second, 30 * time.Second
)

// entry is a write that waits.
type entry struct {
	Identity gateway.IdentityID `json:"identity"`
	Name     string             `json:"name"` // of the method, or the message id
	Point    gateway.PointID    `json:"point"`
	Value    json.RawMessage    `json:"value"`
	Expires  time.Time          `json:"expires"`
	// Begun is noted before the write: one that an end of the process interrupted is not made again.
	Begun       bool `json:"begun,omitempty"`
	interrupted bool // begun before this process
}

// waiting are the writes that wait for one device, oldest first.
type waiting struct {
	key  string        // of State
	news chan struct{} // capacity 1: an entry came, or other rules hold

	told bool // Run's: what became of the oldest has been told, only its note is left

	mu      sync.Mutex // guards entries and the order in which they are noted
	entries []entry
}

// WaitingPrefix begins the keys of State under which writes wait: the name of their device follows.
const WaitingPrefix = "waiting/"

// Later keeps the writes that wait for their device, durably, and makes them when it is there. It outlives the
// mapping that let them wait: each is made by the rules that hold then, or given up.
type Later struct {
	state gateway.State
	tell  func(gateway.IdentityID, string, gateway.Reply)
	rules atomic.Pointer[Down] // that hold; nil: nothing is written now

	mu      sync.Mutex // guards the fields below
	devices map[string]*waiting
	ctx     context.Context // Run's; nil before
	running sync.WaitGroup  // one for each device that is served; Add only while ctx has not ended
}

// NewLater takes over the writes that state keeps for the devices called so; others follow as writes of theirs
// come. tell hears what became of a write that waited, name being the method's or the message id; it must not wait.
// nil tells nobody.
func NewLater(state gateway.State, devices []string, tell func(id gateway.IdentityID, name string, r gateway.Reply)) *Later {
	if tell == nil {
		tell = func(gateway.IdentityID, string, gateway.Reply) {}
	}
	l := &Later{state: state, tell: tell, devices: map[string]*waiting{}}
	for _, device := range devices {
		l.of(device)
	}
	return l
}

// Use says whose rules hold from now on. A write that its identity may not make any more, because the mapping has
// lost the point or what let it be written later, is given up. With nil nothing is written until the next Use.
func (l *Later) Use(d *Down) {
	l.rules.Store(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.devices {
		w.wake()
	}
}

// of is what waits for a device.
func (l *Later) of(device string) *waiting {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.devices[device]; w != nil {
		return w
	}
	w := &waiting{key: WaitingPrefix + device, news: make(chan struct{}, 1)}
	if note, ok := l.state.Get(w.key); ok {
		_ = json.Unmarshal(note, &w.entries) // written below; the file has checksums
	}
	for i := range w.entries {
		w.entries[i].interrupted = w.entries[i].Begun
	}
	l.devices[device] = w
	l.start(w)
	return w
}

// start serves a device if Run does; the caller holds mu.
func (l *Later) start(w *waiting) {
	if ctx := l.ctx; ctx != nil && ctx.Err() == nil {
		l.running.Go(func() { l.serve(ctx, w) })
	}
}

// wake makes whoever serves the device look.
func (w *waiting) wake() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// queue makes a write wait for its device and answers 202 once that is durable.
func (d *Down) queue(ctx context.Context, m *method, v gateway.Value, o order) gateway.Reply {
	expires := time.Now().Add(m.Queued)
	if !o.expires.IsZero() && o.expires.Before(expires) {
		expires = o.expires
	}
	device, _, _ := strings.Cut(string(m.Write), "/")
	w := d.later.of(device)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.entries) >= mostWaiting {
		return failure{status: 429, code: codeBusy, point: m.Write,
			text: fmt.Sprintf("%d writes wait for %s already; this one was refused", mostWaiting, device)}.reply()
	}
	e := entry{Identity: m.Identity, Name: o.id, Point: m.Write, Value: v.AppendJSON(nil), Expires: expires.UTC()}
	if err := w.note(ctx, d.later.state, append(slices.Clone(w.entries), e)); err != nil {
		return failure{status: 500, code: codeFailed, point: m.Write, text: "the write cannot be made to wait: " + err.Error()}.reply()
	}
	w.wake()
	b := appendText([]byte(`{"point":`), string(m.Write))
	b = v.AppendJSON(append(b, `,"waiting":`...))
	b = append(e.Expires.AppendFormat(append(b, `,"expires":"`...), milliseconds), `"}`...)
	return gateway.Reply{Status: 202, Body: b}
}

// note makes entries durable and takes them over; the caller holds mu.
func (w *waiting) note(ctx context.Context, state gateway.State, entries []entry) error {
	var err error
	if len(entries) == 0 {
		err = state.Delete(ctx, w.key)
	} else {
		var text []byte
		if text, err = json.Marshal(entries); err == nil {
			err = state.Put(ctx, w.key, text)
		}
	}
	if err == nil {
		w.entries = entries
	}
	return err
}

// change notes what becomes of the oldest entry: nil removes it.
func (w *waiting) change(state gateway.State, e *entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	entries := slices.Clone(w.entries[1:])
	if e != nil {
		entries = append([]entry{*e}, entries...)
	}
	return w.note(context.Background(), state, entries) // a stop must not leave a lie on the disk
}

func (w *waiting) oldest() (e entry, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.entries) == 0 {
		return entry{}, false
	}
	return w.entries[0], true
}

// Run makes the writes that wait, those of each device in their order, until ctx ends.
func (l *Later) Run(ctx context.Context) error {
	l.mu.Lock()
	l.ctx = ctx
	for _, w := range l.devices {
		l.start(w)
	}
	l.mu.Unlock()
	<-ctx.Done()
	l.mu.Lock() // whoever is starting one has started it
	l.mu.Unlock()
	l.running.Wait()
	return nil
}

// serve makes the writes that wait for one device.
func (l *Later) serve(ctx context.Context, w *waiting) {
	pause := firstRetry
	for ctx.Err() == nil {
		e, some := w.oldest()
		if !some {
			select {
			case <-w.news:
			case <-ctx.Done():
			}
			continue
		}
		rules := l.rules.Load()
		if rules != nil && l.attempt(ctx, w, rules) {
			pause = firstRetry
			continue
		}
		if l.rest(ctx, w, rules, min(pause, max(time.Until(e.Expires), firstRetry))) {
			pause = min(2*pause, lastRetry)
		}
	}
}

// rest waits for d; false if other rules hold before, or ctx ended.
func (l *Later) rest(ctx context.Context, w *waiting, rules *Down, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for l.rules.Load() == rules {
		select {
		case <-timer.C:
			return true
		case <-w.news:
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// attempt makes the oldest write by the rules of d, if it still may be made; false: try again later.
func (l *Later) attempt(ctx context.Context, w *waiting, d *Down) (done bool) {
	e, _ := w.oldest()
	var reply gateway.Reply
	switch {
	case w.told:
	case e.interrupted:
		reply = failure{status: 504, code: codeUncertain, point: e.Point,
			text: "the gateway ended while it wrote; the device may have executed it, it is not written again"}.reply()
	case !time.Now().Before(e.Expires):
		reply = failure{status: 504, code: codeExpired, point: e.Point,
			text: "the device could not be reached in time; nothing was written"}.reply()
	case !d.queues[queuedKey{e.Identity, e.Point}]:
		reply = failure{status: 404, code: codeUnknown, point: e.Point,
			text: fmt.Sprintf("the mapping lets %s write this later no more; it was given up, nothing was written", e.Identity)}.reply()
	default:
		var final bool
		if reply, final = l.writeNow(ctx, w, d, e); !final {
			return false
		}
	}
	if !w.told {
		l.tell(e.Identity, e.Name, reply)
	}
	w.told = w.change(l.state, nil) != nil
	return !w.told
}

// writeNow makes a write between two notes; final is false if nothing was sent and it may be tried again.
func (l *Later) writeNow(ctx context.Context, w *waiting, d *Down, e entry) (reply gateway.Reply, final bool) {
	point := d.points[e.Point]
	v, err := gateway.ParseValue(e.Value)
	if err == nil && point.Write != nil { // the mapping may have changed since
		err = allowed(point.Write, v)
	}
	switch {
	case point.Write == nil:
		return writeFailure(ctx, e.Point, fmt.Errorf("bridge: %s: %w", e.Point, gateway.ErrReadOnly)).reply(), true
	case err != nil:
		return failure{status: 400, code: codeBadArgument, point: e.Point, text: err.Error()}.reply(), true
	}
	e.Begun = true
	if w.change(l.state, &e) != nil {
		return reply, false
	}
	m := &method{Method: gateway.Method{Write: e.Point}, confirm: point.Write.Confirm}
	if by := d.methods[methodKey{e.Identity, e.Name}]; by != nil && by.Write == e.Point {
		m.confirm = by.confirm
	}
	f := d.put(ctx, m, v)
	switch {
	case f == nil:
		return written(e.Point, v, m.confirm, time.Now()), true
	case f.code == codeNoAnswer, f.code == codeBusy, f.code == codeStopping:
		e.Begun = false
		_ = w.change(l.state, &e) // if it cannot be noted, a restart takes it for uncertain
		return reply, false
	}
	return f.reply(), true
}
