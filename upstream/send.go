package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

const (
	keptBuffer = 64 << 10         // a sender writes when it has so much together, and keeps no more
	laneRetry  = 30 * time.Second // until a lane that could not be read is tried again
)

// send takes the lane's entries in order, at most a window ahead of the acknowledgements, and
// publishes them until ctx ends or the connection does.
func (s *session) send(ctx context.Context) {
	var out outgoing
	for after := s.acked.Load(); ; {
		free := s.room()
		if free <= 0 {
			select {
			case <-s.flight.room:
				continue
			case <-ctx.Done():
				return
			}
		}
		entries, err := s.member.Lane.Next(ctx, after, free)
		if err == nil && s.suspicion.upTo > 0 {
			var ready bool
			if ready, err = s.try(ctx, &out, &entries[0]); err == nil && !ready {
				continue
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, buffer.ErrClosed):
			s.lose(err)
			return
		case err != nil:
			// The lane cannot go on, but the identity's commands can.
			s.noteTrouble(err)
			if !wait(ctx, laneRetry) {
				return
			}
			continue
		}
		after = entries[len(entries)-1].Seq
		if !s.sendAll(ctx, &out, entries) {
			return
		}
	}
}

// room is how many messages may be sent now.
func (s *session) room() int {
	s.suspicion.acked(s.acked.Load())
	if took, rounds := s.flight.roundTrip(); rounds != s.rounds {
		s.rounds, s.window = rounds, nextWindow(s.window, s.pool.cfg.Window, took)
	}
	if s.suspicion.upTo > 0 {
		s.window = 1
	}
	return s.window - s.flight.len()
}

// sendAll publishes entries as their turn comes; false if ctx ended or the connection is lost.
func (s *session) sendAll(ctx context.Context, out *outgoing, entries []buffer.Entry) bool {
	for len(entries) > 0 {
		class := classOf(entries[0].Telemetry.Created, time.Now())
		theirs := s.hub.shaper.take(ctx, class, len(entries))
		if theirs == 0 {
			return false
		}
		for theirs > 0 { // the hub takes them now; the line has its turns too
			n := s.pool.shaper.take(ctx, class, theirs)
			if n == 0 {
				return false
			}
			if err := s.publish(out, entries[:n]); err != nil {
				s.lose(fmt.Errorf("publishing: %w", err))
				return false
			}
			entries, theirs = entries[n:], theirs-n
		}
	}
	return true
}

// outgoing are a sender's buffers.
type outgoing struct{ topic, packets []byte }

// publish writes entries past the library: what a window takes leaves in one piece, unless it is large.
func (s *session) publish(out *outgoing, entries []buffer.Entry) error {
	for i := range entries {
		e := &entries[i]
		s.append(out, message{e.Seq, e.ID(), &e.Telemetry})
		s.noteSent(e.Seq)
		if len(out.packets) < keptBuffer && i < len(entries)-1 {
			continue
		}
		if _, err := s.conn.Write(out.packets); err != nil {
			return err
		}
		out.packets = out.packets[:0]
	}
	if cap(out.packets) > keptBuffer {
		out.packets = nil
	}
	return nil
}

// message is what one PUBLISH is made of.
type message struct {
	seq       uint64
	id        string
	telemetry *gateway.Telemetry
}

// append adds the PUBLISH of m to what is written next, and counts it as in flight.
func (s *session) append(out *outgoing, m message) {
	id, first := s.flight.add(m.seq, time.Now())
	if first {
		s.late.Reset(s.pool.cfg.firstLook())
	}
	s.flight.weigh(len(m.telemetry.Body))
	out.topic = appendMessageTopic(out.topic[:0], s.events, m.id, m.telemetry)
	out.packets = appendPublish(out.packets, out.topic, id, m.telemetry.Body)
	s.hub.quota.count(len(out.topic)-len(s.events)+len(m.telemetry.Body), s.pool.cfg.Now())
}

// acknowledge releases the queue's entry that a PUBACK is about. It is called on the goroutine that
// reads the connection.
func (s *session) acknowledge(id uint16) {
	seq, err := s.flight.ack(id, time.Now())
	if err != nil {
		s.lose(err)
		return
	}
	if seq == canarySeq {
		s.canary.Store(true)
		return
	}
	s.member.Lane.Ack(seq)
	s.noteAcked(seq)
}
