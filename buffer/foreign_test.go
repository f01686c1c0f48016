package buffer_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"iothub-gateway/buffer"
)

// lastTx is the id of the newest transaction of a closed file.
func lastTx(t *testing.T, path string) (id int) {
	t.Helper()
	db, err := bbolt.Open(generation(path, 1), 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAFileThatAnotherProgramChangedEndsRun(t *testing.T) {
	touch := func(t *testing.T, path string) {
		edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("x"), nil) })
	}
	t.Run("another queue stands there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			changedByAnother(t, func(path string) {
				want := lastTx(t, path)
				other := queuePath(t)
				if err := openQueue(t, other).Close(); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(generation(other, 1), generation(path, 1)); err != nil {
					t.Fatal(err)
				}
				for lastTx(t, path) < want { // as many transactions: only the id differs
					touch(t, path)
				}
			})
		})
	})
	t.Run("it went on without us", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			changedByAnother(t, func(path string) {
				for range 3 {
					touch(t, path)
				}
			})
		})
	})
}

// changedByAnother lets a commit fail and change the file before it can be opened again.
func changedByAnother(t *testing.T, change func(path string)) {
	path := queuePath(t)
	q, stop := start(t, path)
	put(t, q, message("a", 1))
	stop()
	q = openQueue(t, path)
	disk := &faulty{}
	q.OnCommit(disk.commit)
	ended := make(chan error, 1)
	go func() { ended <- q.Run(t.Context()) }()
	file := generation(path, 1)
	away := file + ".away"
	disk.next(func(tx *bbolt.Tx) error { return errors.Join(lost(syscall.EIO)(tx), os.Rename(file, away)) })
	if err := q.Put(t.Context(), message("a", 2)); err == nil {
		t.Fatal("stored in a file that is not there")
	}
	var others sync.WaitGroup
	others.Go(func() {
		if _, err := q.Lane("a").Next(context.Background(), 0, 1); !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("a reader that waited: %v", err)
		}
	})
	for range 10 { // they come at any time, also while Run ends
		others.Go(func() {
			for !errors.Is(q.Put(t.Context(), message("a", 2)), buffer.ErrClosed) {
				pass(time.Millisecond)
			}
		})
	}
	synctest.Wait()
	if err := os.Rename(away, file); err != nil {
		t.Fatal(err)
	}
	change(path)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "another program has changed the queue file") {
		t.Errorf("Run: %v", err)
	}
	others.Wait()
	if _, err := q.Lane("a").Next(t.Context(), 0, 1); !errors.Is(err, buffer.ErrClosed) {
		t.Errorf("Next: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}
