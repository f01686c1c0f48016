package hubsim

import (
	"encoding/json"
	"sync"
	"time"
)

// maxUnread is how many happenings wait for one who watches; what is beyond is lost to it, and it is told.
const maxUnread = 1000

// Kinds of what a watcher sees.
const (
	messageKind    = "message"    // a stored Message
	connectionKind = "connection" // a ConnectionEvent
	twinChange     = "twin"       // a TwinEvent
	deviceChange   = "device"     // a DeviceEvent
	methodKind     = "method"     // a MethodEvent
)

// TwinEvent is a change of a twin: what was changed, not what it is now (MON-8).
type TwinEvent struct {
	Time   time.Time `json:"time"`
	Device string    `json:"deviceId"`
	Module string    `json:"moduleId,omitempty"`
	// Operation is updateTwin, or replaceTwin if the service side replaced the whole.
	Operation string `json:"operationName"`
	Version   uint64 `json:"version"`
	// Tags, Desired and Reported are the parts that were written, null for a member that was deleted.
	Tags     map[string]any `json:"tags,omitempty"`
	Desired  map[string]any `json:"desired,omitempty"`
	Reported map[string]any `json:"reported,omitempty"`
}

// DeviceEvent is a change of the registry (MON-7).
type DeviceEvent struct {
	Time   time.Time `json:"time"`
	Device string    `json:"deviceId"`
	Module string    `json:"moduleId,omitempty"`
	// Operation is create, update or delete followed by DeviceIdentity or ModuleIdentity.
	Operation string `json:"operationName"`
	Status    string `json:"status"` // enabled or disabled
}

// MethodEvent is a direct method call that has ended.
type MethodEvent struct {
	Time   time.Time `json:"time"` // of the end
	Device string    `json:"deviceId"`
	Module string    `json:"moduleId,omitempty"`
	Method string    `json:"methodName"`
	// Status is the device's own, 0 if it did not answer; Error says why then.
	Status       int    `json:"status"`
	Error        string `json:"error,omitempty"`
	Milliseconds int64  `json:"durationMs"`
}

// happening is something that happened, as a watcher gets it.
type happening struct {
	kind string
	data []byte // JSON
}

// feed hands what happens to those who watch. Nothing of it is kept for those who come later.
type feed struct {
	mu       sync.Mutex // guards the fields below and those of every watcher
	watchers map[*watcher]struct{}
}

// watcher is one who watches.
type watcher struct {
	wants  func(kind, identity string) bool // never changes
	unread []happening
	lost   int
	wake   chan struct{} // holds one
}

// join begins a watch for what wants says, which leave ends.
func (f *feed) join(wants func(kind, identity string) bool) *watcher {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers == nil {
		f.watchers = map[*watcher]struct{}{}
	}
	w := &watcher{wants: wants, wake: make(chan struct{}, 1)}
	f.watchers[w] = struct{}{}
	return w
}

func (f *feed) leave(w *watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, w)
}

// tell shows what happened to an identity to those who watch.
func (f *feed) tell(kind, identity string, what any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.watchers) == 0 {
		return
	}
	data, err := json.Marshal(what)
	if err != nil { // a number that no JSON can hold was refused when it came
		return
	}
	for w := range f.watchers {
		switch {
		case !w.wants(kind, identity):
			continue
		case len(w.unread) == maxUnread:
			w.lost++
		default:
			w.unread = append(w.unread, happening{kind, data})
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// read takes what w has not seen, and how many it will never see.
func (f *feed) read(w *watcher) (all []happening, lost int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all, lost = w.unread, w.lost
	w.unread, w.lost = nil, 0
	return all, lost
}
