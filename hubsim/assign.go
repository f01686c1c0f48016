package hubsim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// registering is a registration that a device asked for.
type registering struct {
	id         string
	enrollment *Enrollment
	credential Credential // what the device proves itself to its hub with
	name       string     // the registration id as the device spells it
	payload    json.RawMessage

	done  chan struct{} // closed when state is there
	state RegistrationState
}

// arrival is a device that is assigned to a hub.
type arrival struct {
	device     string
	credential Credential
	edge       bool
	twin       []byte // its tags and desired properties, nil leaves them
}

// candidate is a hub as the provisioning service sees it.
type candidate interface {
	// admit registers a device, or gives one that is there this credential and twin.
	admit(ctx context.Context, a arrival) error
	// twin is the tags and desired properties of the device, nil if the hub does not have it.
	twin(ctx context.Context, device string) ([]byte, error)
	// remove deletes the device; one that is not there is no error.
	remove(ctx context.Context, device string) error
}

// ownHub is the hub that the service came with.
type ownHub struct{ *Hub }

func (h ownHub) admit(_ context.Context, a arrival) error {
	c, err := a.credential.normal()
	if err != nil {
		return err
	}
	_, err = h.registry.register(wish{device: a.device, edit: func(reg *registration) error {
		reg.Credential, reg.Edge = c.replace(reg.Credential), reg.Edge || a.edge
		return nil
	}})
	if err != nil || a.twin == nil {
		return err
	}
	e, err := parseEdit(a.twin, true)
	if err != nil {
		return err
	}
	id, err := h.lookUp(a.device, "")
	if err != nil {
		return err
	}
	_, stored, err := h.editTwin(id, e, "")
	if err != nil {
		return err
	}
	return stored.wait()
}

func (h ownHub) twin(_ context.Context, device string) ([]byte, error) {
	id := h.registry.find(device)
	if id == nil {
		return nil, nil
	}
	t := id.openTwin()
	defer t.mu.Unlock()
	return portable(t.Tags, t.Desired.values())
}

func (h ownHub) remove(_ context.Context, device string) error {
	if err := h.Unregister(device, ""); !missing(err) {
		return err
	}
	return nil
}

// candidate is the hub that an enrolment or an assignment calls name, and what a device is told instead.
func (h *Hub) candidate(name string) (hub candidate, told string, err error) {
	h.provisioner.mu.Lock()
	linked := h.provisioner.linked[strings.ToLower(name)]
	h.provisioner.mu.Unlock()
	switch {
	case linked != nil:
		return linked, linked.name, nil
	case h.isCalled(name):
		return ownHub{h}, h.AssignedName(), nil
	}
	return nil, "", fmt.Errorf("the hub %q is not linked to this provisioning service", name)
}

// choices are the hubs that an enrolment allows.
func (h *Hub) choices(e *Enrollment) []string {
	switch {
	case e.IotHubHostName != "":
		return []string{e.IotHubHostName}
	case len(e.IotHubs) > 0:
		return e.IotHubs
	}
	return append([]string{h.AssignedName()}, h.provisioner.linkedNames()...)
}

// choose picks a hub by the allocation policy; a custom allocation may also have a twin and a payload.
func (h *Hub) choose(ctx context.Context, op *registering) (allocation, error) {
	e, names := op.enrollment, h.choices(op.enrollment)
	switch e.AllocationPolicy {
	case "static":
		return allocation{IotHubHostName: names[0]}, nil
	case "custom":
		return askAllocator(ctx, op, names)
	}
	sum := sha256.Sum256([]byte(strings.ToLower(op.name)))
	return allocation{IotHubHostName: names[binary.BigEndian.Uint32(sum[:])%uint32(len(names))]}, nil
}

// allocation is the answer of a custom allocation.
type allocation struct {
	IotHubHostName string          `json:"iotHubHostName"`
	InitialTwin    json.RawMessage `json:"initialTwin"`
	Payload        json.RawMessage `json:"payload"`
}

// askAllocator asks the web service of a custom allocation, in the form that Azure asks a function.
func askAllocator(ctx context.Context, op *registering, names []string) (allocation, error) {
	var got allocation
	e := op.enrollment.withoutKeys()
	device := map[string]any{"registrationId": op.name, e.Attestation.Type: struct{}{}}
	if op.payload != nil {
		device["payload"] = op.payload
	}
	question := map[string]any{"deviceRuntimeContext": device, "linkedHubs": names}
	if e.isGroup() {
		question["enrollmentGroup"] = e
	} else {
		question["individualEnrollment"] = e
	}
	body, err := json.Marshal(question)
	if err != nil {
		return got, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.CustomAllocation.WebhookURL, bytes.NewReader(body))
	if err != nil {
		return got, err
	}
	request.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return got, fmt.Errorf("custom allocation: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxRequest))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("custom allocation failed with status code: %d", response.StatusCode)
	}
	if err != nil {
		return got, err
	}
	if err := json.Unmarshal(text, &got); err != nil {
		return got, fmt.Errorf("custom allocation: %w", err)
	}
	return got, nil
}

// assign carries an operation out and keeps the outcome.
func (h *Hub) assign(ctx context.Context, op *registering) {
	select {
	case <-time.After(h.cfg.Provisioning.AssignAfter):
	case <-ctx.Done():
	}
	state, err := h.place(ctx, op)
	if err != nil {
		state.Status, state.ErrorCode, state.ErrorMessage = "failed", 500001, err.Error()
		state.AssignedHub, state.DeviceID, state.Substatus, state.Payload = "", "", "", nil
		var bad *Error
		if errors.As(err, &bad) && bad.Code != 0 {
			state.ErrorCode = bad.Code
		}
		h.log.Warn().Err(err).Msg(op.name + ": not provisioned")
	} else if state.Status == "assigned" {
		h.log.Info().Str("hub", state.AssignedHub).Str("device", state.DeviceID).Msg(op.name + ": provisioned")
	}
	op.state = state
	close(op.done)
}

// place finds the device's hub and registers it there.
func (h *Hub) place(ctx context.Context, op *registering) (RegistrationState, error) {
	p, e, now := h.provisioner, op.enrollment, time.Now().UTC()
	p.mu.Lock()
	last, before := p.assignments[strings.ToLower(op.name)]
	p.mu.Unlock()
	state := RegistrationState{
		RegistrationID: op.name, CreatedDateTimeUtc: now, LastUpdatedDateTimeUtc: now, ETag: newETag(),
		DeviceID: e.DeviceID, Status: "assigned", Substatus: "initialAssignment",
	}
	if state.DeviceID == "" {
		state.DeviceID = op.name
	}
	if before {
		state.CreatedDateTimeUtc = last.CreatedDateTimeUtc
	}
	if e.ProvisioningStatus == statusDisabled {
		state.Status, state.Substatus = statusDisabled, ""
		return state, nil
	}
	got := allocation{IotHubHostName: last.AssignedHub, Payload: last.Payload}
	if !before || e.ReprovisionPolicy.UpdateHubAssignment {
		var err error
		if got, err = h.choose(ctx, op); err != nil {
			return state, err
		}
	}
	state.Payload = got.Payload
	if got.InitialTwin == nil {
		got.InitialTwin = e.InitialTwin
	}
	hub, told, err := h.candidate(got.IotHubHostName)
	if err != nil {
		return state, err
	}
	state.AssignedHub = told
	if err := h.settle(ctx, &state, hub, move{op, last, got.InitialTwin}); err != nil {
		return state, err
	}
	return state, p.keep(assignment{state, e.EnrollmentGroupID})
}

// keep stores where a device was assigned.
func (p *provisioner) keep(a assignment) error {
	key := strings.ToLower(a.RegistrationID)
	p.mu.Lock()
	p.assignments[key] = a
	stored := p.state.put(assignmentKind, key, a)
	p.mu.Unlock()
	return stored.wait()
}

// move is what a device brings to its hub.
type move struct {
	op          *registering
	last        assignment // where it was, nothing if it is new
	initialTwin []byte
}

// settle registers a device at its hub, with what it had at the one before, and says in state how.
func (h *Hub) settle(ctx context.Context, state *RegistrationState, hub candidate, m move) error {
	a := arrival{device: state.DeviceID, credential: m.op.credential, twin: m.initialTwin}
	a.edge = m.op.enrollment.Capabilities != nil && m.op.enrollment.Capabilities.IotEdge
	if m.last.AssignedHub == "" {
		return hub.admit(ctx, a)
	}
	old, oldName, err := h.candidate(m.last.AssignedHub)
	state.Substatus = "deviceDataReset"
	if err != nil { // its old hub is not known any more
		return hub.admit(ctx, a)
	}
	stays := oldName == state.AssignedHub && m.last.DeviceID == state.DeviceID
	if stays {
		state.Substatus = m.last.Substatus
	}
	if stays || m.op.enrollment.ReprovisionPolicy.MigrateDeviceData {
		kept, err := old.twin(ctx, m.last.DeviceID)
		switch {
		case err != nil:
			return fmt.Errorf("the twin at %s: %w", oldName, err)
		case kept != nil && stays:
			a.twin = nil // it is there
		case kept != nil:
			a.twin, state.Substatus = kept, "deviceDataMigrated"
		}
	}
	if err := hub.admit(ctx, a); err != nil || stays {
		return err
	}
	return old.remove(ctx, m.last.DeviceID)
}

// portable is what of a twin another hub takes.
func portable(tags, desired object) ([]byte, error) {
	return json.Marshal(map[string]any{"tags": tags, "properties": map[string]any{"desired": desired}})
}
