package adaptertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	gateway "iothub-gateway"
)

func unknownPoints(t *testing.T, s Setup) {
	start(t, s, nil)
	if _, err := s.Adapter.Read(within(t), []gateway.PointID{s.Good, unknown}); !errors.Is(err, gateway.ErrUnknownPoint) {
		t.Errorf("Read of an unknown point: %v", err)
	}
	if err := s.Adapter.Write(within(t), unknown, gateway.BoolValue(true), gateway.Confirm{}); !errors.Is(err, gateway.ErrUnknownPoint) {
		t.Errorf("Write of an unknown point: %v", err)
	}
}

func readsKeepTheOrder(t *testing.T, s Setup) {
	if !s.Readable {
		return
	}
	start(t, s, nil)
	ask := []gateway.PointID{s.Good, s.Good}
	if s.Bad != "" {
		ask = []gateway.PointID{s.Good, s.Good, s.Bad}
	}
	got, err := s.Adapter.Read(within(t), ask)
	if err != nil || len(got) != len(ask) {
		t.Fatalf("Read: %v %v", got, err)
	}
	for i, x := range got {
		bad := ask[i] == s.Bad
		if x.Point != ask[i] || (x.Err != nil) != bad || !bad && x.Value != s.Want || bad && x.Value.Kind() != gateway.Absent || x.Time.IsZero() {
			t.Errorf("place %d, asked for %s: %+v", i, ask[i], x)
		}
	}
	if none, err := s.Adapter.Read(within(t), nil); err != nil || len(none) != 0 {
		t.Errorf("Read of nothing: %v %v", none, err)
	}
}

func readOnly(t *testing.T, s Setup) {
	if s.ReadOnly == "" {
		return
	}
	start(t, s, nil)
	for _, v := range []gateway.Value{gateway.BoolValue(true), gateway.UintValue(1), gateway.TextValue("x")} {
		if err := s.Adapter.Write(within(t), s.ReadOnly, v, gateway.Confirm{}); !errors.Is(err, gateway.ErrReadOnly) {
			t.Errorf("Write of %v: %v", v, err)
		}
	}
}

func writeShows(t *testing.T, s Setup) {
	if s.Writable == "" {
		return
	}
	start(t, s, nil)
	for _, v := range []gateway.Value{s.Values[0], s.Values[1], s.Values[0]} {
		if err := s.Adapter.Write(within(t), s.Writable, v, gateway.Confirm{}); err != nil {
			t.Fatalf("Write of %v: %v", v, err)
		}
		s.check(t, v)
	}
}

// check reads the writable point, if it can be read.
func (s Setup) check(t *testing.T, want gateway.Value) {
	t.Helper()
	if !s.Readable {
		return
	}
	got, err := s.Adapter.Read(within(t), []gateway.PointID{s.Writable})
	if err != nil || len(got) != 1 || got[0].Err != nil || got[0].Value != want {
		t.Errorf("%s should be %v: %+v, %v", s.Writable, want, got, err)
	}
}

func misfit(t *testing.T, s Setup) {
	if s.Writable == "" {
		return
	}
	start(t, s, nil)
	if err := s.Adapter.Write(within(t), s.Writable, s.Values[0], gateway.Confirm{}); err != nil {
		t.Fatalf("Write: %v", err)
	}
	for _, v := range []gateway.Value{s.Misfit, {}} {
		if err := s.Adapter.Write(within(t), s.Writable, v, gateway.Confirm{}); !errors.Is(err, gateway.ErrRange) {
			t.Errorf("Write of %v: %v", v, err)
		}
	}
	s.check(t, s.Values[0])
}

// callsEnd: a call whose context has ended does nothing and says so.
func callsEnd(t *testing.T, s Setup) {
	start(t, s, nil)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if s.Readable {
		if got, err := s.Adapter.Read(over, []gateway.PointID{s.Good}); !errors.Is(err, context.Canceled) {
			t.Errorf("Read with a context that has ended: %v %v", got, err)
		}
	}
	if s.Writable == "" {
		return
	}
	if err := s.Adapter.Write(within(t), s.Writable, s.Values[0], gateway.Confirm{}); err != nil {
		t.Fatalf("Write: %v", err)
	}
	err := s.Adapter.Write(over, s.Writable, s.Values[1], gateway.Confirm{})
	if !errors.Is(err, gateway.ErrNoAnswer) || errors.Is(err, gateway.ErrUncertain) {
		t.Errorf("Write with a context that has ended: %v", err)
	}
	s.check(t, s.Values[0])
}

// callsAfterTheEnd: nobody waits for an adapter that has ended.
func callsAfterTheEnd(t *testing.T, s Setup) {
	r := start(t, s, nil)
	if err := r.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	began := time.Now()
	if s.Readable {
		got, err := s.Adapter.Read(within(t), []gateway.PointID{s.Good})
		if err == nil && (len(got) != 1 || got[0].Err == nil) {
			t.Errorf("Read after the end: %v", got)
		}
	}
	if s.Writable != "" {
		if err := s.Adapter.Write(within(t), s.Writable, s.Values[0], gateway.Confirm{}); !errors.Is(err, gateway.ErrNoAnswer) {
			t.Errorf("Write after the end: %v", err)
		}
	}
	if d := time.Since(began); d > soon {
		t.Errorf("the calls took %v", d)
	}
}

func manyCallers(t *testing.T, s Setup) {
	r := start(t, s, nil)
	var calls sync.WaitGroup
	for n := range 16 {
		calls.Go(func() {
			if s.Readable {
				got, err := s.Adapter.Read(within(t), []gateway.PointID{s.Good})
				if err != nil || got[0].Err != nil || got[0].Value != s.Want {
					t.Errorf("Read: %v %v", got, err)
				}
			}
			if s.Writable != "" {
				if err := s.Adapter.Write(within(t), s.Writable, s.Values[n%2], gateway.Confirm{}); err != nil {
					t.Errorf("Write: %v", err)
				}
			}
		})
	}
	calls.Wait()
	r.await(t, "a good reading", isGood(s.Good))
}
