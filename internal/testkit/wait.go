package testkit

import (
	"context"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what has to come true: long enough for a loaded machine.
const patience = time.Minute

// Eventually waits until check is true, for a minute at most; then the test fails, and says what never was.
func Eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	Within(t, patience, what, check)
}

// Within is Eventually with a limit of its own, for what has to be true in time. Nothing else in tests sleeps.
func Within(t testing.TB, limit time.Duration, what string, check func() bool) {
	t.Helper()
	began, pause := time.Now(), time.Millisecond
	for !check() {
		switch waited := time.Since(began); {
		case waited > limit:
			t.Fatalf("not within %v: %s", limit, what)
		case waited > 100*time.Millisecond:
			pause = 10 * time.Millisecond // looking may cost the others their time
		}
		time.Sleep(pause)
	}
}

// Background runs what blocks until its context ends, until stop is called or the test ends, and waits for its end.
// The test fails if it returns an error.
func Background(t testing.TB, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}
