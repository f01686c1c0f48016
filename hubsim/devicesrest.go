package hubsim

import (
	"fmt"
	"net/http"
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
	var wish registrationBody
	if err := readSetting(r, &wish); err != nil {
		return nil, err
	}
	done := registrationBody{DeviceID: r.PathValue("device"), ModuleID: r.PathValue("module"), Status: wish.Status}
	for _, id := range []string{done.DeviceID, done.ModuleID} {
		if err := checkID(id); err != nil && id != "" {
			return nil, apiError(errArgument).because(err.Error())
		}
	}
	if wish.Status != "" && wish.Status != "enabled" && wish.Status != "disabled" {
		return nil, apiError(errArgument).because(fmt.Sprintf("status is %q, not enabled or disabled", wish.Status))
	}
	c, err := wish.normal()
	if err != nil {
		return nil, apiError(errArgument).because(err.Error())
	}
	edit := func(reg *registration) { reg.Credential = c.replace(reg.Credential) }
	if c == (Credential{}) { // what is registered stays
		edit = nil
	}
	reg, err := h.registry.register(done.DeviceID, done.ModuleID, edit)
	if err == nil && wish.Status != "" {
		err = h.SetEnabled(done.DeviceID, done.ModuleID, wish.Status == "enabled")
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

// registryEntry is a device or module as the registry's REST side shows it (SVC-6).
type registryEntry struct {
	DeviceID        string `json:"deviceId"`
	ModuleID        string `json:"moduleId,omitempty"`
	GenerationID    uint64 `json:"generationId,string"`
	Status          string `json:"status,omitempty"` // of a device
	ConnectionState string `json:"connectionState"`
	// Commands counts the cloud-to-device messages that wait.
	Commands       int            `json:"cloudToDeviceMessageCount"`
	Authentication authentication `json:"authentication"`
}

type authentication struct {
	Type           string         `json:"type"`
	SymmetricKey   symmetricKey   `json:"symmetricKey"`
	X509Thumbprint x509Thumbprint `json:"x509Thumbprint"`
}

type symmetricKey struct {
	PrimaryKey   *string `json:"primaryKey"`
	SecondaryKey *string `json:"secondaryKey"`
}

type x509Thumbprint struct {
	PrimaryThumbprint   *string `json:"primaryThumbprint"`
	SecondaryThumbprint *string `json:"secondaryThumbprint"`
}

// orNull is nil for an empty text.
func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func (h *Hub) getDevice(r *http.Request) (any, error) {
	id, err := h.identityOf(r)
	if err != nil {
		return nil, err
	}
	c := h.registry.credential(id)
	entry := registryEntry{
		DeviceID: id.DeviceID, ModuleID: id.ModuleID, GenerationID: id.GenerationID, ConnectionState: "Disconnected",
		Commands: id.waiting(),
		Authentication: authentication{
			c.kind(), symmetricKey{orNull(c.PrimaryKey), orNull(c.SecondaryKey)},
			x509Thumbprint{orNull(c.Thumbprint), orNull(c.SecondaryThumbprint)},
		},
	}
	if id.ModuleID == "" {
		entry.Status = statusOf(h.registry.registered(id))
	}
	if id.connection() != nil {
		entry.ConnectionState = "Connected"
	}
	return entry, nil
}

func statusOf(reg registration) string {
	if reg.Disabled {
		return "disabled"
	}
	return "enabled"
}
