package buffer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"iothub-gateway/buffer"
)

// One lane waits for weeks, all others are drained: its entries do not keep the files of the others.
func TestAStragglerDoesNotKeepTheFilesOfTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := queuePath(t)
		q, stop := startWith(t, small(path))
		const n = 300
		for i := 1; i <= n; i++ {
			put(t, q, sized("busy", i, 1000))
			if i%10 == 0 {
				put(t, q, sized("slow", i/10, 300))
			}
		}
		synctest.Wait()
		many := len(files(t, path))
		all(t, q, "busy")
		q.Lane("busy").Ack(n)
		pass(3 * time.Second)
		if left := len(files(t, path)); left > 2 || many < 5 {
			t.Errorf("%d of %d files are left", left, many)
		}
		before := q.Stats()
		gapless(t, all(t, q, "slow"), 1, n/10)
		stop()
		q, stop = startWith(t, small(path))
		defer stop()
		if after := q.Stats(); after.Bytes != before.Bytes || after.Entries != n/10 || after.Generations > before.Generations {
			t.Errorf("before %+v, after %+v", before, after)
		}
		gapless(t, all(t, q, "slow"), 1, n/10)
		for i := n/10 + 1; i <= 50; i++ {
			put(t, q, sized("slow", i, 300))
		}
		all(t, q, "slow")
		q.Lane("slow").Ack(20)
		pass(30 * time.Millisecond)
		gapless(t, all(t, q, "slow"), 21, 50)
	})
}

// A crash between any two steps of a merge: the copy of the directory that it would leave holds
// everything once.
func TestACrashWhileFilesAreMergedLosesAndDoublesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := queuePath(t)
		q := openWith(t, small(path))
		copies := 0
		watch := false
		q.OnCommit(func(tx *bbolt.Tx) error {
			err := tx.Commit()
			if watch {
				copies++
				if err := os.CopyFS(filepath.Join(filepath.Dir(path), fmt.Sprint("copy-", copies)), os.DirFS(path)); err != nil {
					t.Error(err)
				}
			}
			return err
		})
		stop := runQueue(t, q)
		for i := 1; i <= 200; i++ {
			put(t, q, sized("busy", i, 1000))
			if i%4 == 0 {
				put(t, q, sized("slow", i/4, 300), sized("dropped", i/4, 300))
			}
		}
		next(t, q.Lane("dropped"), 0, 2)
		if _, err := q.Drop(t.Context(), "dropped", false); err != nil {
			t.Fatal(err)
		}
		all(t, q, "busy")
		synctest.Wait()
		watch = true
		q.Lane("busy").Ack(200)
		pass(3 * time.Second)
		stop()
		if copies < 4 {
			t.Fatalf("%d copies: nothing was merged", copies)
		}
		for i := range copies {
			q, stop := startWith(t, buffer.Config{Dir: filepath.Join(filepath.Dir(path), fmt.Sprint("copy-", i+1))})
			gapless(t, all(t, q, "slow"), 1, 50)
			if marked := gapless(t, all(t, q, "dropped"), 1, 50); marked != 48 {
				t.Errorf("%d are marked", marked)
			}
			s := q.Stats()
			if c := s.Lanes["slow"]; c.Entries != 50 || s.Lanes["dropped"].Entries != 3 || s.Lanes["busy"].Entries != 0 {
				t.Errorf("copy %d: %+v", i+1, s)
			}
			stop()
		}
	})
}
