package buffer_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

// What stands in testdata/format1.db and format2: made by the versions that had these formats, with
// acknowledgements in the middle.
var (
	keptPut   = map[gateway.IdentityID]int{"boiler": 240, "line-3/drive": 100, "meter": 60, "pump": 3, "quiet": 40}
	keptAcked = map[gateway.IdentityID]int{"boiler": 90, "meter": 59, "quiet": 40}
)

// keptMessage is message n of these files.
func keptMessage(id gateway.IdentityID, n int) gateway.Telemetry {
	m := message(id, n)
	m.Created = m.Created.Add(123456789)
	if id == "line-3/drive" {
		m.Body = fmt.Appendf(nil, `{"n":%d,"text":"%0200d"}`, n, n)
		m.Properties = []gateway.Property{{Name: "site", Value: "north & south"}, {Name: "n", Value: fmt.Sprint(n % 3)}}
	}
	return m
}

// drained reads the kept entries out of an open queue and acknowledges them.
func drained(t *testing.T, q *buffer.Queue, id string) {
	t.Helper()
	for name, puts := range keptPut {
		acked := keptAcked[name]
		if puts > acked {
			for i, e := range next(t, q.Lane(name), 0, puts-acked) {
				n := acked + 1 + i
				want := keptMessage(name, n)
				if e.ID() != fmt.Sprintf("%s-%d", id, n) || !bytes.Equal(e.Telemetry.Body, want.Body) || e.Telemetry.Identity != name ||
					!e.Telemetry.Created.Equal(want.Created) || fmt.Sprint(e.Telemetry.Properties) != fmt.Sprint(want.Properties) {
					t.Fatalf("%s %d: %s %+v", name, n, e.ID(), e.Telemetry)
				}
			}
			q.Lane(name).Ack(uint64(puts))
		}
		put(t, q, keptMessage(name, puts+1)) // numbering goes on
		if e := next(t, q.Lane(name), uint64(puts), 1)[0]; e.ID() != fmt.Sprintf("%s-%d", id, puts+1) {
			t.Errorf("%s: the next one is %s", name, e.ID())
		}
		q.Lane(name).Ack(uint64(puts + 1))
	}
	testkit.Eventually(t, "everything has left", func() bool { return q.Stats().Entries == 0 })
}

const keptID = "3b6a826c66c43d66" // of format1.db

// inState puts a file of format 1 where the version before had it, and names the queue's directory.
func inState(t *testing.T, data []byte) (dir string) {
	t.Helper()
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, "queue.db"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(state, "queue")
}

func format1(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/format1.db")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAQueueOfFormat1GoesOnWithTheSameIdsAndIsRemovedWhenItIsDrained(t *testing.T) {
	dir := inState(t, format1(t))
	for range 2 { // the first time it is only opened
		q := openQueue(t, dir)
		if h := q.Health(); h.State != "working" || q.ID() != keptID || q.Stats().Entries != 254 {
			t.Fatalf("%+v, id %s, %d entries", h, q.ID(), q.Stats().Entries)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "queue.db")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("queue.db: %v", err)
		}
		if files := generations(dir); len(files) != 2 {
			t.Fatalf("%v", files)
		}
	}
	q, _ := start(t, dir)
	drained(t, q, keptID)
	testkit.Eventually(t, "one file is left", func() bool { return len(generations(dir)) == 1 })
}

// A crash may come between any two of the steps.
func TestTakingInFormat1GoesOnAfterACrash(t *testing.T) {
	dir := inState(t, nil)
	if err := errors.Join(os.Remove(filepath.Join(filepath.Dir(dir), "queue.db")), os.Mkdir(dir, 0o700),
		os.WriteFile(generation(dir, 1), format1(t), 0o600)); err != nil { // it was renamed, no more
		t.Fatal(err)
	}
	q, _ := start(t, dir)
	drained(t, q, keptID)
}

func TestADamagedQueueOfFormat1IsSalvaged(t *testing.T) {
	for name, change := range map[string]func(b []byte) []byte{
		"a flipped bit":      func(b []byte) []byte { b[bytes.Index(b, []byte(`{"n":238}`))+5] ^= 1; return b },
		"a lost meta page":   func(b []byte) []byte { clear(b[:4096]); return b },
		"cut off at the end": func(b []byte) []byte { return b[:17*4096] }, // the newest root is gone, the one before is there
	} {
		t.Run(name, func(t *testing.T) {
			dir := inState(t, change(format1(t)))
			q, _ := start(t, dir)
			if h := q.Health(); h.State != "degraded" || len(h.Aside) != 1 || q.ID() == keptID {
				t.Fatalf("%+v", h)
			}
			got := 0
			for name, c := range q.Stats().Lanes {
				for after := c.Acked; after < c.Put; {
					e := next(t, q.Lane(name), after, 1)[0]
					after = e.Seq
					if want := keptMessage(name, int(e.Seq)); e.Gap == nil && (!bytes.Equal(e.Telemetry.Body, want.Body) || e.ID() != fmt.Sprintf("%s-%d", keptID, e.Seq)) {
						t.Fatalf("%s: %s %s", name, e.ID(), e.Telemetry.Body)
					} else if e.Gap == nil && int(e.Seq) > keptAcked[name] {
						got++
					}
				}
			}
			if got < 150 {
				t.Errorf("only %d of 254 entries came", got)
			}
			put(t, q, message("boiler", 1))
		})
	}
}

// A former version that was started once more has left a file while there is a queue already: it is
// not taken for the old one, and not forgotten.
func TestASecondFileOfFormat1IsNamed(t *testing.T) {
	dir := inState(t, format1(t))
	_, stop := start(t, dir)
	stop()
	former := filepath.Join(filepath.Dir(dir), "queue.db")
	if err := os.WriteFile(former, format1(t), 0o600); err != nil {
		t.Fatal(err)
	}
	q, _ := start(t, dir)
	if h := q.Health(); h.State != "degraded" || len(h.Aside) != 1 || h.Aside[0] != former {
		t.Errorf("%+v", h)
	}
	n, err := q.Reclaim(t.Context(), former)
	if err != nil || n != 254 || q.Stats().Entries != 2*254 {
		t.Errorf("%d entries, %v, %d wait", n, err, q.Stats().Entries)
	}
	if h := q.Health(); h.State != "working" {
		t.Errorf("%+v", h)
	}
	for i, e := range next(t, q.Lane("boiler"), 240, 150) { // as new ones
		if want := keptMessage("boiler", 91+i); !bytes.Equal(e.Telemetry.Body, want.Body) || !e.Telemetry.Created.Equal(want.Created) || int(e.Seq) != 241+i {
			t.Fatalf("%s: %+v", e.ID(), e.Telemetry)
		}
	}
	if kept, _ := filepath.Glob(former + ".taken-in-*"); len(kept) != 1 {
		t.Errorf("%v", kept)
	}
}

func TestWhatCannotBeReclaimedStaysAsItIs(t *testing.T) {
	good := makePlant(t)
	path := generations(good.dir)[0]
	editFile(t, path, func(tx *bbolt.Tx) error {
		key := []byte("format")
		return tx.Bucket([]byte("meta")).Put(key, buffer.SealValue("meta", key, []byte{0, 0, 0, 7}))
	})
	if err := os.Truncate(generations(good.dir)[1], 20<<10); err != nil {
		t.Fatal(err)
	}
	q, _ := start(t, good.dir)
	aside := q.Health().Aside
	if len(aside) != 2 {
		t.Fatalf("%v", aside)
	}
	for _, path := range aside {
		if n, err := q.Reclaim(t.Context(), path); err == nil || n != 0 {
			t.Errorf("%s: %d entries, %v", path, n, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	// The newer program comes.
	for _, path := range aside {
		if strings.Contains(path, "newer") {
			editFile(t, path, func(tx *bbolt.Tx) error {
				key := []byte("format")
				return tx.Bucket([]byte("meta")).Put(key, buffer.SealValue("meta", key, []byte{0, 0, 0, 2}))
			})
			if n, err := q.Reclaim(t.Context(), path); err != nil || n < 50 {
				t.Errorf("%d entries, %v", n, err)
			}
		}
	}
}

func TestAFormerVersionAtWorkIsNotDisturbed(t *testing.T) {
	dir := inState(t, format1(t))
	lock, err := os.Open(filepath.Join(filepath.Dir(dir), "queue.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := buffer.LockFile(lock); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := buffer.Open(buffer.Config{Dir: dir}); !errors.Is(err, buffer.ErrInUse) || time.Since(began) > 3*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// testdata/format2 is a queue of several files; it is copied, because opening one changes it.
func TestAQueueOfFormat2GoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "queue")
	if err := os.CopyFS(dir, os.DirFS("testdata/format2")); err != nil {
		t.Fatal(err)
	}
	id, err := os.ReadFile("testdata/format2.id")
	if err != nil {
		t.Fatal(err)
	}
	q, _ := start(t, dir)
	if h := q.Health(); h.State != "working" || q.ID() != string(id) || q.Stats().Generations < 2 {
		t.Fatalf("%+v, id %s, %d generations", h, q.ID(), q.Stats().Generations)
	}
	drained(t, q, string(id))
}
