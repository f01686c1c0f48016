package modbus

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
)

// sink is an accept function that keeps what it gets.
type sink struct {
	mu      sync.Mutex
	batches [][]gateway.Sample
	fail    func([]gateway.Sample) error // asked at each call; nil: accept
	hold    time.Duration
}

func (s *sink) accept(ctx context.Context, samples []gateway.Sample) error {
	s.mu.Lock()
	fail, hold := s.fail, s.hold
	s.mu.Unlock()
	if hold > 0 && !sleep(ctx, hold) {
		return ctx.Err()
	}
	if fail != nil {
		if err := fail(samples); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, slices.Clone(samples))
	return nil
}

// of are the readings of a point so far.
func (s *sink) of(id gateway.PointID) []gateway.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []gateway.Sample
	for _, b := range s.batches {
		for _, x := range b {
			if x.Point == id {
				out = append(out, x)
			}
		}
	}
	return out
}

// all are the readings so far, and forgets them.
func (s *sink) take() [][]gateway.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.batches
	s.batches = nil
	return b
}

// rig is a running adapter with its field and its readings.
type rig struct {
	*Adapter
	field *field
	got   *sink
	stop  func() // ends Run and waits for it
}

// run starts the adapter against f: by TCP if the address of cfg is set, else by pipes.
func run(t *testing.T, cfg Config, f *field) *rig {
	t.Helper()
	if cfg.Address != "" {
		r := runWith(t, nil, cfg)
		r.field = f
		return r
	}
	return runDial(t, &dialer{f: f}, cfg)
}

// runDial starts the adapter with the pipes of a dialer.
func runDial(t *testing.T, d *dialer, cfg Config) *rig {
	t.Helper()
	t.Cleanup(d.f.serving.Wait)
	r := runWith(t, d.dial, cfg)
	r.field = d.f
	return r
}

func runWith(t *testing.T, dial dialFunc, cfg Config) *rig {
	t.Helper()
	return runLogged(t, dial, zerolog.Nop(), cfg)
}

func runLogged(t *testing.T, dial dialFunc, log zerolog.Logger, cfg Config) *rig {
	t.Helper()
	cfg.Timeout = cmp.Or(cfg.Timeout, time.Second)
	cfg.Name = cmp.Or(cfg.Name, "line")
	cfg.Address = cmp.Or(cfg.Address, "plc:502")
	r := &rig{Adapter: New(cfg, dial, log), got: &sink{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx, r.got.accept); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(r.stop)
	return r
}

// points are n registers of a table, named by device and address.
func points(device string, table Table, poll time.Duration, addresses ...int) []Point {
	var out []Point
	for _, a := range addresses {
		p := at(table, a, 1)
		p.ID, p.Poll, p.Scale, p.Order, p.Writable = gateway.PointID(fmt.Sprintf("%s/%d", device, a)), poll, 1, "abcd", true
		out = append(out, p)
	}
	return out
}

func span2(from, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = from + i
	}
	return out
}

func offline(after int, low, high time.Duration) Offline {
	return Offline{After: after, RetryMin: low, RetryMax: high}
}

// freeAddress is an address of this machine where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// contextFor is a context of the test that ends after d.
func contextFor(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}
