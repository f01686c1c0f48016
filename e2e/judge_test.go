package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
)

// lane is what the oracle found in one identity's messages.
type lane struct {
	newest   uint64
	repeated int
	marked   uint64            // entries that gaps stand for
	packs    int               // messages of more than one entry
	reports  int               // different numbers n, as the probes of the load report them
	twice    int               // reports that came in two messages
	report   int               // the newest
	bodies   map[string]string // of messages that may be repeated, by id
	ids      []string          // their ids, oldest first
}

// kept is how many messages of a lane the oracle remembers: more than a gateway ever repeats.
const kept = 4096

// judge applies the oracle to everything the hub stored.
func judge(t *testing.T, hub *hubsim.Hub) map[string]lane {
	t.Helper()
	return newOracle(t, hub).judgement()
}

// oracle goes through what the hub stores: in each lane, keeping the first of each sequence gives 1..n
// without a hole, what was received and what gaps mark making n together, and a repeat has the same
// bytes as its first.
type oracle struct {
	t     *testing.T
	hub   *hubsim.Hub
	after uint64 // the hub's sequence
	queue string
	lanes map[string]*lane
}

func newOracle(t *testing.T, hub *hubsim.Hub) *oracle {
	return &oracle{t: t, hub: hub, lanes: map[string]*lane{}}
}

// judgement is what the oracle found in everything so far.
func (o *oracle) judgement() map[string]lane {
	o.t.Helper()
	o.catchUp()
	lanes := map[string]lane{}
	for id, l := range o.lanes {
		lanes[id] = *l
	}
	return lanes
}

// catchUp judges what has come since the last call. The hub must not have forgotten any of it.
func (o *oracle) catchUp() {
	o.t.Helper()
	for {
		batch := o.hub.Messages(o.after, 1000)
		if len(batch) == 0 {
			return
		}
		for i := range batch {
			o.judge(&batch[i])
		}
	}
}

// until judges what comes until then.
func (o *oracle) until(then time.Time) {
	o.t.Helper()
	for left := time.Until(then); left > 0; left = time.Until(then) {
		o.catchUp()
		pause := time.NewTimer(min(left, time.Second))
		<-pause.C
	}
}

func (o *oracle) judge(m *hubsim.Message) {
	o.t.Helper()
	if m.Sequence != o.after+1 {
		o.t.Fatalf("the hub forgot messages %d to %d before they were judged", o.after+1, m.Sequence-1)
	}
	o.after = m.Sequence
	if m.Properties["gateway-kind"] == "canary" {
		return
	}
	id, mid := m.Device+"/"+m.Module, m.System["message-id"]
	queue, first, last := splitMessageID(o.t, mid)
	if o.queue == "" {
		o.queue = queue
	}
	if queue != o.queue {
		o.t.Fatalf("%s: message id %s is of another queue than %s", id, mid, o.queue)
	}
	l := o.lanes[id]
	if l == nil {
		l = &lane{bodies: map[string]string{}}
		o.lanes[id] = l
	}
	body := string(m.Body) + fmt.Sprint(m.Properties)
	switch {
	case first == l.newest+1:
		l.newest = last
		l.keep(mid, body)
		l.count(o.t, mid, m.Body, last-first+1)
	case first > l.newest:
		o.t.Fatalf("%s: after %d came %d: %d lost", id, l.newest, first, first-l.newest-1)
	default:
		l.repeated++
		if l.bodies[mid] != body {
			o.t.Errorf("%s: the repeat of %s differs from its first:\n%s\n%s", id, mid, l.bodies[mid], body)
		}
	}
}

func (l *lane) keep(mid, body string) {
	l.bodies[mid] = body
	if l.ids = append(l.ids, mid); len(l.ids) > 2*kept {
		for _, old := range l.ids[:kept] {
			delete(l.bodies, old)
		}
		l.ids = append(l.ids[:0], l.ids[kept:]...)
	}
}

// count checks that a message holds, or marks, as many entries as its id says.
func (l *lane) count(t *testing.T, mid string, body []byte, n uint64) {
	t.Helper()
	entries := entriesOf(t, body)
	type gap struct{ Count uint64 }
	if g, found := field[gap](t, entries[0], "gap"); found {
		l.marked += g.Count
		if g.Count != n {
			t.Errorf("%s is a gap of %d", mid, g.Count)
		}
		return
	}
	if uint64(len(entries)) != n {
		t.Errorf("%s holds %d entries", mid, len(entries))
	}
	if n > 1 {
		l.packs++
	}
	for _, entry := range entries {
		report, found := field[int](t, entry, "n")
		switch {
		case !found:
		case report > l.report:
			l.reports, l.report = l.reports+1, report
		case report == l.report:
			l.twice++
		default:
			t.Errorf("%s: report %d came after %d", mid, report, l.report)
		}
	}
}

// entriesOf are the objects of a message's body: one, or those of an array.
func entriesOf(t *testing.T, body []byte) (entries []json.RawMessage) {
	t.Helper()
	if !bytes.HasPrefix(body, []byte("[")) {
		return []json.RawMessage{body}
	}
	if err := json.Unmarshal(body, &entries); err != nil || len(entries) == 0 {
		t.Fatalf("body %.200s: %v", body, err)
	}
	return entries
}

// splitMessageID takes "queue-sequence", or "queue-first-last" of a pack or a gap, apart.
func splitMessageID(t *testing.T, mid string) (queue string, first, last uint64) {
	t.Helper()
	parts := strings.Split(mid, "-")
	n := len(parts)
	if n < 2 || n > 3 {
		t.Fatalf("message id %q", mid)
	}
	var errs [2]error
	first, errs[0] = strconv.ParseUint(parts[1], 10, 64)
	last, errs[1] = strconv.ParseUint(parts[n-1], 10, 64)
	if err := errors.Join(errs[:]...); err != nil || first == 0 || last < first {
		t.Fatalf("message id %q: %v", mid, err)
	}
	return parts[0], first, last
}
