package hubsim

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/internal/testkit"
)

// testStore is a store whose committer runs until stop.
type testStore struct {
	*store
	stop func()
}

func openStore(t *testing.T, dir string, limit int64) *testStore {
	t.Helper()
	s := newStore(dir, limit, func(err error) {
		if !strings.Contains(err.Error(), "the bound of") {
			t.Errorf("complaint: %v", err)
		}
	})
	if _, err := s.recover(func(record) {}); err != nil {
		t.Fatal(err)
	}
	return runStore(t, s)
}

func runStore(t *testing.T, s *store) *testStore {
	t.Helper()
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.commit(); err != nil {
			t.Errorf("commit: %v", err)
		}
	})
	stop := sync.OnceFunc(func() { s.close(); running.Wait() })
	t.Cleanup(stop)
	return &testStore{store: s, stop: stop}
}

// put stores a message and waits until it is stored.
func (s *testStore) put(t *testing.T, body string) uint64 {
	t.Helper()
	told := make(chan uint64, 1)
	r := record{identity: "dev1", bag: []byte("a=1"), body: []byte(body), generation: 7, marks: markDup}
	stored, err := s.append(&r, &waiter{stored: func(upTo uint64) { told <- upTo }})
	if err != nil {
		t.Fatal(err)
	}
	if !stored {
		if upTo := <-told; upTo < r.sequence {
			t.Fatalf("told %d, waited for %d", upTo, r.sequence)
		}
	}
	return r.sequence
}

// bodies reads everything behind after, page by page.
func (s *store) bodies(after uint64, limit int) (all []string) {
	for {
		records, _ := s.page(after, limit)
		if len(records) == 0 {
			return all
		}
		for _, r := range records {
			if r.sequence != after+1 && after != 0 {
				all = append(all, fmt.Sprintf("(hole before %d)", r.sequence))
			}
			after = r.sequence
			all = append(all, string(r.body))
		}
	}
}

func numbered(from, to int) (all []string) {
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

func inMemoryAndOnDisk(t *testing.T, test func(t *testing.T, dir string)) {
	t.Run("memory", func(t *testing.T) { test(t, "") })
	t.Run("disk", func(t *testing.T) { test(t, t.TempDir()) })
}

func TestMessagesAreReadInOrderFromAnywhere(t *testing.T) {
	inMemoryAndOnDisk(t, func(t *testing.T, dir string) {
		s := openStore(t, dir, 1<<20)
		if got := s.bodies(0, 10); got != nil {
			t.Fatalf("an empty store has %v", got)
		}
		for i := range 50 {
			if sequence := s.put(t, fmt.Sprint(i+1)); sequence != uint64(i+1) {
				t.Fatalf("message %d has sequence %d", i+1, sequence)
			}
		}
		for _, after := range []int{0, 1, 2, 25, 48, 49, 50, 51} {
			for _, limit := range []int{1, 3, 1000} {
				if diff := cmp.Diff(numbered(after+1, 50), s.bodies(uint64(after), limit)); diff != "" {
					t.Fatalf("behind %d, %d at a time (-want +got):\n%s", after, limit, diff)
				}
			}
		}
	})
}

func TestTheOldestMessagesGoFirstAndTheBoundHolds(t *testing.T) {
	inMemoryAndOnDisk(t, func(t *testing.T, dir string) {
		const limit = 4 * minBlock
		s := openStore(t, dir, limit)
		told := 0
		s.complain = func(error) { told++ }
		body := string(bytes.Repeat([]byte("x"), 5000))
		for range 200 {
			s.put(t, body)
		}
		records, _ := s.page(0, 1)
		first := records[0].sequence
		if first == 1 {
			t.Error("a million bytes were put into a quarter of that, and nothing was dropped")
		}
		s.mu.Lock()
		held := s.bytes
		s.mu.Unlock()
		if told != 1 {
			t.Errorf("the operator was told %d times", told)
		}
		if held > limit || held < limit/2 {
			t.Errorf("%d bytes are held, the bound is %d", held, limit)
		}
		if got := len(s.bodies(0, 7)); got != int(200-first+1) {
			t.Errorf("%d messages from %d to 200", got, first)
		}
		if dir != "" {
			s.stop()
			if size := testkit.Size(t, dir); size != held {
				t.Errorf("%d bytes are on disk, %d are counted", size, held)
			}
		}
	})
}

func TestAMessageLargerThanABlockIsStored(t *testing.T) {
	inMemoryAndOnDisk(t, func(t *testing.T, dir string) {
		s := openStore(t, dir, 1) // the smallest blocks
		for i := range 3 {
			s.put(t, string(bytes.Repeat([]byte{byte('a' + i)}, maxMessage)))
		}
		if got := s.bodies(0, 10); len(got) != 1 || got[0][0] != 'c' || len(got[0]) != maxMessage {
			t.Errorf("%d messages are left; the newest always is", len(got))
		}
	})
}

func TestMessagesAndSequenceSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	for run := range 3 {
		s := openStore(t, dir, 1<<20)
		if diff := cmp.Diff(numbered(1, run*10), s.bodies(0, 4)); diff != "" {
			t.Fatalf("run %d (-want +got):\n%s", run, diff)
		}
		for i := range 10 {
			if sequence := s.put(t, fmt.Sprint(run*10+i+1)); sequence != uint64(run*10+i+1) {
				t.Fatalf("run %d: sequence %d", run, sequence)
			}
		}
		s.stop()
	}
}

func TestATornTailIsCutOffAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 1<<20)
	for _, body := range numbered(1, 3) {
		s.put(t, body)
	}
	s.stop()
	path := filepath.Join(dir, "00000000000000000001.log")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		dir := t.TempDir()
		path := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		s := newStore(dir, 1<<20, func(err error) { t.Error(err) })
		cut, err := s.recover(func(record) {})
		if err != nil {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
		kept := s.bodies(0, 10)
		good := 0
		if head := len(journalHead); n >= head {
			good = head + len(kept)*(len(whole)-head)/3
		}
		if cut != int64(n-good) || n-good >= (len(whole)-len(journalHead))/3 {
			t.Fatalf("%d of %d bytes: %d messages kept, %d bytes cut", n, len(whole), len(kept), cut)
		}
		if s.next != uint64(len(kept)+1) {
			t.Fatalf("%d of %d bytes: the next sequence is %d", n, len(whole), s.next)
		}
		if n%16 != 0 { // going on from there is the same everywhere
			continue
		}
		running := runStore(t, s)
		running.put(t, "next")
		if diff := cmp.Diff(append(numbered(1, len(kept)), "next"), s.bodies(0, 10)); diff != "" {
			t.Fatal(diff)
		}
		running.stop()
	}
}

func TestDamageThatIsNoTornTailIsNotHidden(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 1<<20)
	s.put(t, "1")
	s.stop()
	s = openStore(t, dir, 1<<20) // a second file
	s.put(t, "2")
	s.stop()
	path := filepath.Join(dir, "00000000000000000001.log")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newStore(dir, 1<<20, nil).recover(func(record) {}); err == nil {
		t.Error("a damaged file that is not the newest was opened")
	}
	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newStore(dir, 1<<20, nil).recover(func(record) {}); err == nil {
		t.Error("a file that is not ours was opened")
	}
}

func TestOneSyncServesEveryoneWhoWaits(t *testing.T) {
	s := newStore(t.TempDir(), 1<<20, nil)
	if _, err := s.recover(func(record) {}); err != nil {
		t.Fatal(err)
	}
	// Everything that is put before the committer runs is one batch.
	told := make(chan uint64, 100)
	waiters := []*waiter{{stored: func(n uint64) { told <- n }}, {stored: func(n uint64) { told <- n }}}
	for i := range 10 {
		stored, err := s.append(&record{identity: "d", body: []byte{byte(i)}}, waiters[i%2])
		if err != nil || stored {
			t.Fatalf("stored %v before the sync, %v", stored, err)
		}
	}
	if got := s.bodies(0, 10); got != nil {
		t.Errorf("messages are seen before they are on disk: %v", got)
	}
	running := runStore(t, s)
	running.stop()
	close(told)
	var got []uint64
	for n := range told {
		got = append(got, n)
	}
	if diff := cmp.Diff([]uint64{10, 10}, got); diff != "" {
		t.Errorf("waiters were told (-want +got):\n%s", diff)
	}
	if s.durable.Load() != 10 || len(s.bodies(0, 100)) != 10 {
		t.Errorf("durable %d", s.durable.Load())
	}
}
