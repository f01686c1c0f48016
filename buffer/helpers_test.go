package buffer_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

// TestMain also is the child process of the tests that need one.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == checkWord {
		if err := buffer.CheckMain(os.Args[2], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if role := os.Getenv("BUFFER_TEST_ROLE"); role != "" {
		if err := child(role, os.Getenv("BUFFER_TEST_PATH")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func child(role, path string) error {
	switch role {
	case "crash":
		return crashChild(path)
	case "power":
		return powerChild(path)
	case "find":
		return findChild(path)
	case "full":
		return fullDiskChild(path)
	case "look":
		return lookChild(path)
	case "birth":
		return birthChild(path)
	case "memory", "stack":
		return devour(role)
	}
	return fmt.Errorf("unknown role %q", role)
}

// queuePath is where a test's queue is.
func queuePath(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "queue")
}

// generation is the path of a queue's n-th file.
func generation(path string, n int) string {
	return filepath.Join(path, fmt.Sprintf("%08d.db", n))
}

func openQueue(t testing.TB, path string) *buffer.Queue {
	t.Helper()
	q, err := buffer.Open(buffer.Config{Dir: path})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// start opens a queue and runs it until the test ends, or until stop is called, which closes it.
func start(t testing.TB, path string) (q *buffer.Queue, stop func()) {
	t.Helper()
	q = openQueue(t, path)
	return q, runQueue(t, q)
}

func runQueue(t testing.TB, q *buffer.Queue) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := q.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// pass lets time pass in a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

// message is entry n of an identity, as the tests number them.
func message(id gateway.IdentityID, n int) gateway.Telemetry {
	return gateway.Telemetry{
		Identity: id,
		Body:     fmt.Appendf(nil, `{"n":%d}`, n),
		Created:  time.Unix(1_700_000_000+int64(n), 0).UTC(),
	}
}

// messages are the entries from..to of an identity.
func messages(id gateway.IdentityID, from, to int) []gateway.Telemetry {
	var ts []gateway.Telemetry
	for n := from; n <= to; n++ {
		ts = append(ts, message(id, n))
	}
	return ts
}

func put(t testing.TB, q *buffer.Queue, ts ...gateway.Telemetry) {
	t.Helper()
	if err := q.Put(context.Background(), ts...); err != nil {
		t.Fatal(err)
	}
}

// next reads until it has n entries behind after.
func next(t testing.TB, l *buffer.Lane, after uint64, n int) []buffer.Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var all []buffer.Entry
	for len(all) < n {
		entries, err := l.Next(ctx, after, n-len(all))
		if err != nil {
			t.Fatalf("after %d: %v", after, err)
		}
		all = append(all, entries...)
		after = entries[len(entries)-1].Seq
	}
	return all
}

// expect checks that the lane's entries are exactly the messages from..to, each with its number as
// sequence.
func expect(t testing.TB, q *buffer.Queue, id gateway.IdentityID, from, to int) {
	t.Helper()
	c := q.Stats().Lanes[id]
	if int(c.Acked) != from-1 || int(c.Put) != to || int(c.Entries) != to-from+1 {
		t.Fatalf("%s: %d put, %d acked, %d there; want %d..%d", id, c.Put, c.Acked, c.Entries, from, to)
	}
	for i, e := range next(t, q.Lane(id), 0, to-from+1) {
		if want := message(id, from+i); int(e.Seq) != from+i || string(e.Telemetry.Body) != string(want.Body) ||
			e.Telemetry.Identity != id || !e.Telemetry.Created.Equal(want.Created) {
			t.Fatalf("%s: got %d %s %v, want %s", id, e.Seq, e.Telemetry.Body, e.Telemetry.Created, want.Body)
		}
	}
}

// edit changes the first file of the closed queue behind the queue's back.
func edit(t testing.TB, path string, change func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(generation(path, 1), 0o600, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(change); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
