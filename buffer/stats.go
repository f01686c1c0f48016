package buffer

import (
	"fmt"
	"slices"
	"strings"
	"time"

	gateway "iothub-gateway"
)

// Counts are the figures of a lane or of all lanes.
type Counts struct {
	Entries int64     // messages that wait for the hub: entries and gaps
	Bytes   int64     // their records and keys
	Oldest  time.Time // creation time of the oldest; zero if there is none or it cannot be read
	Put     uint64    // sequences ever used, since the birth of the queue
	Acked   uint64    // sequences that have left, since the birth of the queue
	Dropped uint64    // entries that became a gap since Open
}

// Stats are the figures of the queue.
type Stats struct {
	Counts             // of all lanes
	Commits     uint64 // transactions since Open
	Generations int    // files
	FileBytes   int64  // of them that are in use
	Lanes       map[gateway.IdentityID]Counts
}

// Stats reads counters; its cost is that of the number of lanes, not of entries. An entry that was
// acknowledged counts until that is on disk.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	s := Stats{Commits: q.commits, Lanes: make(map[gateway.IdentityID]Counts, len(q.lanes))}
	lanes := make([]*Lane, 0, len(q.lanes))
	for _, l := range q.lanes {
		lanes = append(lanes, l)
	}
	q.mu.Unlock()
	for _, g := range q.places.all() {
		s.Generations++
		s.FileBytes += g.written.Load()
	}
	for _, l := range lanes {
		c := l.counts()
		s.Lanes[l.id] = c
		s.Entries += c.Entries
		s.Bytes += c.Bytes
		s.Put += c.Put
		s.Acked += c.Acked
		s.Dropped += c.Dropped
		if s.Oldest.IsZero() || !c.Oldest.IsZero() && c.Oldest.Before(s.Oldest) {
			s.Oldest = c.Oldest
		}
	}
	return s
}

// fullFor is how long the queue counts as full after a limit was exceeded.
const fullFor = time.Minute

// wasFull notes that a limit was exceeded.
func (q *Queue) wasFull() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if time.Since(q.fullAt) > fullFor {
		q.fullSince = time.Now()
	}
	q.fullAt = time.Now()
}

// setFailure notes why nothing can be written, or with nil that it can again.
func (q *Queue) setFailure(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failure == nil || err == nil {
		q.since = time.Now()
	}
	q.failure = err
}

// Health tells how the queue does.
func (q *Queue) Health() Health {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := Health{State: "working", Since: q.since, Aside: slices.Clone(q.aside)}
	switch {
	case q.failure != nil:
		h.State, h.Reason = "unavailable", q.failure.Error()
	case time.Since(q.fullAt) <= fullFor:
		h.State, h.Since = "full", q.fullSince
		does := "drops the oldest entries"
		if q.cfg.WhenFull == RefuseNew {
			does = "refuses new entries"
		}
		h.Reason = fmt.Sprintf("the queue has reached its limit and %s; raise the limit, or see why nothing is delivered", does)
	case len(h.Aside) > 0:
		h.State = "degraded"
		h.Reason = asideReason(h.Aside)
	}
	return h
}

// fails tells whether the disk could not be written when it was last tried.
func (q *Queue) fails() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failure != nil
}

// asideReason says what was set aside, and what to do: damaged files, whose whole records are in the queue,
// may go, and those of another version must stay.
func asideReason(aside []string) string {
	which := aside[0]
	if n := len(aside) - 1; n > 0 {
		which += fmt.Sprintf(" and %d more", n)
	}
	remedy := "what could be read is in the queue again: remove it once nobody wants to look at it, then restart the gateway"
	if slices.ContainsFunc(aside, func(path string) bool { return !strings.Contains(path, ".damaged-") }) {
		remedy = "keep what is of another version: 'gateway queue repair' takes it in once a gateway that knows it is installed"
	}
	return fmt.Sprintf("set aside, because it could not be used: %s; %s", which, remedy)
}
