package hubsim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// act shows the page of the identity that a form names, after f has done what the form asks for and noted on
// the page what came of it.
func (w *web) act(out http.ResponseWriter, r *http.Request, f func(*identity, *webDevice)) {
	id := w.hub.registry.find(r.PostFormValue("id"))
	if id == nil {
		w.render(out, http.StatusNotFound, "unknown", w.head("No such device", "", ""))
		return
	}
	page, err := w.devicePage(id)
	if err != nil {
		http.Error(out, err.Error(), http.StatusInternalServerError)
		return
	}
	f(id, &page)
	w.render(out, http.StatusOK, "device", page)
}

// saveTwin makes desired properties and tags what the form says, if they are still what it began with. The
// device is told what differs.
func (w *web) saveTwin(out http.ResponseWriter, r *http.Request) {
	w.act(out, r, func(id *identity, page *webDevice) {
		form := webTwin{
			ID: id.name(), ETag: r.PostFormValue("etag"), Tags: r.PostFormValue("tags"), Desired: r.PostFormValue("desired"),
			Version: page.Twin.Version, Reported: page.Twin.Reported,
		}
		changed, err := w.editByForm(id, form)
		if err != nil { // what was typed stays
			form.Problem = plainly(err)
			page.Twin = &form
			return
		}
		if page.Twin, err = w.twin(id); err != nil {
			page.Twin = &form
			page.Twin.Problem = plainly(err)
			return
		}
		page.Twin.Notice = "nothing differs from what there was"
		if changed {
			page.Twin.Notice = fmt.Sprintf("saved as version %d", page.Twin.Version)
		}
	})
}

// editByForm carries out what differs between a twin and the form.
func (w *web) editByForm(id *identity, form webTwin) (changed bool, err error) {
	var tags, desired object
	if tags, err = parseObject([]byte(form.Tags)); err != nil {
		return false, fmt.Errorf("tags: %w", err)
	}
	if desired, err = parseObject([]byte(form.Desired)); err != nil {
		return false, fmt.Errorf("desired: %w", err)
	}
	t := id.openTwin()
	e := edit{tags: difference(t.Tags, tags), desired: difference(t.Desired.Values, desired)}
	stale := t.etag() != form.ETag
	t.mu.Unlock()
	switch {
	case stale:
		return false, apiError(errPrecondition).because("somebody else changed the twin meanwhile; nothing was saved: reload the page to see it")
	case e.tags == nil && e.desired == nil:
		return false, nil
	}
	for name, part := range map[string]object{"tags": e.tags, "desired": e.desired} {
		if err := checkPatch(part, name); err != nil {
			return false, err
		}
	}
	_, stored, err := w.hub.editTwin(id, e, form.ETag)
	if err != nil {
		return false, err
	}
	return true, stored.wait()
}

// difference is the patch that makes wanted of old (TWIN-11), nil if there is none.
func difference(old, wanted object) object {
	patch := object{}
	for key := range old {
		if _, stays := wanted[key]; !stays {
			patch[key] = nil
		}
	}
	for key, value := range wanted {
		was, isThere := old[key]
		inner, isObject := value.(object)
		before, wasObject := was.(object)
		switch {
		case isObject && wasObject:
			if deeper := difference(before, inner); deeper != nil {
				patch[key] = deeper
			}
		case !isThere || !reflect.DeepEqual(was, value):
			patch[key] = value
		}
	}
	if len(patch) == 0 {
		return nil
	}
	return patch
}

// callMethod calls a direct method and shows the answer.
func (w *web) callMethod(out http.ResponseWriter, r *http.Request) {
	w.act(out, r, func(id *identity, page *webDevice) {
		form := page.Call
		form.Name, form.Payload = strings.TrimSpace(r.PostFormValue("name")), r.PostFormValue("payload")
		payload := json.RawMessage(form.Payload)
		if strings.TrimSpace(form.Payload) == "" {
			payload = json.RawMessage("null")
		}
		seconds, err := strconv.Atoi(r.PostFormValue("seconds"))
		switch {
		case err != nil || seconds < 5 || seconds > 300: // METH-10
			form.Problem = "a device may take 5 to 300 seconds"
			return
		case !json.Valid(payload):
			form.Problem = "the payload is not JSON"
			return
		}
		form.Seconds = seconds
		start := time.Now()
		got, err := w.hub.CallMethod(r.Context(), MethodCall{
			Device: id.DeviceID, Module: id.ModuleID, Name: form.Name, Payload: payload, ResponseTimeout: time.Duration(seconds) * time.Second,
		})
		if err != nil {
			form.Problem = plainly(err)
			return
		}
		form.Notice = fmt.Sprintf("status %d after %d ms", got.Status, time.Since(start).Milliseconds())
		form.Answer = indented(got.Payload)
	})
}

// sendMessage sends a cloud-to-device message.
func (w *web) sendMessage(out http.ResponseWriter, r *http.Request) {
	w.act(out, r, func(id *identity, page *webDevice) {
		if page.Send == nil { // a module gets none (C2D-32), and has no form
			return
		}
		form := page.Send
		form.Body, form.Properties, form.Ack = r.PostFormValue("body"), r.PostFormValue("properties"), r.PostFormValue("ack")
		// Forms break lines with CR LF.
		form.Body = strings.ReplaceAll(form.Body, "\r\n", "\n")
		m := CloudMessage{Device: id.DeviceID, MessageID: newMessageID(), Body: []byte(form.Body), Ack: form.Ack, Properties: map[string]*string{}}
		for line := range strings.Lines(form.Properties) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok {
				m.Properties[name] = &value
			} else if name != "" {
				form.Problem = fmt.Sprintf("the property %q does not look like NAME=VALUE", name)
				return
			}
		}
		minutes, err := strconv.Atoi(r.PostFormValue("minutes"))
		if err != nil || minutes < 1 || minutes > 2*24*60 { // C2D-27
			form.Problem = "a message holds for 1 to 2880 minutes"
			return
		}
		form.Minutes, m.Expires = minutes, time.Now().Add(time.Duration(minutes)*time.Minute)
		if _, err := w.hub.Send(m); err != nil {
			form.Problem = plainly(err)
			return
		}
		form.Notice, form.Waiting = m.MessageID+" is sent", id.waiting()
	})
}

// plainly is an error as a sentence on a page.
func plainly(err error) string { return strings.TrimPrefix(err.Error(), "hubsim: ") }
