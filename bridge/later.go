package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
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
	news chan struct{} // capacity 1: an entry came

	told bool // Run's: what became of the oldest has been told, only its note is left

	mu      sync.Mutex // guards entries and the order in which they are noted
	entries []entry
}

// await makes the device of a point one that writes may wait for, and takes over what waited before.
func (d *Down) await(id gateway.PointID) {
	device, _, _ := strings.Cut(string(id), "/")
	if d.waiting[device] != nil {
		return
	}
	w := &waiting{key: "waiting/" + device, news: make(chan struct{}, 1)}
	if note, ok := d.state.Get(w.key); ok {
		_ = json.Unmarshal(note, &w.entries) // written below; the file has checksums
	}
	for i := range w.entries {
		w.entries[i].interrupted = w.entries[i].Begun
	}
	d.waiting[device] = w
}

// queue makes a write wait for its device and answers 202 once that is durable.
func (d *Down) queue(ctx context.Context, m *method, v gateway.Value, o order) gateway.Reply {
	expires := time.Now().Add(m.Queued)
	if !o.expires.IsZero() && o.expires.Before(expires) {
		expires = o.expires
	}
	device, _, _ := strings.Cut(string(m.Write), "/")
	w := d.waiting[device]
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.entries) >= mostWaiting {
		return failure{status: 429, code: codeBusy, point: m.Write,
			text: fmt.Sprintf("%d writes wait for %s already; this one was refused", mostWaiting, device)}.reply()
	}
	e := entry{Identity: m.Identity, Name: o.id, Point: m.Write, Value: v.AppendJSON(nil), Expires: expires.UTC()}
	if err := w.note(ctx, d.state, append(slices.Clone(w.entries), e)); err != nil {
		return failure{status: 500, code: codeFailed, point: m.Write, text: "the write cannot be made to wait: " + err.Error()}.reply()
	}
	select {
	case w.news <- struct{}{}:
	default:
	}
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
func (d *Down) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, w := range d.waiting {
		all.Go(func() { d.serve(ctx, w) })
	}
	<-ctx.Done()
	all.Wait()
	return nil
}

// serve makes the writes that wait for one device.
func (d *Down) serve(ctx context.Context, w *waiting) {
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
		if d.attempt(ctx, w, e) {
			pause = firstRetry
			continue
		}
		timer := time.NewTimer(min(pause, max(time.Until(e.Expires), firstRetry)))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, lastRetry)
	}
}

// attempt makes the oldest write, if it still may be made; false: try again later.
func (d *Down) attempt(ctx context.Context, w *waiting, e entry) (done bool) {
	var reply gateway.Reply
	switch {
	case w.told:
	case e.interrupted:
		reply = failure{status: 504, code: codeUncertain, point: e.Point,
			text: "the gateway ended while it wrote; the device may have executed it, it is not written again"}.reply()
	case !time.Now().Before(e.Expires):
		reply = failure{status: 504, code: codeExpired, point: e.Point,
			text: "the device could not be reached in time; nothing was written"}.reply()
	default:
		var final bool
		if reply, final = d.writeNow(ctx, w, e); !final {
			return false
		}
	}
	if !w.told {
		d.tell(e.Identity, e.Name, reply)
	}
	w.told = w.change(d.state, nil) != nil
	return !w.told
}

// writeNow makes a write between two notes; final is false if nothing was sent and it may be tried again.
func (d *Down) writeNow(ctx context.Context, w *waiting, e entry) (reply gateway.Reply, final bool) {
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
	if w.change(d.state, &e) != nil {
		return reply, false
	}
	f := d.put(ctx, &method{Method: gateway.Method{Write: e.Point}}, v)
	switch {
	case f == nil:
		return written(e.Point, v, time.Now()), true
	case f.code == codeNoAnswer, f.code == codeBusy, f.code == codeStopping:
		e.Begun = false
		_ = w.change(d.state, &e) // if it cannot be noted, a restart takes it for uncertain
		return reply, false
	}
	return f.reply(), true
}
