package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	limits "golang.org/x/time/rate"

	gateway "iothub-gateway"
	"iothub-gateway/internal/control"
)

const (
	healthEvery = 2 * time.Second
	// A device's health is reported when its state or error changes: healthBurst changes at once, then one
	// each healthPause; and every healthRefresh while it is up.
	healthPause   = 15 * time.Second
	healthBurst   = 4
	healthRefresh = time.Hour
	// unknownFor is how long a device that nothing is known of yet is not reported.
	unknownFor = time.Minute
	// fleetEvery is how often the gateway's own identity sends a message; its reported properties follow
	// changes as those of devices do.
	fleetEvery = 5 * time.Minute
	// longestReason is how much of an error is reported, in bytes.
	longestReason = 500

	deviceHealth = "gateway.devices."
	fleetHealth  = "gateway.fleet"
)

// reportedHealth is what was reported of a device last.
type reportedHealth struct {
	state, error string
	lastGood     time.Time
	at           time.Time // zero: nothing was
	by           place
}

// place is an identity's place in the pool: one that left it and joined again knows nothing of what was reported.
type place struct {
	id     gateway.IdentityID
	joined int // the generation
}

// differs tells whether the state d at now is worth a report; up is for how long the gateway has run.
func (s reportedHealth) differs(d control.DeviceStatus, now time.Time, up time.Duration) bool {
	switch {
	case s.at.IsZero():
		return d.State != "unknown" || up >= unknownFor
	case s.state != d.State || s.error != d.Error:
		return true
	}
	return now.Sub(s.at) >= healthRefresh && !d.LastGood.Equal(s.lastGood)
}

// health reports how the devices behind each identity are, and, if the mapping has an identity for the
// gateway, how all of it is.
type health struct {
	s     *service
	g     *generation // that holds
	said  map[string]reportedHealth
	pace  map[string]*limits.Limiter // by the device's name; "" is the fleet
	fleet reportedHealth             // what was reported of the fleet, in error
	sent  time.Time                  // the fleet's message
}

func newHealth(s *service) *health {
	return &health{s: s, g: s.now.Load(), said: map[string]reportedHealth{}, pace: map[string]*limits.Limiter{}}
}

// follow takes over the mapping of the moment: what is reported by another identity now, or not at all, is taken
// back where it was, and reported anew where it belongs.
func (h *health) follow(g *generation) {
	if g == h.g {
		return
	}
	h.g = g
	for device, was := range h.said {
		if was.by != g.place(g.owners[device]) {
			h.withdraw(was.by, deviceHealthOf(device))
			delete(h.said, device)
			delete(h.pace, device)
		}
	}
	if h.fleet.by != g.place(g.plant.Gateway) {
		h.withdraw(h.fleet.by, fleetHealth)
		h.fleet = reportedHealth{}
	}
}

// withdraw takes a reported property back, unless its identity has lost its place, whose next one begins anew.
func (h *health) withdraw(by place, name string) {
	if by.id != "" && by == h.g.place(by.id) {
		h.s.report(by.id, name, []byte("null"))
	}
}

// Run looks around until ctx ends.
func (h *health) Run(ctx context.Context) error {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		h.follow(h.s.now.Load())
		page := h.s.Status()
		now := time.Now()
		h.devices(page.Devices, now)
		if id := h.g.plant.Gateway; id != "" {
			h.whole(ctx, id, fleetOf(page), now)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// devices reports the devices that have changed. One that is back gets the desired properties that wait
// for it.
func (h *health) devices(all []control.DeviceStatus, now time.Time) {
	for _, d := range all {
		id := h.g.owners[d.Device]
		was := h.said[d.Device]
		d.Error = shortened(d.Error)
		if id == "" || !was.differs(d, now, now.Sub(h.g.at)) || !h.may(d.Device, now) {
			continue
		}
		h.said[d.Device] = reportedHealth{d.State, d.Error, d.LastGood, now, h.g.place(id)}
		if err := tellHealth(func(name string, value []byte) error { return h.s.pool.Report(id, name, value) }, d); err != nil {
			h.s.cfg.log.Warn().Err(err).Str("identity", string(id)).Str("device", d.Device).Msg("how the device is does not fit into the twin; spread the devices over more identities")
		}
		if was.state == "down" && d.State == "up" {
			h.s.pool.Refresh(id)
		}
	}
}

// tellHealth reports how a device is. If the twin is full it says less, and in the end nothing, but not any
// longer what was: the error says that there was no room.
func tellHealth(report func(name string, value []byte) error, d control.DeviceStatus) error {
	name := deviceHealthOf(d.Device)
	err := report(name, healthText(d))
	if err != nil && d.Error != "" {
		d.Error = ""
		err = report(name, healthText(d))
	}
	if err == nil {
		return nil
	}
	return errors.Join(err, report(name, []byte(`null`)))
}

// deviceHealthOf is the reported property of a device.
func deviceHealthOf(device string) string { return deviceHealth + strings.ReplaceAll(device, ".", "-") }

// may takes one report of a device from what it may send.
func (h *health) may(device string, now time.Time) bool {
	if h.pace[device] == nil {
		h.pace[device] = limits.NewLimiter(limits.Every(healthPause), healthBurst)
	}
	return h.pace[device].AllowN(now, 1)
}

// healthText is a device's health as it is reported; what is not known is left out.
func healthText(d control.DeviceStatus) []byte {
	text, err := json.Marshal(struct {
		State    string    `json:"state"`
		LastGood time.Time `json:"lastGood,omitzero"`
		Error    string    `json:"error,omitempty"`
	}{d.State, d.LastGood.UTC().Truncate(time.Second), d.Error})
	if err != nil {
		return []byte(`null`)
	}
	return text
}

func shortened(reason string) string {
	if len(reason) <= longestReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:longestReason], "") + "..."
}

// fleet is how the whole gateway is doing.
type fleet struct {
	Identities int       `json:"identities"`
	Connected  int       `json:"connected"`
	Devices    int       `json:"devices"`
	Offline    int       `json:"devicesOffline"`
	Waiting    int64     `json:"messagesWaiting"`
	Bytes      int64     `json:"bytesWaiting"`
	Oldest     time.Time `json:"oldestWaiting,omitzero"`
	Dropped    uint64    `json:"messagesDropped"`
	Queue      string    `json:"queue"`
	Started    time.Time `json:"started"`
}

func fleetOf(page control.Status) fleet {
	f := fleet{
		Identities: len(page.Identities), Devices: len(page.Devices), Started: page.Started.UTC().Truncate(time.Second),
		Waiting: page.Queue.Entries, Bytes: page.Queue.Bytes, Dropped: page.Queue.Dropped, Queue: page.Queue.State,
	}
	for _, id := range page.Identities {
		if id.Connected {
			f.Connected++
		}
		if !id.Oldest.IsZero() && (f.Oldest.IsZero() || id.Oldest.Before(f.Oldest)) {
			f.Oldest = id.Oldest.UTC().Truncate(time.Second)
		}
	}
	for _, d := range page.Devices {
		if d.State == "down" {
			f.Offline++
		}
	}
	return f
}

// whole reports the fleet: what counts in the twin when it changes, all of it as a message now and then.
func (h *health) whole(ctx context.Context, id gateway.IdentityID, f fleet, now time.Time) {
	text, err := json.Marshal(f)
	if err != nil {
		return
	}
	if f.Connected > 0 && now.Sub(h.sent) >= fleetEvery {
		h.sent = now
		if err := h.s.queue.Put(ctx, gateway.Telemetry{Identity: id, Body: text, Properties: h.properties(id), Created: now}); err != nil && ctx.Err() == nil {
			h.s.cfg.log.Warn().Err(err).Msg("the gateway's own message cannot be queued")
		}
	}
	f.Waiting, f.Bytes, f.Oldest = 0, 0, time.Time{} // these change all the time: they are in the message
	counts, err := json.Marshal(f)
	early := h.fleet.at.IsZero() && f.Connected == 0 // the first report waits for the first connection
	if err == nil && !early && h.fleet.error != string(counts) && h.may("", now) {
		h.fleet = reportedHealth{error: string(counts), at: now, by: h.g.place(id)}
		h.s.report(id, fleetHealth, text)
	}
}

// properties are what every message of the identity carries.
func (h *health) properties(id gateway.IdentityID) []gateway.Property {
	return h.g.identities[id].Properties
}
