package hubsim

import (
	"fmt"
	"net/http"
	"time"
)

// registrationBody is what PUT /hubsim/devices/... takes and answers.
type registrationBody struct {
	DeviceID string `json:"deviceId"`
	ModuleID string `json:"moduleId,omitempty"`
	Credential
	Status string `json:"status,omitempty"` // enabled or disabled
}

// putDevice registers a device or module, or gives it another credential or status.
func (h *Hub) putDevice(r *http.Request) (any, error) {
	var body registrationBody
	if err := readSetting(r, &body); err != nil {
		return nil, err
	}
	done := registrationBody{DeviceID: r.PathValue("device"), ModuleID: r.PathValue("module"), Status: body.Status}
	for _, id := range []string{done.DeviceID, done.ModuleID} {
		if err := checkID(id); err != nil && id != "" {
			return nil, apiError(errArgument).because(err.Error())
		}
	}
	if body.Status != "" && body.Status != "enabled" && body.Status != "disabled" {
		return nil, apiError(errArgument).because(fmt.Sprintf("status is %q, not enabled or disabled", body.Status))
	}
	c, err := body.normal()
	if err != nil {
		return nil, apiError(errArgument).because(err.Error())
	}
	reg, err := h.registry.register(wish{device: done.DeviceID, module: done.ModuleID, edit: func(reg *registration) error {
		if c != (Credential{}) { // otherwise what is registered stays
			reg.Credential = c.replace(reg.Credential)
		}
		if body.Status != "" {
			reg.setStatus(body.Status == "disabled", time.Now())
		}
		return nil
	}})
	if err == nil && body.Status == "disabled" {
		h.cutDisabled(done.DeviceID)
	}
	done.Credential = reg.Credential
	return done, err
}

func (h *Hub) deleteDevice(r *http.Request) (any, error) {
	return struct{}{}, h.Unregister(r.PathValue("device"), r.PathValue("module"))
}

// postAuthority makes an authority of devices known; the body is PEM.
func (h *Hub) postAuthority(r *http.Request) (any, error) {
	text, err := readBody(r)
	if err != nil {
		return nil, err
	}
	if err := h.AddDeviceCA(text); err != nil {
		return nil, apiError(errArgument).because(err.Error())
	}
	return struct{}{}, nil
}
