package hubsim

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Provisioning is the Device Provisioning Service that comes with a hub, on the hub's own addresses: the
// user name of a CONNECT tells which of the two it is for.
type Provisioning struct {
	// IDScope names the service in user names (DPS-2); "" is one that is made at the first start and kept.
	IDScope string
	// RetryAfter is when a device should ask again, in whole seconds (DPS-8, DPS-11); 0 is 3 s.
	RetryAfter time.Duration
	// AssignAfter is how long an assignment takes at least.
	AssignAfter time.Duration
}

// provisioner holds the enrolments and where each device was assigned.
type provisioner struct {
	state *state
	scope string

	mu          sync.Mutex              // guards the fields below, never what an *Enrollment points to: that never changes
	enrollments map[string]*Enrollment  // by Enrollment.key
	assignments map[string]assignment   // by the registration id in lower case
	operations  map[string]*registering // the newest of each registration id in lower case
	linked      map[string]*linkedHub   // by host name
}

// Kinds of the state.
const (
	scopeKind      = "provisioning" // the id scope, by "scope"
	enrollmentKind = "enrollment"   // by Enrollment.key
	assignmentKind = "assignment"   // by the registration id in lower case
	linkedKind     = "linkedhub"    // a LinkedHub, by host name
)

// assignment is where a device was assigned.
type assignment struct {
	RegistrationState
	Group string `json:"group,omitempty"` // whose enrolment it was
}

// RegistrationState is where a device was assigned, as the service shows it to the device (DPS-10) and to
// REST.
type RegistrationState struct {
	RegistrationID         string    `json:"registrationId"`
	CreatedDateTimeUtc     time.Time `json:"createdDateTimeUtc"`
	AssignedHub            string    `json:"assignedHub,omitempty"`
	DeviceID               string    `json:"deviceId,omitempty"`
	Status                 string    `json:"status"` // assigning, assigned, failed or disabled
	Substatus              string    `json:"substatus,omitempty"`
	ErrorCode              int       `json:"errorCode,omitempty"`
	ErrorMessage           string    `json:"errorMessage,omitempty"`
	LastUpdatedDateTimeUtc time.Time `json:"lastUpdatedDateTimeUtc"`
	ETag                   string    `json:"etag"`
	// Payload is what a custom allocation has for the device.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// openProvisioner loads what st holds.
func openProvisioner(st *state, cfg Provisioning) (*provisioner, error) {
	p := &provisioner{
		state: st, scope: cfg.IDScope, enrollments: map[string]*Enrollment{}, assignments: map[string]assignment{},
		operations: map[string]*registering{}, linked: map[string]*linkedHub{},
	}
	err := errors.Join(
		st.each(scopeKind, func(_ string, text []byte) error {
			if p.scope != "" {
				return nil
			}
			return json.Unmarshal(text, &p.scope)
		}),
		st.each(enrollmentKind, func(key string, text []byte) error {
			p.enrollments[key] = &Enrollment{}
			return json.Unmarshal(text, p.enrollments[key])
		}),
		st.each(assignmentKind, func(key string, text []byte) error {
			var a assignment
			err := json.Unmarshal(text, &a)
			p.assignments[key] = a
			return err
		}),
		st.each(linkedKind, func(_ string, text []byte) error {
			var l LinkedHub
			if err := json.Unmarshal(text, &l); err != nil {
				return err
			}
			hub, err := l.open()
			if err == nil {
				p.linked[hub.name] = hub
			}
			return err
		}),
	)
	if err == nil && p.scope == "" {
		p.scope = "0ne" + strings.ToUpper(fmt.Sprintf("%08x", random(4)))
		err = st.put(scopeKind, "scope", p.scope).wait()
	}
	return p, err
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// IDScope names the hub's provisioning service in user names and tokens (DPS-2, DPS-3).
func (h *Hub) IDScope() string { return h.provisioner.scope }

// AssignedName is what the provisioning service calls this hub towards devices: its name, or if that means
// this machine where they find it, with the port of MQTT unless it is 8883.
func (h *Hub) AssignedName() string {
	if name := hostOnly(h.cfg.HostName); !answersTo("localhost", name) {
		return name
	}
	return h.reach()
}

// isCalled tells whether name, with any port, is this hub's.
func (h *Hub) isCalled(name string) bool {
	return strings.EqualFold(hostOnly(name), hostOnly(h.cfg.HostName))
}

// Enroll adds an enrolment to the hub's provisioning service, or replaces the one with its id, and returns
// it with its keys and etag. The error says what is wrong with it, or that it could not be stored.
func (h *Hub) Enroll(e Enrollment) (Enrollment, error) { return h.enroll(e, "") }

// enroll is Enroll under the condition of an If-Match header; "" is none.
func (h *Hub) enroll(e Enrollment, ifMatch string) (Enrollment, error) {
	e, stored, err := h.noteEnrollment(e, ifMatch)
	if err != nil {
		return e, err
	}
	return e, stored.wait()
}

// noteEnrollment does it in memory and notes it for the disk.
func (h *Hub) noteEnrollment(e Enrollment, ifMatch string) (Enrollment, *saved, error) {
	p := h.provisioner
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.enrollments[e.key()]
	if err := matches(ifMatch, old != nil, old.etag()); err != nil {
		return e, nil, err
	}
	e, err := e.normal(old)
	if err != nil {
		return e, nil, apiError(errArgument).because(err.Error())
	}
	for _, name := range append(slices.Clone(e.IotHubs), e.IotHubHostName) {
		if name != "" && p.linked[strings.ToLower(name)] == nil && !h.isCalled(name) {
			return e, nil, apiError(errArgument).because(fmt.Sprintf("the hub %q is not linked to this provisioning service", name))
		}
	}
	now := time.Now().UTC()
	e.ETag, e.CreatedDateTimeUtc, e.LastUpdatedDateTimeUtc = newETag(), now, now
	if old != nil {
		e.CreatedDateTimeUtc = old.CreatedDateTimeUtc
	}
	p.enrollments[e.key()] = &e
	return p.shown(&e), p.state.put(enrollmentKind, e.key(), e), nil
}

func newETag() string { return fmt.Sprintf("%x", random(8)) }

// etag is "" of nothing.
func (e *Enrollment) etag() string {
	if e == nil {
		return ""
	}
	return e.ETag
}

// matches is the precondition of a change (SVC-7), with or without quotes.
func matches(ifMatch string, exists bool, etag string) error {
	switch want := strings.Trim(ifMatch, `"`); {
	case want == "", want == "*" && exists, exists && want == etag:
		return nil
	case !exists:
		return apiError(errPrecondition).because("there is nothing to change")
	}
	return apiError(errPrecondition).because("the etag is " + etag)
}

// shown is e with the state of its device; the caller holds mu.
func (p *provisioner) shown(e *Enrollment) Enrollment {
	shown := *e
	if a, ok := p.assignments[strings.ToLower(e.RegistrationID)]; ok && !e.isGroup() {
		shown.RegistrationState = &a.RegistrationState
	}
	return shown
}

// Enrollments lists the enrolments of the hub's provisioning service by id, with their keys; groups come
// first.
func (h *Hub) Enrollments() []Enrollment {
	p := h.provisioner
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Enrollment
	for _, key := range slices.Sorted(maps.Keys(p.enrollments)) {
		all = append(all, p.shown(p.enrollments[key]))
	}
	return all
}

// find is an enrolment by its key.
func (p *provisioner) find(key string) (Enrollment, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.enrollments[key]
	if e == nil {
		return Enrollment{}, false
	}
	return p.shown(e), true
}

// unenroll removes an enrolment. Devices that were assigned stay where they are.
func (p *provisioner) unenroll(key, ifMatch string) error {
	return p.remove(func() (*saved, error) {
		e := p.enrollments[key]
		if e == nil {
			return nil, errNotEnrolled()
		}
		if err := matches(ifMatch, true, e.ETag); err != nil {
			return nil, err
		}
		delete(p.enrollments, key)
		return p.state.delete(enrollmentKind, key), nil
	})
}

// forget removes what is known of a device's assignment: its hub is chosen anew next time.
func (p *provisioner) forget(registrationID, ifMatch string) error {
	key := strings.ToLower(registrationID)
	return p.remove(func() (*saved, error) {
		a, ok := p.assignments[key]
		if !ok {
			return nil, errNotRegistered()
		}
		if err := matches(ifMatch, true, a.ETag); err != nil {
			return nil, err
		}
		delete(p.assignments, key)
		delete(p.operations, key)
		return p.state.delete(assignmentKind, key), nil
	})
}

// remove calls note with mu held and waits without it until the disk has what it noted.
func (p *provisioner) remove(note func() (*saved, error)) error {
	p.mu.Lock()
	stored, err := note()
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return stored.wait()
}

// Errors of the service (DPS-11), with the codes that are on record of the real one.
func errNotEnrolled() *Error {
	return &Error{Status: http.StatusNotFound, Code: 404201, Name: "EnrollmentNotFound", Message: "Enrollment not found."}
}

func errNotRegistered() *Error {
	return &Error{Status: http.StatusNotFound, Code: 404202, Name: "RegistrationNotFound", Message: "Registration not found."}
}
