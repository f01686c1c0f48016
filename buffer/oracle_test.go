package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/powerfs"
)

// laneSaid is what the load had said about a lane.
type laneSaid struct {
	started int // it had begun to put entries up to this one
	put     int // entries up to this one had been accepted
	acked   int // it was about to acknowledge up to this one
	told    int // it was ever about to acknowledge up to this one: a power cut may have made it forgotten
	dropped bool
	keep    int               // the note that it was about to keep
	kept    int               // the one that was kept
	out     map[uint64]string // what had been handed out, by its first sequence: a repeat is the same
	dead    map[uint64]bool   // entries that were about to become dead letters
}

// said is what the load had said at a moment.
type said struct {
	born    string // the queue's id
	limited bool   // there was a limit of size
	lanes   [powerLanes]laneSaid
}

// after is what had been said when ops had happened as well.
func (s said) after(ops []powerfs.Op) (said, error) {
	for i := range s.lanes {
		l := &s.lanes[i]
		l.out, l.dead = maps.Clone(l.out), maps.Clone(l.dead)
		if l.out == nil {
			l.out, l.dead = map[uint64]string{}, map[uint64]bool{}
		}
	}
	for i := range ops {
		if ops[i].Kind == powerfs.Note {
			if err := s.hear(string(ops[i].Data)); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

func (s *said) hear(note string) error {
	var a, n, b, m int
	verb, rest, _ := strings.Cut(note, " ")
	_, _ = fmt.Sscan(rest, &a, &n, &b, &m) // as many as there are; nothing else is written here
	switch l := &s.lanes[a%powerLanes]; verb {
	case "born":
		s.born = rest
	case "limited":
		s.limited = true
	case "start":
		l.started, s.lanes[b].started = n, m
	case "put":
		l.put, s.lanes[b].put = n, m
	case "ack":
		l.acked, l.told = n, max(l.told, n)
	case "keep":
		l.keep = n
	case "kept":
		l.kept = n
	case "drop":
		l.dropped = true
	case "out":
		_, sum, _ := strings.Cut(rest, " ")
		l.out[uint64(n)] = sum
	case "dead":
		l.dead[uint64(n)] = true
		delete(l.out, uint64(n))
	default:
		return fmt.Errorf("note %q", note)
	}
	return nil
}

// verify holds the queue in dir against what had been said, and returns what it found as if it had
// been said.
func (p *proof) verify(dir string, s said) (said, error) {
	q, err := buffer.Open(powerConfig(dir))
	if err != nil {
		return said{}, err
	}
	found, err := p.compare(q, s)
	return found, errors.Join(err, q.Close(), found.compareState(dir))
}

// compareState holds what was kept beside the queue against what had been said, and takes it.
func (s *said) compareState(dir string) error {
	state, err := powerState(dir)
	if err != nil {
		return err
	}
	for a := 0; a < powerLanes; a += 2 {
		l, n := &s.lanes[a], 0
		if value, found := state.Get(stateKey(a)); found {
			n, _ = strconv.Atoi(string(value)) // 0 is wrong, too
		}
		if n != l.kept && n != l.keep {
			err = errors.Join(err, fmt.Errorf("note %d of producer %d is there, %d was kept, %d begun", n, a, l.kept, l.keep))
		}
		l.keep, l.kept = n, n
	}
	return errors.Join(err, state.Close())
}

func (p *proof) compare(q *buffer.Queue, s said) (said, error) {
	found := s
	found.born = q.ID()
	if s.born == "" {
		p.unborn.Add(1)
	} else if q.ID() != s.born {
		return found, fmt.Errorf("the queue %s became another one, %s", s.born, q.ID())
	}
	if h := q.Health(); len(h.Aside) > 0 || h.State == "unavailable" {
		return found, fmt.Errorf("the queue is %+v", h)
	}
	counts := q.Stats().Lanes
	inFlight, unacked := false, false
	for l := range powerLanes {
		c, want := counts[laneID(l)], s.lanes[l]
		put, acked := int(c.Put), int(c.Acked)
		switch {
		case put != want.put && put != want.started:
			return found, fmt.Errorf("lane %d ends with entry %d: %d had been accepted, %d begun", l, put, want.put, want.started)
		case acked > want.acked:
			return found, fmt.Errorf("lane %d: entry %d is gone, only %d was acknowledged", l, acked, want.acked)
		}
		if err := p.readBack(q, l, s); err != nil {
			return found, fmt.Errorf("lane %d: %w", l, err)
		}
		f := &found.lanes[l]
		f.started, f.put, f.acked = put, put, acked
		inFlight = inFlight || put != want.put
		unacked = unacked || acked < want.acked
	}
	for l := 0; l < powerLanes; l += 2 {
		if a, b := s.lanes[l], s.lanes[l+1]; a.put != a.started && b.put != b.started &&
			(found.lanes[l].put == a.started) != (found.lanes[l+1].put == b.started) {
			return found, fmt.Errorf("lanes %d and %d: half of a Put is there", l, l+1)
		}
	}
	if inFlight {
		p.inFlight.Add(1)
	}
	if unacked {
		p.unacked.Add(1)
	}
	return found, nil
}

// readBack reads a lane from its oldest entry to its newest and holds each against what was put.
func (p *proof) readBack(q *buffer.Queue, lane int, s said) error {
	c := q.Stats().Lanes[laneID(lane)]
	for at := c.Acked; at < c.Put; {
		entries, err := q.Lane(laneID(lane)).Peek(context.Background(), at, 100)
		if err != nil || len(entries) == 0 {
			return fmt.Errorf("after entry %d of %d: %w", at, c.Put, err)
		}
		for i := range entries {
			e := &entries[i]
			if e.First != at+1 || e.Seq < e.First {
				return fmt.Errorf("%d..%d follows %d", e.First, e.Seq, at)
			}
			if err := p.element(q, e, lane, s); err != nil {
				return err
			}
			at = e.Seq
		}
	}
	return nil
}

// element holds one element of a lane against what was put and what was handed out.
func (p *proof) element(q *buffer.Queue, e *buffer.Entry, lane int, s said) error {
	if was, found := s.lanes[lane].out[e.First]; found && was != sumOf(e) && (e.Gap == nil || int(e.First) > s.lanes[lane].told) {
		return fmt.Errorf("%s was handed out and is %s now: %v", was, sumOf(e), *e)
	}
	if e.Gap != nil {
		p.gaps.Add(1)
		return gapIsRight(q, e, s, s.lanes[lane])
	}
	want := paddedMessage(lane, int(e.Seq))
	if e.Packed > 0 {
		p.packs.Add(1)
		var parts []gateway.Telemetry
		for n := e.First; n <= e.Seq; n++ {
			parts = append(parts, paddedMessage(lane, int(n)))
		}
		want.Body = []byte(pack(parts))
	}
	if e.Packed == 0 && e.First != e.Seq || !bytes.Equal(e.Telemetry.Body, want.Body) || !e.Telemetry.Created.Equal(want.Created) ||
		!slices.Equal(e.Telemetry.Properties, want.Properties) {
		return fmt.Errorf("%d..%d is %.60s, should be %.60s", e.First, e.Seq, e.Telemetry.Body, want.Body)
	}
	return nil
}

// gapIsRight wants a reason for each entry that a gap stands for, and none that was in flight.
func gapIsRight(q *buffer.Queue, e *buffer.Entry, s said, l laneSaid) error {
	total := uint64(0)
	for reason, n := range e.Gap.Reasons {
		if !(reason == buffer.ReasonSize && s.limited || reason == buffer.ReasonOperator && l.dropped || reason == buffer.ReasonDeadLetter && n <= uint64(len(l.dead))) {
			return fmt.Errorf("a gap with a reason that there was not: %+v", e.Gap)
		}
		total += n
	}
	if e.Gap.First != e.First || e.Gap.Last != e.Seq || e.Gap.Count != e.Seq-e.First+1 || total != e.Gap.Count {
		return fmt.Errorf("%d..%d: the gap counts wrong: %+v", e.First, e.Seq, e.Gap)
	}
	for first := range l.out {
		if first > e.First && first <= e.Seq && int(first) > l.told {
			return fmt.Errorf("%d was in flight and is in the gap %+v", first, e.Gap)
		}
	}
	if e.Gap.Reasons[buffer.ReasonDeadLetter] == 0 {
		return nil
	}
	letters, err := q.DeadLetters()
	if err != nil {
		return err
	}
	buried := uint64(0)
	for n := e.First; n <= e.Seq; n++ {
		id := fmt.Sprintf("%s-%d", q.ID(), n)
		if slices.ContainsFunc(letters, func(d buffer.DeadLetter) bool { return d.ID == id }) {
			buried++
		}
	}
	if buried < e.Gap.Reasons[buffer.ReasonDeadLetter] {
		return fmt.Errorf("only %d of the dead letters of %+v are there", buried, e.Gap)
	}
	return nil
}
