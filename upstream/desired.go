package upstream

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	gateway "iothub-gateway"
)

// mostPatches of the desired properties may wait for their turn; what comes beyond is missed, which costs
// reading the whole twin.
const mostPatches = 64

const (
	ackDone    = 200
	ackPending = 202 // tried again while it is desired
	ackStopped = 503 // the gateway stops: nothing was decided
)

// outcomeOf is what became of a desired value.
type outcomeOf struct {
	Hash   string `json:"hash"` // of where it goes and of the value's JSON text
	Status int    `json:"status"`
}

// applied is what is kept of an identity's desired properties.
type applied struct {
	Version int64                 `json:"version"`
	Paths   map[string]*outcomeOf `json:"paths"`
}

// desired is the state of an identity's desired properties. It belongs to the turns of twins.
type desired struct {
	applied  *applied       // nil until it was read from the state
	values   map[string]any // what is desired now, by path; only of the mapping's paths
	version  int64          // of values
	known    bool           // values are those of the hub, but for patches in turn
	read     bool           // the twin was read since the start
	retrying bool           // an attempt for what is pending is on its way
	tries    int            // attempts in a row for what is pending
}

// step says what applyDesired looks at.
type step struct {
	full    bool            // the whole twin was read, or a device is back
	newer   bool            // the version is another than the applied one
	touched map[string]bool // paths of a patch
	pending bool            // only what is pending
}

// due decides whether a value is written: was is what became of the one before, nil if there was none.
func (st step) due(rule gateway.Desired, was *outcomeOf, hash string) bool {
	switch {
	case was == nil || was.Hash != hash:
		return true
	case was.Status == ackPending:
		return st.full || st.pending || st.touched[rule.Path]
	case st.full && rule.Always:
		return true
	case was.Status == ackDone:
		return false
	}
	return st.touched[rule.Path] || st.full && st.newer // refused for good, but asked for again
}

// readTwin reads the whole twin, as often as it takes, and applies what differs (TWIN-15). Patches wait for
// their turn meanwhile.
func (s *session) readTwin() {
	for tries := 0; s.ctx.Err() == nil; tries++ {
		if s.hub.twinPace.Wait(s.ctx) != nil {
			return
		}
		answer, err := s.ask(twinGet, nil)
		switch {
		case err == nil && answer.status < 300:
			s.takeTwinDocument(answer.body)
			return
		case err == nil && !answer.busy():
			s.desired.read = true
			s.reported.guess()
			s.flushReports()
			s.log.Warn().Int("status", answer.status).Bytes("answer", answer.body).Msg("the hub gives no twin; desired properties are not applied on this connection")
			return
		}
		if !wait(s.ctx, delay(time.Second, tries, s.pool.cfg.RetryMost, s.random())) {
			return
		}
	}
}

func (s *session) takeTwinDocument(body []byte) {
	doc, section, err := parseTwin(body)
	if err != nil {
		s.log.Error().Err(err).Msg("the hub's answer is no twin; desired properties are not applied on this connection")
		return
	}
	s.reported.learn(section, deviceHealth)
	s.flushReports()
	s.missed.Store(false)
	d := &s.desired
	d.read = true
	if len(s.member.Desired) == 0 {
		return
	}
	d.known, d.version = true, doc.version
	d.values = map[string]any{}
	for _, rule := range s.member.Desired {
		if value, ok := find(doc.root, rule.Path); ok {
			d.values[rule.Path] = value
		}
	}
	s.applyDesired(step{full: true, newer: doc.version != s.recallApplied().Version})
}

// takePatch applies a change of the desired properties, in order: one that is older than what is known is
// passed over, one that does not follow it costs reading the whole twin (TWIN-15).
func (s *session) takePatch(body []byte) {
	d := &s.desired
	doc, err := parseDesired(body)
	switch {
	case s.ctx.Err() != nil:
		return
	case err != nil:
		s.log.Error().Err(err).Msg("a change of desired properties cannot be read")
		return
	case !d.known:
		return // the twin could not be read
	case s.missed.Load() || doc.version > d.version+1:
		s.readTwin()
		return
	case doc.version <= d.version:
		return
	}
	d.version = doc.version
	touched := map[string]bool{}
	for _, rule := range s.member.Desired {
		if value, ok := changedAt(doc.root, rule.Path); ok {
			touched[rule.Path] = true
			d.values[rule.Path] = value
		}
	}
	s.applyDesired(step{touched: touched})
}

// changedAt is what a change makes of the value at a dotted path, nil if it is gone; false if the change says
// nothing about it. What held it may have gone, or become a value itself (TWIN-11).
func changedAt(change map[string]any, path string) (value any, says bool) {
	for {
		name, rest, more := strings.Cut(path, ".")
		value, says = change[name]
		if !says || !more {
			return value, says
		}
		if change, says = value.(map[string]any); !says {
			return nil, true
		}
		path = rest
	}
}

// applyDesired writes what is due, in the order of the mapping, reports what became of it, and notes it.
func (s *session) applyDesired(st step) {
	d := &s.desired
	if !d.known {
		return
	}
	note, pending, changed, version := s.recallApplied(), false, false, d.version
	for _, rule := range s.member.Desired {
		result := s.applyRule(rule, st)
		changed = changed || result == applyChanged
		if result == applyStopped {
			version = note.Version // the next start decides about the rest
			break
		}
		outcome := note.Paths[rule.Path]
		pending = pending || outcome != nil && outcome.Status == ackPending
	}
	if changed || note.Version != version {
		note.Version = version
		s.noteApplied(note)
	}
	s.retryPending(pending)
}

// What applyRule did.
const (
	applyNothing = iota
	applyChanged // the note
	applyStopped // the gateway stops
)

// applyRule does what applyDesired does for one property.
func (s *session) applyRule(rule gateway.Desired, st step) int {
	d, note := &s.desired, s.recallApplied()
	was := note.Paths[rule.Path]
	value, present := d.values[rule.Path]
	if !present || value == nil { // nothing is desired any more
		if was == nil {
			return applyNothing
		}
		delete(note.Paths, rule.Path)
		s.reportAck(rule.Path, []byte(`null`))
		return applyChanged
	}
	text, hash := hashOf(rule, value)
	switch {
	case st.due(rule, was, hash):
		ack := s.pool.cfg.Desired(s.commands, s.member.ID, rule.Path, text)
		if ack.Status == ackStopped {
			return applyStopped
		}
		note.Paths[rule.Path] = &outcomeOf{hash, ack.Status}
		s.reportAck(rule.Path, ackText(ack.Value, ack.Status, d.version, ack.Text))
		return applyChanged
	case st.touched[rule.Path], st.full && was.Status == ackDone && !s.reported.says(rule.Path):
		s.reportAck(rule.Path, ackText(json.RawMessage(text), was.Status, d.version, "as before"))
	}
	return applyNothing
}

// retryPending tries again later what is pending.
func (s *session) retryPending(pending bool) {
	d := &s.desired
	if !pending {
		d.tries = 0
		return
	}
	if d.retrying {
		return
	}
	pause := delay(time.Second, d.tries+2, s.pool.cfg.RetryMost, s.random())
	d.retrying = true
	d.tries++
	s.work.Go(func() {
		_ = wait(s.ctx, pause)
		s.twins.add(&s.work, unlimited, func() {
			d.retrying = false
			if now := s.current.Load(); now != nil { // another one may have taken over
				now.applyDesired(step{pending: true})
			}
		})
	})
}

func (s *session) reportAck(path string, text []byte) {
	if err := s.report(path, text); err != nil {
		s.log.Warn().Err(err).Msg("the outcome of a desired property cannot be reported")
	}
}

// ackText is the acknowledgement of Plug and Play: value, ac, av and ad.
func ackText(value json.Marshaler, status int, version int64, why string) []byte {
	text, err := json.Marshal(struct {
		Value   json.Marshaler `json:"value"`
		Status  int            `json:"ac"`
		Version int64          `json:"av"`
		Text    string         `json:"ad"`
	}{value, status, version, why})
	if err != nil {
		return []byte(`null`)
	}
	return text
}

// hashOf is a desired value as JSON text and the hash of it and of where it goes: a property that the mapping
// gives to another point, or a point that it moves, has not been written there.
func hashOf(rule gateway.Desired, value any) (text []byte, hash string) {
	text, _ = json.Marshal(value) // it came from JSON; the members of objects are sorted
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s", rule.Write, rule.Place, text))
	return text, hex.EncodeToString(sum[:16])
}

func (l *link) appliedKey() string { return "twin/" + string(l.member.ID) }

// recallApplied is what was applied; the first time it is read from the state.
func (l *link) recallApplied() *applied {
	d := &l.desired
	if d.applied == nil {
		d.applied = &applied{}
		if text, ok := l.pool.cfg.State.Get(l.appliedKey()); ok && json.Unmarshal(text, d.applied) != nil {
			d.applied = &applied{}
		}
		if d.applied.Paths == nil {
			d.applied.Paths = map[string]*outcomeOf{}
		}
	}
	return d.applied
}

// noteApplied makes what was applied durable; if that fails a restart applies it again.
func (l *link) noteApplied(note *applied) {
	text, err := json.Marshal(note)
	if err == nil {
		err = l.pool.cfg.keep(l.appliedKey(), text)
	}
	if err != nil {
		l.log.Error().Err(err).Msg("the applied desired properties cannot be noted; a restart applies them again")
	}
}
