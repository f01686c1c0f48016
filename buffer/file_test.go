package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

func TestASecondOpenerIsRefusedQuicklyAndTheFirstGoesOn(t *testing.T) {
	path := queuePath(t)
	q, _ := start(t, path)
	began := time.Now()
	_, err := buffer.Open(buffer.Config{Dir: path})
	if !errors.Is(err, buffer.ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	put(t, q, message("a", 1))
	expect(t, q, "a", 1, 1)
}

// Of several processes that start at once on a new file one gets it, and it is the one file.
func TestOnlyOneOfManyMakesTheFile(t *testing.T) {
	path := queuePath(t)
	queues := make(chan *buffer.Queue, 8)
	var all sync.WaitGroup
	for range cap(queues) {
		all.Go(func() {
			q, err := buffer.Open(buffer.Config{Dir: path})
			if err != nil && !errors.Is(err, buffer.ErrInUse) {
				t.Error(err)
			}
			if err == nil {
				queues <- q
			}
		})
	}
	all.Wait()
	if len(queues) != 1 {
		t.Fatalf("%d opened it", len(queues))
	}
	q := <-queues
	stop := runQueue(t, q)
	put(t, q, message("a", 1))
	stop()
	again, _ := start(t, path)
	if again.ID() != q.ID() {
		t.Error("another file stands there")
	}
	expect(t, again, "a", 1, 1)
}

// emptyQueue is a queue's directory without files.
func emptyQueue(t *testing.T) string {
	t.Helper()
	path := queuePath(t)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// What a power cut during the first start can leave: nothing, an empty file, half a temporary one.
func TestAFileThatWasNeverBornIsMadeAgain(t *testing.T) {
	path := emptyQueue(t)
	for name, content := range map[string][]byte{generation(path, 1) + ".tmp": make([]byte, 5000), generation(path, 1): nil} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	q, stop := start(t, path)
	put(t, q, message("a", 1))
	stop()
	q, _ = start(t, path)
	expect(t, q, "a", 1, 1)
	if _, err := os.Stat(generation(path, 1) + ".tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary file is still there: %v", err)
	}
}

// logKeys are the keys of the log in the order of the entries.
func logKeys(tx *bbolt.Tx) (keys [][]byte) {
	c := tx.Bucket([]byte("log")).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}

// flip changes the last bit of a record's body.
func flip(log *bbolt.Bucket, k []byte) error {
	v := bytes.Clone(log.Get(k))
	v[len(v)-5] ^= 1
	return log.Put(k, v)
}

// sealFirst begins a second file, so that the first is not read as a whole when the queue is opened.
func sealFirst(t *testing.T, path string) {
	t.Helper()
	q, err := buffer.Open(buffer.Config{Dir: path, GenerationBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	stop := runQueue(t, q)
	put(t, q, message("c", 1))
	testkit.Eventually(t, "there are two files", func() bool { return q.Stats().Generations == 2 })
	stop()
}

func TestADamagedRecordBecomesAGapAndTheLaneGoesOn(t *testing.T) {
	damage := map[string]func(log *bbolt.Bucket, keys [][]byte) error{
		"a flipped bit": func(log *bbolt.Bucket, keys [][]byte) error { return flip(log, keys[4]) },
		"another record in its place": func(log *bbolt.Bucket, keys [][]byte) error {
			return log.Put(keys[4], bytes.Clone(log.Get(keys[6])))
		},
		"cut off": func(log *bbolt.Bucket, keys [][]byte) error { return log.Put(keys[4], []byte{1, 1}) },
		"empty":   func(log *bbolt.Bucket, keys [][]byte) error { return log.Put(keys[4], nil) },
		"gone":    func(log *bbolt.Bucket, keys [][]byte) error { return log.Delete(keys[4]) },
	}
	for name, change := range damage {
		t.Run(name, func(t *testing.T) {
			path := queuePath(t)
			q, stop := start(t, path)
			for n := range 5 { // in the log: a1 b1 a2 b2 a3 b3...
				put(t, q, message("a", n+1), message("b", n+1))
			}
			stop()
			sealFirst(t, path)
			edit(t, path, func(tx *bbolt.Tx) error { return change(tx.Bucket([]byte("log")), logKeys(tx)) })
			for range 2 { // and it stays so
				q, stop = start(t, path)
				got := next(t, q.Lane("a"), 0, 5)
				for i, e := range got {
					if i == 2 && (e.Gap == nil || e.Gap.Reasons[buffer.ReasonDamaged] != 1) || i != 2 && e.Gap != nil || int(e.First) != i+1 || int(e.Seq) != i+1 {
						t.Errorf("entry %d: %+v", i+1, e)
					}
				}
				if want := q.ID() + "-3-3"; got[2].ID() != want {
					t.Errorf("the id is %s, want %s", got[2].ID(), want)
				}
				expect(t, q, "b", 1, 5)
				stop()
			}
			q, _ = start(t, path)
			put(t, q, message("a", 6)) // numbering goes on
			if got := next(t, q.Lane("a"), 5, 1); string(got[0].Telemetry.Body) != `{"n":6}` || got[0].Seq != 6 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestNumberingGoesOnEvenIfTheNewestRecordIsDamaged(t *testing.T) {
	path := queuePath(t)
	q, stop := start(t, path)
	put(t, q, messages("a", 1, 5)...)
	next(t, q.Lane("a"), 0, 2)
	q.Lane("a").Ack(2)
	stop()
	edit(t, path, func(tx *bbolt.Tx) error {
		keys := logKeys(tx)
		return flip(tx.Bucket([]byte("log")), keys[len(keys)-1])
	})
	q, _ = start(t, path)
	put(t, q, message("a", 6))
	if c := q.Stats().Lanes["a"]; c.Put != 6 || c.Acked != 2 {
		t.Errorf("%+v", c)
	}
	if got := next(t, q.Lane("a"), 0, 2); got[1].Seq != 4 {
		t.Errorf("got %v", got)
	}
}

// Nothing was deleted from the log: what had left comes again, with the same ids.
func TestALostMarkRepeatsAndLosesNothing(t *testing.T) {
	path := queuePath(t)
	q, stop := start(t, path)
	put(t, q, messages("a", 1, 5)...)
	next(t, q.Lane("a"), 0, 2)
	q.Lane("a").Ack(2)
	stop()
	edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("marks")).Delete([]byte{0, 0, 0, 1}) })
	q, _ = start(t, path)
	expect(t, q, "a", 1, 5)
}

func TestAFileWithImpossibleContentIsSetAside(t *testing.T) {
	number, record := []byte{0, 0, 0, 9}, []byte("x")
	damage := map[string]func(tx *bbolt.Tx) error{
		"a key of an unknown identity": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("log")).Put(append(make([]byte, 8), number...), record)
		},
		"a short key":                   func(tx *bbolt.Tx) error { return tx.Bucket([]byte("log")).Put([]byte("k"), record) },
		"a mark of an unknown identity": func(tx *bbolt.Tx) error { return tx.Bucket([]byte("marks")).Put(number, make([]byte, 8)) },
		"a short identity number":       func(tx *bbolt.Tx) error { return tx.Bucket([]byte("identities")).Put([]byte("n"), record) },
		"no log":                        func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("log")) },
	}
	for name, change := range damage {
		t.Run(name, func(t *testing.T) {
			path := queuePath(t)
			q, stop := start(t, path)
			put(t, q, message("a", 1))
			stop()
			edit(t, path, change)
			q, stop = start(t, path)
			if h := q.Health(); len(h.Aside) != 1 || h.State != "degraded" || !strings.Contains(h.Reason, path) {
				t.Errorf("health: %+v", h)
			}
			if got := next(t, q.Lane("a"), 0, 1)[0]; string(got.Telemetry.Body) != `{"n":1}` || got.Queue == q.ID() {
				t.Errorf("got %+v", got)
			}
			put(t, q, message("a", 2))
			stop()
		})
	}
}

// One log for all identities, in the order of acceptance, and marks: the layout that other versions
// of the program will find.
func TestTheLayoutIsTheDocumentedOne(t *testing.T) {
	path := queuePath(t)
	q, stop := start(t, path)
	put(t, q, message("a", 1), message("b", 1), message("a", 2))
	next(t, q.Lane("a"), 0, 1)
	q.Lane("a").Ack(1)
	stop()
	edit(t, path, func(tx *bbolt.Tx) error {
		want := [][]byte{{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2}, {0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1}}
		if got := logKeys(tx); !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("the log: %x", got)
		}
		record := tx.Bucket([]byte("log")).Get(want[2])
		if !bytes.HasPrefix(record, []byte{2, 1, 0, 0, 0, 0, 0, 0, 0, 2}) || !bytes.HasSuffix(record[:len(record)-4], []byte("\x00"+`{"n":2}`)) {
			t.Errorf("a record: %x", record)
		}
		if got := tx.Bucket([]byte("marks")).Get([]byte{0, 0, 0, 1}); !bytes.HasPrefix(got, []byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1}) || len(got) != 20 {
			t.Errorf("the mark: %x", got)
		}
		if got := tx.Bucket([]byte("identities")).Get([]byte{0, 0, 0, 2}); string(got[:1]) != "b" || len(got) != 5 {
			t.Errorf("the identity: %q", got)
		}
		meta := tx.Bucket([]byte("meta"))
		if got := meta.Get([]byte("format")); !bytes.HasPrefix(got, []byte{0, 0, 0, 2}) || string(meta.Get([]byte("id"))[:16]) != q.ID() {
			t.Errorf("format %x id %s", got, meta.Get([]byte("id")))
		}
		return nil
	})
}

// The freelist is not written, or every commit after a drained backlog would be a megabyte.
func TestACommitAfterADrainedBacklogIsSmall(t *testing.T) {
	path := queuePath(t)
	q, _ := start(t, path)
	body := bytes.Repeat([]byte("x"), 1000)
	batch := make([]gateway.Telemetry, 2000)
	for i := range batch {
		batch[i] = gateway.Telemetry{Identity: "a", Body: body}
	}
	for range 10 {
		put(t, q, batch...)
	}
	entries := next(t, q.Lane("a"), 0, 20_000)
	q.Lane("a").Ack(entries[len(entries)-1].Seq)
	testkit.Eventually(t, "everything has left", func() bool { return q.Stats().Entries == 0 })
	written := writtenBytes(t)
	const commits = 20
	for range commits {
		if err := q.Put(context.Background(), message("a", 1)); err != nil {
			t.Fatal(err)
		}
	}
	if per := (writtenBytes(t) - written) / commits; per > 64<<10 {
		t.Errorf("a commit of one entry writes %d bytes", per)
	}
}
