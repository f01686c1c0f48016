package upstream

import (
	"slices"
	"time"

	gateway "iothub-gateway"
)

// deviceHealth is below which path devices report how they are; what is there and not reported any more is
// removed.
const deviceHealth = "gateway.devices"

// Report makes value, JSON, what the dotted path name of id's reported properties says; null removes it. It
// is sent when the identity is connected, together with what else has changed, at the pace the hub allows. The
// error says that the value is too large; an identity that is not there is none.
func (p *Pool) Report(id gateway.IdentityID, name string, value []byte) error {
	l := p.find(id)
	if l == nil {
		return nil // removed a moment ago
	}
	return l.report(name, value)
}

// Refresh applies the desired properties of id that wait for a device, or are always applied, once more: a
// device is back. For the latter the twin is read: when the cloud replaces the desired properties, nothing
// says which have gone (TWIN-13).
func (p *Pool) Refresh(id gateway.IdentityID) {
	l := p.find(id)
	if l == nil {
		return
	}
	s := l.current.Load()
	if s == nil {
		return
	}
	again := func() { s.applyDesired(step{full: true}) }
	if slices.ContainsFunc(l.member.Desired, func(rule gateway.Desired) bool { return rule.Always }) {
		again = s.readTwin
	}
	s.twins.add(&s.work, unlimited, again)
}

func (l *link) report(name string, value []byte) error {
	if err := l.reported.set(name, value); err != nil {
		return err
	}
	if s := l.current.Load(); s != nil {
		s.flushReports()
	}
	return nil
}

// flushReports sends what the hub does not have, unless that is going on already.
func (s *session) flushReports() {
	s.reports.add(&s.work, 1, s.sendReports)
}

// sendReports sends patches until the hub has everything or the connection ends. A throttled or troubled
// hub is asked again, later and later. One that refuses a patch refuses all of it (TWIN-33): the next is half
// as large, until the property that it does not take is alone; that one is told and not repeated.
func (s *session) sendReports() {
	for tries, most := 0, allPaths; s.ctx.Err() == nil; {
		patch, said := s.reported.next(most)
		if patch == nil || s.hub.twinPace.Wait(s.ctx) != nil {
			return
		}
		answer, err := s.ask(twinPatch, patch)
		switch {
		case err != nil || answer.busy():
			if !wait(s.ctx, delay(time.Second, tries, s.pool.cfg.RetryMost, s.random())) {
				return
			}
			tries++
			continue
		case answer.status >= 300 && len(said) > 1:
			most = len(said) / 2
		case answer.status >= 300:
			s.log.Warn().Int("status", answer.status).Bytes("answer", answer.body).Bytes("patch", patch).
				Msg("the hub refuses a reported property; it is not sent again until it changes")
			s.reported.taken(said)
		default:
			s.reported.taken(said)
			most = min(2*most, allPaths)
		}
		tries = 0
		if s.reported.beganAnew(answer.version) {
			s.twins.add(&s.work, unlimited, s.readTwin)
		}
		if !wait(s.ctx, s.pool.cfg.ReportEvery) {
			return
		}
	}
}
