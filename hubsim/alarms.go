package hubsim

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// alarms are the identities whose cloud-to-device messages the hub must look at, by time. Identities
// without a message cost nothing.
type alarms struct {
	mu   sync.Mutex // guards all
	all  alarmHeap
	wake chan struct{} // holds one: there is an earlier alarm
}

type alarm struct {
	at time.Time
	id *identity
}

func newAlarms() *alarms { return &alarms{wake: make(chan struct{}, 1)} }

// set adds an alarm; there is no way to take one back: whoever is woken finds out whether there is
// something to do.
func (a *alarms) set(at time.Time, id *identity) {
	a.mu.Lock()
	heap.Push(&a.all, alarm{at, id})
	first := a.all[0].at.Equal(at)
	a.mu.Unlock()
	if first {
		notify(a.wake)
	}
}

// due takes off an alarm whose time has come; otherwise next is when the first one comes, zero for never.
func (a *alarms) due(now time.Time) (rings alarm, ok bool, next time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.all) == 0 {
		return alarm{}, false, time.Time{}
	}
	if first := a.all[0]; first.at.After(now) {
		return alarm{}, false, first.at
	}
	return heap.Pop(&a.all).(alarm), true, time.Time{}
}

// watchClock looks at the identities whose alarm rings, until ctx ends. What changed at the same time goes
// to disk together.
func (h *Hub) watchClock(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var stored *saved
	for ctx.Err() == nil {
		rings, ok, next := h.alarms.due(time.Now())
		if ok {
			stored = latest(stored, rings.id.ring(h, rings.at))
			continue
		}
		if stored != nil {
			if err := stored.wait(); err != nil {
				h.log.Error().Err(err).Msg("cloud-to-device messages")
			}
			stored = nil
			continue
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-h.alarms.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// alarmHeap is a heap.Interface, the earliest first.
type alarmHeap []alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h alarmHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *alarmHeap) Push(x any)        { *h = append(*h, x.(alarm)) }
func (h *alarmHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
