package hubsim

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	maxMessage = 256 << 10 // body and properties of a message, bytes (D2C-24, Q12)
	maxTopic   = 65535     // MQTT 3.1.1 section 1.5.3
	maxPacket  = maxMessage + maxTopic + 4
	readBuffer = 16 << 10
)

// errTooLong is the end of a client whose length prefix promises more than maxPacket bytes.
var errTooLong = fmt.Errorf("packet of more than %d bytes", maxPacket)

var errBadLength = errors.New("malformed remaining length")

// packetReader cuts a byte stream into MQTT control packets.
type packetReader struct {
	source firstByte
	// pool lends buffers to a reader that has something to read, so that an idle connection has none; nil
	// is a buffer of its own.
	pool *sync.Pool
	src  *bufio.Reader // nil while it waits
	// taken is how many bytes of src the last packet still occupies.
	taken int
	// complete tells whether a whole packet came since it was last set to false.
	complete bool
}

func newPacketReader(r io.Reader) *packetReader {
	return &packetReader{source: firstByte{Reader: r}}
}

// firstByte is a stream whose next byte may have been read ahead.
type firstByte struct {
	io.Reader
	ahead [1]byte
	have  bool
}

// wait returns once there is a byte.
func (f *firstByte) wait() error {
	_, err := io.ReadFull(f.Reader, f.ahead[:])
	f.have = err == nil
	return err
}

func (f *firstByte) Read(p []byte) (int, error) {
	if f.have && len(p) > 0 {
		f.have = false
		return copy(p, f.ahead[:]), nil
	}
	return f.Reader.Read(p)
}

// awaitPacket drops the last packet and makes sure that there is a buffer with something to read.
func (r *packetReader) awaitPacket() error {
	if r.src != nil {
		if _, err := r.src.Discard(r.taken); err != nil {
			return err
		}
		r.taken = 0
		if r.pool == nil || r.src.Buffered() > 0 {
			return nil
		}
		r.src.Reset(nil)
		r.pool.Put(r.src)
		r.src = nil
	}
	if err := r.source.wait(); err != nil {
		return err
	}
	if r.pool != nil {
		r.src, _ = r.pool.Get().(*bufio.Reader)
	}
	if r.src == nil {
		r.src = bufio.NewReaderSize(nil, readBuffer)
	}
	r.src.Reset(&r.source)
	return nil
}

// next reads one packet: the fixed header's first byte and the bytes behind its length. The body is
// valid until the following call. Memory follows the bytes that came, never the promised length.
func (r *packetReader) next() (header byte, body []byte, err error) {
	if err := r.awaitPacket(); err != nil {
		return 0, nil, err
	}
	header, err = r.src.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	length, err := readLength(r.src)
	if err != nil {
		return 0, nil, cutShort(err)
	}
	if length > maxPacket {
		return 0, nil, errTooLong
	}
	if length <= r.src.Size() {
		body, err = r.src.Peek(length)
		r.taken = len(body)
	} else {
		var large bytes.Buffer
		_, err = io.CopyN(&large, r.src, int64(length))
		body = large.Bytes()
	}
	if err != nil {
		return 0, nil, cutShort(err)
	}
	r.complete = true
	return header, body, nil
}

// cutShort is err for a packet that has begun: its end is no proper end of the stream.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readLength decodes the remaining length (MQTT 3.1.1 section 2.2.3): at most four bytes.
func readLength(r io.ByteReader) (int, error) {
	length := 0
	for shift := 0; shift < 28; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		length |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			return length, nil
		}
	}
	return 0, errBadLength
}

// publish is a PUBLISH as it came; topic and payload point into the read buffer.
type publish struct {
	topic, payload []byte
	packet         uint16 // 0 at QoS 0
	qos            byte
	retain, dup    bool
}

// parsePublish decodes the hot packet without copying or allocating.
func parsePublish(header byte, body []byte) (publish, error) {
	p := publish{qos: header >> 1 & 3, retain: header&1 != 0, dup: header&8 != 0}
	if p.qos == 3 {
		return p, errors.New("QoS 3 does not exist")
	}
	if len(body) < 2 {
		return p, errShortPacket
	}
	n := int(binary.BigEndian.Uint16(body))
	if body = body[2:]; len(body) < n {
		return p, errShortPacket
	}
	p.topic, body = body[:n], body[n:]
	if p.qos > 0 {
		if len(body) < 2 {
			return p, errShortPacket
		}
		if p.packet = binary.BigEndian.Uint16(body); p.packet == 0 {
			return p, errors.New("packet id 0 is not allowed")
		}
		body = body[2:]
	}
	p.payload = body
	return p, nil
}

// errShortPacket is the end of a client whose fields reach beyond the packet's length.
var errShortPacket = errors.New("fields and packet length disagree")

// unpack decodes a packet other than PUBLISH. The codec pads a cut string with zeros and ignores what
// follows the last field, so the fields are added up.
func unpack(header byte, body []byte) (packets.ControlPacket, error) {
	kind := header >> 4
	if flags := header & 15; flags != fixedFlags(kind) {
		return nil, fmt.Errorf("flags %04b are not allowed in a %s", flags, packets.PacketNames[kind])
	}
	p, err := packets.NewControlPacketWithHeader(packets.FixedHeader{MessageType: kind, RemainingLength: len(body)})
	if err != nil {
		return nil, fmt.Errorf("packet type %d does not exist", kind)
	}
	if err := p.Unpack(bytes.NewBuffer(body)); err != nil {
		return nil, errShortPacket
	}
	if fieldBytes(p) != len(body) {
		return nil, errShortPacket
	}
	for _, text := range texts(p) {
		if !utf8.ValidString(text) {
			return nil, errors.New("text that is not UTF-8")
		}
	}
	return p, nil
}

// fixedFlags are the reserved flags of section 2.2.2.
func fixedFlags(kind byte) byte {
	switch kind {
	case packets.Subscribe, packets.Unsubscribe, packets.Pubrel:
		return 2
	}
	return 0
}

// fieldBytes is the length that the decoded fields of a client's packet take on the wire.
func fieldBytes(p packets.ControlPacket) int {
	n := 0
	for _, text := range texts(p) {
		n += 2 + len(text)
	}
	switch p := p.(type) {
	case *packets.ConnectPacket:
		n += 4 // level, flags, keep-alive
		if p.WillFlag {
			n += 2 + len(p.WillMessage)
		}
		if p.PasswordFlag {
			n += 2 + len(p.Password)
		}
	case *packets.SubscribePacket:
		n += 2 + len(p.Qoss)
	case *packets.UnsubscribePacket, *packets.PubackPacket:
		n += 2
	}
	return n
}

// texts lists the UTF-8 fields of a client's packet.
func texts(p packets.ControlPacket) []string {
	switch p := p.(type) {
	case *packets.ConnectPacket:
		all := []string{p.ProtocolName, p.ClientIdentifier}
		if p.WillFlag {
			all = append(all, p.WillTopic)
		}
		if p.UsernameFlag {
			all = append(all, p.Username)
		}
		return all
	case *packets.SubscribePacket:
		return p.Topics
	case *packets.UnsubscribePacket:
		return p.Topics
	}
	return nil
}

// encode is the wire form of a packet of ours.
func encode(p packets.ControlPacket) []byte {
	var b bytes.Buffer
	_ = p.Write(&b) // a bytes.Buffer does not fail
	return b.Bytes()
}
