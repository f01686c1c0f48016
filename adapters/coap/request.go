package coap

import (
	"encoding/binary"
	"hash/maphash"
	"slices"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

// request is what a packet asks for. It is kept for as long as its answer is pending, so nothing of
// it but the payload lies in the datagram.
type request struct {
	confirmable bool
	code        codes.Code
	mid         uint16
	token       message.Token
	size        int    // of the datagram
	print       uint64 // of the datagram: two messages that have the same are the same message

	path       []string
	format     int // Content-Format, or none
	block      *block
	whole      int // Size1, 0 if not told
	noResponse int // the classes of answers that are not wanted, or none
	transfer   string
	payload    []byte

	// refusal is the answer if an option alone forbids to carry out the request, or Empty.
	refusal codes.Code
	refused message.OptionID
}

const none = -1

// newRequest reads the options of a packet.
func newRequest(p packet, datagram []byte, seed maphash.Seed) request {
	r := request{
		confirmable: p.kind == message.Confirmable,
		code:        p.code,
		mid:         p.mid,
		token:       slices.Clone(p.token),
		size:        len(datagram),
		print:       maphash.Bytes(seed, datagram),
		format:      none,
		noResponse:  none,
		payload:     p.payload,
	}
	for i, o := range p.options {
		repeated := i > 0 && p.options[i-1].ID == o.ID
		r.option(o, repeated)
	}
	if r.block != nil {
		r.transfer = transferKey(p)
	}
	return r
}

// option takes one option in. One that is unknown, of illegal length or repeated though it must not
// be is ignored if it is elective and refused if it is critical (RFC 7252 section 5.4).
func (r *request) option(o message.Option, repeated bool) {
	if _, known := message.CoapOptionDefs[o.ID]; !known || !message.VerifyOptLen(o.ID, len(o.Value)) {
		r.unusable(o.ID)
		return
	}
	switch o.ID {
	case message.URIPath:
		r.path = append(r.path, string(o.Value))
	case message.ContentFormat:
		if !repeated {
			r.format = int(uintOf(o.Value))
		}
	case message.Block1:
		if repeated {
			r.unusable(o.ID)
			return
		}
		b := decodeBlock(uintOf(o.Value))
		r.block = &b
	case message.Size1:
		r.whole = int(uintOf(o.Value))
	case message.NoResponse:
		r.noResponse = int(uintOf(o.Value))
	case message.IfNoneMatch:
		r.refuse(codes.PreconditionFailed, o.ID) // the resource exists
	case message.IfMatch:
		if len(o.Value) > 0 {
			r.refuse(codes.PreconditionFailed, o.ID) // it has no ETag
		}
	case message.ProxyURI, message.ProxyScheme:
		r.refuse(codes.ProxyingNotSupported, o.ID)
	}
}

func (r *request) unusable(id message.OptionID) {
	if id%2 == 1 {
		r.refuse(codes.BadOption, id)
	}
}

// refuse keeps the first reason, except that an option not understood outweighs the others: what it
// would have changed about them is not known.
func (r *request) refuse(code codes.Code, id message.OptionID) {
	if r.refusal == codes.Empty || code == codes.BadOption && r.refusal != code {
		r.refusal, r.refused = code, id
	}
}

// transferKey tells the blocks of one body from those of another: the method and all options that
// belong to the cache key (COAP-24, RFC 7959 section 2.5). The token does not: libcoap uses a new
// one for every block.
func transferKey(p packet) string {
	key := []byte{byte(p.code)}
	for _, o := range p.options {
		noCacheKey := o.ID&0x1e == 0x1c // Size1, Size2
		switch o.ID {
		case message.Block1, message.Block2, message.Observe, message.NoResponse:
			noCacheKey = true
		}
		if noCacheKey {
			continue
		}
		key = binary.BigEndian.AppendUint16(key, uint16(o.ID))
		key = binary.BigEndian.AppendUint16(key, uint16(len(o.Value)))
		key = append(key, o.Value...)
	}
	return string(key)
}

// wants tells whether an answer with this code is worth sending. A confirmable request wants every
// answer, a non-confirmable one only if it says so: with No-Response, or by being a block, whose
// sender cannot go on without (COAP-115). No-Response then names the classes that are not wanted
// (RFC 7967); a request for the next block is not an answer.
func (r request) wants(code codes.Code) bool {
	if code == codes.Continue {
		return true
	}
	if r.noResponse == none {
		return r.confirmable || r.block != nil
	}
	class := int(code >> 5)
	return r.noResponse&(1<<(class-1)) == 0
}

// isRequest tells whether a code is a method, known or not; the rest are answers, the empty message
// and reserved codes.
func isRequest(code codes.Code) bool { return code != codes.Empty && code>>5 == 0 }
