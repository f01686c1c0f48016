package upstream

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// arrivals runs n attempts of which each arrives at the hub, and is answered, after times of its own, and
// returns when each began and when it arrived.
func arrivals(ctx context.Context, p *pacer, n int, travel func() (there, back time.Duration)) (began, arrived []time.Time) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			a, err := p.begin(ctx)
			if err != nil {
				return
			}
			mu.Lock()
			there, back := travel()
			began = append(began, time.Now())
			mu.Unlock()
			wait(ctx, there)
			mu.Lock()
			arrived = append(arrived, time.Now())
			mu.Unlock()
			wait(ctx, back)
			p.end(a, accepted)
		})
	}
	all.Wait()
	return began, arrived
}

// busiest is how many of the times fall into one second, wherever it begins.
func busiest(times []time.Time) (most int) {
	slices.SortFunc(times, time.Time.Compare)
	for i, j := 0, 0; j < len(times); j++ {
		for times[j].Sub(times[i]) >= time.Second {
			i++
		}
		most = max(most, j-i+1)
	}
	return most
}

func TestNoSecondSeesMoreAttemptsThanTheRateHoweverLongTheyTravel(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		rate := []float64{1, 2.5, 20, 100}[seed%4]
		slowest := []float64{0.001, 0.05, 0.7, 4}[seed/4%4]
		synctest.Test(t, func(t *testing.T) {
			travel := func() (there, back time.Duration) {
				part := func() time.Duration { return time.Duration(r.Float64() * slowest / 2 * float64(time.Second)) }
				return part(), part()
			}
			n := int(rate * 10)
			start := time.Now()
			began, arrived := arrivals(t.Context(), newPacer(rate, r.Float64), n, travel)
			for what, times := range map[string][]time.Time{"here": began, "at the hub": arrived} {
				if most := busiest(times); most > int(rate) {
					t.Errorf("seed %d: %d attempts in one second %s, the rate is %g", seed, most, what, rate)
				}
			}
			if took, most := time.Since(start).Seconds(), float64(n)/rate*(1+slowest)+slowest+2; len(began) != n || took > most {
				t.Errorf("seed %d: %d of %d attempts at %g a second took %.1f s, want %.1f at most", seed, len(began), n, rate, took, most)
			}
		})
	}
}

func TestAnAttemptThatIsNeverAnsweredHoldsItsPlaceForAFewSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(2, rand.Float64)
		for range 2 {
			if _, err := p.begin(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		if _, err := p.begin(t.Context()); err != nil || time.Since(start) > slowAttempt+paceWindow {
			t.Errorf("the third began after %v, %v", time.Since(start), err)
		}
	})
}

func TestABusyHubHalvesThePaceOnceASecondAndGetsItBackStepByStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(64, rand.Float64)
		attempt := func(how result) {
			a, err := p.begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.end(a, how)
		}
		for range 10 {
			attempt(busy) // within 160 ms
		}
		if p.pace() != 32 {
			t.Errorf("after ten answers at once: %g a second, want 32", p.pace())
		}
		for range 40 {
			wait(t.Context(), time.Second)
			attempt(busy)
		}
		if p.pace() != 1 {
			t.Errorf("after 40 more: %g a second, want 1", p.pace())
		}
		attempt(accepted)
		if pace := p.pace(); pace <= 1 || pace > 2 {
			t.Errorf("after one good connection: %g a second", pace)
		}
		for range 2 * recovery {
			attempt(accepted)
		}
		if p.pace() != 64 {
			t.Errorf("in the end: %g a second, want 64", p.pace())
		}
	})
}

func TestAHubThatIsAwayIsLookedForOneAtATimeAndAllGoOnWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const links, rate = 200, 20
		p := newPacer(rate, rand.Float64)
		back := time.Now().Add(10 * time.Minute)
		var mu sync.Mutex
		var failed []time.Time
		last := time.Now()
		var all sync.WaitGroup
		for range links {
			all.Go(func() {
				for {
					a, err := p.begin(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					wait(t.Context(), 10*time.Millisecond)
					if time.Now().After(back) {
						p.end(a, accepted)
						mu.Lock()
						last = time.Now()
						mu.Unlock()
						return
					}
					p.end(a, unreachable)
					mu.Lock()
					failed = append(failed, time.Now())
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if n := len(failed); n < 40 || n > 200 {
			t.Errorf("%d attempts in 10 minutes without a hub", n)
		}
		if took := last.Sub(back); took > probeMost+links/rate*time.Second+2*time.Second {
			t.Errorf("all were back %v after the hub", took)
		}
	})
}

func TestWhoIsNoLongerWantedLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(1, rand.Float64)
		a, _ := p.begin(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		var gone sync.WaitGroup
		for range 3 {
			gone.Go(func() {
				if _, err := p.begin(ctx); err == nil {
					t.Error("it began")
				}
			})
		}
		synctest.Wait()
		cancel()
		gone.Wait()
		p.end(a, given)
		if _, err := p.begin(t.Context()); err != nil || !p.reachable() {
			t.Errorf("the next one: %v", err)
		}
	})
}
