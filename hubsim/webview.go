package hubsim

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	webRows     = 200     // devices on a page
	webMessages = 50      // messages that a page begins with
	webLookBack = 2000    // messages among which those of one device are looked for
	webBody     = 2 << 10 // of a body that is shown, bytes
)

// webRow is a device or module in the list.
type webRow struct {
	ID        string
	Status    string
	Connected bool
	Messages  uint64
	Active    time.Time // zero: never
}

// webMessage is a message in the list.
type webMessage struct {
	Sequence   uint64
	Time       time.Time
	Identity   string
	Body       string
	Properties []string // NAME=VALUE
}

// webHead is what every page has.
type webHead struct {
	Hub, Title string
	Live       string // where its events come from
}

// webList is the page of devices.
type webList struct {
	webHead
	Filter   string
	Rows     []webRow
	More     int
	Messages []webMessage
}

// webTwin is the editor of a twin.
type webTwin struct {
	ID                string
	ETag              string
	Version           uint64
	Tags              string
	Desired, Reported string
	Notice, Problem   string
}

// webCall is the form of a method call and its answer.
type webCall struct {
	ID, Name, Payload string
	Seconds           int
	Notice, Problem   string
	Answer            string
}

// webSend is the form of a cloud-to-device message.
type webSend struct {
	ID, Body, Properties, Ack string
	Minutes                   int
	Notice, Problem           string
	Waiting                   int
}

// Acks are the choices of the form.
func (s *webSend) Acks() []string { return []string{"none", "positive", "negative", "full"} }

// webDevice is the page of one device or module.
type webDevice struct {
	webHead
	Row      webRow
	Modules  []string
	Twin     *webTwin
	Call     *webCall
	Send     *webSend // nil of a module
	Messages []webMessage
}

func (w *web) head(title, id, filter string) webHead {
	query := url.Values{"after": {strconv.FormatUint(w.hub.store.newest(), 10)}}
	for name, value := range map[string]string{"id": id, "q": filter} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return webHead{Hub: w.hub.cfg.HostName, Title: title, Live: "/ui/live?" + query.Encode()}
}

// row is how an identity stands now.
func (w *web) row(id *identity) webRow {
	row := webRow{ID: id.name(), Status: statusOf(w.hub.registry.registered(id)), Connected: id.connection() != nil, Messages: id.messages.Load()}
	if !w.hub.registry.enabled(id) {
		row.Status = "disabled"
	}
	if at := id.active.Load(); at != 0 {
		row.Active = time.Unix(0, at)
	}
	return row
}

// rows are the identities whose name holds filter, and how many more there are.
func (w *web) rows(filter string) (rows []webRow, more int) {
	for _, id := range w.hub.registry.list() {
		switch {
		case !named(id.name(), filter):
		case len(rows) == webRows:
			more++
		default:
			rows = append(rows, w.row(id))
		}
	}
	return rows, more
}

func named(name, filter string) bool {
	return strings.Contains(strings.ToLower(name), strings.ToLower(filter))
}

// devices is the page of devices and of what arrives.
func (w *web) devices(out http.ResponseWriter, r *http.Request) {
	filter := strings.TrimSpace(r.URL.Query().Get("q"))
	page := webList{webHead: w.head("Devices", "", filter), Filter: filter}
	page.Rows, page.More = w.rows(filter)
	page.Messages = w.newest(func(identity string) bool { return named(identity, filter) })
	w.render(out, http.StatusOK, "devices", page)
}

// newest are the newest messages of those who fit, the newest first.
func (w *web) newest(fits func(identity string) bool) (all []webMessage) {
	last := w.hub.store.newest()
	after := last - min(last, webLookBack)
	for after < last {
		records, _ := w.hub.store.page(after, pageRecords)
		if len(records) == 0 {
			break
		}
		for i := range records {
			if after = records[i].sequence; fits(records[i].identity) {
				all = append(all, shownMessage(records[i].message(w.hub.cfg.RetainProperty)))
			}
		}
	}
	all = all[len(all)-min(len(all), webMessages):]
	slices.Reverse(all)
	return all
}

// shownMessage is a message as a person reads it.
func shownMessage(m Message) webMessage {
	shown := webMessage{Sequence: m.Sequence, Time: m.Enqueued, Identity: m.identity(), Body: string(m.Body)}
	for _, name := range slices.Sorted(maps.Keys(m.Properties)) {
		shown.Properties = append(shown.Properties, name+"="+m.Properties[name])
	}
	if !utf8.ValidString(shown.Body) {
		shown.Body = strconv.Itoa(len(m.Body)) + " bytes that are no text"
	}
	if len(shown.Body) > webBody {
		shown.Body = strings.ToValidUTF8(shown.Body[:webBody], "") + "…"
	}
	return shown
}

// device is the page of one identity.
func (w *web) device(out http.ResponseWriter, r *http.Request) {
	id := w.hub.registry.find(r.URL.Query().Get("id"))
	if id == nil {
		w.render(out, http.StatusNotFound, "unknown", w.head("No such device", "", ""))
		return
	}
	page, err := w.devicePage(id)
	if err != nil {
		http.Error(out, err.Error(), http.StatusInternalServerError)
		return
	}
	w.render(out, http.StatusOK, "device", page)
}

func (w *web) devicePage(id *identity) (page webDevice, err error) {
	name := id.name()
	page = webDevice{
		webHead: w.head(name, name, ""), Row: w.row(id), Call: &webCall{ID: name, Seconds: 30},
		Messages: w.newest(func(identity string) bool { return identity == name }),
	}
	if id.ModuleID == "" {
		page.Send = &webSend{ID: name, Minutes: 60, Waiting: id.waiting()}
		for _, one := range w.hub.registry.family(name) {
			if one != id {
				page.Modules = append(page.Modules, one.name())
			}
		}
	}
	page.Twin, err = w.twin(id)
	return page, err
}

// twin is an identity's twin for the editor: the hub's own members are left out.
func (w *web) twin(id *identity) (*webTwin, error) {
	t := id.openTwin()
	defer t.mu.Unlock()
	shown := &webTwin{ID: id.name(), ETag: t.etag(), Version: t.Changes}
	for _, part := range []struct {
		into   *string
		values object
	}{{&shown.Tags, t.Tags}, {&shown.Desired, t.Desired.values()}, {&shown.Reported, t.Reported.values()}} {
		if part.values == nil {
			part.values = object{}
		}
		text, err := appendObject(nil, part.values, 0)
		if err != nil {
			return nil, err
		}
		*part.into = indented(text)
	}
	return shown, nil
}

// indented is JSON with line breaks, or any other text as it is.
func indented(text []byte) string {
	var b bytes.Buffer
	if json.Indent(&b, text, "", "  ") != nil {
		return string(text)
	}
	return b.String()
}
