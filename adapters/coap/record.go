package coap

import "encoding/binary"

// What the door must know of the DTLS 1.2 record layer (RFC 6347 section 4.1, RFC 9146 section 4).
const (
	recordHeader    = 13
	handshakeRecord = 22
	cidRecord       = 25
	clientHello     = 1
	cidSize         = 8 // of the connection ids we hand out
	randomSize      = 32
)

// dtlsRecord is the outside of one record.
type dtlsRecord struct {
	kind  uint8
	epoch uint16
	cid   string // of a record with a connection id
	raw   []byte // with its header
	body  []byte
}

// nextRecord takes the first record off a datagram; false if there is no whole one.
func nextRecord(datagram []byte) (r dtlsRecord, rest []byte, ok bool) {
	if len(datagram) < recordHeader || datagram[1] != 0xfe {
		return dtlsRecord{}, nil, false
	}
	r.kind = datagram[0]
	r.epoch = binary.BigEndian.Uint16(datagram[3:])
	at := recordHeader - 2
	if r.kind == cidRecord {
		if len(datagram) < recordHeader+cidSize {
			return dtlsRecord{}, nil, false
		}
		r.cid = string(datagram[at : at+cidSize])
		at += cidSize
	}
	end := at + 2 + int(binary.BigEndian.Uint16(datagram[at:]))
	if len(datagram) < end {
		return dtlsRecord{}, nil, false
	}
	r.raw, r.body = datagram[:end], datagram[at+2:end]
	return r, datagram[end:], true
}

// hello is the ClientHello that begins a handshake.
type hello struct {
	first  bool   // it is the first message, not the one that returns the cookie
	random string // the same in every repetition, and in no other handshake
}

// helloOf reads a ClientHello that a record begins with; false if it is something else.
func (r dtlsRecord) helloOf() (hello, bool) {
	const message, version = 12, 2 // the handshake header and the version before the random
	if r.kind != handshakeRecord || r.epoch != 0 || len(r.body) < message+version+randomSize || r.body[0] != clientHello {
		return hello{}, false
	}
	sequence, offset := binary.BigEndian.Uint16(r.body[4:]), r.body[6:9]
	if offset[0]|offset[1]|offset[2] != 0 {
		return hello{}, false
	}
	at := message + version
	return hello{first: sequence == 0, random: string(r.body[at : at+randomSize])}, true
}

// protected copies the records of a datagram that are not in clear text.
func protected(datagram []byte) []byte {
	var kept []byte
	for {
		r, rest, ok := nextRecord(datagram)
		if !ok {
			return kept
		}
		if r.epoch > 0 {
			kept = append(kept, r.raw...)
		}
		datagram = rest
	}
}
