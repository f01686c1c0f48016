package buffer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/powerfs"
)

// The n-th write, flush, truncation, rename, creation and removal of a queue's life fails, once or from
// then on until somebody makes space. The queue runs in a process of its own (package powerfs says why),
// in a bubble where the seconds that it waits take no time.
func TestAFailureOfTheDiskIsSurvivedWithoutRestartAndLosesNothing(t *testing.T) {
	everyFailure(t, 6, ways{{syscall.EIO, 1}, {syscall.ENOSPC, 0}})
}

// ways are the ways to fail: how, and how often, where 0 is for ever.
type ways []struct {
	errno syscall.Errno
	count int
}

// everyFailure lets every step-th write and flush fail, and every operation of the other kinds.
func everyFailure(t *testing.T, step int, ways ways) {
	t.Helper()
	if disk := os.Getenv("BUFFER_TEST_DISK"); disk != "" {
		failEverything(t, disk, step, ways)
		return
	}
	at := t.TempDir()
	disk, err := powerfs.Mount(at, powerfs.Image{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), "BUFFER_TEST_DISK="+at)
	out, err := child.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if _, text, found := strings.Cut(line, "faults: "); found {
			t.Log(strings.TrimSpace(text))
		}
	}
	if err := disk.Unmount(); err != nil {
		t.Error(err)
	}
}

func failEverything(t *testing.T, at string, step int, ways ways) {
	disk, err := powerfs.OpenControl(at)
	if err != nil {
		t.Fatal(err)
	}
	all := 0
	for _, kind := range []powerfs.Kind{powerfs.Write, powerfs.Fsync, powerfs.Truncate, powerfs.Rename, powerfs.Create, powerfs.Remove} {
		lives, step := 0, step
		if kind != powerfs.Write && kind != powerfs.Fsync { // there are few of the others
			step = 1
		}
		for _, way := range ways {
			for n := 1; failOnce(t, at, disk, powerfs.Fault{Kind: kind, After: n, Count: way.count, Errno: way.errno}); n += step {
				lives++
			}
		}
		t.Logf("faults: %d lives with a %v that fails", lives, kind)
		all += lives
	}
	t.Logf("faults: proof: EIO and ENOSPC at one of %d writes and flushes and at all other operations: %d lives, 0 wrong, 0 hanging", step, all)
	if err := disk.Close(); err != nil || all < 50 {
		t.Errorf("%d lives, %v", all, err)
	}
}

// failOnce lives a queue's life with one fault in it and tells whether it came to that.
func failOnce(t *testing.T, at string, disk *powerfs.Control, fault powerfs.Fault) (fired bool) {
	name := fmt.Sprintf("%v-%d-%d-%d", fault.Kind, int(fault.Errno), fault.Count, fault.After)
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := &life{t: t, dir: filepath.Join(at, name), disk: disk, fault: fault}
			fired = l.live()
			if err := os.RemoveAll(l.dir); err != nil {
				t.Error(err)
			}
		})
	})
	return fired && !t.Failed()
}

// life is a queue's life on a disk that fails.
type life struct {
	t     *testing.T
	dir   string
	disk  *powerfs.Control
	fault powerfs.Fault

	q     *buffer.Queue
	stop  func()
	tries map[gateway.IdentityID][]try
	seen  map[gateway.IdentityID][]string // bodies by sequence, 1 is the first
	acked map[gateway.IdentityID]int
	n     int // of the newest entry
	fired int // operations that failed
}

// try is an attempt to put an entry.
type try struct {
	body     string
	accepted bool
}

func (l *life) config() buffer.Config {
	return buffer.Config{Dir: l.dir, GenerationBytes: 64 << 10}
}

// live goes through everything that a queue does to the disk.
func (l *life) live() (fired bool) {
	l.tries, l.seen, l.acked = map[gateway.IdentityID][]try{}, map[gateway.IdentityID][]string{}, map[gateway.IdentityID]int{}
	l.set(l.fault)
	l.fired = 0 // the one before was of another life
	l.open()
	for range 12 {
		l.put("a", "b")
	}
	l.ack("a", 10)
	for range 10 {
		l.put("b", "c")
	}
	l.ack("a", 12)
	l.ack("b", 15)
	pass(3 * time.Second)
	l.set(powerfs.Fault{})
	l.put("a", "b", "c")
	l.compare()
	l.stop()
	l.open()
	l.compare()
	l.stop()
	return l.fired > 0
}

// set sets a fault in the place of the one before.
func (l *life) set(fault powerfs.Fault) {
	n, err := l.disk.Fired()
	if err != nil {
		l.t.Fatal(err)
	}
	l.fired += n
	if err := l.disk.Fail(fault); err != nil {
		l.t.Fatal(err)
	}
}

// open opens the queue; what the disk refuses is tried again, and for the second time it works.
func (l *life) open() {
	q, err := buffer.Open(l.config())
	if err != nil {
		l.set(powerfs.Fault{})
		if q, err = buffer.Open(l.config()); err != nil {
			l.t.Fatalf("still: %v", err)
		}
	}
	l.q = q
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	l.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Errorf("Run: %v", err)
		}
		if err := q.Close(); err != nil {
			l.t.Errorf("Close: %v", err)
		}
	}
}

// put puts one entry into each lane until it is accepted. After the third refusal there is space.
func (l *life) put(ids ...gateway.IdentityID) {
	for refused := 0; ; refused++ {
		var ts []gateway.Telemetry
		for _, id := range ids {
			l.n++
			m := message(id, l.n)
			m.Body = fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, l.n, strings.Repeat("x", 400*(l.n%9)))
			ts = append(ts, m)
		}
		ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
		err := l.q.Put(ctx, ts...)
		cancel()
		for _, t := range ts {
			l.tries[t.Identity] = append(l.tries[t.Identity], try{string(t.Body), err == nil})
		}
		switch {
		case err == nil:
			return
		case ctx.Err() == context.DeadlineExceeded:
			l.t.Fatal("Put hangs")
		case refused == 2:
			l.set(powerfs.Fault{})
		case refused > 5:
			l.t.Fatalf("the disk works again and Put does not: %v", err)
		}
		pass(1100 * time.Millisecond)
	}
}

// read reads lane id from its oldest entry to its newest.
func (l *life) read(id gateway.IdentityID) {
	c := l.q.Stats().Lanes[id]
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	for after := c.Acked; after < c.Put; {
		entries, err := l.q.Lane(id).Next(ctx, after, 10)
		if err != nil {
			l.t.Fatalf("%s: %v", id, err)
		}
		for _, e := range entries {
			after++
			body := string(e.Telemetry.Body)
			switch seen := l.seen[id]; {
			case e.Seq == uint64(len(seen))+1:
				l.seen[id] = append(seen, body)
			case e.Seq > uint64(len(seen)) || seen[e.Seq-1] != body:
				l.t.Fatalf("%s: entry %d is %.30s, %d were seen", id, e.Seq, body, len(seen))
			}
		}
	}
}

func (l *life) ack(id gateway.IdentityID, n int) {
	l.read(id)
	n = min(n, len(l.seen[id]))
	l.q.Lane(id).Ack(uint64(n))
	l.acked[id] = n
	pass(50 * time.Millisecond)
}

// compare holds what came out, in its order, against what was put: what was accepted is there once, what
// was refused once or not.
func (l *life) compare() {
	for id, tries := range l.tries {
		l.read(id)
		if c := l.q.Stats().Lanes[id]; int(c.Acked) > l.acked[id] {
			l.t.Errorf("%s: entry %d is gone, %d was acknowledged", id, c.Acked, l.acked[id])
		}
		left := l.seen[id]
		for _, try := range tries {
			switch {
			case len(left) > 0 && left[0] == try.body:
				left = left[1:]
			case try.accepted:
				l.t.Errorf("%s: %.30s was accepted and is not there or not in its place", id, try.body)
			}
		}
		if len(left) > 0 {
			l.t.Errorf("%s: %.30s came out where it does not belong", id, left[0])
		}
	}
}
