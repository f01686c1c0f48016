package main

import (
	"context"
	"strings"

	gateway "iothub-gateway"
	"iothub-gateway/bridge"
	"iothub-gateway/mapping"
	"iothub-gateway/upstream"
)

// lastCommand is the reported property that says what became of the newest write that waited.
const lastCommand = "gateway.lastCommand"

// newDown makes the way down.
func (s *service) newDown() *bridge.Down {
	plant := s.cfg.plant
	return bridge.NewDown(bridge.DownConfig{
		Points: plant.Points, Methods: plant.Methods, Messages: plant.Messages, Desired: plant.Desired,
		Device: func(id gateway.PointID) bridge.Device { return s.devices[id] },
		Later:  s.later,
	})
}

// newLater takes over the writes that wait since an earlier run, those of devices that the mapping has lost
// included. What became of one is reported by its identity, and logged if nothing was written.
func (s *service) newLater() *bridge.Later {
	var devices []string
	for _, key := range s.state.Keys(bridge.WaitingPrefix) {
		devices = append(devices, strings.TrimPrefix(key, bridge.WaitingPrefix))
	}
	return bridge.NewLater(s.state, devices, func(id gateway.IdentityID, name string, r gateway.Reply) {
		if r.Status >= 400 {
			s.cfg.log.Warn().Str("identity", string(id)).Str("command", name).Int("status", r.Status).RawJSON("outcome", r.Body).
				Msg("a write that waited for its device was not made")
		}
		s.report(id, lastCommand, upstream.Outcome(name, r))
	})
}

// report makes a reported property of an identity.
func (s *service) report(id gateway.IdentityID, name string, value []byte) {
	if err := s.pool.Report(id, name, value); err != nil {
		s.cfg.log.Warn().Err(err).Str("identity", string(id)).Msg("this cannot be reported")
	}
}

// untilStopping is ctx, ended also when the adapters begin to stop.
func (s *service) untilStopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.stopping, cancel)
	return ctx, func() { stop(); cancel() }
}

func (s *service) method(ctx context.Context, c gateway.Command) gateway.Reply {
	ctx, cancel := s.untilStopping(ctx)
	defer cancel()
	return s.down.Handle(ctx, c)
}

func (s *service) message(ctx context.Context, m gateway.CloudMessage) gateway.Reply {
	ctx, cancel := s.untilStopping(ctx)
	defer cancel()
	return s.down.Message(ctx, m)
}

func (s *service) desired(ctx context.Context, id gateway.IdentityID, path string, value []byte) gateway.Ack {
	ctx, cancel := s.untilStopping(ctx)
	defer cancel()
	return s.down.Desired(ctx, id, path, value)
}

// member is an identity of the plant as upstream serves it.
func (s *service) member(id mapping.Identity, credential upstream.Credential) upstream.Member {
	m := upstream.Member{
		ID: id.ID, Credential: credential, Lane: s.queue.Lane(id.ID),
		Properties: id.Properties, Will: id.Will, ModelID: id.ModelID,
	}
	for _, rule := range s.cfg.plant.Messages {
		m.Messages = m.Messages || rule.Identity == id.ID
	}
	for _, rule := range s.cfg.plant.Desired {
		if rule.Identity == id.ID {
			m.Desired = append(m.Desired, rule)
		}
	}
	return m
}
