package upstream

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// troubled is a fleet of which some have trouble and the rest is looked at.
type troubled struct {
	*fleet
	banned    gateway.IdentityID
	throttled []gateway.IdentityID
	killed    []gateway.IdentityID
	rest      []gateway.IdentityID
	random    *rand.Rand
	stop      func() // ends the pool
}

// newTroubled connects a fleet: one will be banned, a fiftieth throttled, a tenth killed at random. Who is
// killed soon connects again: the trouble does not fade because those who have it wait.
func newTroubled(t *testing.T, identities int, seed uint64) *troubled {
	f := newFleet(t, identities, hubsim.Config{})
	f.cfg.ConnectRate, f.cfg.RetryMost, f.cfg.DrainTimeout = 100, time.Second, time.Second
	throttled, killed := 1+identities/50, 1+identities/50+identities/10
	w := &troubled{
		fleet: f, banned: f.ids[0], throttled: f.ids[1:throttled], killed: f.ids[throttled:killed], rest: f.ids[killed:],
		random: rand.New(rand.NewPCG(seed, 0)),
	}
	t.Logf("seed %d: %d identities, %d throttled, %d killed at random, 1 banned", seed, identities, len(w.throttled), len(w.killed))
	w.stop = f.run(f.ids...)
	f.within(time.Minute, "all are connected", f.connected)
	return w
}

// trouble begins, and ends when stop is called.
func (w *troubled) trouble() (stop func()) {
	if err := w.hub.SetEnabled(string(w.banned), "", false); err != nil {
		w.t.Fatal(err)
	}
	for _, id := range w.throttled {
		w.hub.Throttle(string(id), 0.2)
	}
	end := testkit.Background(w.t, func(ctx context.Context) error {
		for wait(ctx, 100*time.Millisecond) {
			w.hub.Kick(string(w.killed[w.random.IntN(len(w.killed))]))
		}
		return nil
	})
	return func() {
		end()
		for _, id := range w.throttled {
			w.hub.Throttle(string(id), -1)
		}
		if err := w.hub.SetEnabled(string(w.banned), "", true); err != nil {
			w.t.Error(err)
		}
	}
}

// latency is the 99th percentile of the time from Put to the hub, of the rest, over a while of a message a
// second of everybody.
func (w *troubled) latency(span time.Duration) time.Duration {
	w.t.Helper()
	w.judge()
	clear(w.ages)
	unload := w.load(w.ids, 1)
	pause := time.NewTimer(span)
	<-pause.C
	n := unload()
	w.within(20*time.Second, "the rest has delivered everything", func() bool {
		lanes := w.queue.Stats().Lanes
		return !slices.ContainsFunc(w.rest, func(id gateway.IdentityID) bool { return lanes[id].Entries > 0 })
	})
	w.judge()
	var all []time.Duration
	for _, id := range w.rest {
		all = append(all, w.ages[string(id)]...)
	}
	if len(all) != int(n)*len(w.rest) {
		w.t.Fatalf("%d messages of the rest arrived, %d were put", len(all), int(n)*len(w.rest))
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// isolation compares pairs of runs, one undisturbed and one with trouble, and wants the latency of the rest
// hardly changed: by a share of it, or by an absolute time, whichever is more.
func isolation(t *testing.T, identities, pairs int, span, grace time.Duration, seed uint64) {
	w := newTroubled(t, identities, seed)
	w.latency(span) // everything has run once
	var extra, limit []time.Duration
	for range pairs {
		w.within(time.Minute, "everybody is connected and has delivered everything", func() bool { w.judge(); return w.connected() && w.empty() })
		calm := w.latency(span)
		stop := w.trouble()
		hard := w.latency(span)
		stop()
		t.Logf("99th percentile from Put to the hub: %v undisturbed, %v beside the trouble", calm.Round(10*time.Microsecond), hard.Round(10*time.Microsecond))
		extra, limit = append(extra, hard-calm), append(limit, max(calm/5, grace))
	}
	slices.Sort(extra)
	slices.Sort(limit)
	if median, most := extra[pairs/2], limit[pairs/2]; median > most {
		t.Errorf("the median of %d pairs: %v more than undisturbed, at most %v", pairs, median, most)
	} else {
		t.Logf("the median of %d pairs: %v more than undisturbed, at most %v", pairs, median, most)
	}
	for _, l := range w.pool.Stats() {
		if slices.Contains(w.rest, l.Identity) && l.Connects != 1 || l.Dead > 0 {
			t.Errorf("%+v", l)
		}
	}
}

func TestTheTroubleOfSomeIsNotFeltByTheRest(t *testing.T) {
	isolation(t, 50, 1, time.Second, time.Second, uint64(time.Now().UnixNano()))
}

// sources sends messages of a fleet beside its trouble, while every identity that has none is killed now and
// then too, and judges each.
func sources(t *testing.T, identities, messages int, seed uint64) {
	w := newTroubled(t, identities, seed)
	begun := time.Now()
	calm := w.trouble()
	random := rand.New(rand.NewPCG(seed, 1))
	quiet := testkit.Background(t, func(ctx context.Context) error {
		for wait(ctx, 25*time.Millisecond) {
			w.hub.Kick(string(w.rest[random.IntN(len(w.rest))]))
		}
		return nil
	})
	held := slices.Concat([]gateway.IdentityID{w.banned}, w.throttled)
	rounds := uint64(messages / identities)
	for n := range rounds {
		if err := w.queue.Put(t.Context(), messagesOf(w.ids)...); err != nil {
			t.Fatal(err)
		}
		w.within(5*time.Minute, "the hub keeps up", func() bool {
			w.judge()
			s := w.queue.Stats()
			waiting := s.Entries
			for _, id := range held {
				waiting -= s.Lanes[id].Entries
			}
			return waiting < int64(20*identities)
		})
		if n > 0 && n%(rounds/10+1) == 0 {
			t.Logf("%d messages after %v", w.after, time.Since(begun).Round(time.Second))
		}
	}
	quiet()
	calm()
	w.within(5*time.Minute, "the queue is empty", func() bool { w.judge(); return w.empty() })
	took := time.Since(begun).Round(time.Second)
	w.stop()
	var lost uint64
	for _, l := range w.pool.Stats() {
		if lost += l.Connects - 1; l.Dead > 0 {
			t.Errorf("%+v", l)
		}
	}
	repeated := w.complete(rounds, w.ids...)
	if repeated > lost*DefaultWindow {
		t.Errorf("%d messages came again over %d lost connections", repeated, lost)
	}
	t.Logf("%d messages of %d identities in %v, each from its true source, 0 lost, %d repeated over %d lost connections",
		rounds*uint64(identities), identities, took, repeated, lost)
}

func TestEveryMessageCarriesItsTrueSource(t *testing.T) {
	sources(t, 50, 5000, uint64(time.Now().UnixNano()))
}
