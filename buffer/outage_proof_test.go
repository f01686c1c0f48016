//go:build proof

package buffer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

const (
	outageLanes = 100
	// mostMemory is what the queue may take with a day's messages in it, in KiB of anonymous memory: the
	// mapped files are the kernel's.
	mostMemory = 128 << 10
	// slowestStart is how long Open may take, as a multiple of bbolt's own open plus a scan of all keys.
	slowestStart = 1.2
)

// The hub is away for 24 hours in which 100 messages arrive each second, over 100 identities. Then the
// gateway is restarted and everything leaves in order. Each half runs in a process of its own.
func TestProofADayWithoutTheHub(t *testing.T) {
	messages := testkit.Number(t, "MESSAGES", 8_640_000)
	switch dir := os.Getenv("BUFFER_TEST_DIR"); os.Getenv("BUFFER_TEST_OUTAGE") {
	case "fill":
		fillForADay(t, dir, int(messages))
		return
	case "drain":
		drainADay(t, dir, int(messages))
		return
	}
	dir := filepath.Join(t.TempDir(), "queue")
	for _, half := range []string{"fill", "drain"} {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=1h")
		cmd.Env = append(os.Environ(), "BUFFER_TEST_OUTAGE="+half, "BUFFER_TEST_DIR="+dir)
		out, err := cmd.CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if _, text, found := strings.Cut(line, "outage: "); found {
				t.Log(strings.TrimSpace(text))
			}
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// dayMessage is message n of a lane; its record is about 200 bytes long.
func dayMessage(lane, n int) gateway.Telemetry {
	return gateway.Telemetry{
		Identity: laneID(lane),
		Body:     fmt.Appendf(nil, `{"n":%d,"pad":"%0130d"}`, n, lane),
		Created:  time.Unix(1_700_000_000+int64(n), 0).UTC(),
	}
}

// fillForADay puts a message into each lane with every transaction, as every second does.
func fillForADay(t *testing.T, dir string, messages int) {
	q, stop := start(t, dir)
	began := time.Now()
	group := make([]gateway.Telemetry, outageLanes)
	for n := 1; n <= messages/outageLanes; n++ {
		for l := range group {
			group[l] = dayMessage(l, n)
		}
		put(t, q, group...)
	}
	took := time.Since(began)
	stop()
	t.Logf("outage: %d messages put in %v, %.0f a second; %d bytes a message on disk; %d KiB of memory",
		messages, took.Round(time.Second), float64(messages)/took.Seconds(), testkit.Size(t, dir)/int64(messages), anonymous(t))
}

// drainADay opens the queue, puts another message into each lane, and reads and acknowledges all.
func drainADay(t *testing.T, dir string, messages int) {
	bare := bareStart(t, dir)
	began := time.Now()
	q := openQueue(t, dir)
	opened := time.Since(began)
	stop := runQueue(t, q)
	began = time.Now()
	for l := range outageLanes {
		put(t, q, dayMessage(l, messages/outageLanes+1))
	}
	first := time.Since(began) / outageLanes
	memory := anonymous(t)
	t.Logf("outage: start in %v, bbolt's own open and key scan in %v: %.2f times (at most %.1f); then a Put in %v; %d KiB of memory",
		opened.Round(time.Millisecond), bare.Round(time.Millisecond), opened.Seconds()/bare.Seconds(), slowestStart, first.Round(time.Microsecond), memory)
	if opened.Seconds() > slowestStart*bare.Seconds() {
		t.Errorf("the start takes too long")
	}
	began = time.Now()
	var draining sync.WaitGroup
	for l := range outageLanes {
		draining.Go(func() { drainLane(t, q.Lane(laneID(l)), l, messages/outageLanes+1) })
	}
	done := make(chan struct{})
	go func() { draining.Wait(); close(done) }()
	for look := time.NewTicker(100 * time.Millisecond); ; {
		select {
		case <-look.C:
			memory = max(memory, anonymous(t))
			continue
		case <-done:
		}
		look.Stop()
		break
	}
	for q.Stats().Entries > 0 && time.Since(began) < time.Hour { // the acknowledgements are committed yet
		pass(10 * time.Millisecond)
		memory = max(memory, anonymous(t))
	}
	took := time.Since(began)
	stop()
	left := openQueue(t, dir)
	if n := left.Stats().Entries; n != 0 {
		t.Errorf("%d entries are left", n)
	}
	if err := left.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("outage: proof: a day without the hub: %d messages drained in order in %v, %.0f a second, 0 lost; at most %d KiB of memory (at most %d); %d bytes of files are left",
		messages, took.Round(time.Second), float64(messages)/took.Seconds(), memory, mostMemory, testkit.Size(t, dir))
	if memory > mostMemory {
		t.Errorf("%d KiB of memory", memory)
	}
}

func drainLane(t *testing.T, lane *buffer.Lane, l, messages int) {
	for n := 0; n < messages; {
		entries, err := lane.Next(context.Background(), uint64(n), 64)
		if err != nil {
			t.Error(err)
			return
		}
		for _, e := range entries {
			n++
			if want := dayMessage(l, n); int(e.Seq) != n || string(e.Telemetry.Body) != string(want.Body) {
				t.Errorf("lane %d: entry %d is %d %s", l, n, e.Seq, e.Telemetry.Body)
				return
			}
		}
		lane.Ack(uint64(n))
	}
}

// bareStart is how long bbolt itself takes to open the queue's files and to visit all keys of their logs.
func bareStart(t *testing.T, dir string) time.Duration {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.db"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v %v", files, err)
	}
	began := time.Now()
	keys := 0
	for _, path := range files {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
		if err != nil {
			t.Fatal(err)
		}
		err = db.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket([]byte("log")).Cursor()
			for k, _ := c.First(); k != nil; k, _ = c.Next() {
				keys++
			}
			return nil
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	t.Logf("outage: %d keys in %d files", keys, len(files))
	return took
}

// anonymous is this process's own memory, in KiB.
func anonymous(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	found := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(status)
	if err != nil || found == nil {
		t.Fatalf("%v: %s", err, status)
	}
	n, _ := strconv.Atoi(string(found[1])) // digits
	return n
}
