package hubsim

import (
	"fmt"
	"time"
)

// registryEntry is a device or module as the registry's REST side shows it (SVC-9, SVC-12).
type registryEntry struct {
	DeviceID        string    `json:"deviceId"`
	ModuleID        string    `json:"moduleId,omitempty"`
	ManagedBy       *string   `json:"managedBy,omitempty"` // of a module
	GenerationID    uint64    `json:"generationId,string"`
	ETag            string    `json:"etag"`
	ConnectionState string    `json:"connectionState"`
	ConnectedAt     time.Time `json:"connectionStateUpdatedTime"`
	LastActivity    time.Time `json:"lastActivityTime"`
	// Commands counts the cloud-to-device messages that wait.
	Commands       int            `json:"cloudToDeviceMessageCount"`
	Authentication authentication `json:"authentication"`
	*deviceEntry                  // of a device
}

// deviceEntry is what modules do not have.
type deviceEntry struct {
	Status       string       `json:"status"`
	StatusReason *string      `json:"statusReason"`
	StatusAt     time.Time    `json:"statusUpdatedTime"`
	Capabilities capabilities `json:"capabilities"`
	Scope        string       `json:"deviceScope,omitempty"`
	ParentScopes []string     `json:"parentScopes,omitempty"`
}

type capabilities struct {
	Edge bool `json:"iotEdge"`
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

// orEmpty is the text that orNull took.
func orEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// showEntry is an identity as the registry shows it.
func (h *Hub) showEntry(id *identity) registryEntry {
	reg := h.registry.registered(id)
	entry := registryEntry{
		DeviceID: id.DeviceID, ModuleID: id.ModuleID, GenerationID: reg.GenerationID, ETag: reg.etag(),
		ConnectionState: id.state(), ConnectedAt: instant(id.turned.Load()), LastActivity: instant(id.active.Load()),
		Commands: id.waiting(), Authentication: reg.show(),
	}
	if id.ModuleID != "" {
		entry.ManagedBy = &reg.ManagedBy
		return entry
	}
	entry.deviceEntry = &deviceEntry{
		Status: statusOf(reg), StatusReason: orNull(reg.StatusReason), StatusAt: reg.StatusAt,
		Capabilities: capabilities{reg.Edge}, Scope: reg.Scope, ParentScopes: reg.parents(),
	}
	return entry
}

// instant is a time in Unix nanoseconds; 0 is the year 1, as the hub shows what never was.
func instant(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(0, at).UTC()
}

// state is how connectionState says whether an identity has a connection.
func (id *identity) state() string {
	if id.connection() != nil {
		return "Connected"
	}
	return "Disconnected"
}

func statusOf(reg registration) string {
	if reg.Disabled {
		return "disabled"
	}
	return "enabled"
}

// parents are the scopes of the Edge devices above it.
func (reg *registration) parents() []string {
	switch {
	case reg.ParentScope != "":
		return []string{reg.ParentScope}
	case !reg.Edge && reg.Scope != "":
		return []string{reg.Scope}
	}
	return nil
}

func (c Credential) show() authentication {
	return authentication{
		c.kind(), symmetricKey{orNull(c.PrimaryKey), orNull(c.SecondaryKey)},
		x509Thumbprint{orNull(c.Thumbprint), orNull(c.SecondaryThumbprint)},
	}
}

// credential is what a client's authentication asks for. Without a type a thumbprint decides.
func (a authentication) credential() (Credential, error) {
	keys := Credential{PrimaryKey: orEmpty(a.SymmetricKey.PrimaryKey), SecondaryKey: orEmpty(a.SymmetricKey.SecondaryKey)}
	thumbs := Credential{Thumbprint: orEmpty(a.X509Thumbprint.PrimaryThumbprint), SecondaryThumbprint: orEmpty(a.X509Thumbprint.SecondaryThumbprint)}
	switch {
	case a.Type == byKey, a.Type == "" && thumbs == (Credential{}):
		return keys.normal()
	case a.Type == byThumb && thumbs == (Credential{}):
		return thumbs, fmt.Errorf("authentication is %s and has no thumbprint", byThumb)
	case a.Type == byThumb, a.Type == "":
		return thumbs.normal()
	case a.Type == byAuthority:
		return Credential{X509CA: true}, nil
	case a.Type == byNothing:
		return Credential{None: true}, nil
	}
	return Credential{}, fmt.Errorf("authentication is of type %q, which is none of %s, %s, %s and %s", a.Type, byKey, byThumb, byAuthority, byNothing)
}

// entryWish is what a client may say about a device or module. What it leaves out stays as it is.
type entryWish struct {
	DeviceID       string          `json:"deviceId"`
	ModuleID       string          `json:"moduleId"`
	Status         string          `json:"status"`
	StatusReason   *string         `json:"statusReason"`
	Authentication *authentication `json:"authentication"`
	Capabilities   *capabilities   `json:"capabilities"`
	Scope          *string         `json:"deviceScope"`
	ParentScopes   []string        `json:"parentScopes"`
	ManagedBy      *string         `json:"managedBy"`
}

// edit is how a wish changes a registration. Its error is an *Error about what it says.
func (e entryWish) edit() (func(*registration) error, error) {
	refuse := func(err error) error { return apiError(errArgument).because(err.Error()) }
	if e.Status != "" && e.Status != "enabled" && e.Status != "disabled" {
		return nil, refuse(fmt.Errorf("status is %q, not enabled or disabled", e.Status))
	}
	if len(e.ParentScopes) > 1 {
		return nil, refuse(fmt.Errorf("parentScopes has %d scopes, at most 1 is allowed", len(e.ParentScopes)))
	}
	var c Credential
	if e.Authentication != nil {
		var err error
		if c, err = e.Authentication.credential(); err != nil {
			return nil, refuse(err)
		}
	}
	return func(reg *registration) error {
		if e.Authentication != nil {
			reg.Credential = c.replace(reg.Credential)
		}
		if e.Status != "" {
			reg.setStatus(e.Status == "disabled", time.Now())
		}
		for _, one := range []struct{ to, from *string }{{&reg.StatusReason, e.StatusReason}, {&reg.ManagedBy, e.ManagedBy}, {&reg.Scope, e.Scope}} {
			if one.from != nil {
				*one.to = *one.from
			}
		}
		if e.Capabilities != nil {
			reg.Edge = e.Capabilities.Edge
		}
		if len(e.ParentScopes) == 1 {
			if reg.ParentScope = e.ParentScopes[0]; !reg.Edge {
				reg.Scope, reg.ParentScope = reg.ParentScope, ""
			}
		}
		return nil
	}, nil
}
