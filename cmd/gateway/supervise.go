package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"iothub-gateway/internal/control"
	"iothub-gateway/internal/status"
)

const (
	lookEvery = 5 * time.Second
	// beatEvery is the pause between two questions to a loop.
	beatEvery = 2 * time.Second
	// stuckAfter is how long a loop may take to come by; a link's timeouts add to it.
	stuckAfter = 60 * time.Second
	// connectGrace is how long after the start, or a reload, an identity without a connection is nothing to report,
	// renewGrace how long at any time: a token's renewal takes a moment.
	connectGrace = 30 * time.Second
	renewGrace   = 10 * time.Second
)

// probe asks one loop for a sign of life, again and again, on a goroutine of its own: a slow loop then
// says nothing about the others.
type probe struct {
	name  string
	limit time.Duration // without a sign of life for longer, the loop is stuck
	beat  func(context.Context) error

	last atomic.Int64 // when it came by last, Unix nanoseconds

	mu      sync.Mutex // guards trouble
	trouble error      // what it said then
}

func (p *probe) run(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		if err := p.beat(ctx); ctx.Err() == nil {
			p.last.Store(time.Now().UnixNano())
			p.mu.Lock()
			p.trouble = err
			p.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// finding is what the probe has to report: stuck, in trouble, or nothing.
func (p *probe) finding(now time.Time) (status.State, string) {
	p.mu.Lock()
	trouble := p.trouble
	p.mu.Unlock()
	switch silent := now.Sub(time.Unix(0, p.last.Load())); {
	case silent > p.limit:
		return status.Stuck, fmt.Sprintf("%s has not moved for %v", p.name, silent.Round(time.Second))
	case trouble != nil:
		return status.Degraded, trouble.Error()
	}
	return status.Running, ""
}

// supervisor looks after the loops that must never stand still, and tells systemd and whoever asks.
type supervisor struct {
	service *service
	log     zerolog.Logger
	probes  []*probe // beside those of the links
	health  atomic.Pointer[status.Health]
	full    bool // Run's: the queue was at its limit at the last look
}

func newSupervisor(s *service, log zerolog.Logger) *supervisor {
	v := &supervisor{service: s, log: log}
	v.health.Store(&status.Health{State: status.Starting})
	v.probes = append(v.probes, &probe{
		name: "the queue's writer", limit: stuckAfter,
		// That the disk fails is no sign of death; the queue's health says it.
		beat: func(ctx context.Context) error { _ = s.queue.Beat(ctx); return nil },
	})
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
	var probes sync.WaitGroup
	defer probes.Wait()
	for _, p := range v.probes {
		p.last.Store(time.Now().UnixNano())
		probes.Go(func() { p.run(ctx) })
	}
	notify(v.log, daemon.SdNotifyReady)
	defer notify(v.log, daemon.SdNotifyStopping)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		v.service.sample(time.Now())
		h := v.look(time.Now())
		v.tell(h)
		v.tellFull(v.service.Status().Queue)
		if h.State != status.Stuck {
			notify(v.log, daemon.SdNotifyWatchdog)
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
		if len(h.Reasons) > 0 {
			event = event.Strs("reasons", h.Reasons)
		}
		event.Msg("the gateway is " + string(h.State))
	}
	notify(v.log, "STATUS="+statusLine(h, v.service.Status()))
}

// tellFull logs when the queue begins to drop or refuse at its limit, and when it does so no more: readings
// are lost meanwhile, and the gateway may have been degraded for another reason before.
func (v *supervisor) tellFull(q control.QueueStatus) {
	full := q.State == queueFull
	if v.full == full {
		return
	}
	v.full = full
	if full {
		v.log.Warn().Int64("waiting", q.Entries).Msg(queueTrouble(q))
		return
	}
	v.log.Info().Uint64("dropped_since_start", q.Dropped).Msg("the queue is not full any more")
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
	if page.Loaded.Refused != "" {
		line += "; the changed mapping was refused: " + strings.ReplaceAll(page.Loaded.Refused, "\n", " ")
	}
	if len(h.Reasons) > 0 {
		line += "; " + strings.ReplaceAll(h.Reasons[0], "\n", " ")
	}
	return line
}

// notify tells systemd; without one it does nothing.
func notify(log zerolog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn().Err(err).Msg("systemd cannot be told")
	}
}

// all are the probes of the moment.
func (v *supervisor) all() []*probe {
	probes := slices.Clone(v.probes)
	for _, p := range v.service.now.Load().links {
		probes = append(probes, p.probe)
	}
	return probes
}

// look collects what is not as it should be. It asks nobody and waits for nothing.
func (v *supervisor) look(now time.Time) status.Health {
	h := status.Health{State: status.Running}
	add := func(state status.State, reason string) {
		h.Reasons = append(h.Reasons, reason)
		if h.State != status.Stuck {
			h.State = state
		}
	}
	for _, p := range v.all() {
		if state, reason := p.finding(now); state != status.Running {
			add(state, reason)
		}
	}
	page := v.service.Status()
	if trouble := queueTrouble(page.Queue); trouble != "" {
		add(status.Degraded, trouble)
	}
	var apart, offline alike
	for _, id := range page.Identities {
		switch {
		case !id.Connected && overdue(id.Since, page.Loaded.At, now):
			apart.add(orNothing(id.LastError), id.Identity)
		case id.Connected && id.LastError != "":
			add(status.Degraded, fmt.Sprintf("identity %s: %s", id.Identity, id.LastError))
		}
	}
	apart.each(func(why string, who []string) {
		add(status.Degraded, fmt.Sprintf("%s not connected: %s", are("identity", "identities", who), why))
	})
	for _, l := range page.Links {
		if trouble := overload(l); trouble != "" {
			add(status.Degraded, trouble)
		}
	}
	for _, d := range page.Devices {
		if d.State == "down" {
			offline.add(orNothing(d.Error), d.Device)
		}
		if len(d.Refused) > 0 {
			add(status.Degraded, refusal(d))
		}
	}
	offline.each(func(why string, who []string) {
		add(status.Degraded, fmt.Sprintf("%s offline: %s", are("device", "devices", who), why))
	})
	return h
}

// overdue tells whether an identity without a connection has had its time to connect. since is when it lost the last
// one, or first failed, zero before; a reload, at loaded, gives no more time to one that was apart long before.
func overdue(since, loaded, now time.Time) bool {
	apart := now.Sub(since)
	return apart > renewGrace && (now.Sub(loaded) > connectGrace || !since.IsZero() && apart > connectGrace)
}

// overload says that a link is asked more than it can carry; "" if it is not (MB-52).
func overload(l control.LinkStatus) string {
	if l.Load == nil || *l.Load <= busyLink || *l.SkippedPerMinute < 1 {
		return ""
	}
	return fmt.Sprintf("link %s is busy for %.0f %% of the time and leaves out %.0f polls a minute: poll less often, or see 'gateway plan' for what takes the time", l.Link, 100**l.Load, *l.SkippedPerMinute)
}

// refusal says which points a device does not let be read.
func refusal(d control.DeviceStatus) string {
	return fmt.Sprintf("device %s refuses %s, check the address in the mapping: %s", d.Device, count(len(d.Refused), "point"), strings.Join(d.Refused, ", "))
}

func orNothing(reason string) string {
	if reason == "" {
		return "no attempt has failed yet"
	}
	return reason
}
