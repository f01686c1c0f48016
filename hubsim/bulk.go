package hubsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// maxBulkDevices is how many devices one request changes (SVC-11).
const maxBulkDevices = 100

// importEntry is one of the devices or modules of a bulk request (SVC-11).
type importEntry struct {
	ID string `json:"id"`
	entryWish
	Mode       string          `json:"importMode"`
	ETag       string          `json:"eTag"`
	TwinETag   string          `json:"twinETag"`
	Tags       json.RawMessage `json:"tags,omitempty"`
	Properties json.RawMessage `json:"properties,omitempty"`
}

// bulkResult is what became of a bulk request.
type bulkResult struct {
	IsSuccessful bool        `json:"isSuccessful"`
	Errors       []bulkError `json:"errors"`
	Warnings     []struct{}  `json:"warnings"`
}

// bulkError is one entry that was refused; ErrorCode is an error's name.
type bulkError struct {
	DeviceID    string `json:"deviceId"`
	ModuleID    string `json:"moduleId,omitempty"`
	ErrorCode   string `json:"errorCode"`
	ErrorStatus string `json:"errorStatus"`
}

// postEntries creates, changes or deletes up to a hundred devices and modules. Each entry is granted or
// refused by itself; if one is refused the status is 400.
func (h *Hub) postEntries(r *http.Request) (any, error) {
	var all []importEntry
	if err := readJSON(r, &all); err != nil {
		return nil, err
	}
	if len(all) == 0 || len(all) > maxBulkDevices {
		return nil, apiError(errArgument).because(fmt.Sprintf("%d devices in one request, 1 to %d are allowed", len(all), maxBulkDevices))
	}
	var stored *saved
	result := bulkResult{IsSuccessful: true, Errors: []bulkError{}, Warnings: []struct{}{}}
	for _, e := range all {
		noted, err := h.importOne(e)
		stored = latest(stored, noted)
		var bad *Error
		switch {
		case errors.As(err, &bad):
			result.IsSuccessful = false
			result.Errors = append(result.Errors, bulkError{e.ID, e.ModuleID, bad.Name, bad.Message})
		case err != nil:
			return nil, err
		}
	}
	if err := stored.wait(); err != nil {
		return nil, err
	}
	for _, e := range all {
		if e.Status == "disabled" {
			h.cutDisabled(e.ID)
		}
	}
	if !result.IsSuccessful {
		return reply{status: http.StatusBadRequest, body: result}, nil
	}
	return result, nil
}

// importOne does what the mode of an entry says and notes it for the disk.
func (h *Hub) importOne(e importEntry) (*saved, error) {
	if e.DeviceID != "" && e.DeviceID != e.ID {
		return nil, apiError(errArgument).because(fmt.Sprintf("id is %q and deviceId %q", e.ID, e.DeviceID))
	}
	e.DeviceID = e.ID
	mode := strings.ToLower(e.Mode)
	match, twinMatch := "", ""
	if strings.HasSuffix(mode, "ifmatchetag") {
		match, twinMatch = strings.Trim(e.ETag, `"`), strings.Trim(e.TwinETag, `"`)
		if match == "" && twinMatch == "" {
			return nil, apiError(errPrecondition).because("there is no etag to match")
		}
	}
	switch mode {
	case "create":
		stored, err := h.grant(e.entryWish, wish{need: mustBeNew})
		if err != nil || e.Tags == nil && e.Properties == nil {
			return stored, err
		}
		return h.importTwin(e, "")
	case "update", "updateifmatchetag":
		return h.grant(e.entryWish, wish{need: mustExist, match: match})
	case "delete", "deleteifmatchetag":
		return nil, h.unregisterMatching(e.ID, e.ModuleID, match)
	case "updatetwin", "updatetwinifmatchetag":
		return h.importTwin(e, twinMatch)
	}
	return nil, apiError(errArgument).because(fmt.Sprintf("importMode %q is not known", e.Mode))
}

// importTwin merges the entry's tags and desired properties into its twin.
func (h *Hub) importTwin(e importEntry, match string) (*saved, error) {
	id, err := h.lookUp(e.ID, e.ModuleID)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(struct {
		Tags       json.RawMessage `json:"tags,omitempty"`
		Properties json.RawMessage `json:"properties,omitempty"`
	}{e.Tags, e.Properties})
	if err != nil {
		return nil, err
	}
	change, err := parseEdit(text, false)
	if err != nil {
		return nil, twinError(err)
	}
	_, stored, err := h.editTwin(id, change, match)
	return stored, err
}
