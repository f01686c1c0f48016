package devsim

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"iothub-gateway/adapters/modbus"
)

// Sizes of frames (MB-1, MB-9, MB-29).
const (
	headerBytes = 7 // of Modbus/TCP
	maxPDU      = 253
	maxFrame    = headerBytes + maxPDU
	maxRTU      = 1 + maxPDU + 2
	maxASCII    = 2*(maxPDU+2) + 3
)

var errNotModbus = errors.New("not a Modbus/TCP frame")

// frame is what every wire carries: a unit and a PDU of at least one byte.
type frame struct {
	id   uint16 // transaction id of Modbus/TCP, 0 elsewhere
	unit uint8
	pdu  []byte
}

// framer packs frames for one kind of wire. It has no state.
type framer interface {
	// cut finds what got begins with: a request that takes size bytes, or noise of that size, which has no
	// PDU. 0 bytes: more are needed. After an error nobody knows where the next request begins. The PDU
	// stands in got.
	cut(got []byte) (f frame, size int, err error)
	// pack appends the frame to out.
	pack(out []byte, f frame) []byte
}

func framerOf(c modbus.Config) framer {
	switch c.Framing {
	case modbus.RTU:
		return rtuFramer{}
	case modbus.ASCII:
		return asciiFramer{}
	}
	return tcpFramer{}
}

// tcpFramer is Modbus/TCP: the length alone says where a frame ends, however the stream is cut into
// segments (MB-9).
type tcpFramer struct{}

func (tcpFramer) cut(got []byte) (frame, int, error) {
	if len(got) < headerBytes {
		return frame{}, 0, nil
	}
	protocol, length := binary.BigEndian.Uint16(got[2:]), int(binary.BigEndian.Uint16(got[4:]))
	if protocol != 0 || length < 2 || length > maxPDU+1 {
		return frame{}, 0, fmt.Errorf("%w: protocol %d, length %d", errNotModbus, protocol, length)
	}
	size := headerBytes + length - 1
	if len(got) < size {
		return frame{}, 0, nil
	}
	return frame{binary.BigEndian.Uint16(got), got[6], got[headerBytes:size]}, size, nil
}

func (tcpFramer) pack(out []byte, f frame) []byte {
	out = binary.BigEndian.AppendUint16(out, f.id)
	out = binary.BigEndian.AppendUint32(out, uint32(len(f.pdu)+1)) // protocol 0, length
	return append(append(out, f.unit), f.pdu...)
}

// rtuFramer is RTU. A device tells frames by the silence between them; here their length does, and where
// the function does not say it, the first place where the CRC is right.
type rtuFramer struct{}

func (rtuFramer) cut(got []byte) (frame, int, error) {
	for at := range got {
		size := rtuSize(got[at:])
		switch {
		case size == 0:
		case at > 0:
			return frame{}, at, nil
		default:
			return frame{unit: got[0], pdu: got[1 : size-2]}, size, nil
		}
	}
	return frame{}, 0, nil
}

func (rtuFramer) pack(out []byte, f frame) []byte {
	start := len(out)
	out = append(append(out, f.unit), f.pdu...)
	return binary.LittleEndian.AppendUint16(out, crc(out[start:]))
}

// rtuSize is the size of the request that b begins with, 0 if there is none or not all of it.
func rtuSize(b []byte) int {
	first, last := requestSize(b)
	for size := first; size > 0 && size <= min(last, len(b)); size++ {
		if crc(b[:size-2]) == binary.LittleEndian.Uint16(b[size-2:]) {
			return size
		}
	}
	return 0
}

// requestSize is how long the RTU request that b begins with may be, judging by its function (MB-2).
func requestSize(b []byte) (least, most int) {
	if len(b) < 2 {
		return 0, 0
	}
	count := func(at, base int) (int, int) {
		if len(b) <= at {
			return 0, 0
		}
		return base + int(b[at]), base + int(b[at])
	}
	switch b[1] {
	case readCoils, readDiscrete, readHolding, readInput, writeCoil, writeRegister:
		return 8, 8
	case writeCoils, writeRegisters:
		return count(6, 9)
	case maskWrite:
		return 10, 10
	case readWriteRegisters:
		return count(10, 13)
	}
	return 4, maxRTU
}

// crc is the CRC-16 of RTU: polynomial 0xA001 reflected, from 0xFFFF (MB-1).
func crc(b []byte) uint16 {
	sum := uint16(0xFFFF)
	for _, c := range b {
		sum ^= uint16(c)
		for range 8 {
			low := sum & 1
			sum >>= 1
			if low != 0 {
				sum ^= 0xA001
			}
		}
	}
	return sum
}

// asciiFramer is ASCII: a colon, hexadecimal digits with an LRC, CR and LF (MB-29).
type asciiFramer struct{}

func (asciiFramer) cut(got []byte) (frame, int, error) {
	switch colon := bytes.IndexByte(got, ':'); {
	case colon < 0:
		return frame{}, len(got), nil
	case colon > 0:
		return frame{}, colon, nil
	}
	end := bytes.IndexByte(got, '\n')
	if again := bytes.LastIndexByte(got[:max(end, 0)], ':'); again > 0 {
		return frame{}, again, nil // a colon begins a frame wherever it stands
	}
	if end < 0 {
		return frame{}, 0, nil
	}
	raw := make([]byte, hex.DecodedLen(end))
	n, err := hex.Decode(raw, bytes.TrimSuffix(got[1:end], []byte{'\r'}))
	if raw = raw[:n]; err != nil || n < 3 || lrc(raw[:n-1]) != raw[n-1] {
		return frame{}, end + 1, nil
	}
	return frame{unit: raw[0], pdu: raw[1 : n-1]}, end + 1, nil
}

func (asciiFramer) pack(out []byte, f frame) []byte {
	raw := append([]byte{f.unit}, f.pdu...)
	raw = append(raw, lrc(raw))
	out = append(out, ':')
	out = append(out, bytes.ToUpper([]byte(hex.EncodeToString(raw)))...)
	return append(out, '\r', '\n')
}

// lrc is the two's complement of the sum (MB-29).
func lrc(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum -= c
	}
	return sum
}
