package identity

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestAServiceIsAskedEvenlyAndByNobodyBeforeTheTimeThatItNamed(t *testing.T) {
	const rate, devices, late = 10, 50, 30 * time.Second
	synctest.Test(t, func(t *testing.T) {
		p := NewPace(rate)
		var all sync.WaitGroup
		var mu sync.Mutex // guards asked
		var asked []time.Duration
		start := time.Now()
		ask := func() {
			if err := p.wait(t.Context()); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, time.Since(start))
		}
		for range devices {
			all.Go(ask)
		}
		all.Wait()
		for i := rate; i < devices; i++ {
			if asked[i]-asked[i-rate] < time.Second-time.Microsecond {
				t.Fatalf("more than %d devices asked within a second: %v", rate, asked[i-rate:i+1])
			}
		}
		if took := asked[devices-1]; took > devices/rate*time.Second {
			t.Errorf("%d devices took %v", devices, took)
		}
		p.busy(late)
		p.busy(time.Second) // another one heard less
		busy := time.Since(start)
		asked = nil
		all.Go(ask)
		all.Wait()
		if asked[0]-busy < late {
			t.Errorf("asked %v after the service had named %v", asked[0]-busy, late)
		}
		p.busy(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := p.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the context ended: %v", err)
		}
	})
}
