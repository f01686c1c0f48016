package hubsim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const (
	listDefault = 1000     // messages of one answer
	listBytes   = 16 << 20 // body bytes at which an answer ends early
)

// methodRequestBody is what the service sends (METH-12).
type methodRequestBody struct {
	MethodName               string          `json:"methodName"`
	ResponseTimeoutInSeconds *int            `json:"responseTimeoutInSeconds"`
	ConnectTimeoutInSeconds  *int            `json:"connectTimeoutInSeconds"`
	Payload                  json.RawMessage `json:"payload"`
}

// postMethod calls a direct method (METH-8 to METH-20).
func (h *Hub) postMethod(r *http.Request) (any, error) {
	var body methodRequestBody
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	if body.Payload == nil { // every SDK reads null; Microsoft's for Node fails on an empty body (METH-9)
		body.Payload = json.RawMessage("null")
	}
	call := MethodCall{Device: r.PathValue("device"), Module: r.PathValue("module"), Name: body.MethodName, Payload: body.Payload}
	var err error
	if call.ResponseTimeout, err = seconds("responseTimeoutInSeconds", body.ResponseTimeoutInSeconds, 5); err != nil {
		return nil, err
	}
	if call.ConnectTimeout, err = seconds("connectTimeoutInSeconds", body.ConnectTimeoutInSeconds, 0); err != nil {
		return nil, err
	}
	return h.CallMethod(r.Context(), call)
}

// seconds checks a time-out of METH-10 or METH-11; one that is left out is 0.
func seconds(name string, value *int, least int) (time.Duration, error) {
	if value == nil {
		return 0, nil
	}
	if *value < least || *value > 300 {
		return 0, apiError(errArgument).because(fmt.Sprintf("%q must be within [%d; 300]", name, least))
	}
	return time.Duration(*value) * time.Second, nil
}

func (h *Hub) getMessages(r *http.Request) (any, error) {
	s, err := parseSelection(r)
	if err != nil {
		return nil, err
	}
	if s.now {
		s.after = h.store.newest()
	}
	all, size := []Message{}, 0
	for m := range h.stored(s.after) {
		if !s.takes(&m) {
			continue
		}
		all, size = append(all, m), size+len(m.Body)
		if len(all) == s.limit || size > listBytes {
			break
		}
	}
	return all, nil
}

// deviceState is a line of GET /hubsim/devices.
type deviceState struct {
	DeviceID  string `json:"deviceId"`
	ModuleID  string `json:"moduleId,omitempty"`
	Connected bool   `json:"connected"`
	// Messages counts those accepted by this run and those found on disk at its start.
	Messages uint64 `json:"messages"`
	// LastActivity is the last CONNECT or message, null if there was none.
	LastActivity *time.Time `json:"lastActivity"`
}

func (h *Hub) getDevices(*http.Request) (any, error) {
	all := []deviceState{}
	for _, id := range h.registry.list() {
		line := deviceState{
			DeviceID: id.DeviceID, ModuleID: id.ModuleID,
			Connected: id.connection() != nil, Messages: id.messages.Load(),
		}
		if at := id.active.Load(); at != 0 {
			t := time.Unix(0, at).UTC()
			line.LastActivity = &t
		}
		all = append(all, line)
	}
	return all, nil
}

func (h *Hub) getEvents(r *http.Request) (any, error) {
	s, err := parseSelection(r)
	if err != nil {
		return nil, err
	}
	return h.ConnectionEvents(s.after), nil
}

func (h *Hub) postFaults(r *http.Request) (any, error) {
	var f Faults
	if err := readSetting(r, &f); err != nil {
		return nil, err
	}
	kicked, err := h.apply(f)
	if err != nil {
		return nil, apiError(errArgument).because(err.Error())
	}
	return struct {
		Kicked bool `json:"kicked"`
	}{kicked}, nil
}

func (h *Hub) getFaults(*http.Request) (any, error) { return h.ArmedFaults(), nil }

// deleteFaults sets the dials of one identity back ("" are those of everybody), or without one all.
func (h *Hub) deleteFaults(r *http.Request) (any, error) {
	query := r.URL.Query()
	h.dials.clear(query.Get("identity"), !query.Has("identity"))
	return struct{}{}, nil
}
