package hubsim

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// listLimit is how many devices one answer lists (SVC-11).
const listLimit = 1000

// etagOf is what If-Match wants (SVC-7): "" is no header, "*" any etag.
func etagOf(r *http.Request) string { return strings.Trim(r.Header.Get("If-Match"), `"`) }

// getEntry shows a device or module.
func (h *Hub) getEntry(r *http.Request) (any, error) {
	id, err := h.identityOf(r)
	if err != nil {
		return nil, err
	}
	return h.showEntry(id), nil
}

// putEntry makes a device or module, or with If-Match changes one (SVC-8).
func (h *Hub) putEntry(r *http.Request) (any, error) {
	var e entryWish
	if err := readJSON(r, &e); err != nil {
		return nil, err
	}
	device, module := r.PathValue("device"), r.PathValue("module")
	if e.DeviceID != "" && e.DeviceID != device || e.ModuleID != "" && e.ModuleID != module {
		return nil, apiError(errArgument).because(fmt.Sprintf("the body is about %s, the path about %s", identityName(e.DeviceID, e.ModuleID), identityName(device, module)))
	}
	e.DeviceID, e.ModuleID = device, module
	match := etagOf(r)
	w := wish{need: mustBeNew, match: match}
	if match != "" {
		w.need = mustExist
	}
	stored, err := h.grant(e, w)
	if err == nil {
		err = stored.wait()
	}
	if err != nil {
		return nil, err
	}
	if e.Status == "disabled" {
		h.cutDisabled(device)
	}
	return h.getEntry(r)
}

// grant does what e says to its device or module, as w wants it, and notes it for the disk.
func (h *Hub) grant(e entryWish, w wish) (*saved, error) {
	for _, id := range []string{e.DeviceID, e.ModuleID} {
		if err := checkID(id); err != nil && (id != "" || id == e.DeviceID) {
			return nil, apiError(errArgument).because(err.Error())
		}
	}
	var err error
	w.device, w.module = e.DeviceID, e.ModuleID
	if w.edit, err = e.edit(); err != nil {
		return nil, err
	}
	_, stored, err := h.registry.put(w)
	return stored, err
}

// deleteEntry deletes a device with its modules, or a module.
func (h *Hub) deleteEntry(r *http.Request) (any, error) {
	return reply{status: http.StatusNoContent}, h.unregisterMatching(r.PathValue("device"), r.PathValue("module"), etagOf(r))
}

// unregisterMatching is Unregister of what has an etag, "" and "*" are any.
func (h *Hub) unregisterMatching(device, module, match string) error {
	_, _, err := h.registry.put(wish{device: device, module: module, need: mustExist, match: match})
	if err != nil {
		return err
	}
	return h.Unregister(device, module)
}

// listEntries lists devices by name, "top" of them.
func (h *Hub) listEntries(r *http.Request) (any, error) {
	limit := listLimit
	if text := r.URL.Query().Get("top"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, apiError(errArgument).because("top is not a number: " + text)
		}
		if n >= 1 && n <= listLimit {
			limit = n
		}
	}
	all := []registryEntry{}
	for _, id := range h.registry.list() {
		if id.ModuleID != "" {
			continue
		}
		if all = append(all, h.showEntry(id)); len(all) == limit {
			break
		}
	}
	return all, nil
}

// listModules lists the modules of a device (SVC-12).
func (h *Hub) listModules(r *http.Request) (any, error) {
	device, err := h.identityOf(r)
	if err != nil {
		return nil, err
	}
	all := []registryEntry{}
	for _, id := range h.registry.family(device.DeviceID) {
		if id.ModuleID != "" {
			all = append(all, h.showEntry(id))
		}
	}
	return all, nil
}

// countDevices is what the registry holds (SVC-14).
func (h *Hub) countDevices(*http.Request) (any, error) {
	var n struct {
		Total    int `json:"totalDeviceCount"`
		Enabled  int `json:"enabledDeviceCount"`
		Disabled int `json:"disabledDeviceCount"`
	}
	for _, id := range h.registry.list() {
		if id.ModuleID != "" {
			continue
		}
		if n.Total++; h.registry.enabled(id) {
			n.Enabled++
		} else {
			n.Disabled++
		}
	}
	return n, nil
}

// countConnected is how many devices are connected (SVC-14).
func (h *Hub) countConnected(*http.Request) (any, error) {
	var n struct {
		Connected int `json:"connectedDeviceCount"`
	}
	for _, id := range h.registry.list() {
		if id.ModuleID == "" && id.connection() != nil {
			n.Connected++
		}
	}
	return n, nil
}

// absent answers what the simulator does not have.
func absent(what string) endpoint {
	return func(*http.Request) (any, error) {
		return nil, apiError(errAbsent).because(what + " are not simulated")
	}
}
