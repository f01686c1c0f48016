package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

// unavailable opens a queue that cannot be used, sees that it says so, clearly, at once and with the
// remedy, lets it be mended and sees that it then works without another start.
func unavailable(t *testing.T, dir, reason string, mend func()) *buffer.Queue {
	t.Helper()
	var log bytes.Buffer
	q, err := buffer.Open(buffer.Config{Dir: dir, Log: zerolog.New(&log)})
	if err != nil {
		t.Fatal(err)
	}
	entries := make(chan []buffer.Entry, 1)
	go func() { // a reader that has waited from the beginning
		got, _ := q.Lane("a").Next(context.Background(), 0, 1)
		entries <- got
	}()
	runQueue(t, q)
	err = q.Put(t.Context(), message("a", 1))
	if err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "every second") {
		t.Errorf("Put: %v", err)
	}
	if h := q.Health(); h.State != "unavailable" || !strings.Contains(h.Reason, reason) {
		t.Errorf("health: %+v", h)
	}
	if err := q.Beat(t.Context()); err == nil {
		t.Error("Beat finds nothing wrong")
	}
	mend()
	testkit.Eventually(t, "the message is taken", func() bool { return q.Put(t.Context(), message("a", 1)) == nil })
	if got := <-entries; len(got) != 1 || string(got[0].Telemetry.Body) != `{"n":1}` {
		t.Errorf("the reader got %+v", got)
	}
	if h := q.Health(); h.State != "working" {
		t.Errorf("health: %+v", h)
	}
	if lines := strings.Count(log.String(), "\n"); lines != 2 {
		t.Errorf("%d lines: %s", lines, &log)
	}
	return q
}

func TestAQueueWithoutADirectorySaysSoAndWorksOnceItIsThere(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	unavailable(t, filepath.Join(state, "queue"), "make the directory", func() {
		if err := os.Mkdir(state, 0o700); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAFileInThePlaceOfTheDirectoryIsNotTouched(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "queue")
	if err := os.WriteFile(dir, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	unavailable(t, dir, "not a directory", func() {
		if content, err := os.ReadFile(dir); err != nil || string(content) != "x" {
			t.Errorf("%q %v", content, err)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
	})
}

// Nobody, root neither, makes a directory there. The link is mended.
func TestADirectoryThatCannotBeWrittenIsNamedWithTheRemedy(t *testing.T) {
	link := filepath.Join(t.TempDir(), "state")
	if err := os.Symlink("/sys", link); err != nil {
		t.Fatal(err)
	}
	reason := fmt.Sprintf("give the directory and its files to user %d", os.Getuid())
	if errors.Is(os.Mkdir("/sys/queue", 0o700), syscall.EROFS) { // in some containers
		reason = "mount it writable"
	}
	unavailable(t, filepath.Join(link, "queue"), reason, func() {
		if err := errors.Join(os.Remove(link), os.Symlink(t.TempDir(), link)); err != nil {
			t.Fatal(err)
		}
	})
}

// The kernel lets no file be larger than two pages. birthChild is the other side.
func TestAQueueThatIsBornOnAFullDiskWorksOnceThereIsSpace(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BUFFER_TEST_ROLE=birth", "BUFFER_TEST_PATH="+queuePath(t))
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "ok\n" {
		t.Fatalf("%v: %s", err, out)
	}
}

func birthChild(path string) error {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 8192, Max: before.Max}); err != nil {
		return err
	}
	q, err := buffer.Open(buffer.Config{Dir: path})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	if err := q.Put(ctx, message("a", 1)); err == nil || !strings.Contains(err.Error(), "free space") {
		return fmt.Errorf("Put: %v", err)
	}
	if h := q.Health(); h.State != "unavailable" || !strings.Contains(h.Reason, syscall.EFBIG.Error()) {
		return fmt.Errorf("health: %+v", h)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	if err := retryPut(ctx, q, []byte("{}")); err != nil {
		return err
	}
	cancel()
	if err := errors.Join(<-ended, q.Close()); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
}

// What waits in the queue is delivered once the queue can be opened, to readers who waited.
func TestABacklogThatCannotBeReadYetIsDeliveredLater(t *testing.T) {
	dir := queuePath(t)
	q, stop := start(t, dir)
	put(t, q, messages("a", 1, 5)...)
	stop()
	away := dir + ".away"
	if err := errors.Join(os.Rename(dir, away), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	q = openQueue(t, dir)
	runQueue(t, q)
	lane := q.Lane("a")
	if err := q.Put(t.Context(), message("a", 6)); err == nil {
		t.Error("it was stored")
	}
	if err := errors.Join(os.Remove(dir), os.Rename(away, dir)); err != nil {
		t.Fatal(err)
	}
	if got := next(t, lane, 0, 5); got[4].Seq != 5 {
		t.Errorf("got %+v", got)
	}
	lane.Ack(5)
	put(t, q, message("a", 6))
	expect(t, q, "a", 6, 6)
}

func TestCloseEndsAQueueThatNeverCouldBeOpened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing", "queue")
	q := openQueue(t, dir)
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	q, stop := start(t, dir)
	if err := q.Put(t.Context(), message("a", 1)); err == nil {
		t.Error("it was stored")
	}
	stop()
	if err := q.Put(t.Context(), message("a", 1)); !errors.Is(err, buffer.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
