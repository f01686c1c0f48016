package modbus

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The MBAP header: transaction id, protocol id, length (2 bytes each) and unit id (MB-9).
const (
	mbapHeader    = 7
	mbapMinLength = 2   // unit id and function code
	mbapMaxLength = 254 // unit id and the longest PDU
)

// frameError is a frame that did not come whole, or is none.
type frameError struct {
	partial bool // some of its bytes were read: the position in the stream is lost
	foreign bool // the header cannot be one of Modbus
	err     error
}

func (e *frameError) Error() string { return e.err.Error() }

func (e *frameError) Unwrap() error { return e.err }

// readFrame reads one ADU of 8 to 260 bytes; framing is by the header's length only (MB-112). An
// error is a *frameError.
func readFrame(r io.Reader) ([]byte, error) {
	var header [mbapHeader]byte
	if n, err := io.ReadFull(r, header[:]); err != nil {
		return nil, &frameError{partial: n > 0, err: err}
	}
	if protocol := binary.BigEndian.Uint16(header[2:]); protocol != 0 {
		return nil, &frameError{partial: true, foreign: true, err: fmt.Errorf("not a Modbus answer: protocol id %d", protocol)}
	}
	length := int(binary.BigEndian.Uint16(header[4:]))
	if length < mbapMinLength || length > mbapMaxLength {
		return nil, &frameError{partial: true, foreign: true, err: fmt.Errorf("not a Modbus answer: length %d", length)}
	}
	frame := make([]byte, mbapHeader-1+length)
	copy(frame, header[:])
	if _, err := io.ReadFull(r, frame[mbapHeader:]); err != nil {
		return nil, &frameError{partial: true, err: err}
	}
	return frame, nil
}

// transaction is the transaction id of an ADU.
func transaction(adu []byte) uint16 { return binary.BigEndian.Uint16(adu) }

// unitOf is the unit id of an ADU.
func unitOf(adu []byte) uint8 { return adu[mbapHeader-1] }
