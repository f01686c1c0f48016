package main

import (
	"strconv"
	"strings"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
)

// tally judges what a hub received by the product's own promise: keeping the first of each sequence
// gives 1..n without a hole, and a repeat comes only after its first.
type tally struct {
	last      uint64 // hub sequence taken last
	lanes     map[gateway.IdentityID]uint64
	delivered uint64
	repeated  uint64
	missing   uint64
}

func newTally() *tally { return &tally{lanes: map[gateway.IdentityID]uint64{}} }

// take counts one message; one that carries no lane sequence is not ours and does not count.
func (t *tally) take(m hubsim.Message) {
	t.last = m.Sequence
	seq, ok := laneSequence(m.System["message-id"])
	if !ok {
		return
	}
	id := identityOf(m)
	newest := t.lanes[id]
	if seq <= newest {
		t.repeated++
		return
	}
	t.missing += seq - newest - 1
	t.lanes[id] = seq
	t.delivered++
}

// lost is how many of the produced messages never came; produced says how many each lane has.
func (t *tally) lost(produced map[gateway.IdentityID]uint64) uint64 {
	lost := t.missing
	for id, n := range produced {
		if n > t.lanes[id] {
			lost += n - t.lanes[id]
		}
	}
	return lost
}

// laneSequence is the number behind the last dash of a message id.
func laneSequence(mid string) (uint64, bool) {
	dash := strings.LastIndexByte(mid, '-')
	if dash < 0 {
		return 0, false
	}
	seq, err := strconv.ParseUint(mid[dash+1:], 10, 64)
	return seq, err == nil && seq > 0
}

// identityOf is the identity that sent m.
func identityOf(m hubsim.Message) gateway.IdentityID {
	if m.Module != "" {
		return gateway.IdentityID(m.Device + "/" + m.Module)
	}
	return gateway.IdentityID(m.Device)
}
