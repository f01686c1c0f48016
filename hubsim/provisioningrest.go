package hubsim

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// routeProvisioning serves the paths of the Device Provisioning Service's REST API. Tokens are of the hub's
// policies: RegistryRead and RegistryWrite stand for the service's own rights.
func (h *Hub) routeProvisioning(mux *http.ServeMux) {
	serve := func(pattern string, want right, f provisioningEndpoint) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
			err := h.authorize(r, want)
			if err == nil && checkVersion(r.URL.Query().Get("api-version")) != nil {
				err = apiError(errVersion)
			}
			if err == nil {
				err = f(w, r)
			}
			if err != nil {
				h.writeProvisioningError(w, r, err)
			}
		})
	}
	for _, path := range []string{"/enrollments", "/enrollmentGroups", "/enrollmentgroups"} { // clients spell it both ways
		key := individualKey
		if path != "/enrollments" {
			key = groupKey
		}
		serve("GET "+path+"/{id}", registryRead, h.withEnrollment(key, writeEnrollment))
		serve("PUT "+path+"/{id}", registryWrite, h.putEnrollment(key))
		serve("DELETE "+path+"/{id}", registryWrite, func(w http.ResponseWriter, r *http.Request) error {
			return noContent(w, h.provisioner.unenroll(key(r.PathValue("id")), r.Header.Get("If-Match")))
		})
		serve("POST "+path+"/query", registryRead, func(w http.ResponseWriter, r *http.Request) error {
			return writePage(w, r, h.enrollmentsOf(key("")))
		})
		serve("POST "+path+"/{id}/attestationmechanism", registryRead, h.withEnrollment(key, writeAttestation))
	}
	serve("GET /registrations/{id}", registryRead, h.getRegistration)
	serve("DELETE /registrations/{id}", registryWrite, func(w http.ResponseWriter, r *http.Request) error {
		return noContent(w, h.provisioner.forget(r.PathValue("id"), r.Header.Get("If-Match")))
	})
	serve("POST /registrations/{group}/query", registryRead, func(w http.ResponseWriter, r *http.Request) error {
		return writePage(w, r, h.provisioner.registrationsOf(r.PathValue("group")))
	})
}

// provisioningEndpoint answers a request, or returns an error before it has.
type provisioningEndpoint func(http.ResponseWriter, *http.Request) error

// writeProvisioningError writes an error in the service's form, which is not the hub's (DPS-11).
func (h *Hub) writeProvisioningError(w http.ResponseWriter, r *http.Request, err error) {
	bad := toldOf(err)
	h.log.Warn().Int("status", bad.Status).Msgf("%s %s: %s", r.Method, r.URL.Path, strings.TrimPrefix(bad.Error(), "hubsim: "))
	body, err := bad.deviceBody(time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(bad.Status)
	_, _ = w.Write(body)
}

func writeJSON(w http.ResponseWriter, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = w.Write(body)
	return nil
}

func noContent(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// withEnrollment looks the enrolment of a path up.
func (h *Hub) withEnrollment(key func(string) string, write func(http.ResponseWriter, Enrollment) error) provisioningEndpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		e, ok := h.provisioner.find(key(r.PathValue("id")))
		if !ok {
			return errNotEnrolled()
		}
		return write(w, e)
	}
}

func writeEnrollment(w http.ResponseWriter, e Enrollment) error { return writeJSON(w, e.withoutKeys()) }

func writeAttestation(w http.ResponseWriter, e Enrollment) error { return writeJSON(w, e.Attestation) }

// withoutKeys is e as REST shows it.
func (e Enrollment) withoutKeys() Enrollment {
	e.Attestation.SymmetricKey = nil
	return e
}

// putEnrollment adds or replaces the enrolment of a path. A body that was read from REST and is sent back
// has no keys: then they stay.
func (h *Hub) putEnrollment(key func(string) string) provisioningEndpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		var e Enrollment
		if err := readJSON(r, &e); err != nil {
			return err
		}
		if id := r.PathValue("id"); e.key() != key(id) {
			return apiError(errArgument).because(fmt.Sprintf("the body is not of the enrolment %q, which the path names", id))
		}
		e, err := h.enroll(e, r.Header.Get("If-Match"))
		if err != nil {
			return err
		}
		return writeEnrollment(w, e)
	}
}

func (h *Hub) getRegistration(w http.ResponseWriter, r *http.Request) error {
	p := h.provisioner
	p.mu.Lock()
	a, ok := p.assignments[strings.ToLower(r.PathValue("id"))]
	p.mu.Unlock()
	if !ok {
		return errNotRegistered()
	}
	return writeJSON(w, a.RegistrationState)
}

// enrollmentsOf lists the enrolments whose key begins with prefix, without their keys.
func (h *Hub) enrollmentsOf(prefix string) []any {
	all := []any{}
	for _, e := range h.Enrollments() {
		if strings.HasPrefix(e.key(), prefix) {
			all = append(all, e.withoutKeys())
		}
	}
	return all
}

// registrationsOf lists the devices that a group has provisioned.
func (p *provisioner) registrationsOf(group string) []any {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []any{}
	for _, id := range slices.Sorted(maps.Keys(p.assignments)) {
		if a := p.assignments[id]; strings.EqualFold(a.Group, group) {
			all = append(all, a.RegistrationState)
		}
	}
	return all
}

// maxPageItems is how many entries an answer to a query has at most.
const maxPageItems = 1000

// writePage answers a query with a page of all; the continuation is where the next one begins (SVC-20). A
// query selects everything: the service has no other.
func writePage(w http.ResponseWriter, r *http.Request, all []any) error {
	var body struct {
		Query string `json:"query"`
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	words := strings.Fields(strings.ToLower(body.Query))
	if len(words) > 0 && (words[0] != "*" && words[0] != "select" || slices.Contains(words, "where")) {
		return apiError(errArgument).because("a query of the provisioning service is SELECT * without conditions")
	}
	from, size, err := 0, maxPageItems, error(nil)
	if text := r.Header.Get("x-ms-continuation"); text != "" {
		if from, err = strconv.Atoi(text); err != nil || from < 0 {
			return apiError(errArgument).because("x-ms-continuation is not from this service")
		}
	}
	if text := r.Header.Get("x-ms-max-item-count"); text != "" && text != "-1" {
		if size, err = strconv.Atoi(text); err != nil || size < 1 {
			return apiError(errArgument).because("x-ms-max-item-count is not a positive number")
		}
	}
	from = min(from, len(all))
	to := min(from+min(size, maxPageItems), len(all))
	if to < len(all) {
		w.Header().Set("x-ms-continuation", strconv.Itoa(to))
	}
	return writeJSON(w, all[from:to])
}

// provisioningInfo is what GET /hubsim/provisioning answers.
type provisioningInfo struct {
	IDScope string `json:"idScope"`
	// Host is where devices find the service: host:port of MQTT.
	Host string `json:"host"`
	// Hubs are the names by which enrolments may call hubs; the first is this one's.
	Hubs []string `json:"hubs"`
}

func (h *Hub) getProvisioning(*http.Request) (any, error) {
	return provisioningInfo{h.IDScope(), h.MQTTAddr(), append([]string{h.AssignedName()}, h.provisioner.linkedNames()...)}, nil
}

// postLinkedHub makes another hub known to the provisioning service.
func (h *Hub) postLinkedHub(r *http.Request) (any, error) {
	var l LinkedHub
	if err := readSetting(r, &l); err != nil {
		return nil, err
	}
	if _, err := l.open(); err != nil {
		return nil, apiError(errArgument).because(err.Error())
	}
	return struct{}{}, h.LinkHub(l)
}
