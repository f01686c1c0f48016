package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

func openState(t testing.TB, path string, log *bytes.Buffer) *buffer.State {
	t.Helper()
	s, err := buffer.OpenState(path, zerolog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func note(t testing.TB, s *buffer.State, key, value string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func TestNotesAreThereAfterARestart(t *testing.T) {
	path, log := filepath.Join(t.TempDir(), "state.db"), &bytes.Buffer{}
	s := openState(t, path, log)
	note(t, s, "c2d/boiler/1", "done")
	note(t, s, "c2d/boiler/1", "done again")
	note(t, s, "c2d/boiler/2", "")
	note(t, s, "gone", "x")
	for range 2 { // the second time there is none
		if err := s.Delete(t.Context(), "gone"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := buffer.OpenState(path, zerolog.Nop()); !errors.Is(err, buffer.ErrInUse) {
		t.Errorf("a second process: %v", err)
	}
	for range 2 {
		if v, ok := s.Get("c2d/boiler/1"); !ok || string(v) != "done again" {
			t.Errorf("%q %v", v, ok)
		}
		if v, ok := s.Get("c2d/boiler/2"); !ok || len(v) != 0 {
			t.Errorf("%q %v", v, ok)
		}
		if v, ok := s.Get("gone"); ok {
			t.Errorf("%q", v)
		}
		if keys := s.Keys("c2d/"); !slices.Equal(keys, []string{"c2d/boiler/1", "c2d/boiler/2"}) || len(s.Keys("other/")) > 0 {
			t.Errorf("keys %v", keys)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openState(t, path, log)
	}
	if log.Len() > 0 || s.Err() != nil {
		t.Errorf("log: %s err: %v", log, s.Err())
	}
}

func TestWhatIsNoNoteIsRefused(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "state.db"), &bytes.Buffer{})
	if s.Put(t.Context(), "", nil) == nil || s.Put(t.Context(), strings.Repeat("k", 257), nil) == nil ||
		s.Put(t.Context(), "k", make([]byte, buffer.MaxNote+1)) == nil {
		t.Error("one was stored")
	}
	value := make([]byte, buffer.MaxNote)
	if err := s.Put(t.Context(), "k", value); err != nil {
		t.Error(err)
	}
	value[0] = 1
	if v, _ := s.Get("k"); v[0] != 0 {
		t.Error("it is the caller's memory")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(over, "k", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	_ = s.Close()
	if err := s.Put(t.Context(), "k", nil); !errors.Is(err, buffer.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestManyMayNoteAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openState(t, path, &bytes.Buffer{})
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() { note(t, s, fmt.Sprint("desired/", i), fmt.Sprint(i)) })
	}
	all.Wait()
	_ = s.Close()
	s = openState(t, path, &bytes.Buffer{})
	for i := range 100 {
		if v, ok := s.Get(fmt.Sprint("desired/", i)); !ok || string(v) != fmt.Sprint(i) {
			t.Errorf("%d: %q %v", i, v, ok)
		}
	}
}

// Whatever byte is not as it was written: the notes are the ones that were written, or none are.
func TestADamagedStateFileIsSetAsideWithOneLineAndNeverBelieved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openState(t, path, &bytes.Buffer{})
	for i := range 200 {
		note(t, s, fmt.Sprint("key/", i), strings.Repeat(fmt.Sprint(i), 20))
	}
	_ = s.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	random, aside := rand.New(rand.NewPCG(3, 4)), 0
	damage := map[string][]byte{"zeroes": make([]byte, 16<<10), "a text": []byte("devices:\n"), "cut off": good[:len(good)/2]}
	for range 40 {
		bit := random.IntN(8 * len(good))
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		damage[fmt.Sprint("bit ", bit)] = b
	}
	for name, content := range damage {
		path, log := filepath.Join(t.TempDir(), "state.db"), &bytes.Buffer{}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openState(t, path, log)
		found, _ := filepath.Glob(path + ".damaged-*")
		want := 200
		if len(found) == 1 {
			aside++
			want = 0
			if kept, err := os.ReadFile(found[0]); err != nil || !bytes.Equal(kept, content) {
				t.Errorf("%s: the file that was set aside has changed (%v)", name, err)
			}
			if strings.Count(log.String(), "\n") != 1 || s.Err() == nil || !strings.Contains(s.Err().Error(), found[0]) {
				t.Errorf("%s: log %s err %v", name, log, s.Err())
			}
		}
		for i := range 200 {
			if v, ok := s.Get(fmt.Sprint("key/", i)); ok != (i < want) || ok && string(v) != strings.Repeat(fmt.Sprint(i), 20) {
				t.Fatalf("%s: key %d: %q %v, set aside: %v", name, i, v, ok, found)
			}
		}
		note(t, s, "new", "works")
	}
	if aside < 10 || aside > len(damage)-1 {
		t.Errorf("%d of %d were set aside: the test proves nothing", aside, len(damage))
	}
}

// The directory cannot be written, whoever we are: a part of the path is a file. It comes back.
func TestNotesThatCannotBeStoredAreRefusedUntilTheyCan(t *testing.T) {
	dir, log := filepath.Join(t.TempDir(), "state"), &bytes.Buffer{}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openState(t, filepath.Join(dir, "state.db"), log)
	err := s.Put(t.Context(), "k", []byte("v"))
	if err == nil || !strings.Contains(err.Error(), "not a directory") || !strings.Contains(err.Error(), "every second") || s.Err() == nil {
		t.Fatalf("%v; %v", err, s.Err())
	}
	if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the note is taken", func() bool { return s.Put(t.Context(), "k", []byte("v")) == nil })
	if v, ok := s.Get("k"); !ok || string(v) != "v" || s.Err() != nil {
		t.Errorf("%q %v %v", v, ok, s.Err())
	}
	if lines := strings.Count(log.String(), "\n"); lines != 2 {
		t.Errorf("%d lines: %s", lines, log)
	}
}
