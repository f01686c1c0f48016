package upstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
)

func TestAMessageIsExecutedOnceOrNotAtAll(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	soon, past := now.Add(time.Second), now.Add(-time.Second)
	named, nameless := &gateway.CloudMessage{ID: "m1"}, &gateway.CloudMessage{Body: []byte("x")}
	old := &gateway.CloudMessage{ID: "m1", Expires: now}
	for _, c := range []struct {
		what     string
		known    int // status of an earlier execution; -1 none
		m        *gateway.CloudMessage
		repeats  bool
		deadline time.Time
		want     verdict
	}{
		{"a new message", -1, named, false, soon, execute},
		{"a new message that was sent before and not executed", -1, named, true, soon, execute},
		{"one that was executed", 200, named, true, soon, done},
		{"one that was executed, and the hub does not say that it repeats", 200, named, false, soon, done},
		{"one that was refused", 400, named, true, soon, done},
		{"one whose execution was interrupted", begun, named, true, soon, interrupted},
		{"the same text anew, without an id", 200, nameless, false, soon, execute},
		{"the same text again, without an id", 200, nameless, true, soon, done},
		{"an expired one", -1, old, false, soon, expired},
		{"an expired one that was executed", 200, old, true, soon, done},
		{"one whose turn comes late", -1, named, false, now, late},
		{"one whose turn came late", -1, named, false, past, late},
	} {
		var all executed
		if c.known >= 0 {
			all = all.with(keyOf(c.m, "t"), c.known)
		}
		if got := parseExecuted(all.note()).judge(arrival{c.m, keyOf(c.m, "t"), c.repeats, c.deadline}, now); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
}

func TestTheNewestExecutionsAreKept(t *testing.T) {
	key := func(i int) messageKey { return keyOf(&gateway.CloudMessage{ID: fmt.Sprint(i)}, "") }
	var all executed
	for i := range 3 * keptMessages {
		all = all.with(key(i), begun).with(key(i), 200)
	}
	all = parseExecuted(all.note())
	if len(all) != keptMessages {
		t.Errorf("%d are kept", len(all))
	}
	for i := range 3 * keptMessages {
		if _, ok := all.find(key(i)); ok != (i >= 2*keptMessages) {
			t.Errorf("message %d: %v", i, ok)
		}
	}
	if _, ok := all.without(key(3*keptMessages - 1)).find(key(3*keptMessages - 1)); ok {
		t.Error("one that was taken back is still there")
	}
	if size := len(all.note()); size > 64<<10 {
		t.Errorf("the note has %d bytes", size)
	}
	for _, note := range [][]byte{nil, {9}, {executedForm}, {executedForm, 1, 2, 3}, append([]byte{executedForm + 1}, make([]byte, executedEntry)...)} {
		if got := parseExecuted(note); len(got) > 0 {
			t.Errorf("%v was read: %v", note, got)
		}
	}
}

func TestTwoMessagesWithoutIDsAreOneOnlyIfAllIsEqual(t *testing.T) {
	key := func(topic, body string) messageKey {
		return keyOf(&gateway.CloudMessage{Body: []byte(body)}, topic)
	}
	keys := map[messageKey]string{}
	for _, m := range [][2]string{{"a", "b"}, {"ab", ""}, {"", "ab"}, {"a", "c"}} {
		keys[key(m[0], m[1])] = ""
	}
	if len(keys) != 4 || !cmp.Equal(key("a", "b"), key("a", "b")) {
		t.Errorf("%d keys", len(keys))
	}
}
