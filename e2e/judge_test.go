package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"iothub-gateway/hubsim"
)

// lane is what the oracle found in one identity's messages.
type lane struct {
	newest   uint64
	repeated int
	marked   uint64 // entries that gaps stand for
	packs    int    // messages of more than one entry
}

// judge applies the oracle to everything the hub stored: in each lane, keeping the first of each
// sequence gives 1..n without a hole, what was received and what gaps mark making n together, and a
// repeat has the same bytes as its first.
func judge(t *testing.T, hub *hubsim.Hub) map[string]lane {
	t.Helper()
	lanes := map[string]lane{}
	bodies := map[string]string{}
	queue := ""
	for after := uint64(0); ; {
		batch := hub.Messages(after, 1000)
		if len(batch) == 0 {
			return lanes
		}
		for _, m := range batch {
			after = m.Sequence
			id := m.Device + "/" + m.Module
			mid := m.System["message-id"]
			q, first, last := splitMessageID(t, mid)
			if queue == "" {
				queue = q
			}
			if q != queue {
				t.Fatalf("%s: message id %s is of another queue than %s", id, mid, queue)
			}
			l := lanes[id]
			key := id + " " + mid
			body := string(m.Body) + fmt.Sprint(m.Properties)
			switch {
			case first == l.newest+1:
				l.newest, bodies[key] = last, body
				l.count(t, mid, m.Body, last-first+1)
			case first > l.newest:
				t.Fatalf("%s: after %d came %d: %d lost", id, l.newest, first, first-l.newest-1)
			default:
				l.repeated++
				if bodies[key] != body {
					t.Errorf("%s: the repeat of %s differs from its first:\n%s\n%s", id, mid, bodies[key], body)
				}
			}
			lanes[id] = l
		}
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
