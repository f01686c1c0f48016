package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"iothub-gateway/internal/control"
	"iothub-gateway/internal/status"
)

const (
	lookEvery = 5 * time.Second
	// beatTimeout is how long a loop may take to come by: several requests to silent devices for a
	// link, a disk in trouble for the queue.
	beatTimeout = 30 * time.Second
	// connectGrace is how long after the start an identity without a connection is nothing to report.
	connectGrace = 30 * time.Second
)

// supervisor looks after the loops that must never stand still, and tells systemd and whoever asks.
type supervisor struct {
	service *service
	log     zerolog.Logger
	health  atomic.Pointer[status.Health]
}

func newSupervisor(s *service, log zerolog.Logger) *supervisor {
	v := &supervisor{service: s, log: log}
	v.health.Store(&status.Health{State: status.Starting})
	return v
}

// Health is the newest finding.
func (v *supervisor) Health() status.Health { return *v.health.Load() }

// Run says READY and then looks around until ctx ends. The watchdog is fed only while nothing is
// stuck: systemd then restarts the daemon, and the queue has everything.
func (v *supervisor) Run(ctx context.Context) error {
	every := lookEvery
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	if watchdog > 0 {
		every = min(every, watchdog/3)
	}
	v.notify(daemon.SdNotifyReady)
	defer v.notify(daemon.SdNotifyStopping)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		h := v.look(ctx)
		v.tell(h)
		if h.State != status.Stuck {
			v.notify(daemon.SdNotifyWatchdog)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// tell publishes h, and logs it when the state changes.
func (v *supervisor) tell(h status.Health) {
	before := v.health.Swap(&h)
	if before.State != h.State {
		event := v.log.Info()
		if h.State != status.Running {
			event = v.log.Warn()
		}
		event.Strs("reasons", h.Reasons).Msg("the gateway is " + string(h.State))
	}
	v.notify("STATUS=" + statusLine(h, v.service.Status()))
}

// statusLine is the sentence that systemctl shows.
func statusLine(h status.Health, page control.Status) string {
	connected := 0
	for _, id := range page.Identities {
		if id.Connected {
			connected++
		}
	}
	line := fmt.Sprintf("%s: %d of %d identities connected, %d waiting for the hub", h.State, connected, len(page.Identities), page.Queue.Entries)
	if len(h.Reasons) > 0 {
		line += "; " + strings.ReplaceAll(h.Reasons[0], "\n", " ")
	}
	return line
}

// notify tells systemd; without one it does nothing.
func (v *supervisor) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		v.log.Warn().Err(err).Msg("systemd cannot be told")
	}
}

// look asks every loop for a sign of life and collects what is not as it should be.
func (v *supervisor) look(ctx context.Context) status.Health {
	h := status.Health{State: status.Running}
	add := func(state status.State, reason string) {
		h.Reasons = append(h.Reasons, reason)
		if h.State != status.Stuck {
			h.State = state
		}
	}
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	if err := v.service.queue.Beat(ctx); err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			add(status.Stuck, "the queue's writer has not moved for "+beatTimeout.String())
		} else if ctx.Err() == nil {
			add(status.Degraded, err.Error())
		}
	}
	for i, adapter := range v.service.links {
		if _, err := adapter.Read(ctx, nil); err != nil && ctx.Err() == context.DeadlineExceeded {
			add(status.Stuck, fmt.Sprintf("link %s has not moved for %v", v.service.cfg.plant.Links[i].Name, beatTimeout))
		}
	}
	page := v.service.Status()
	for _, id := range page.Identities {
		if !id.Connected && time.Since(page.Started) > connectGrace {
			add(status.Degraded, fmt.Sprintf("identity %s is not connected: %s", id.Identity, id.LastError))
		}
	}
	for _, d := range page.Devices {
		if d.State == "down" {
			add(status.Degraded, fmt.Sprintf("device %s is offline: %s", d.Device, d.Error))
		}
	}
	return h
}
