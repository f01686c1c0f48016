package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

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
		free := s.flight.free()
		if free == 0 {
			select {
			case <-s.flight.room:
				continue
			case <-ctx.Done():
				return
			}
		}
		entries, err := s.member.Lane.Next(ctx, after, free)
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
		for len(entries) > 0 {
			n := s.pool.shaper.take(ctx, classOf(entries[0].Telemetry.Created, time.Now()), len(entries))
			if n == 0 {
				return
			}
			if err := s.publish(&out, entries[:n]); err != nil {
				s.lose(fmt.Errorf("publishing: %w", err))
				return
			}
			entries = entries[n:]
		}
	}
}

// outgoing are a sender's buffers.
type outgoing struct{ topic, packets []byte }

// publish writes entries past the library: what a window takes leaves in one piece, unless it is large.
func (s *session) publish(out *outgoing, entries []buffer.Entry) error {
	now := time.Now()
	for i := range entries {
		e := &entries[i]
		id, first := s.flight.add(e.Seq, now)
		if first {
			s.late.Reset(s.pool.cfg.firstLook())
		}
		out.topic = appendMessageTopic(out.topic[:0], s.events, e.ID(), &e.Telemetry)
		out.packets = appendPublish(out.packets, out.topic, id, e.Telemetry.Body)
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

// acknowledge releases the queue's entry that a PUBACK is about. It is called on the goroutine that
// reads the connection.
func (s *session) acknowledge(id uint16) {
	seq, err := s.flight.ack(id, time.Now())
	if err != nil {
		s.lose(err)
		return
	}
	s.member.Lane.Ack(seq)
	s.noteAcked(seq)
}
