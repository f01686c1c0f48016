package modbus

import (
	"encoding/binary"
	"fmt"

	goburrow "github.com/goburrow/modbus"
)

// The MBAP header: transaction id, protocol id, length (2 bytes each) and unit id (MB-9).
const (
	mbapHeader    = 7
	mbapMinLength = 2   // unit id and function code
	mbapMaxLength = 254 // unit id and the longest PDU
)

// mbap is the framing of Modbus/TCP. With ignoreID the transaction id of an answer says nothing.
type mbap struct{ ignoreID bool }

func (mbap) packager(unit uint8) goburrow.Packager {
	h := goburrow.NewTCPClientHandler("")
	h.SlaveId = unit
	return h
}

func (mbap) query(request []byte) query {
	return query{adu: request, unit: request[mbapHeader-1], pdu: request[mbapHeader:]}
}

// find cuts by the header's length only (MB-112). An answer with the right id is the answer whatever it
// holds: what is wrong about it is for the packager and the client to say.
func (m mbap) find(q query, got []byte) finding {
	if len(got) < mbapHeader {
		return finding{}
	}
	if protocol := binary.BigEndian.Uint16(got[2:]); protocol != 0 {
		return finding{verdict: broken, err: fmt.Errorf("not a Modbus answer: protocol id %d", protocol)}
	}
	length := int(binary.BigEndian.Uint16(got[4:]))
	if length < mbapMinLength || length > mbapMaxLength {
		return finding{verdict: broken, err: fmt.Errorf("not a Modbus answer: length %d", length)}
	}
	f := finding{verdict: stray, size: mbapHeader - 1 + length, unit: got[mbapHeader-1]}
	if len(got) < f.size {
		return finding{}
	}
	if !mayFollow(got[f.size:]) {
		return finding{verdict: broken, err: fmt.Errorf("an answer was shorter than its header says: % X behind it is no header", got[f.size:min(len(got), f.size+mbapHeader)])}
	}
	if m.ignoreID {
		pdu := got[mbapHeader:f.size]
		if size, ok := q.expects(pdu); ok && size == len(pdu) && f.unit == q.unit {
			f.verdict = answer
		}
	} else if len(q.adu) > 0 && transaction(got) == transaction(q.adu) {
		f.verdict = answer
	}
	return f
}

// mayFollow tells whether what came behind a frame may begin another. If not, the frame was cut short and filled up
// with the beginning of the next, and there is no checksum to tell.
func mayFollow(b []byte) bool {
	header := [...]struct{ least, most byte }{{0, 255}, {0, 255}, {0, 0}, {0, 0}, {0, 0}, {mbapMinLength, mbapMaxLength}}
	for i, x := range b[:min(len(b), len(header))] {
		if x < header[i].least || x > header[i].most {
			return false
		}
	}
	return true
}

// transaction is the transaction id of an ADU.
func transaction(adu []byte) uint16 { return binary.BigEndian.Uint16(adu) }
