package hubsim

import (
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// store holds the messages, oldest first, in segments. In memory a message is stored when append
// returns; on disk when its batch is synced: one sync serves every session that waits (journal.go).
// Consumers see stored messages only.
type store struct {
	limit, block int64 // the bound, and the size at which a segment is full; never change
	dir          string
	complain     func(error) // about what an operator should know; must not call back

	// durable is the newest sequence that is on disk.
	durable atomic.Uint64

	mu       sync.Mutex // guards the fields below
	segments []*segment
	next     uint64 // sequence of the next message
	bytes    int64  // in all segments
	wake     chan struct{}
	batch    batch
	work     sync.Cond // the batch has something, or closing
	drained  sync.Cond // the batch was taken, or failure
	closing  bool
	failure  error
	dropping bool // the bound was reached once
}

// batch is what the next sync will put on disk.
type batch struct {
	number  uint64
	data    []byte
	offsets []uint32
	waiting []*waiter
}

// waiter is a session that wants to know how far the disk is.
type waiter struct {
	number uint64 // of the batch it waits for; guarded by store.mu
	// stored is told the newest sequence on disk, without a lock held.
	stored func(upTo uint64)
}

const (
	minBlock       = 64 << 10
	maxMemoryBlock = 1 << 20
	maxFileBlock   = 16 << 20
	// maxBatch holds publishers back while the disk is slow.
	maxBatch = 8 << 20
	// maxPage bounds what one look reads from disk.
	maxPage = 1 << 20
)

var errStopped = errors.New("the hub has stopped")

// newStore makes a store of at most limit bytes, in dir or, if that is "", in memory. What a former run
// left in dir is there after recover.
func newStore(dir string, limit int64, complain func(error)) *store {
	s := &store{limit: limit, dir: dir, complain: complain, next: 1}
	s.block = min(max(limit/16, minBlock), maxFileBlock)
	if dir == "" {
		s.block = min(s.block, maxMemoryBlock)
	}
	s.work.L, s.drained.L = &s.mu, &s.mu
	s.batch.number = 1
	return s
}

// append gives r its time and sequence and stores it. stored is false if w will be told.
func (s *store) append(r *record, w *waiter) (stored bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.batch.data) > maxBatch && s.failure == nil {
		s.drained.Wait()
	}
	if s.failure != nil {
		return false, s.failure
	}
	r.sequence, r.at = s.next, time.Now().UnixNano()
	s.next++
	if s.dir == "" {
		s.tail(r).add(r)
		s.bytes += int64(r.size())
		s.evict()
		s.announce()
		return true, nil
	}
	s.batch.offsets = append(s.batch.offsets, uint32(len(s.batch.data)))
	s.batch.data = r.append(s.batch.data)
	if w.number != s.batch.number {
		w.number = s.batch.number
		s.batch.waiting = append(s.batch.waiting, w)
	}
	s.work.Signal()
	return false, nil
}

// tail is the segment in memory that has room for r.
func (s *store) tail(r *record) *segment {
	if len(s.segments) > 0 {
		if last := s.segments[len(s.segments)-1]; int64(len(last.data)+r.size()) <= s.block {
			return last
		}
	}
	fresh := &segment{first: r.sequence}
	if len(s.segments) > 0 { // the first one grows: most hubs store little
		fresh.data = make([]byte, 0, s.block)
	}
	s.segments = append(s.segments, fresh)
	return fresh
}

// evict drops the oldest segments until the bound holds, but never the newest.
func (s *store) evict() (dropped []*segment) {
	for s.bytes > s.limit && len(s.segments) > 1 {
		if !s.dropping {
			s.dropping = true
			s.complain(fmt.Errorf("the bound of %d bytes is reached: from now on the oldest messages are dropped", s.limit))
		}
		dropped = append(dropped, s.segments[0])
		s.bytes -= s.segments[0].size()
		s.segments = append([]*segment(nil), s.segments[1:]...)
	}
	return dropped
}

// announce wakes the consumers that wait for newer messages.
func (s *store) announce() {
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

// page returns some of the stored messages behind after, oldest first and at most limit, and a channel
// that closes when there is a newer one than it could see. An empty page means that none is stored.
func (s *store) page(after uint64, limit int) ([]record, <-chan struct{}) {
	for {
		part, found, wake := s.find(after, limit)
		if !found {
			return nil, wake
		}
		records, err := part.records()
		if err == nil {
			return records, wake
		}
		// A segment that was dropped between the look and the read is no trouble: what follows it is
		// the oldest now.
		if !errors.Is(err, fs.ErrNotExist) {
			s.complain(err)
		}
		after = part.last
	}
}

// find takes the wake-up handle before it looks, under one lock.
func (s *store) find(after uint64, limit int) (part, bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake == nil {
		s.wake = make(chan struct{})
	}
	i := sort.Search(len(s.segments), func(i int) bool { return s.segments[i].last() > after })
	if i == len(s.segments) {
		return part{}, false, s.wake
	}
	return s.segments[i].part(after, limit), true, s.wake
}

// newest is the sequence of the newest stored message, 0 if there was none.
func (s *store) newest() uint64 {
	if s.dir != "" {
		return s.durable.Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - 1
}

// segment is a run of consecutive messages: bytes in memory, or a file.
type segment struct {
	first   uint64
	offsets []uint32 // where each record starts
	data    []byte   // in memory
	path    string   // on disk
	length  int64    // of the file
}

func (g *segment) size() int64 { return g.length + int64(len(g.data)) }

// last is the newest sequence; first-1 if there is none.
func (g *segment) last() uint64 { return g.first + uint64(len(g.offsets)) - 1 }

func (g *segment) add(r *record) {
	g.offsets = append(g.offsets, uint32(len(g.data)))
	g.data = r.append(g.data)
}

// part is a run of whole records of a segment.
type part struct {
	data     []byte // in memory: never written again
	path     string // on disk
	from, to int64
	last     uint64 // the newest sequence of the segment
}

// part selects the records behind after, at most limit and about maxPage bytes, at least one.
func (g *segment) part(after uint64, limit int) part {
	i := 0
	if after >= g.first {
		i = int(after - g.first + 1)
	}
	end := func(j int) int64 { // where record j ends
		if j+1 < len(g.offsets) {
			return int64(g.offsets[j+1])
		}
		return g.size()
	}
	j := i
	for j+1 < len(g.offsets) && j-i+1 < limit && end(j+1)-int64(g.offsets[i]) <= maxPage {
		j++
	}
	p := part{last: g.last(), path: g.path, from: int64(g.offsets[i]), to: end(j)}
	if g.path == "" {
		p.data = g.data[p.from:p.to]
	}
	return p
}
