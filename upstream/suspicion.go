package upstream

import (
	"context"
	"fmt"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

const (
	// canaryAfter is how many connections end with one entry alone in flight until a canary goes before it.
	canaryAfter = 2
	// deadAfter is how many of them must have ended after a canary had come through on the same connection.
	deadAfter = 3
	// pieces is into how many parts a pack under suspicion is cut at a time.
	pieces = 16
)

// suspicion is what the losses of one identity's connections say about its entries: MQTT has no way to
// refuse a message, so the hub ends the connection on one that it does not take. It does the same when it
// throttles, when a quota is used up and when it restarts. So what was in flight at a loss travels alone
// from then on, and an entry counts as dead only after three connections ended on it alone, before each of
// which the hub had taken a canary on the same connection, and takes another after the last: a small message of
// the same identity. Packs are cut first. It belongs to the goroutine that sends.
type suspicion struct {
	upTo   uint64 // entries up to this one travel alone; 0: there is no suspicion
	alone  uint64 // the entry that was alone in flight when connections ended; 0: none
	losses int    // how many did, in a row
	proven int    // how many of them after a canary
	most   int    // packs of more entries are cut before they are sent; 0: any may be sent
}

// lost takes in that a connection ended unexplained with entries in flight, oldest first, and whether a
// canary had come through on it.
func (s *suspicion) lost(inFlight []uint64, canary bool) {
	if len(inFlight) == 0 || inFlight[0] == canarySeq {
		return // the hub does not even take a canary
	}
	newest := inFlight[len(inFlight)-1]
	s.upTo = max(s.upTo, newest)
	if len(inFlight) > 1 || newest != s.alone {
		s.alone, s.losses, s.proven = 0, 0, 0
	}
	if len(inFlight) > 1 {
		return
	}
	s.alone = newest
	s.losses++
	if canary {
		s.proven++
	}
}

// moved takes in that the identity belongs to another hub now: what the last one did is no evidence there.
func (s *suspicion) moved() { s.alone, s.losses, s.proven, s.most = 0, 0, 0, 0 }

// suspects tells whether one entry has been alone in flight when a connection ended.
func (s *suspicion) suspects(inFlight []uint64) bool {
	return len(inFlight) == 1 && inFlight[0] != canarySeq && inFlight[0] == s.alone
}

// acked takes in that the hub has everything up to seq.
func (s *suspicion) acked(seq uint64) {
	if seq >= s.upTo {
		*s = suspicion{}
	}
}

// move is what to do with the entry that is next.
type move uint8

const (
	send move = iota
	sendCanary
	cut  // a pack: in two
	bury // it is dead
)

// next is what to do with e, if nothing is in flight. canary tells whether one has come through on this
// connection.
func (s *suspicion) next(e *buffer.Entry, canary bool) move {
	accused := e.Seq == s.alone && e.Gap == nil
	switch {
	case accused && s.losses >= canaryAfter && !canary, s.most > 0 && !canary:
		return sendCanary
	case accused && s.proven >= 1 && e.Packed > 1, s.most > 0 && e.Packed > s.most:
		return cut
	case accused && s.proven >= deadAfter:
		return bury
	}
	return send
}

// cutting takes in that e, a pack, is cut.
func (s *suspicion) cutting(e *buffer.Entry) {
	if e.Seq == s.alone {
		s.most = max(1, e.Packed/pieces)
	}
	s.alone, s.losses, s.proven = 0, 0, 0
}

// try decides about the next entry under suspicion, and does what is to be done before it may be sent. It
// tells whether it may be.
func (s *session) try(ctx context.Context, out *outgoing, e *buffer.Entry) (ready bool, err error) {
	switch s.suspicion.next(e, s.canary.Load()) {
	case sendCanary:
		s.publishCanary(ctx, out, e)
		return false, nil
	case cut:
		s.suspicion.cutting(e)
		return false, s.member.Lane.Dead(ctx, e.Seq, "")
	case bury:
		reason := fmt.Sprintf("the hub closed the connection %d times on this message alone, and took others of the identity before and after", s.suspicion.losses)
		if err := s.member.Lane.Dead(ctx, e.Seq, reason); err != nil {
			return false, err
		}
		s.suspicion.alone, s.suspicion.losses, s.suspicion.proven = 0, 0, 0
		s.dead.Add(1)
		s.log.Error().Str("message", e.ID()).Int("bytes", len(e.Telemetry.Body)).Str("reason", reason).
			Msg("a message is a dead letter, a gap goes in its place; look at it with 'gateway queue dead'")
		return false, nil
	}
	return true, nil
}

const (
	canaryKind = "canary" // value of the property gateway-kind
	canarySeq  = 0        // in flight, in the place of an entry's sequence, which begin with 1
)

// publishCanary sends a message that says nothing, to see whether the hub takes any from this identity now.
func (s *session) publishCanary(ctx context.Context, out *outgoing, before *buffer.Entry) {
	s.canaries++
	t := gateway.Telemetry{Body: []byte("{}"), Properties: []gateway.Property{{Name: "gateway-kind", Value: canaryKind}}}
	if before.Packed > 0 {
		t.Body = []byte("[]") // as all messages are then
	}
	id := fmt.Sprintf("%s-canary-%d-%d", before.Queue, before.Seq, s.canaries)
	if s.hub.shaper.take(ctx, live, 1) == 0 || s.pool.shaper.take(ctx, live, 1) == 0 {
		return
	}
	s.append(out, message{canarySeq, id, &t})
	if _, err := s.conn.Write(out.packets); err != nil {
		s.lose(fmt.Errorf("publishing: %w", err))
	}
	out.packets = out.packets[:0]
}
