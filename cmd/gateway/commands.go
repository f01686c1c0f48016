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
func (s *service) newDown(g *generation) *bridge.Down {
	return bridge.NewDown(bridge.DownConfig{
		Points: g.plant.Points, Methods: g.plant.Methods, Messages: g.plant.Messages, Desired: g.plant.Desired,
		Device: g.device, Later: s.later,
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

// begin is the mapping that a command of an identity is carried out by, and its context: ctx, but ended only by
// ctx's deadline or when the adapters begin to stop. That the identity leaves the mapping meanwhile does not end it.
// end is called when the command is over.
func (s *service) begin(ctx context.Context, id gateway.IdentityID) (work context.Context, g *generation, end func()) {
	g = s.now.Load()
	over := g.begin(id)
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	late := func() {}
	if deadline, ok := ctx.Deadline(); ok {
		work, late = context.WithDeadline(work, deadline)
	}
	stop := context.AfterFunc(s.stopping, cancel)
	return work, g, func() { stop(); late(); cancel(); over() }
}

func (s *service) method(ctx context.Context, c gateway.Command) gateway.Reply {
	ctx, g, end := s.begin(ctx, c.Identity)
	defer end()
	return g.down.Handle(ctx, c)
}

func (s *service) message(ctx context.Context, m gateway.CloudMessage) gateway.Reply {
	ctx, g, end := s.begin(ctx, m.Identity)
	defer end()
	return g.down.Message(ctx, m)
}

func (s *service) desired(ctx context.Context, id gateway.IdentityID, path string, value []byte) gateway.Ack {
	ctx, g, end := s.begin(ctx, id)
	defer end()
	return g.down.Desired(ctx, id, path, value)
}

// member is an identity of a plant as upstream serves it.
func (s *service) member(plant *mapping.Plant, id mapping.Identity, credential upstream.Credential) upstream.Member {
	m := upstream.Member{
		ID: id.ID, Credential: credential, Lane: s.queue.Lane(id.ID),
		Properties: id.Properties, Will: id.Will, ModelID: id.ModelID,
	}
	for _, rule := range plant.Messages {
		m.Messages = m.Messages || rule.Identity == id.ID
	}
	for _, rule := range plant.Desired {
		if rule.Identity == id.ID {
			m.Desired = append(m.Desired, rule)
		}
	}
	return m
}
