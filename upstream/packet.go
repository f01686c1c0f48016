package upstream

import (
	"encoding/binary"
	"fmt"
)

// publishQoS1 is the first byte of a PUBLISH at QoS 1 without DUP and RETAIN (MQTT 3.1.1 section 3.3).
// A repeat after a loss is a new publish of the same message id: the hub does no de-duplication by DUP.
const publishQoS1 = 0x32

// publishQoS0 is the same at QoS 0, which has no packet id.
const publishQoS0 = 0x30

// maxTopic is the longest topic of a packet, in bytes (D2C-15).
const maxTopic = 65535

// say publishes at QoS 0, past the library: its own way waits for a connection that has just been lost.
func (s *session) say(topic string, body []byte) error {
	if len(topic) > maxTopic {
		return fmt.Errorf("a topic of %d bytes cannot be sent", len(topic))
	}
	b := appendLength(append(make([]byte, 0, 8+len(topic)+len(body)), publishQoS0), 2+len(topic)+len(body))
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(topic))), topic...)
	s.hub.quota.count(len(body), s.pool.cfg.Now())
	_, err := s.conn.Write(append(b, body...))
	return err
}

// appendPublish appends a whole PUBLISH packet at QoS 1. The topic is at most 65535 bytes long: the
// queue takes no message whose properties would make it longer.
func appendPublish(b, topic []byte, id uint16, body []byte) []byte {
	b = append(b, publishQoS1)
	b = appendLength(b, 2+len(topic)+2+len(body))
	b = binary.BigEndian.AppendUint16(b, uint16(len(topic)))
	b = append(b, topic...)
	b = binary.BigEndian.AppendUint16(b, id)
	return append(b, body...)
}

// appendLength appends a remaining length: 7 bits a byte, the lowest first (section 2.2.3).
func appendLength(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}
