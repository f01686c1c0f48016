package modbus

import (
	"bytes"
	"encoding/binary"

	goburrow "github.com/goburrow/modbus"
)

// framing packs requests and finds answers in the bytes of a stream. It is pure and never changes.
type framing interface {
	// packager makes goburrow's packager for a unit. Of its handler only that is used, and the unit
	// never changes (MB-110).
	packager(unit uint8) goburrow.Packager
	// query makes of a request, as the packager made it, what answers are compared with.
	query(request []byte) query
	// find says what the bytes that have come begin with. The zero query asks for nothing: no frame
	// is its answer.
	find(q query, got []byte) finding
}

func framingOf(cfg Config) framing {
	switch cfg.Framing {
	case RTU:
		return rtu{}
	case ASCII:
		return ascii{}
	}
	return mbap{ignoreID: cfg.IgnoreTransactionID}
}

// query is a request as far as its answer must agree with it.
type query struct {
	adu  []byte // as it was sent
	unit uint8
	pdu  []byte
	// echoes says that the line returns requests: the first copy is not the answer, even if an answer
	// looks the same (MB-27).
	echoes bool
	// over says that no more bytes will come: what is not whole will not become so.
	over bool
}

// finding is what the first bytes are.
type finding struct {
	verdict verdict
	size    int   // how many bytes it takes
	unit    uint8 // of a stray frame
	err     error // why the stream is broken
}

type verdict uint8

const (
	incomplete verdict = iota // it may become a frame with the bytes to come
	noise                     // no frame begins in these bytes
	echo                      // the request itself
	stray                     // a whole frame that is not the answer: late, twice, or of somebody else
	answer                    // the answer
	broken                    // not Modbus, and where the next frame begins is unknown
)

// mirrors tells whether a good answer is a copy of the request: FC 5, 6 and 22.
func (q query) mirrors() bool {
	return len(q.pdu) > 0 && (q.pdu[0] == fcWriteCoil || q.pdu[0] == fcWriteRegister || q.pdu[0] == fcMaskWrite)
}

// skipsEcho tells whether a copy of the request is to be taken for its echo.
func (q query) skipsEcho() bool { return len(q.adu) > 0 && (q.echoes || !q.mirrors()) }

// expects is the length of the answer that begins with pdu, 0 if that is not known yet. It is false if
// no answer to the query begins so: an answer has the request's function and exactly the size asked for,
// and repeats the address of a write (MB-113).
func (q query) expects(pdu []byte) (size int, ok bool) {
	switch {
	case len(q.pdu) == 0:
		return 0, false
	case len(pdu) == 0:
		return 0, true
	case pdu[0] == q.pdu[0]|0x80:
		return 2, len(pdu) == 1 || pdu[1] != 0
	case pdu[0] != q.pdu[0]:
		return 0, false
	}
	switch q.pdu[0] {
	case byte(Coil), byte(Discrete):
		size = (q.quantity() + 7) / 8
	case byte(Holding), byte(Input):
		size = 2 * q.quantity()
	default:
		size = mirrored(q.pdu[0])
		return size, size > 0 && len(q.pdu) >= size && bytes.HasPrefix(q.pdu[:size], pdu[:min(len(pdu), size)])
	}
	return 2 + size, len(pdu) == 1 || int(pdu[1]) == size
}

// quantity is how many registers or bits a read asks for.
func (q query) quantity() int {
	if len(q.pdu) < 5 {
		return 0
	}
	return int(binary.BigEndian.Uint16(q.pdu[3:]))
}

// mirrored is how much of a write request its answer repeats, 0 for other functions (MB-2).
func mirrored(fc byte) int {
	switch fc {
	case fcWriteCoil, fcWriteRegister, fcWriteCoils, fcWriteRegisters:
		return 5
	case fcMaskWrite:
		return 7
	}
	return 0
}

// answerSize is the length of an answer PDU, judging by its first two bytes; 0 if they do not tell.
func answerSize(pdu []byte) int {
	switch {
	case len(pdu) < 2:
		return 0
	case pdu[0]&0x80 != 0:
		return 2
	case pdu[0] >= byte(Coil) && pdu[0] <= byte(Input):
		return 2 + int(pdu[1])
	}
	return mirrored(pdu[0])
}
