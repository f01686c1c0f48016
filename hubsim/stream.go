package hubsim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// heartbeat is how often a stream that has nothing to say shows that it still stands.
const heartbeat = 15 * time.Second

// selection is which messages, and what else, a request asks for.
type selection struct {
	after  uint64
	now    bool // what is stored already is not asked for
	limit  int
	device string // "device" with its modules, or "device/module"; "" is everybody
	module string // a module's id, on whichever device
	kinds  map[string]bool
	// properties are wanted by name; a nil value is any.
	properties map[string]*string
}

// parseSelection reads after (a sequence, or "now"), max, device, module, kind and property. What a stream
// saw last goes before after.
func parseSelection(r *http.Request) (selection, error) {
	query := r.URL.Query()
	s := selection{limit: listDefault, device: query.Get("device"), module: query.Get("module"), properties: map[string]*string{}}
	after := query.Get("after")
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		after = last
	}
	var err error
	if s.now = after == "now"; !s.now && after != "" {
		if s.after, err = strconv.ParseUint(after, 10, 64); err != nil {
			return s, apiError(errArgument).because("after is neither a sequence nor now: " + after)
		}
	}
	if text := query.Get("max"); text != "" {
		if s.limit, err = strconv.Atoi(text); err != nil || s.limit < 1 {
			return s, apiError(errArgument).because("max is not a positive number: " + text)
		}
	}
	for _, property := range query["property"] {
		name, value, exact := strings.Cut(property, "=")
		if s.properties[name] = nil; exact {
			s.properties[name] = &value
		}
	}
	s.kinds, err = parseKinds(query["kind"])
	return s, err
}

// parseKinds reads lists of kinds of happenings, joined by commas; none is messages only.
func parseKinds(lists []string) (map[string]bool, error) {
	known := []string{messageKind, connectionKind, twinChange, deviceChange, methodKind}
	wanted := map[string]bool{}
	for kind := range strings.SplitSeq(strings.Join(lists, ","), ",") {
		switch {
		case kind == "all":
			for _, k := range known {
				wanted[k] = true
			}
		case slices.Contains(known, kind):
			wanted[kind] = true
		case kind != "":
			return nil, apiError(errArgument).because(fmt.Sprintf("kind %q is none of all, %s", kind, strings.Join(known, ", ")))
		}
	}
	if len(wanted) == 0 {
		wanted[messageKind] = true
	}
	return wanted, nil
}

// about tells whether an identity is one that is asked for.
func (s selection) about(identity string) bool {
	device, module := splitIdentity(identity)
	return (s.device == "" || s.device == device || s.device == identity) && (s.module == "" || s.module == module)
}

// wants tells whether a happening is asked for. What is asked for by a property are messages only.
func (s selection) wants(kind, identity string) bool {
	return s.kinds[kind] && s.about(identity) && len(s.properties) == 0
}

// takes tells whether m is asked for.
func (s selection) takes(m *Message) bool {
	if !s.about(m.identity()) {
		return false
	}
	for name, want := range s.properties {
		got, ok := m.Properties[name]
		if !ok {
			got, ok = m.System[name]
		}
		if !ok || want != nil && got != *want {
			return false
		}
	}
	return true
}

// stream is a client that listens to server-sent events.
type stream struct {
	selection
	hub     *Hub
	watcher *watcher
	out     http.ResponseWriter
	control *http.ResponseController
}

// streamMessages sends messages, and what else is asked for, for as long as the client listens.
func (h *Hub) streamMessages(w http.ResponseWriter, r *http.Request) {
	err := h.authorize(r, serviceConnect)
	var s selection
	if err == nil {
		s, err = parseSelection(r)
	}
	if err != nil {
		h.writeError(w, r, err)
		return
	}
	if s.now {
		s.after = h.store.newest()
	}
	one := stream{selection: s, hub: h, watcher: h.registry.feed.join(s.wants), out: w, control: http.NewResponseController(w)}
	defer h.registry.feed.leave(one.watcher)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	if one.control.Flush() != nil {
		return
	}
	one.run(r)
}

// run sends what is stored, then everything as it comes.
func (s *stream) run(r *http.Request) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		newer, busy, err := s.sendMessages()
		if err == nil {
			var more bool
			more, err = s.sendHappenings()
			busy = busy || more
		}
		if err == nil && busy {
			err = s.control.Flush()
		}
		switch {
		case err != nil:
			return
		case busy:
			continue
		}
		select {
		case <-newer:
		case <-s.watcher.wake:
		case <-tick.C:
			if s.say(":\n\n") != nil || s.control.Flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// sendMessages sends some of the messages that are stored; newer closes when there are more.
func (s *stream) sendMessages() (newer <-chan struct{}, busy bool, err error) {
	if !s.kinds[messageKind] {
		return nil, false, nil
	}
	records, newer := s.hub.store.page(s.after, pageRecords)
	for i := range records {
		s.after = records[i].sequence
		if !s.about(records[i].identity) {
			continue
		}
		m := records[i].message(s.hub.cfg.RetainProperty)
		if !s.takes(&m) {
			continue
		}
		text, err := json.Marshal(m)
		if err != nil {
			return nil, false, err
		}
		if err := s.say("id: %d\ndata: %s\n\n", m.Sequence, text); err != nil {
			return nil, false, err
		}
	}
	return newer, len(records) > 0, nil
}

// sendHappenings sends what else happened.
func (s *stream) sendHappenings() (busy bool, err error) {
	all, lost := s.hub.registry.feed.read(s.watcher)
	for _, one := range all {
		if err := s.say("event: %s\ndata: %s\n\n", one.kind, one.data); err != nil {
			return false, err
		}
	}
	if lost > 0 {
		err = s.say("event: lost\ndata: {\"count\":%d}\n\n", lost)
	}
	return len(all) > 0, err
}

func (s *stream) say(format string, args ...any) error {
	_, err := fmt.Fprintf(s.out, format, args...)
	return err
}

// tellTwin shows a change of a twin to those who watch; the caller holds its mu.
func (h *Hub) tellTwin(id *identity, e TwinEvent) {
	e.Time, e.Device, e.Module = time.Now().UTC(), id.DeviceID, id.ModuleID
	h.registry.feed.tell(twinChange, id.name(), e)
}

// tellDevice shows a change of the registry to those who watch.
func (r *registry) tellDevice(verb string, reg registration) {
	e := DeviceEvent{Time: time.Now().UTC(), Device: reg.DeviceID, Module: reg.ModuleID, Operation: verb + "DeviceIdentity", Status: statusOf(reg)}
	if reg.ModuleID != "" {
		e.Operation = verb + "ModuleIdentity"
	}
	r.feed.tell(deviceChange, identityName(reg.DeviceID, reg.ModuleID), e)
}

// tellMethod shows a call that has ended to those who watch.
func (h *Hub) tellMethod(c MethodCall, since time.Time, status int, err error) {
	e := MethodEvent{Time: time.Now().UTC(), Device: c.Device, Module: c.Module, Method: clip(c.Name), Status: status, Milliseconds: time.Since(since).Milliseconds()}
	if err != nil {
		e.Error = err.Error()
	}
	h.registry.feed.tell(methodKind, identityName(c.Device, c.Module), e)
}
