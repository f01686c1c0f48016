package hubsim

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// postCommand sends a cloud-to-device message. Azure takes them over AMQP only (SVC-24, SVC-29).
func (h *Hub) postCommand(r *http.Request) (any, error) {
	if module := r.PathValue("module"); module != "" {
		return nil, apiError(errArgument).because("cloud-to-device messages go to devices, not to modules") // C2D-32
	}
	var wish struct {
		CloudMessage
		JSON json.RawMessage `json:"body"`
	}
	if err := readSetting(r, &wish); err != nil {
		return nil, err
	}
	if wish.JSON != nil {
		wish.Body = wish.JSON
	}
	if err := h.queueRequest(r, commandOperation, len(wish.Body)); err != nil {
		return nil, err
	}
	wish.Device = r.PathValue("device")
	messageID, err := h.Send(wish.CloudMessage)
	return struct {
		MessageID string `json:"messageId"`
	}{messageID}, err
}

// deleteCommands is the purge of C2D-30.
func (h *Hub) deleteCommands(r *http.Request) (any, error) {
	n, err := h.PurgeCommands(r.PathValue("device"))
	return struct {
		Purged   int     `json:"totalMessagesPurged"`
		DeviceID string  `json:"deviceId"`
		ModuleID *string `json:"moduleId"`
	}{n, r.PathValue("device"), nil}, err
}

func (h *Hub) getDeadLetters(r *http.Request) (any, error) {
	device := r.PathValue("device")
	if h.registry.find(device) == nil {
		return nil, noDevice(device)
	}
	return append([]DeadLetter{}, h.DeadLetters(device)...), nil
}

func (h *Hub) getFeedback(r *http.Request) (any, error) {
	var after uint64
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, apiError(errArgument).because("after is not a sequence: " + text)
		}
	}
	return append([]Feedback{}, h.Feedback(after)...), nil
}
