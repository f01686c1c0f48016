package hubsim

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func openTestState(t *testing.T, path string) *state {
	t.Helper()
	s, err := openState(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	return s
}

func contents(t *testing.T, s *state, kind string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := s.each(kind, func(key string, text []byte) error { all[key] = string(text); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWhatWasWaitedForIsThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openTestState(t, path)
	for _, w := range []*saved{
		s.put("a", "1", "x"), s.put("a", "2", map[string]int{"n": 1}), s.put("b", "1", true),
		s.write(change{"a", "3", 3}, change{"a", "1", nil}), s.delete("c", "never was"), nil,
	} {
		if err := w.wait(); err != nil {
			t.Fatal(err)
		}
	}
	s.put("a", "4", "not waited for") // closing writes it
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	again := openTestState(t, path)
	if diff := cmp.Diff(map[string]string{"2": `{"n":1}`, "3": "3", "4": `"not waited for"`}, contents(t, again, "a")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"1": "true"}, contents(t, again, "b")); diff != "" {
		t.Error(diff)
	}
}

// The newest value wins, in the order in which the changes were noted and not in that of the waiting.
func TestChangesTakeEffectInTheirOrder(t *testing.T) {
	s := openTestState(t, filepath.Join(t.TempDir(), "state.db"))
	var all sync.WaitGroup
	for i := range 50 {
		w := s.put("a", "1", i)
		other := s.put("a", fmt.Sprint("k", i), i)
		all.Go(func() {
			if err := errors.Join(other.wait(), w.wait()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := contents(t, s, "a"); got["1"] != "49" || len(got) != 51 {
		t.Errorf("%v", got)
	}
}

func writesOf(s *state) int64 {
	stats := s.db.Stats()
	return stats.TxStats.GetWrite()
}

// Everything that was noted while a commit ran leaves in one commit.
func TestOneCommitServesEverybodyWhoWaits(t *testing.T) {
	s := openTestState(t, filepath.Join(t.TempDir(), "state.db"))
	before := writesOf(s)
	first := s.put("a", "0", 0)
	for i := range 100 {
		if w := s.put("a", fmt.Sprint(i), i); w != first {
			t.Fatal("a change before the commit goes with another one")
		}
	}
	if err := first.wait(); err != nil {
		t.Fatal(err)
	}
	writes := writesOf(s) - before
	if err := s.write().wait(); err != nil {
		t.Fatal(err)
	}
	if after := writesOf(s) - before; after != writes || writes == 0 {
		t.Errorf("%d writes for the changes, %d after waiting for none", writes, after)
	}
}

func TestAStateThatFailedSaysSoForEver(t *testing.T) {
	s := openTestState(t, filepath.Join(t.TempDir(), "state.db"))
	if err := s.put("a", "1", func() {}).wait(); err == nil || !strings.Contains(err.Error(), "a 1") {
		t.Errorf("a value that is no JSON: %v", err)
	}
	if err := s.put("a", strings.Repeat("k", 1<<16), 1).wait(); err == nil {
		t.Error("a key that is too long was stored")
	}
	select {
	case <-s.broken:
	default:
		t.Error("nobody is told")
	}
	if err := s.put("a", "1", 1).wait(); err == nil {
		t.Error("a change behind a failure was stored")
	}
}

func TestAStateThatIsClosedTakesNothing(t *testing.T) {
	s := openTestState(t, filepath.Join(t.TempDir(), "state.db"))
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if err := s.put("a", "1", 1).wait(); !errors.Is(err, errStopped) {
		t.Errorf("after closing: %v", err)
	}
}

func TestAStateInMemoryForgets(t *testing.T) {
	s := openTestState(t, "")
	if err := s.put("a", "1", 1).wait(); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, s, "a"); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
