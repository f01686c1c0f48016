package hubsim

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"
)

// registration is what is known about an identity for good.
type registration struct {
	DeviceID     string `json:"deviceId"`
	ModuleID     string `json:"moduleId,omitempty"`
	GenerationID uint64 `json:"generationId,string"`
	settings
}

// settings are what may change of a registration.
type settings struct {
	Credential
	// Disabled is an identity that may not connect (CON-36), since StatusAt and for StatusReason.
	Disabled     bool      `json:"disabled,omitempty"`
	StatusReason string    `json:"statusReason,omitempty"`
	StatusAt     time.Time `json:"statusAt,omitzero"`
	// Edge is an IoT Edge device, whose Scope is its own; that of another device is its parent's (SVC-13).
	Edge        bool   `json:"iotEdge,omitempty"`
	Scope       string `json:"deviceScope,omitempty"`
	ParentScope string `json:"parentScope,omitempty"` // of an Edge device below another
	ManagedBy   string `json:"managedBy,omitempty"`   // of a module
	// Revision counts the changes: it is the etag.
	Revision uint64 `json:"revision,omitempty"`
}

// etag is the registration's entity tag: a number in base64.
func (reg *registration) etag() string {
	return base64.StdEncoding.EncodeToString(strconv.AppendUint(nil, reg.Revision, 10))
}

// setStatus enables or disables.
func (reg *registration) setStatus(disabled bool, at time.Time) {
	if reg.Disabled != disabled {
		reg.Disabled, reg.StatusAt = disabled, at.UTC()
	}
}

// need says whether the identity that a wish is about must exist.
type need uint8

const (
	either    need = iota // it is made if need be, for a module also its device
	mustBeNew             // SVC-8
	mustExist
)

// wish is a change of the registry.
type wish struct {
	device, module string
	need           need
	match          string                    // the etag that it must have; "" and "*" are any
	edit           func(*registration) error // nil changes nothing; after an error nothing has changed
}

// register grants a wish and waits until it is on disk.
func (r *registry) register(w wish) (registration, error) {
	reg, stored, err := r.put(w)
	if err != nil {
		return reg, err
	}
	if err := stored.wait(); err != nil {
		return reg, fmt.Errorf("hubsim: registering %s: %w", identityName(w.device, w.module), err)
	}
	return reg, nil
}

// put grants a wish in memory and notes it for the disk.
func (r *registry) put(w wish) (registration, *saved, error) {
	if err := checkID(w.device); err != nil {
		return registration{}, nil, err
	}
	if w.module != "" {
		if err := checkID(w.module); err != nil {
			return registration{}, nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.identities[identityName(w.device, w.module)]
	if err := r.may(w, id); err != nil {
		return registration{}, nil, err
	}
	if id == nil {
		return r.create(w)
	}
	reg := id.registration
	if err := r.edit(w, &reg); err != nil || reg == id.registration {
		return id.registration, r.state.write(), err
	}
	reg.Revision++
	id.settings = reg.settings // the ids are read without the lock
	r.tellDevice("update", reg)
	return reg, r.state.put(identityKind, id.name(), reg), nil
}

// may tells why a wish cannot be granted, whatever it changes; id is nil if there is none yet.
func (r *registry) may(w wish, id *identity) error {
	parent := r.identities[w.device]
	switch {
	case id != nil && w.need == mustBeNew && w.module != "":
		return apiError(errModuleExists).because(fmt.Sprintf("device %s has a module %s already", w.device, w.module))
	case id != nil && w.need == mustBeNew:
		return apiError(errDeviceExists).because(fmt.Sprintf("a device %s exists already", w.device))
	case id != nil && w.match != "" && w.match != "*" && w.match != id.etag():
		return apiError(errPrecondition).because("the etag is " + id.etag())
	case parent == nil && (w.need == mustExist || w.need == mustBeNew && w.module != ""):
		return noDevice(w.device)
	case id == nil && w.need == mustExist:
		return noModule(w.device, w.module)
	case id == nil && w.module != "" && parent != nil && parent.modules >= maxModules:
		return apiError(errTooManyModules).because(fmt.Sprintf("device %s has %d modules", w.device, maxModules))
	}
	return nil
}

// maxModules is how many modules a device has (TWIN-38).
const maxModules = 50

// create makes an identity, for a module also its device if there is none; the caller holds mu.
func (r *registry) create(w wish) (registration, *saved, error) {
	reg := newRegistration(w.device, w.module)
	if err := r.edit(w, &reg); err != nil {
		return reg, nil, err
	}
	all := []registration{reg}
	if w.module != "" && r.identities[w.device] == nil {
		all = []registration{newRegistration(w.device, ""), reg}
	}
	var changes []change
	for _, one := range all {
		name := identityName(one.DeviceID, one.ModuleID)
		r.identities[name], r.order = &identity{registration: one}, nil
		r.tellDevice("create", one)
		changes = append(changes, change{identityKind, name, one})
	}
	if w.module != "" {
		r.identities[w.device].modules++
	}
	return reg, r.state.write(changes...), nil
}

// newRegistration is an identity as it is without further wishes: enabled, with keys.
func newRegistration(device, module string) registration {
	return registration{
		DeviceID: device, ModuleID: module, GenerationID: uint64(time.Now().UnixNano()),
		settings: settings{Credential: Credential{}.replace(Credential{}), Revision: uint64(rand.Uint32())},
	}
}

// edit does what a wish wants with reg; the caller holds mu.
func (r *registry) edit(w wish, reg *registration) error {
	if w.edit == nil {
		return nil
	}
	was := *reg
	if err := w.edit(reg); err != nil {
		return err
	}
	return r.settleScope(was, reg)
}

// settleScope gives an IoT Edge device its scope and checks those of parents (SVC-13).
func (r *registry) settleScope(was registration, reg *registration) error {
	wrongScope := func(why string) error { return apiError(errScope).because(why) }
	if reg.Edge && !was.Edge {
		reg.Scope = fmt.Sprintf("ms-azure-iot-edge://%s-%d", reg.DeviceID, time.Now().UnixNano()/100)
	}
	if was.Edge && !reg.Edge {
		reg.Scope, was.Scope = "", ""
	}
	parent := reg.Scope
	switch {
	case reg.Edge && was.Edge && reg.Scope != was.Scope:
		return wrongScope("the scope of an IoT Edge device cannot be changed")
	case reg.Edge:
		parent = reg.ParentScope
	case was.Scope != "" && reg.Scope != was.Scope && !was.Edge:
		return wrongScope("the device belongs to another scope already")
	}
	if parent == "" || parent == was.Scope || parent == was.ParentScope {
		return nil
	}
	for _, id := range r.identities {
		if id.Edge && id.Scope == parent && id.DeviceID != reg.DeviceID {
			return nil
		}
	}
	return wrongScope(fmt.Sprintf("there is no IoT Edge device with the scope %q", parent))
}
