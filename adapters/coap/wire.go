package coap

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/udp/coder"
)

// Codes that the library has no name for (RFC 8132).
const unprocessable codes.Code = 150 // 4.22

const (
	headerSize = 4
	maxOptions = 64 // options of a message that is worth looking at
)

// errFormat is a message format error of RFC 7252 section 3.
var errFormat = errors.New("message format error")

// packet is one CoAP message. Its slices are those of the datagram.
type packet struct {
	kind    message.Type
	code    codes.Code
	mid     uint16
	token   message.Token
	options message.Options
	payload []byte
}

// parse reads a datagram. Unlike the library's decoder it keeps options of an illegal length, so
// that a critical one can be refused (RFC 7252 section 5.4.3) rather than lost: without its Block1
// option a part of a body would pass for the whole.
func parse(datagram []byte) (packet, error) {
	if len(datagram) < headerSize || datagram[0]>>6 != 1 {
		return packet{}, errFormat
	}
	p := packet{
		kind: message.Type(datagram[0] >> 4 & 3),
		code: codes.Code(datagram[1]),
		mid:  binary.BigEndian.Uint16(datagram[2:]),
	}
	tokenSize, rest := int(datagram[0]&15), datagram[headerSize:]
	if tokenSize > message.MaxTokenSize || len(rest) < tokenSize {
		return packet{}, errFormat
	}
	p.token, rest = rest[:tokenSize], rest[tokenSize:]
	if p.code == codes.Empty && len(datagram) > headerSize {
		return packet{}, errFormat
	}
	p.options = make(message.Options, 0, 8)
	size, err := p.options.Unmarshal(rest, nil)
	if errors.Is(err, message.ErrOptionsTooSmall) {
		p.options = make(message.Options, 0, maxOptions)
		size, err = p.options.Unmarshal(rest, nil)
	}
	if err != nil || size == len(rest) && endsWithMarker(rest) {
		return packet{}, errFormat
	}
	p.payload = rest[size:]
	return p, nil
}

// endsWithMarker tells whether options end with a payload marker, which must not be (RFC 7252
// section 3), rather than with an option whose value happens to end with the same byte.
func endsWithMarker(options []byte) bool {
	last := len(options) - 1
	if last < 0 || options[last] != 0xff {
		return false
	}
	probe := make(message.Options, 0, maxOptions)
	_, err := probe.Unmarshal(options[:last], nil)
	return err == nil
}

// rejection is the Reset that answers a confirmable message nobody can make sense of, or nil
// (RFC 7252 section 4.2). A datagram of another version is ignored in silence.
func rejection(datagram []byte) []byte {
	if len(datagram) < headerSize || datagram[0]>>6 != 1 || message.Type(datagram[0]>>4&3) != message.Confirmable {
		return nil
	}
	return header(message.Reset, binary.BigEndian.Uint16(datagram[2:]))
}

// header is an empty message: an acknowledgement or a reset.
func header(kind message.Type, mid uint16) []byte {
	return []byte{1<<6 | byte(kind)<<4, byte(codes.Empty), byte(mid >> 8), byte(mid)}
}

// answer is what a request is answered with.
type answer struct {
	code   codes.Code
	maxAge uint32 // seconds; 0: no option
	block  *block // Block1
	size   int    // Size1: the largest body that is taken; 0: no option
	text   string // diagnostic payload
}

// encode writes the answer as a message. The text is left out of one that would be more than three
// times as large as the request, which may come from a forged source (COAP-50).
func (a answer) encode(kind message.Type, mid uint16, request request) []byte {
	m := message.Message{Type: kind, MessageID: int32(mid), Code: a.code, Token: request.token}
	if a.maxAge > 0 {
		m.Options = append(m.Options, uintOption(message.MaxAge, a.maxAge))
	}
	if a.block != nil {
		m.Options = append(m.Options, uintOption(message.Block1, a.block.encode()))
	}
	if a.size > 0 {
		m.Options = append(m.Options, uintOption(message.Size1, uint32(a.size)))
	}
	m.Payload = []byte(a.text)
	size, err := coder.DefaultCoder.Size(m)
	if err == nil && len(m.Payload) > 0 && size > 3*request.size {
		m.Payload = nil
		size, err = coder.DefaultCoder.Size(m)
	}
	if err != nil {
		return header(message.Reset, mid)
	}
	out := make([]byte, size)
	if _, err := coder.DefaultCoder.Encode(m, out); err != nil {
		return header(message.Reset, mid)
	}
	return out
}

// dotted is a code as people write it: "4.15".
func dotted(c codes.Code) string { return fmt.Sprintf("%d.%02d", c>>5, c&31) }

func uintOption(id message.OptionID, v uint32) message.Option {
	value := make([]byte, 4)
	size, err := message.EncodeUint32(value, v)
	if err != nil {
		size = 0
	}
	return message.Option{ID: id, Value: value[:size]}
}

// uintOf reads an option's value of at most four bytes.
func uintOf(value []byte) uint32 {
	v, _, err := message.DecodeUint32(value)
	if err != nil {
		return 0
	}
	return v
}
