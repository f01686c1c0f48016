package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"iothub-gateway/internal/control"
	"iothub-gateway/mapping"
)

// resourceReload is the resource of reloads on the control socket.
const resourceReload = "/reload"

// reloadCall asks for a reload.
type reloadCall struct {
	dryRun bool
	reply  chan<- control.ReloadReply // capacity 1
}

// Reload reads the mapping again and runs what has changed of it, after the reloads that were asked for before. It
// returns when that is done or refused. The error is ctx's.
func (s *service) Reload(ctx context.Context, dryRun bool) (control.ReloadReply, error) {
	reply := make(chan control.ReloadReply, 1)
	select {
	case s.reloads <- reloadCall{dryRun, reply}:
	case <-s.stopping.Done():
		return control.ReloadReply{}, errors.New("the gateway is stopping; nothing was reloaded")
	case <-ctx.Done():
		return control.ReloadReply{}, ctx.Err()
	}
	select {
	case r := <-reply:
		return r, nil
	case <-ctx.Done():
		return control.ReloadReply{}, ctx.Err()
	}
}

// serveReloads makes one reload after the other until ctx ends.
func (s *service) serveReloads(ctx context.Context) error {
	select {
	case <-s.crew.ready:
	case <-ctx.Done():
		return nil
	}
	for {
		select {
		case call := <-s.reloads:
			call.reply <- s.reload(ctx, call.dryRun)
		case <-ctx.Done():
			return nil
		}
	}
}

// reload makes one, or says what it would do.
func (s *service) reload(ctx context.Context, dryRun bool) control.ReloadReply {
	began := time.Now()
	reply := control.ReloadReply{Mapping: s.cfg.mappingPath, DryRun: dryRun}
	l, err := s.reread(&reply)
	if err != nil {
		reply.Refused = append(reply.Refused, err.Error())
	}
	if l.plant != nil {
		changes := compare(s.now.Load().plant, l.plant)
		reply.Changes = &changes
		reply.Refused = append(reply.Refused, s.lasting(l)...)
	}
	if dryRun {
		return reply
	}
	notify(s.cfg.log, daemon.SdNotifyReloading+"\n"+monotonic())
	defer notify(s.cfg.log, daemon.SdNotifyReady)
	if len(reply.Refused) == 0 {
		t, err := s.prepare(s.now.Load(), l, *reply.Changes)
		if err == nil {
			err = s.carryOut(ctx, t)
		}
		if err != nil {
			reply.Refused = append(reply.Refused, err.Error())
		}
	}
	reply.Took = time.Since(began).Round(time.Millisecond).String()
	s.conclude(reply)
	return reply
}

// reread reads the mapping with all that it names, and adds to the reply what it found. The error is about files.
func (s *service) reread(reply *control.ReloadReply) (loaded, error) {
	if s.cfg.load == nil {
		return loaded{}, errors.New("this gateway was not started from a mapping file; there is nothing to read again")
	}
	l, err := s.cfg.load()
	reply.Findings = append(findingRows(l.findings), missingRows(l.missing)...)
	if n := l.findings.Errors(); n > 0 {
		reply.Refused = append(reply.Refused, fmt.Sprintf("the mapping has %s", count(n, "error")))
	}
	if n := len(l.missing); n > 0 {
		why := count(n, "key") + " cannot be used"
		if s.cfg.secrets.Credentials != "" {
			why += "; systemd hands over what is new in its credentials only at a restart"
		}
		reply.Refused = append(reply.Refused, why)
	}
	return l, err
}

// missingRows are findings about keys as errors: what check only warns of, nothing runs without.
func missingRows(findings mapping.Findings) []control.Finding {
	rows := findingRows(findings)
	for i := range rows {
		rows[i].Severity = "error"
	}
	return rows
}

// lasting says what of a mapping differs that holds for as long as the process runs.
func (s *service) lasting(l loaded) (refused []string) {
	if keys := needRestart(s.now.Load().loaded, l); len(keys) > 0 {
		refused = append(refused, fmt.Sprintf("a change of %s needs a restart of the gateway; put it back, or restart", strings.Join(keys, ", ")))
	}
	return refused
}

// conclude says in the log what became of a reload.
func (s *service) conclude(r control.ReloadReply) {
	for _, f := range r.Findings {
		level := zerolog.WarnLevel
		if f.Severity == "error" {
			level = zerolog.ErrorLevel
		}
		s.cfg.log.WithLevel(level).Str("at", fmt.Sprintf("%s:%d:%d", f.File, f.Line, f.Column)).Msg(f.Code + " " + f.Message)
	}
	if len(r.Refused) > 0 {
		why := strings.Join(r.Refused, "; ")
		s.refused.Store(&why)
		s.cfg.log.Error().Str("mapping", r.Mapping).Str("why", why).Msg("the changed mapping is refused; the gateway runs on with the one before")
		return
	}
	s.refused.Store(nil)
	event := s.cfg.log.Info().Str("mapping", r.Mapping).Str("took", r.Took)
	for _, k := range kinds(*r.Changes) {
		if text := k.short(); text != "" {
			event = event.Str(k.name, text)
		}
	}
	event.Msg("mapping reloaded")
	s.warnOfOrphans()
}

// monotonic is what systemd wants to know with RELOADING=1 (sd_notify(3)).
func monotonic() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it cannot fail
	return fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000)
}

// serveReload answers for reloads on the control socket. One that has begun goes on when its caller leaves.
func serveReload(mux *http.ServeMux, reload func(ctx context.Context, dryRun bool) (control.ReloadReply, error)) {
	mux.HandleFunc("POST "+resourceReload, func(w http.ResponseWriter, r *http.Request) {
		var request control.ReloadRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			control.Refuse(w, err)
			return
		}
		// It may have to wait for commands under way, and for other reloads.
		if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
			control.Refuse(w, err)
			return
		}
		reply, err := reload(r.Context(), request.DryRun)
		answer(w, reply, err)
	})
}
