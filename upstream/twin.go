package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Topics of twins (TWIN-1, TWIN-2, TWIN-7, TWIN-12).
const (
	twinFilter    = "$iothub/twin/res/#"
	twinAnswers   = "$iothub/twin/res/"
	twinGet       = "$iothub/twin/GET/?$rid="
	twinPatch     = "$iothub/twin/PATCH/properties/reported/?$rid="
	desiredFilter = "$iothub/twin/PATCH/properties/desired/#"
	desiredTopic  = "$iothub/twin/PATCH/properties/desired/"
)

// twinWait is how long an answer about the twin may take.
const twinWait = 30 * time.Second

var errNoTwinAnswer = errors.New("no answer about the twin in time")

// twinAnswer is the hub's answer to a request about the twin.
type twinAnswer struct {
	status  int
	version int64 // of the reported properties; 0 if it is not said
	body    []byte
}

// busy tells whether the hub asks to try again later (TWIN-6, TWIN-10, THR-19).
func (a twinAnswer) busy() bool { return a.status == 429 || a.status >= 500 }

// parseTwinAnswer takes the topic of an answer apart: $iothub/twin/res/{status}/?$rid={rid}&$version={n}
// (TWIN-3, TWIN-9).
func parseTwinAnswer(topic string) (a twinAnswer, rid string, ok bool) {
	rest, ok := strings.CutPrefix(topic, twinAnswers)
	if !ok {
		return a, "", false
	}
	text, query, ok := strings.Cut(rest, "/?")
	status, err := strconv.Atoi(text)
	if !ok || err != nil {
		return a, "", false
	}
	a.status = status
	for part := range strings.SplitSeq(query, "&") {
		if value, is := strings.CutPrefix(part, "$rid="); is {
			rid = value
		}
		if value, is := strings.CutPrefix(part, "$version="); is {
			a.version, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return a, rid, rid != ""
}

// desiredDoc is the desired section, or a change of it, with its version.
type desiredDoc struct {
	version int64
	root    map[string]any
}

// parseDesired reads a section: an object with $version (TWIN-5, TWIN-13).
func parseDesired(raw []byte) (desiredDoc, error) {
	var doc desiredDoc
	var version struct {
		V *int64 `json:"$version"`
	}
	err := json.Unmarshal(raw, &version)
	if err == nil {
		err = json.Unmarshal(raw, &doc.root)
	}
	switch {
	case err != nil:
		return doc, fmt.Errorf("desired properties: %w", err)
	case version.V == nil:
		return doc, errors.New("desired properties without $version")
	}
	doc.version = *version.V
	return doc, nil
}

// parseTwin reads the body of a GET's answer (TWIN-5).
func parseTwin(body []byte) (desired desiredDoc, reported map[string]any, err error) {
	var twin struct {
		Desired  json.RawMessage `json:"desired"`
		Reported map[string]any  `json:"reported"`
	}
	if err := json.Unmarshal(body, &twin); err != nil {
		return desired, nil, fmt.Errorf("twin: %w", err)
	}
	desired, err = parseDesired(twin.Desired)
	return desired, twin.Reported, err
}

// ask sends a request about the twin and waits for its answer.
func (s *session) ask(topic string, body []byte) (twinAnswer, error) {
	answer := make(chan twinAnswer, 1)
	rid := s.expectAnswer(answer)
	defer s.forgetAnswer(rid)
	if err := s.say(topic+rid, body); err != nil {
		s.lose(fmt.Errorf("asking about the twin: %w", err))
		return twinAnswer{}, err
	}
	timeout := time.NewTimer(twinWait)
	defer timeout.Stop()
	select {
	case a := <-answer:
		return a, nil
	case <-timeout.C:
		return twinAnswer{}, errNoTwinAnswer
	case <-s.ctx.Done():
		return twinAnswer{}, s.ctx.Err()
	}
}

// expectAnswer gives a request its id.
func (s *session) expectAnswer(answer chan<- twinAnswer) (rid string) {
	s.asking.Lock()
	defer s.asking.Unlock()
	s.rids++
	rid = strconv.FormatUint(s.rids, 16)
	if s.asked == nil {
		s.asked = map[string]chan<- twinAnswer{}
	}
	s.asked[rid] = answer
	return rid
}

func (s *session) forgetAnswer(rid string) {
	s.asking.Lock()
	defer s.asking.Unlock()
	s.answered(rid)
}

// answered takes a request out, and the map with the last one: an idle connection holds none. It needs
// asking.
func (s *session) answered(rid string) {
	if delete(s.asked, rid); len(s.asked) == 0 {
		s.asked = nil
	}
}

// takeTwin hands over what came about the twin. It is called by receive.
func (s *session) takeTwin(topic string, body []byte) (ok bool) {
	if strings.HasPrefix(topic, desiredTopic) {
		if !s.twins.add(&s.work, mostPatches, func() { s.takePatch(body) }) {
			s.missed.Store(true) // the next patch in turn reads the whole twin
		}
		return true
	}
	a, rid, ok := parseTwinAnswer(topic)
	if !ok {
		return false
	}
	a.body = body
	s.asking.Lock()
	defer s.asking.Unlock()
	if answer := s.asked[rid]; answer != nil {
		answer <- a
		s.answered(rid)
	}
	return true
}
