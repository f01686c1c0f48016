package buffer_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"iothub-gateway/buffer"
)

// files are the names of a queue's generations.
func files(t testing.TB, path string) (names []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(path, "*.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		names = append(names, filepath.Base(f))
	}
	return names
}

// small is a queue whose files are small.
func small(path string) buffer.Config {
	return buffer.Config{Dir: path, GenerationBytes: 100_000}
}

// fillFiles puts the entries from..to of lanes a and b, and lets the queue begin new files in between.
func fillFiles(t testing.TB, q *buffer.Queue, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		put(t, q, sized("a", n, 1000), sized("b", n, 1000))
	}
}

func TestABacklogIsSpreadOverFilesAndEachIsRemovedWhenItIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := queuePath(t)
		q, stop := startWith(t, small(path))
		fillFiles(t, q, 1, 400)
		synctest.Wait()
		many := len(files(t, path))
		if s := q.Stats(); many < 6 || s.Generations != many || s.FileBytes < 800_000 {
			t.Fatalf("%d files: %+v", many, s)
		}
		stop()
		q, stop = startWith(t, small(path))
		if s := q.Stats(); s.Generations != many || s.Entries != 800 || s.Put != 800 {
			t.Fatalf("after a restart: %+v", s)
		}
		gapless(t, all(t, q, "a"), 1, 400)
		gapless(t, all(t, q, "b"), 1, 400)
		q.Lane("a").Ack(400)
		q.Lane("b").Ack(200)
		pass(1100 * time.Millisecond)
		if n := len(files(t, path)); n > many/2+2 || n < many/2-1 {
			t.Errorf("%d of %d files are left", n, many)
		}
		q.Lane("b").Ack(400)
		pass(1100 * time.Millisecond)
		if got := files(t, path); len(got) != 1 {
			t.Errorf("left: %v", got)
		}
		stop()
		q, stop = startWith(t, small(path))
		defer stop()
		put(t, q, sized("a", 401, 1000))
		gapless(t, all(t, q, "a"), 401, 401)
		if s := q.Stats(); s.Put != 801 || s.Acked != 800 {
			t.Errorf("%+v", s)
		}
	})
}

func TestASealedFileIsNeverWrittenAgain(t *testing.T) {
	path := queuePath(t)
	q, stop := startWith(t, small(path))
	fillFiles(t, q, 1, 100)
	before, err := os.ReadFile(generation(path, 1))
	if err != nil {
		t.Fatal(err)
	}
	next(t, q.Lane("a"), 0, 40)
	q.Lane("a").Ack(20)
	fillFiles(t, q, 101, 200)
	if _, err := q.Drop(t.Context(), "b", false); err != nil {
		t.Fatal(err)
	}
	stop()
	q, _ = startWith(t, small(path))
	gapless(t, all(t, q, "a"), 21, 200)
	if marked := gapless(t, all(t, q, "b"), 1, 200); marked != 200 {
		t.Errorf("%d are marked", marked)
	}
	after, err := os.ReadFile(generation(path, 1))
	if err != nil || string(before) != string(after) {
		t.Errorf("the first file was changed (%v)", err)
	}
}

// A file that cannot be begun is no error: the old one grows, and it is tried again.
func TestAFileThatCannotBeBegunIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := queuePath(t)
		q, _ := startWith(t, small(path))
		put(t, q, sized("c", 1, 100))
		away := path + ".away"
		if err := os.Rename(path, away); err != nil {
			t.Fatal(err)
		}
		fillFiles(t, q, 1, 100)
		if got := files(t, away); len(got) != 1 {
			t.Fatalf("there are %v", got)
		}
		if err := os.Rename(away, path); err != nil {
			t.Fatal(err)
		}
		pass(1100 * time.Millisecond)
		fillFiles(t, q, 101, 102)
		synctest.Wait()
		if got := files(t, path); len(got) != 2 {
			t.Fatalf("there are %v", got)
		}
		gapless(t, all(t, q, "a"), 1, 102)
	})
}

// What a power cut can leave of a birth that was given up: an empty file that is newer than the one in
// which the queue went on.
func TestAnAbandonedFileDoesNotHideWhatCameLaterInTheOldOne(t *testing.T) {
	path, other := queuePath(t), queuePath(t)
	q, stop := startWith(t, small(path))
	fillFiles(t, q, 1, 10)
	stop()
	if err := os.CopyFS(other, os.DirFS(path)); err != nil {
		t.Fatal(err)
	}
	q, stop = startWith(t, small(other)) // begins its second file
	fillFiles(t, q, 11, 100)
	stop()
	q, stop = startWith(t, buffer.Config{Dir: path}) // goes on in its first
	fillFiles(t, q, 11, 60)
	put(t, q, sized("c", 1, 100))
	next(t, q.Lane("a"), 0, 50)
	q.Lane("a").Ack(50)
	stop()
	copyEmptied(t, generation(other, 2), generation(path, 2))
	q, stop = startWith(t, small(path))
	check := func() {
		t.Helper()
		gapless(t, all(t, q, "a"), 51, 60)
		gapless(t, all(t, q, "b"), 1, 60)
		gapless(t, all(t, q, "c"), 1, 1)
	}
	check()
	stop()
	q, _ = startWith(t, small(path))
	check()
}

// copyEmptied copies a file as it was at its birth: without log.
func copyEmptied(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(to, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket([]byte("log")); err != nil {
			return err
		}
		_, err := tx.CreateBucket([]byte("log"))
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// A sealed file that is lost as a whole: exactly what was in it is marked.
func TestALostFileBecomesGapsThatSayExactlyWhatIsMissing(t *testing.T) {
	for _, lost := range []int{1, 2, 3} {
		t.Run(fmt.Sprint("file ", lost), func(t *testing.T) {
			path := queuePath(t)
			q, stop := startWith(t, small(path))
			fillFiles(t, q, 1, 150)
			put(t, q, sized("c", 1, 100))
			next(t, q.Lane("a"), 0, 3)
			q.Lane("a").Ack(3)
			stop()
			if err := os.Remove(generation(path, lost)); err != nil {
				t.Fatal(err)
			}
			var ids []string
			for range 2 {
				q, stop = startWith(t, small(path))
				entries := all(t, q, "a")
				marked := gapless(t, entries, 4, 150)
				if n := gapless(t, all(t, q, "b"), 1, 150); marked < 10 || marked > 60 || n < 10 || n > 60 {
					t.Errorf("%d and %d are marked", marked, n)
				}
				gapless(t, all(t, q, "c"), 1, 1)
				var now []string
				for _, e := range entries {
					now = append(now, e.ID())
				}
				if ids != nil && strings.Join(ids, " ") != strings.Join(now, " ") {
					t.Error("the ids have changed")
				}
				ids = now
				stop()
			}
		})
	}
}

func TestACommitThatFailsInANewFileIsSettledThere(t *testing.T) {
	for name, end := range map[string]func(error) func(*bbolt.Tx) error{"lost": lost, "kept": kept} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := queuePath(t)
				q := openWith(t, small(path))
				disk := &faulty{}
				q.OnCommit(disk.commit)
				stop := runQueue(t, q)
				fillFiles(t, q, 1, 100)
				disk.next(end(syscall.EIO))
				if err := q.Put(t.Context(), sized("a", 101, 1000)); (err == nil) != (name == "kept") {
					t.Fatal(err)
				}
				if name == "lost" {
					pass(time.Second)
					put(t, q, sized("a", 101, 1000))
				}
				stop()
				q, stop = startWith(t, small(path))
				defer stop()
				gapless(t, all(t, q, "a"), 1, 101)
			})
		})
	}
}
