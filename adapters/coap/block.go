package coap

import (
	"bytes"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"
)

// What transfers may take (COAP-23).
const (
	maxTransfers     = 256
	maxTransferBytes = 16 << 20 // together
	transferIdle     = exchangeLifetime
)

// block is the value of a Block1 option: which part of the body a message carries.
type block struct {
	num  int
	more bool
	szx  uint8 // the size of a block is 2^(szx+4)
}

func decodeBlock(v uint32) block { return block{num: int(v >> 4), more: v&8 != 0, szx: uint8(v & 7)} }

func (b block) encode() uint32 {
	v := uint32(b.num)<<4 | uint32(b.szx)
	if b.more {
		v |= 8
	}
	return v
}

func (b block) size() int   { return 1 << (b.szx + 4) }
func (b block) offset() int { return b.num << (b.szx + 4) }

// valid tells whether the block can carry so much payload. Size 7 is reserved on UDP.
func (b block) valid(payload int) bool {
	if b.szx == 7 {
		return false
	}
	if b.more {
		return payload == b.size()
	}
	return payload <= b.size()
}

// transfer is a body that is arriving block by block.
type transfer struct {
	key  string
	body []byte
	seen time.Time // when its latest block came
}

// assembly puts bodies together: one at a time for each endpoint, so that nobody can take the room
// of another (COAP-23).
type assembly struct {
	limit     int // of a body
	transfers map[endpointID]*transfer
}

func newAssembly(limit int) *assembly {
	return &assembly{limit: limit, transfers: make(map[endpointID]*transfer)}
}

// add takes a block in. Complete is the answer code that stands for a complete body, which is
// returned; anything else is what the block is answered with. A block that was there already is
// compared: the same again is answered again, a different one starts a new body from there. So a
// late duplicate does no harm, and a device that starts over needs no timeout.
func (a *assembly) add(from endpointID, r request, now time.Time) (body []byte, code codes.Code) {
	b := *r.block
	switch {
	case !b.valid(len(r.payload)):
		return nil, codes.BadRequest
	case r.whole > a.limit, b.offset()+len(r.payload) > a.limit:
		a.drop(from)
		return nil, codes.RequestEntityTooLarge
	}
	t := a.transfers[from]
	if t == nil || t.key != r.transfer {
		if b.num > 0 {
			return nil, codes.RequestEntityIncomplete
		}
		if !b.more {
			return r.payload, complete
		}
		a.drop(from)
		t = a.open(from, r.transfer)
	}
	if b.offset() > len(t.body) {
		return nil, codes.RequestEntityIncomplete
	}
	t.seen = now
	if !b.more {
		return append(t.body[:b.offset():b.offset()], r.payload...), complete
	}
	end := b.offset() + len(r.payload)
	if end <= len(t.body) && bytes.Equal(t.body[b.offset():end], r.payload) {
		return nil, codes.Continue
	}
	t.body = append(t.body[:b.offset()], r.payload...)
	return nil, codes.Continue
}

// complete is no CoAP code: it is what add says when the body is whole.
const complete = codes.Empty

// open starts a transfer. When there is no room, the one that has been silent for longest goes.
func (a *assembly) open(from endpointID, key string) *transfer {
	if len(a.transfers) >= max(1, min(maxTransfers, maxTransferBytes/a.limit)) {
		a.drop(a.oldest())
	}
	t := &transfer{key: key}
	a.transfers[from] = t
	return t
}

func (a *assembly) oldest() (oldest endpointID) {
	var since time.Time
	for from, t := range a.transfers {
		if since.IsZero() || t.seen.Before(since) {
			oldest, since = from, t.seen
		}
	}
	return oldest
}

// drop forgets what an endpoint has sent so far.
func (a *assembly) drop(from endpointID) { delete(a.transfers, from) }

// expire forgets transfers without a block for the exchange lifetime: a slow one is not a dead one.
func (a *assembly) expire(now time.Time) {
	for from, t := range a.transfers {
		if now.Sub(t.seen) > transferIdle {
			a.drop(from)
		}
	}
}
