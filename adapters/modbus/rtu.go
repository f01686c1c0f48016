package modbus

import (
	"bytes"
	"encoding/binary"

	goburrow "github.com/goburrow/modbus"
)

// rtu is the binary framing of serial lines: unit, PDU, CRC. Nothing marks where a frame begins, so it
// is looked for at every byte (MB-113).
type rtu struct{}

func (rtu) packager(unit uint8) goburrow.Packager {
	h := goburrow.NewRTUClientHandler("")
	h.SlaveId = unit
	return h
}

func (rtu) query(request []byte) query {
	return query{adu: request, unit: request[0], pdu: request[1 : len(request)-2]}
}

func (rtu) find(q query, got []byte) finding {
	for at := range got {
		f := rtuAt(q, got[at:])
		switch {
		case f.verdict == noise:
			continue
		case at > 0:
			return finding{verdict: noise, size: at}
		}
		return f
	}
	if len(got) == 0 {
		return finding{}
	}
	return finding{verdict: noise, size: len(got)}
}

// rtuAt says what begins with the first byte. What may still become the answer is waited for before any
// later byte is looked at: the data of an answer may look like a frame.
func rtuAt(q query, b []byte) finding {
	if q.skipsEcho() {
		switch {
		case bytes.HasPrefix(b, q.adu):
			return finding{verdict: echo, size: len(q.adu)}
		case !q.over && bytes.HasPrefix(q.adu, b):
			return finding{}
		}
	}
	if size, ok := q.expects(b[1:]); ok && b[0] == q.unit {
		switch whole := 1 + size + 2; {
		case (size == 0 || len(b) < whole) && !q.over:
			return finding{}
		case size > 0 && sealed(b, whole):
			return finding{verdict: answer, size: whole, unit: b[0]}
		}
	}
	if size := answerSize(b[1:]); size > 0 && sealed(b, 1+size+2) {
		return finding{verdict: stray, size: 1 + size + 2, unit: b[0]}
	}
	return finding{verdict: noise, size: 1}
}

// sealed tells whether the first size bytes are there and end with their CRC.
func sealed(b []byte, size int) bool {
	return len(b) >= size && crc16(b[:size-2]) == binary.LittleEndian.Uint16(b[size-2:])
}

// crc16 is the checksum of RTU; on the wire its low byte comes first (MB-37).
func crc16(b []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, x := range b {
		crc ^= uint16(x)
		for range 8 {
			odd := crc&1 != 0
			if crc >>= 1; odd {
				crc ^= 0xA001
			}
		}
	}
	return crc
}
