package modbus

import (
	"bytes"
	"encoding/hex"

	goburrow "github.com/goburrow/modbus"
)

// ascii is the framing of hexadecimal lines: a colon, unit, PDU and LRC in hex, CR LF (MB-29).
type ascii struct{}

// asciiMax is the longest line: colon, hex of unit, PDU and LRC, CR LF (MB-1).
const asciiMax = 1 + 2*(1+253+1) + 2

func (ascii) packager(unit uint8) goburrow.Packager {
	h := goburrow.NewASCIIClientHandler("")
	h.SlaveId = unit
	return h
}

func (ascii) query(request []byte) query {
	b, _ := asciiBytes(request) // made by the packager
	return query{adu: request, unit: b[0], pdu: b[1:]}
}

func (ascii) find(q query, got []byte) finding {
	switch start := bytes.IndexByte(got, ':'); {
	case len(got) == 0:
		return finding{}
	case start < 0:
		return finding{verdict: noise, size: len(got)}
	case start > 0:
		return finding{verdict: noise, size: start}
	}
	if again := bytes.IndexByte(got[1:], ':'); again >= 0 && !bytes.ContainsRune(got[:1+again], '\n') {
		return finding{verdict: noise, size: 1 + again} // a colon begins anew
	}
	end := bytes.IndexByte(got, '\n') + 1
	switch {
	case end == 0 && len(got) > asciiMax:
		return finding{verdict: noise, size: len(got)}
	case end == 0 && q.over:
		return finding{verdict: noise, size: len(got)}
	case end == 0:
		return finding{}
	}
	line := got[:end]
	b, ok := asciiBytes(line)
	if !ok {
		return finding{verdict: noise, size: end}
	}
	f := finding{verdict: stray, size: end, unit: b[0]}
	if q.skipsEcho() && bytes.Equal(line, q.adu) {
		f.verdict = echo
	} else if size, ok := q.expects(b[1:]); ok && size == len(b)-1 && b[0] == q.unit {
		f.verdict = answer
	}
	return f
}

// asciiBytes are unit and PDU of a line; false if it is none or its LRC is wrong.
func asciiBytes(line []byte) ([]byte, bool) {
	text, colon := bytes.CutPrefix(line, []byte{':'})
	text, end := bytes.CutSuffix(text, []byte("\r\n"))
	b := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(b, text); err != nil || !colon || !end || len(b) < 3 {
		return nil, false
	}
	sum := byte(0)
	for _, x := range b {
		sum += x
	}
	return b[:len(b)-1], sum == 0
}
