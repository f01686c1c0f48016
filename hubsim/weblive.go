package hubsim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// webPause is how long a page that was just told something is told nothing: what comes together then is one
// change of the page.
const webPause = 200 * time.Millisecond

// webLive is one page that is kept up to date.
type webLive struct {
	*web
	id, filter string // of a page about one identity, or of the list
	after      uint64
	watcher    *watcher
	out        http.ResponseWriter
	control    *http.ResponseController
}

// live sends a page what changes, as server-sent events whose data are pieces of the page: row, gone, message,
// twin.
func (w *web) live(out http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	l := &webLive{web: w, id: query.Get("id"), filter: query.Get("q"), out: out, control: http.NewResponseController(out)}
	after := r.Header.Get("Last-Event-ID")
	if after == "" {
		after = query.Get("after")
	}
	newest := w.hub.store.newest()
	if n, err := strconv.ParseUint(after, 10, 64); err == nil {
		newest = min(n, newest) // of a former run in memory there may have been more
	}
	l.after, l.watcher = newest, w.hub.registry.feed.join(func(_, identity string) bool { return l.takes(identity) })
	defer w.hub.registry.feed.leave(l.watcher)
	out.Header().Set("Content-Type", "text/event-stream")
	// It may have connected, gone, or got another twin since the page was rendered.
	if l.sendRows() == nil && l.sendTwin() == nil {
		l.run(r.Context())
	}
}

// run goes on until the browser leaves.
func (l *webLive) run(ctx context.Context) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		newer, err := l.sendNews()
		if err != nil || l.control.Flush() != nil {
			return
		}
		select {
		case <-newer:
		case <-l.watcher.wake:
		case <-tick.C:
			if _, err := fmt.Fprint(l.out, ":\n\n"); err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(webPause):
		case <-ctx.Done():
			return
		}
	}
}

// takes tells whether the page shows an identity.
func (l *webLive) takes(identity string) bool {
	if l.id != "" {
		return identity == l.id
	}
	return named(identity, l.filter)
}

// sendNews sends what happened since the last time; newer closes when there is a newer message.
func (l *webLive) sendNews() (newer <-chan struct{}, err error) {
	touched, newer, err := l.sendMessages()
	if err != nil {
		return nil, err
	}
	all, lost := l.hub.registry.feed.read(l.watcher)
	if lost > 0 {
		if err := l.sendRows(); err != nil {
			return nil, err
		}
	}
	twin := lost > 0
	for _, one := range all {
		var about struct {
			DeviceID string `json:"deviceId"`
			ModuleID string `json:"moduleId"`
		}
		if err := json.Unmarshal(one.data, &about); err == nil {
			touched[identityName(about.DeviceID, about.ModuleID)] = true
		}
		twin = twin || one.kind == twinChange
	}
	for identity := range touched {
		if err := l.sendRow(identity); err != nil {
			return nil, err
		}
	}
	if twin {
		return newer, l.sendTwin()
	}
	return newer, nil
}

// sendMessages sends the newest of the messages that are new, and tells whose they are.
func (l *webLive) sendMessages() (touched map[string]bool, newer <-chan struct{}, err error) {
	touched = map[string]bool{}
	var fresh []webMessage
	for {
		var records []record
		if records, newer = l.hub.store.page(l.after, pageRecords); len(records) == 0 {
			break
		}
		for i := range records {
			l.after = records[i].sequence
			if !l.takes(records[i].identity) {
				continue
			}
			touched[records[i].identity] = true
			fresh = append(fresh, shownMessage(records[i].message(l.hub.cfg.RetainProperty)))
		}
		fresh = fresh[len(fresh)-min(len(fresh), webMessages):]
	}
	for _, m := range fresh {
		if _, err := fmt.Fprintf(l.out, "id: %d\n", m.Sequence); err != nil {
			return nil, nil, err
		}
		if err := l.send("message", "message", m); err != nil {
			return nil, nil, err
		}
	}
	return touched, newer, nil
}

// sendRows sends how everybody on the page stands.
func (l *webLive) sendRows() error {
	if l.id != "" {
		return l.sendRow(l.id)
	}
	rows, _ := l.rows(l.filter)
	for _, row := range rows {
		if err := l.send("row", "row", row); err != nil {
			return err
		}
	}
	return nil
}

// sendRow sends how one stands, or that it is there no more.
func (l *webLive) sendRow(identity string) error {
	id := l.hub.registry.find(identity)
	if id == nil {
		return l.write("gone", []byte(identity))
	}
	return l.send("row", "row", l.row(id))
}

// sendTwin sends the twin that the page is about, if there is one.
func (l *webLive) sendTwin() error {
	id := l.hub.registry.find(l.id)
	if id == nil {
		return nil
	}
	twin, err := l.twin(id)
	if err != nil {
		return err
	}
	return l.send("twin", "twin", twin)
}

// send sends a piece of the page.
func (l *webLive) send(event, template string, data any) error {
	text, err := l.fragment(template, data)
	if err != nil {
		return err
	}
	return l.write(event, text)
}

// write sends one event; line breaks in its data begin new data lines.
func (l *webLive) write(event string, data []byte) error {
	data = bytes.ReplaceAll(bytes.TrimSpace(data), []byte("\n"), []byte("\ndata: "))
	_, err := fmt.Fprintf(l.out, "event: %s\ndata: %s\n\n", event, data)
	return err
}
