package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Limits are what one IoT Hub takes from all its devices together. The zero Limits are not known.
type Limits struct {
	Connects    float64 // connections a second (THR-2)
	Sends       float64 // messages a second (THR-3)
	TwinUpdates float64 // a second (THR-8); of reads there may be more
	Daily       int64   // messages from 00:00 to 24:00 UTC, each counted in steps of Meter bytes (THR-13)
	Meter       int
}

// meterStep is what messages are counted in but on free hubs, bytes.
const meterStep = 4096

// TierLimits are the limits of a hub of tier F1, B1 to B3 or S1 to S3 with that many units. The error says
// what is wrong with the two.
func TierLimits(tier string, units int) (Limits, error) {
	n := float64(units)
	small := Limits{max(100, 12*n), max(100, 12*n), 50, 400_000 * int64(units), meterStep}
	middle := Limits{120 * n, 120 * n, max(50, 5*n), 6_000_000 * int64(units), meterStep}
	large := Limits{6000 * n, 6000 * n, 250 * n, 300_000_000 * int64(units), meterStep}
	free := Limits{100, 100, 50, 8000, 512}
	l, known := map[string]Limits{"F1": free, "B1": small, "S1": small, "B2": middle, "S2": middle, "B3": large, "S3": large}[tier]
	switch {
	case !known:
		return Limits{}, fmt.Errorf("upstream: a hub's tier is F1, B1, B2, B3, S1, S2 or S3, not %q", tier)
	case units < 1 || units > maxUnits:
		return Limits{}, fmt.Errorf("upstream: a hub has 1 to %d units, not %d", maxUnits, units)
	case tier == "F1" && units > 1:
		return Limits{}, fmt.Errorf("upstream: a free hub has 1 unit, not %d", units)
	}
	return l, nil
}

// maxUnits bounds what TierLimits computes with; a hub has 200 at most unless Microsoft agrees to more.
const maxUnits = 10_000

// within makes the limits bounds of cfg.
func (l Limits) within(cfg *Config) {
	if l.Connects > 0 {
		setDefault(&cfg.ConnectRate, l.Connects)
		cfg.ConnectRate = min(cfg.ConnectRate, l.Connects)
	}
	if l.TwinUpdates > 0 {
		cfg.TwinRate = min(cfg.TwinRate, l.TwinUpdates)
	}
}

// Quota is how far the messages of this pool have used up one hub's daily quota. What others send to the
// hub is not in it.
type Quota struct {
	Limit, Used int64
	// Ends is when the quota will be used up if messages go on as in the last hour; zero if not today.
	Ends time.Time
}

const (
	quotaKey  = "upstream/quota/" // before the hub's name
	quotaSave = 10 * time.Minute
	paceSpan  = 30 * time.Minute // the pace is taken from the last one to two of these
)

// quota counts messages as their hub does (THR-14); a nil one counts nothing.
type quota struct {
	hub   string
	limit int64
	step  int

	mu    sync.Mutex // guards the fields below
	used  day
	spans [2]span // the one before, and the one that is being counted
	told  int64   // day of which it has been said that the quota will not do
}

// day is the messages of one, counted from 1970. It is kept over restarts.
type day struct{ Day, Used int64 }

// span is the messages of some time.
type span struct {
	from time.Time
	used int64
}

func newQuota(hub string, l Limits) *quota {
	if l.Daily <= 0 {
		return nil
	}
	return &quota{hub: strings.ToLower(hub), limit: l.Daily, step: max(1, l.Meter)}
}

// count takes a message of size bytes in.
func (q *quota) count(size int, now time.Time) {
	if q == nil {
		return
	}
	n := int64(max(1, (size+q.step-1)/q.step))
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turn(now)
	q.used.Used += n
	q.spans[1].used += n
}

// turn begins a new day or span if it is time. It needs mu.
func (q *quota) turn(now time.Time) {
	if today := now.Unix() / 86400; q.used.Day != today {
		q.used = day{Day: today}
	}
	switch age := now.Sub(q.spans[1].from); {
	case q.spans[1].from.IsZero() || age >= 2*paceSpan || age < 0:
		q.spans = [2]span{{from: now}, {from: now}}
	case age >= paceSpan:
		q.spans = [2]span{q.spans[1], {from: now}}
	}
}

// outlook says how the quota will do.
func (q *quota) outlook(now time.Time) Quota {
	if q == nil {
		return Quota{}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turn(now)
	o := Quota{Limit: q.limit, Used: q.used.Used}
	sent, took := q.spans[0].used+q.spans[1].used, now.Sub(q.spans[0].from)
	left := q.limit - q.used.Used
	switch {
	case left <= 0:
		o.Ends = now
	case sent > 0 && took >= time.Minute:
		seconds := float64(left) * took.Seconds() / float64(sent)
		midnight := time.Unix((now.Unix()/86400+1)*86400, 0)
		if seconds < midnight.Sub(now).Seconds() {
			o.Ends = now.Add(time.Duration(seconds * float64(time.Second))).UTC()
		}
	}
	return o
}

// watch keeps the count over restarts, and says ahead, once a day, that the quota will not do.
func (q *quota) watch(ctx context.Context, cfg *Config) {
	if q == nil {
		return
	}
	q.recall(cfg)
	look := time.NewTicker(time.Minute)
	defer look.Stop()
	saved := time.Now()
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			q.save(cfg)
			return
		}
		now := cfg.Now()
		if o := q.outlook(now); !o.Ends.IsZero() && q.tells(now) {
			cfg.Log.Warn().Str("hub", q.hub).Int64("used", o.Used).Int64("limit", o.Limit).Time("used_up", o.Ends).
				Msg("the hub's daily quota will be used up before midnight UTC at this pace: then it takes no message until midnight; send less (publish, deadband, batch) or add units")
		}
		if time.Since(saved) >= quotaSave {
			q.save(cfg)
			saved = time.Now()
		}
	}
}

// tells tells whether it is to be said today, and then not again.
func (q *quota) tells(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	today := now.Unix() / 86400
	if q.told == today {
		return false
	}
	q.told = today
	return true
}

// recall takes up the count of a former run of today.
func (q *quota) recall(cfg *Config) {
	if cfg.State == nil {
		return
	}
	var kept day
	if value, ok := cfg.State.Get(quotaKey + q.hub); !ok || json.Unmarshal(value, &kept) != nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.turn(cfg.Now()); kept.Day == q.used.Day {
		q.used.Used += kept.Used
	}
}

// save keeps the count for the next run. One that cannot be kept is not worth more than a word.
func (q *quota) save(cfg *Config) {
	if cfg.State == nil {
		return
	}
	q.mu.Lock()
	value, _ := json.Marshal(q.used) // nothing in it can fail
	q.mu.Unlock()
	if err := cfg.keep(quotaKey+q.hub, value); err != nil {
		cfg.Log.Warn().Err(err).Msg("how much of the hub's daily quota is used is not kept over a restart")
	}
}
