package hubsim

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// twinJSON is a twin as the service side sees it (SVC-17).
type twinJSON struct {
	DeviceID                  string          `json:"deviceId"`
	ModuleID                  string          `json:"moduleId,omitempty"`
	ETag                      string          `json:"etag"`
	DeviceETag                string          `json:"deviceEtag"`
	Status                    string          `json:"status"`
	StatusReason              *string         `json:"statusReason,omitempty"`
	StatusUpdateTime          time.Time       `json:"statusUpdateTime"`
	ConnectionState           string          `json:"connectionState"`
	LastActivityTime          time.Time       `json:"lastActivityTime"`
	CloudToDeviceMessageCount int             `json:"cloudToDeviceMessageCount"`
	AuthenticationType        string          `json:"authenticationType"`
	X509Thumbprint            x509Thumbprint  `json:"x509Thumbprint"`
	ModelID                   string          `json:"modelId,omitempty"`
	Version                   uint64          `json:"version"`
	Capabilities              capabilities    `json:"capabilities"`
	Scope                     string          `json:"deviceScope,omitempty"`
	ParentScopes              []string        `json:"parentScopes,omitempty"`
	Tags                      json.RawMessage `json:"tags,omitempty"`
	Properties                twinProperties  `json:"properties"`
}

type twinProperties struct {
	Desired  json.RawMessage `json:"desired"`
	Reported json.RawMessage `json:"reported"`
}

func (h *Hub) getTwin(r *http.Request) (any, error) {
	id, err := h.twinOwner(r, twinRead, 0)
	if err != nil {
		return nil, err
	}
	return h.row(id).whole()
}

// changeTwin is PATCH, which merges, and PUT, which replaces (SVC-16). The reported properties and the
// hub's own fields of a whole twin in the body change nothing.
func (h *Hub) changeTwin(r *http.Request) (any, error) {
	text, err := readBody(r)
	if err != nil {
		return nil, err
	}
	id, err := h.twinOwner(r, twinUpdate, len(text))
	if err != nil {
		return nil, err
	}
	e, err := parseEdit(text, r.Method == http.MethodPut)
	if err != nil {
		return nil, twinError(err)
	}
	answer, stored, err := h.editTwin(id, e, r.Header.Get("If-Match"))
	if err != nil {
		return nil, err
	}
	return answer, stored.wait()
}

// twinOwner is whose twin a path names, once the hub's limits let the request through.
func (h *Hub) twinOwner(r *http.Request, op operation, size int) (*identity, error) {
	if h.cfg.Limits.Basic {
		return nil, apiError(errTier)
	}
	id, err := h.identityOf(r)
	if err != nil {
		return nil, err
	}
	return id, h.queueRequest(r, op, size)
}

// parseEdit takes tags and desired properties out of a body; PUT empties what it leaves out.
func parseEdit(text []byte, replace bool) (edit, error) {
	body, err := parseObject(text)
	if err != nil {
		return edit{}, err
	}
	e := edit{replace: replace}
	if e.tags, err = sectionOf(body, "tags", replace); err != nil {
		return e, err
	}
	properties, err := sectionOf(body, "properties", replace)
	if err != nil {
		return e, err
	}
	if e.desired, err = sectionOf(properties, "desired", replace); err != nil {
		return e, err
	}
	// Clients send back what they were given.
	delete(e.desired, "$version")
	delete(e.desired, "$metadata")
	if err := checkPatch(e.tags, "tags"); err != nil {
		return e, err
	}
	return e, checkPatch(e.desired, "desired")
}

// sectionOf is a member of o that must be an object; if there is none it is nil, or empty if need be.
func sectionOf(o object, name string, need bool) (object, error) {
	value := o[name]
	if value == nil {
		if need {
			return object{}, nil
		}
		return nil, nil
	}
	section, ok := value.(object)
	if !ok {
		return nil, wrong("SVC-16", "%s is not a JSON object", name)
	}
	return section, nil
}

// editTwin changes a twin, tells the device, and shows the result.
func (h *Hub) editTwin(id *identity, e edit, ifMatch string) (answer twinJSON, stored *saved, err error) {
	t := id.openTwin()
	defer t.mu.Unlock()
	if t.gone {
		return answer, nil, apiError(errNoDevice).because("the device was deleted")
	}
	if want := strings.Trim(ifMatch, `"`); want != "" && want != "*" && want != t.etag() {
		return answer, nil, apiError(errPrecondition).because("the twin's etag is " + t.etag())
	}
	if err := t.apply(e, time.Now()); err != nil {
		return answer, nil, twinError(err)
	}
	stored = h.state.put(twinKind, id.name(), t.twinState)
	change := TwinEvent{Operation: "updateTwin", Version: t.Changes, Tags: e.tags, Desired: e.desired}
	if e.replace {
		change.Operation = "replaceTwin"
	}
	h.tellTwin(id, change)
	if e.desired != nil {
		told := e.desired
		if e.replace { // the new section as a whole (TWIN-13)
			told = t.Desired.values()
		}
		if err := h.notifyDesired(id, told, t.Desired.Version); err != nil {
			return answer, nil, err
		}
	}
	answer, err = h.rowOf(id, t).whole()
	return answer, stored, err
}

// show is a twin without its tags and properties.
func (row *queryRow) show() twinJSON {
	id, reg, t := row.id, &row.reg, &row.twin
	return twinJSON{
		DeviceID: id.DeviceID, ModuleID: id.ModuleID, ETag: t.etag(), DeviceETag: reg.etag(), Version: t.Changes, ModelID: t.Model,
		Status: statusOf(*reg), StatusReason: orNull(reg.StatusReason), StatusUpdateTime: reg.StatusAt,
		ConnectionState: id.state(), LastActivityTime: instant(id.active.Load()), CloudToDeviceMessageCount: id.waiting(),
		AuthenticationType: reg.kind(), X509Thumbprint: reg.show().X509Thumbprint,
		Capabilities: capabilities{reg.Edge}, Scope: reg.Scope, ParentScopes: reg.parents(),
	}
}

// whole is a twin in full.
func (row *queryRow) whole() (shown twinJSON, err error) {
	shown = row.show()
	if len(row.twin.Tags) > 0 {
		if shown.Tags, err = appendObject(nil, row.twin.Tags, 0); err != nil {
			return shown, err
		}
	}
	shown.Properties, err = row.twin.show()
	return shown, err
}

// show is what the service side sees of a twin's properties.
func (t *twinState) show() (both twinProperties, err error) {
	if both.Desired, err = t.Desired.withMetadata(); err == nil {
		both.Reported, err = t.Reported.withMetadata()
	}
	return both, err
}

// identityOf is the device or module that a path names.
func (h *Hub) identityOf(r *http.Request) (*identity, error) {
	return h.lookUp(r.PathValue("device"), r.PathValue("module"))
}

// lookUp is a registered device, or with a module id a module of it.
func (h *Hub) lookUp(device, module string) (*identity, error) {
	if h.registry.find(device) == nil {
		return nil, noDevice(device)
	}
	id := h.registry.find(identityName(device, module))
	if id == nil {
		return nil, noModule(device, module)
	}
	return id, nil
}
