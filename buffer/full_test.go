package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

// The kernel itself refuses to let the file grow. fullDiskChild is the other side.
func TestAFullDiskIsAnErrorAndNotTheEnd(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BUFFER_TEST_ROLE=full", "BUFFER_TEST_PATH="+queuePath(t))
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "ok\n" {
		t.Fatalf("%v: %s", err, out)
	}
}

// fullDiskChild fills a queue up to a limit of the file size, drains a part and goes on.
func fullDiskChild(path string) error {
	q, err := buffer.Open(buffer.Config{Dir: path})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	limit := syscall.Rlimit{Cur: 4 << 20, Max: before.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	body := bytes.Repeat([]byte("x"), 10_000)
	accepted, err := fill(ctx, q, body)
	if err == nil || !strings.Contains(err.Error(), syscall.EFBIG.Error()) {
		return fmt.Errorf("after %d entries: %v", accepted, err)
	}
	if err := readAndAckHalf(ctx, q.Lane("a"), accepted); err != nil {
		return err
	}
	if err := retryPut(ctx, q, body); err != nil {
		return fmt.Errorf("while half of the space is free: %w", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	for range 100 {
		if err := retryPut(ctx, q, body); err != nil {
			return fmt.Errorf("without the limit: %w", err)
		}
	}
	if c := q.Stats(); int(c.Put) != accepted+101 || int(c.Acked) != accepted/2 {
		return fmt.Errorf("%d accepted: %+v", accepted, c.Counts)
	}
	cancel()
	if err := errors.Join(<-ended, q.Close()); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
}

// fill puts until a Put fails.
func fill(ctx context.Context, q *buffer.Queue, body []byte) (accepted int, err error) {
	for accepted < 1000 {
		if err := q.Put(ctx, gateway.Telemetry{Identity: "a", Body: body}); err != nil {
			return accepted, err
		}
		accepted++
	}
	return accepted, nil
}

// readAndAckHalf reads all n entries, which a full disk does not prevent, and acknowledges half.
func readAndAckHalf(ctx context.Context, l *buffer.Lane, n int) error {
	for after := 0; after < n; {
		entries, err := l.Next(ctx, uint64(after), 100)
		if err != nil {
			return err
		}
		after += len(entries)
	}
	l.Ack(uint64(n / 2))
	return nil
}

// retryPut puts one entry, as a caller does that keeps what was refused, for up to 5 s.
func retryPut(ctx context.Context, q *buffer.Queue, body []byte) (err error) {
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for range 50 {
		if err = q.Put(ctx, gateway.Telemetry{Identity: "a", Body: body}); err == nil {
			return nil
		}
		<-retry.C
	}
	return err
}
