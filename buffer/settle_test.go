package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"

	"iothub-gateway/buffer"
)

// faulty is a disk whose commits can be made to fail, each in one of the two ways there are.
type faulty struct {
	mu    sync.Mutex
	plan  []func(*bbolt.Tx) error
	count int
}

func lost(err error) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error { return errors.Join(err, tx.Rollback()) }
}

func kept(err error) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error { return errors.Join(err, tx.Commit()) }
}

// next says how the next commits end; those after them succeed.
func (f *faulty) next(plan ...func(*bbolt.Tx) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan = plan
}

func (f *faulty) commit(tx *bbolt.Tx) error {
	f.mu.Lock()
	commit := (*bbolt.Tx).Commit
	if len(f.plan) > 0 {
		commit, f.plan = f.plan[0], f.plan[1:]
	}
	f.count++
	f.mu.Unlock()
	return commit(tx)
}

// startFaulty is start on a faulty disk. Call it in a synctest bubble: what failed is tried again
// after a second.
func startFaulty(t *testing.T, path string) (q *buffer.Queue, disk *faulty, stop func()) {
	t.Helper()
	q = openQueue(t, path)
	disk = &faulty{}
	q.OnCommit(disk.commit)
	return q, disk, runQueue(t, q)
}

func TestAFailedCommitThatIsNotOnDiskIsAnErrorAndLeavesNoHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := queuePath(t)
		q, disk, stop := startFaulty(t, path)
		put(t, q, message("a", 1))
		disk.next(lost(syscall.EIO))
		err := q.Put(t.Context(), message("a", 99), message("new", 99))
		if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), path) {
			t.Fatalf("got %v", err)
		}
		expect(t, q, "a", 1, 1)
		pass(time.Second)
		put(t, q, message("a", 2), message("new", 1))
		expect(t, q, "a", 1, 2)
		expect(t, q, "new", 1, 1)
		stop()
		q, _ = start(t, path)
		expect(t, q, "a", 1, 2)
		expect(t, q, "new", 1, 1)
	})
}

func TestAFailedCommitThatIsOnDiskIsASuccessAndStoredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := queuePath(t)
		q, disk, stop := startFaulty(t, path)
		put(t, q, message("a", 1))
		next(t, q.Lane("a"), 0, 1)
		disk.next(kept(syscall.EIO))
		q.Lane("a").Ack(1)
		put(t, q, message("a", 2), message("new", 1)) // no error
		put(t, q, message("a", 3))                    // at once
		expect(t, q, "a", 2, 3)
		stop()
		q, _ = start(t, path)
		expect(t, q, "a", 2, 3)
		expect(t, q, "new", 1, 1)
	})
}

// The confirming transaction fails too: then nobody can know yet, and the Put says so. It is decided
// later; the entry is there once.
func TestWhatIsInDoubtIsDecidedWhenTheDiskWorksAgain(t *testing.T) {
	for name, second := range map[string]func(error) func(*bbolt.Tx) error{"lost": lost, "kept": kept} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := queuePath(t)
				q, disk, stop := startFaulty(t, path)
				put(t, q, message("a", 1))
				next(t, q.Lane("a"), 0, 1)
				q.Lane("a").Ack(1)
				disk.next(kept(syscall.EIO), second(syscall.EIO))
				err := q.Put(t.Context(), message("a", 2))
				if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "whether the last entries are stored") {
					t.Fatalf("got %v", err)
				}
				if err := q.Put(t.Context(), message("a", 99)); !errors.Is(err, syscall.EIO) {
					t.Fatalf("a Put in between: %v", err)
				}
				// A reader waits for it, without an error.
				if e := next(t, q.Lane("a"), 1, 1); string(e[0].Telemetry.Body) != `{"n":2}` {
					t.Fatalf("got %s", e[0].Telemetry.Body)
				}
				put(t, q, message("a", 3))
				expect(t, q, "a", 2, 3)
				stop()
				q, _ = start(t, path)
				expect(t, q, "a", 2, 3)
			})
		})
	}
}

// The transaction is in the file, but a record of it does not read back: its Put is told.
func TestAnEntryThatDoesNotReadBackIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, disk, _ := startFaulty(t, queuePath(t))
		put(t, q, message("b", 1))
		disk.next(func(tx *bbolt.Tx) error {
			log := tx.Bucket([]byte("log"))
			k, v := log.Cursor().Last()
			return errors.Join(syscall.EIO, log.Put(bytes.Clone(k), bytes.ToUpper(v)), tx.Commit())
		})
		if err := q.Put(t.Context(), message("a", 1)); !errors.Is(err, buffer.ErrDamaged) {
			t.Fatalf("got %v", err)
		}
		put(t, q, message("a", 2), message("b", 2))
		expect(t, q, "b", 1, 2)
		if c := q.Stats().Lanes["a"]; c.Put != 2 {
			t.Errorf("%+v", c)
		}
	})
}

// Nothing but the acknowledgements wakes the committer: no Put, no other acknowledgement.
func TestAcknowledgementsThatWereTakenBackAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := queuePath(t)
		q, disk, _ := startFaulty(t, path)
		put(t, q, append(messages("a", 1, 3), messages("b", 1, 2)...)...)
		next(t, q.Lane("a"), 0, 3)
		next(t, q.Lane("b"), 0, 2)
		away := generation(path, 1) + ".away"
		disk.next(func(tx *bbolt.Tx) error {
			return errors.Join(lost(syscall.EIO)(tx), os.Rename(generation(path, 1), away))
		})
		q.Lane("a").Ack(2)
		pass(1500 * time.Millisecond)
		q.Lane("b").Ack(1) // is kept while it is not known what became of the others
		pass(1500 * time.Millisecond)
		if err := os.Rename(away, generation(path, 1)); err != nil {
			t.Fatal(err)
		}
		pass(1500 * time.Millisecond)
		expect(t, q, "a", 3, 3)
		expect(t, q, "b", 2, 2)
	})
}

func TestReadersWaitWhileTheFileCannotBeOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := queuePath(t)
		q, stop := start(t, path)
		put(t, q, messages("a", 1, 3)...)
		stop()
		q, disk, _ := startFaulty(t, path) // nothing of it is in memory
		put(t, q, message("b", 1))
		away := generation(path, 1) + ".away"
		disk.next(func(tx *bbolt.Tx) error {
			return errors.Join(syscall.EIO, tx.Commit(), os.Rename(generation(path, 1), away))
		})
		if err := q.Put(t.Context(), message("a", 4)); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("got %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := q.Lane("a").Next(ctx, 0, 3); err != context.DeadlineExceeded {
			t.Fatalf("Next: %v", err)
		}
		next(t, q.Lane("b"), 0, 1) // a lane that keeps up does not need the file
		if _, err := os.Stat(generation(path, 1)); !errors.Is(err, os.ErrNotExist) {
			t.Fatal("an empty file was made in the place of the lost one")
		}
		if err := os.Rename(away, generation(path, 1)); err != nil {
			t.Fatal(err)
		}
		next(t, q.Lane("a"), 0, 4)
		expect(t, q, "a", 1, 4)
	})
}

func TestAReaderThatWaitsForTheFileIsReleasedAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := queuePath(t)
		q, stop := start(t, path)
		put(t, q, message("a", 1))
		stop()
		q = openQueue(t, path)
		disk := &faulty{}
		q.OnCommit(disk.commit)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- q.Run(ctx) }()
		disk.next(func(tx *bbolt.Tx) error { return errors.Join(lost(syscall.EIO)(tx), os.Remove(generation(path, 1))) })
		if err := q.Put(t.Context(), message("a", 2)); err == nil {
			t.Fatal("stored in a file that is not there")
		}
		waiting := make(chan error, 1)
		go func() { _, err := q.Lane("a").Next(context.Background(), 0, 1); waiting <- err }()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Run: %v", err)
		}
		if err := <-waiting; !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A full disk: Puts fail, but acknowledgements free the space that lets them succeed again.
func TestAcknowledgementsGoThroughWhilePutsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		q, err := buffer.Open(buffer.Config{Dir: queuePath(t), Log: zerolog.New(&log)})
		if err != nil {
			t.Fatal(err)
		}
		var full atomic.Bool
		newest := func(tx *bbolt.Tx) string {
			k, _ := tx.Bucket([]byte("log")).Cursor().Last()
			return string(k)
		}
		known := ""
		q.OnCommit(func(tx *bbolt.Tx) error {
			if k := newest(tx); full.Load() && k > known {
				return lost(syscall.ENOSPC)(tx)
			} else if !full.Load() {
				known = k
			}
			return tx.Commit()
		})
		stop := runQueue(t, q)
		put(t, q, messages("a", 1, 100)...)
		next(t, q.Lane("a"), 0, 100)
		full.Store(true)
		for seq := range uint64(50) {
			q.Lane("a").Ack(seq + 1)
			if err := q.Put(t.Context(), message("a", 99)); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("got %v", err)
			}
			pass(100 * time.Millisecond)
		}
		if acked := q.Stats().Acked; acked < 40 || acked > 50 {
			t.Errorf("%d of 50 acknowledgements went through", acked)
		}
		full.Store(false)
		pass(time.Second)
		put(t, q, message("a", 101))
		expect(t, q, "a", 51, 101)
		stop()
		if n := bytes.Count(log.Bytes(), []byte("\n")); n != 2 || !bytes.Contains(log.Bytes(), []byte("works again")) {
			t.Errorf("%d lines for one failure and one recovery:\n%s", n, log.Bytes())
		}
	})
}

func TestRunSaysWhenAcknowledgementsCouldNotBeCommittedAtTheEnd(t *testing.T) {
	for name, failures := range map[string]int{"once": 1, "for good": 9} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := queuePath(t)
				q := openQueue(t, path)
				disk := &faulty{}
				q.OnCommit(disk.commit)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- q.Run(ctx) }()
				put(t, q, messages("a", 1, 2)...)
				next(t, q.Lane("a"), 0, 2)
				for range failures {
					disk.next(append(disk.plan, lost(syscall.EIO))...)
				}
				q.Lane("a").Ack(2)
				cancel()
				err := <-ended
				if (err != nil) != (failures > 1) {
					t.Errorf("Run: %v", err)
				}
				if err := q.Close(); err != nil {
					t.Fatal(err)
				}
				q, stop := start(t, path)
				defer stop()
				if err == nil {
					expect(t, q, "a", 3, 2)
				} else {
					expect(t, q, "a", 1, 2)
				}
			})
		})
	}
}
