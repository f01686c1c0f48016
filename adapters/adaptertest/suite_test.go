package adaptertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	gateway "iothub-gateway"
)

// memory is the smallest adapter that keeps the interface's promises, and, if told so, breaks one.
type memory struct {
	breaks  string
	mu      sync.Mutex
	values  map[gateway.PointID]gateway.Value
	stopped chan struct{}
}

const breakEnv = "ADAPTERTEST_BREAK"

func newMemory(breaks string) Setup {
	m := &memory{breaks: breaks, stopped: make(chan struct{}), values: map[gateway.PointID]gateway.Value{
		"m/good": gateway.IntValue(7), "m/bad": {}, "m/once": gateway.IntValue(1), "m/set": gateway.BoolValue(false),
	}}
	return Setup{
		Adapter: m, Good: "m/good", Want: gateway.IntValue(7), Bad: "m/bad", Once: "m/once", Readable: true,
		Writable: "m/set", Values: [2]gateway.Value{gateway.BoolValue(true), gateway.BoolValue(false)}, Misfit: gateway.IntValue(2),
		ReadOnly: "m/good",
	}
}

func (m *memory) has(id gateway.PointID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.values[id]
	return ok
}

func (m *memory) sample(id gateway.PointID) gateway.Sample {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := gateway.Sample{Point: id, Value: m.values[id], Time: time.Now()}
	if id == "m/bad" {
		s.Err = gateway.ErrNoAnswer
	}
	if m.breaks == "time" {
		s.Time = time.Time{}
	}
	if m.breaks == "value" && id == "m/good" {
		s.Value = gateway.IntValue(8)
	}
	if m.breaks == "value of a bad reading" && id == "m/bad" {
		s.Value = gateway.IntValue(0)
	}
	return s
}

func (m *memory) Run(ctx context.Context, accept func(context.Context, []gateway.Sample) error) error {
	defer close(m.stopped)
	if m.breaks == "leak" {
		go func() { <-time.After(5 * time.Second) }()
	}
	once := true
	for {
		batch := []gateway.Sample{m.sample("m/good"), m.sample("m/bad")}
		if once {
			batch = append(batch, m.sample("m/once"))
		}
		if m.breaks == "concurrent" {
			go func() { _ = accept(ctx, batch) }()
		}
		err := accept(ctx, batch)
		switch {
		case err == nil || m.breaks == "forget":
			once = false
		case m.breaks == "give up":
			return err
		case m.breaks == "wait for room" && errors.Is(err, gateway.ErrFull):
			<-time.After(time.Second)
		case m.breaks == "insist" && errors.Is(err, gateway.ErrFull):
			_ = accept(ctx, batch)
		}
		if m.breaks == "fail" {
			return gateway.ErrNoAnswer
		}
		select {
		case <-ctx.Done():
			if m.breaks == "error at the end" {
				return ctx.Err()
			}
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (m *memory) Read(ctx context.Context, ids []gateway.PointID) ([]gateway.Sample, error) {
	var out []gateway.Sample
	for _, id := range ids {
		if !m.has(id) && m.breaks != "unknown" {
			return nil, gateway.ErrUnknownPoint
		}
		if m.breaks == "order" {
			out = append([]gateway.Sample{m.sample(id)}, out...)
			continue
		}
		out = append(out, m.sample(id))
		if m.breaks == "read error" && id == "m/bad" {
			return nil, gateway.ErrNoAnswer
		}
	}
	if err := m.over(ctx); err != nil {
		return nil, err
	}
	return out, nil
}

func (m *memory) over(ctx context.Context) error {
	select {
	case <-m.stopped:
		return gateway.ErrNoAnswer
	default:
	}
	if ctx.Err() != nil && m.breaks != "context" {
		return fmt.Errorf("%w: %w", gateway.ErrNoAnswer, ctx.Err())
	}
	return nil
}

func (m *memory) Write(ctx context.Context, id gateway.PointID, v gateway.Value, _ gateway.Confirm) error {
	if !m.has(id) {
		return gateway.ErrUnknownPoint
	}
	if id != "m/set" && m.breaks != "read-only" {
		return gateway.ErrReadOnly
	}
	if v.Kind() != gateway.Bool && m.breaks != "range" {
		return gateway.ErrRange
	}
	if err := m.over(ctx); err != nil {
		if m.breaks == "uncertain" {
			return errors.Join(err, gateway.ErrUncertain)
		}
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.breaks != "write" {
		m.values[id] = v
	}
	return nil
}

// breakable are the promises that memory can break; the suite must notice each.
var breakable = []string{
	"time", "value", "value of a bad reading", "leak", "forget", "concurrent", "give up", "wait for room", "insist", "fail", "error at the end",
	"unknown", "order", "read error", "context", "read-only", "range", "uncertain", "write",
}

func TestAnAdapterThatKeepsItsPromisesPasses(t *testing.T) {
	Run(t, func(*testing.T) Setup { return newMemory(os.Getenv(breakEnv)) })
}

func TestAnAdapterThatCanOnlyReportPasses(t *testing.T) {
	if os.Getenv(breakEnv) != "" {
		return // the child of the test below is about the other one
	}
	Run(t, func(*testing.T) Setup {
		s := newMemory("")
		return Setup{Adapter: s.Adapter, Good: s.Good, Want: s.Want, Report: func() {}}
	})
}

// The suite judges by failing, so that each broken adapter is run in a process of its own.
func TestEveryBrokenPromiseIsNoticed(t *testing.T) {
	if os.Getenv(breakEnv) != "" {
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var children sync.WaitGroup
	for _, breaks := range breakable {
		children.Go(func() {
			c := exec.Command(self, "-test.run=^TestAnAdapterThatKeepsItsPromisesPasses$", "-test.failfast")
			c.Env = append(os.Environ(), breakEnv+"="+breaks)
			out, err := c.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestAnAdapterThatKeepsItsPromisesPasses") {
				t.Errorf("%s: %v\n%s", breaks, err, out)
			}
		})
	}
	children.Wait()
}
