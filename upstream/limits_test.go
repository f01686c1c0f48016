package upstream

import (
	"context"
	"sync"
	"testing"
	"time"

	"iothub-gateway/hubsim"
)

func TestTheLimitsOfATierAreThoseOfTheSimulatedHub(t *testing.T) {
	for _, tier := range []string{"F1", "B1", "B2", "B3", "S1", "S2", "S3"} {
		for _, units := range []int{1, 2, 9, 200} {
			got, err := TierLimits(tier, units)
			want, wantErr := hubsim.TierLimits(tier, units)
			if (err == nil) != (wantErr == nil) {
				t.Errorf("%s x%d: %v, the hub says %v", tier, units, err, wantErr)
			}
			if err != nil {
				continue
			}
			if want.Meter == 0 {
				want.Meter = 4096
			}
			if got.Connects != want.Connects || got.Sends != want.Telemetry || got.TwinUpdates != want.TwinUpdates || got.Daily != want.DailyMessages || got.Meter != want.Meter {
				t.Errorf("%s x%d: %+v, the hub has %+v", tier, units, got, want)
			}
		}
	}
	for _, units := range []int{0, -1, maxUnits + 1} {
		if _, err := TierLimits("S1", units); err == nil {
			t.Errorf("%d units are taken", units)
		}
	}
	if _, err := TierLimits("S4", 1); err == nil {
		t.Error("tier S4 is taken")
	}
}

func TestRatesStayBelowTheLimitsOfTheHub(t *testing.T) {
	small, _ := TierLimits("S1", 1)
	for _, c := range []struct{ cfg, want Config }{
		{Config{}, Config{ConnectRate: DefaultConnectRate, TwinRate: DefaultTwinRate}},
		{Config{Limits: small}, Config{ConnectRate: 100, TwinRate: DefaultTwinRate}},
		{Config{Limits: small, ConnectRate: 30, DrainRate: 7}, Config{ConnectRate: 30, DrainRate: 7, TwinRate: DefaultTwinRate}},
		{Config{Limits: small, ConnectRate: 3000, DrainRate: 700, TwinRate: 500}, Config{ConnectRate: 100, DrainRate: 700, TwinRate: 50}},
	} {
		got := NewPool(c.cfg, nil, nil).cfg
		if got.ConnectRate != c.want.ConnectRate || got.DrainRate != c.want.DrainRate || got.TwinRate != c.want.TwinRate {
			t.Errorf("%+v: connects %g, sends %g, twins %g", c.cfg.Limits, got.ConnectRate, got.DrainRate, got.TwinRate)
		}
	}
}

func TestTheQuotaIsCountedInStepsAndAnewEachDay(t *testing.T) {
	q := newQuota("h", Limits{Daily: 100, Meter: 512})
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for size, steps := range map[int]int64{0: 1, 1: 1, 512: 1, 513: 2, 5120: 10} {
		before := q.outlook(noon).Used
		q.count(size, noon)
		if n := q.outlook(noon).Used - before; n != steps {
			t.Errorf("%d bytes count as %d messages, want %d", size, n, steps)
		}
	}
	if o := q.outlook(noon.Add(12 * time.Hour)); o.Used != 0 || o.Limit != 100 {
		t.Errorf("after midnight: %+v", o)
	}
	var none *quota
	none.count(1, noon)
	if o := none.outlook(noon); o != (Quota{}) {
		t.Errorf("without a quota: %+v", o)
	}
}

func TestTheEndOfTheQuotaIsSeenAhead(t *testing.T) {
	start := time.Date(2026, 11, 26, 6, 0, 0, 0, time.UTC)
	play := func(perHour int, d time.Duration) (q *quota, now time.Time) {
		q = newQuota("h", Limits{Daily: 1000, Meter: 4096})
		for now = start; now.Before(start.Add(d)); now = now.Add(time.Hour / time.Duration(perHour)) {
			q.count(100, now)
		}
		return q, now
	}
	if q, now := play(100, 3*time.Hour); !q.outlook(now).Ends.Before(start.Add(10*time.Hour+10*time.Minute)) || !q.outlook(now).Ends.After(start.Add(9*time.Hour+50*time.Minute)) {
		t.Errorf("100 an hour of 1000 from six o'clock on: %+v", q.outlook(now))
	}
	if q, now := play(50, 3*time.Hour); !q.outlook(now).Ends.IsZero() {
		t.Errorf("50 an hour of 1000: %+v", q.outlook(now))
	}
	q, now := play(500, 2*time.Hour+time.Minute)
	if o := q.outlook(now); o.Ends.After(now) || o.Ends.IsZero() {
		t.Errorf("it is used up: %+v", o)
	}
	if !q.tells(now) || q.tells(now.Add(time.Hour)) || !q.tells(now.Add(24*time.Hour)) {
		t.Error("it is to be said once a day")
	}
}

// memory is a gateway.State that keeps nothing over a restart.
type memory struct{ all sync.Map }

func (m *memory) Get(key string) ([]byte, bool) {
	v, ok := m.all.Load(key)
	if !ok {
		return nil, false
	}
	return v.([]byte), true
}

func (m *memory) Put(_ context.Context, key string, value []byte) error {
	m.all.Store(key, value)
	return nil
}

func (m *memory) Delete(_ context.Context, key string) error {
	m.all.Delete(key)
	return nil
}

func TestTheQuotaOfADayIsKeptOverARestart(t *testing.T) {
	now := time.Date(2026, 11, 26, 6, 0, 0, 0, time.UTC)
	cfg := Config{Limits: Limits{Daily: 1000}, State: &memory{}, Now: func() time.Time { return now }}
	run := func(messages int) int64 {
		p := NewPool(cfg, nil, nil)
		ctx, cancel := context.WithCancel(t.Context())
		for range messages {
			p.hub("h").quota.count(1, now)
		}
		cancel()
		if err := p.Run(ctx); err != nil {
			t.Fatal(err)
		}
		return p.Hubs()[0].Quota.Used
	}
	for _, want := range []int64{10, 20, 30} {
		if used := run(10); used != want {
			t.Errorf("used %d, want %d", used, want)
		}
	}
	now = now.Add(24 * time.Hour)
	if used := run(1); used != 1 {
		t.Errorf("the next day: used %d", used)
	}
}
