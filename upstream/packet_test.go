package upstream

import (
	"bytes"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang/packets"
	mochi "github.com/mochi-mqtt/server/v2/packets"
)

// decodeTwice reads a PUBLISH with two decoders that nobody here wrote.
func decodeTwice(t *testing.T, wire []byte) (topic string, id uint16, body []byte) {
	t.Helper()
	p, err := paho.ReadPacket(bytes.NewReader(wire))
	if err != nil {
		t.Fatalf("paho: %v", err)
	}
	publish, ok := p.(*paho.PublishPacket)
	if !ok || publish.Qos != 1 || publish.Dup || publish.Retain {
		t.Fatalf("paho reads %v", p)
	}
	m := mochi.Packet{ProtocolVersion: 4, FixedHeader: mochi.FixedHeader{Type: mochi.Publish, Qos: 1}}
	header := 1
	for wire[header]&0x80 != 0 {
		header++
	}
	if err := m.PublishDecode(wire[header+1:]); err != nil {
		t.Fatalf("mochi: %v", err)
	}
	if m.TopicName != publish.TopicName || m.PacketID != publish.MessageID || !bytes.Equal(m.Payload, publish.Payload) {
		t.Fatalf("the decoders disagree: %v, %v", m, publish)
	}
	return publish.TopicName, publish.MessageID, publish.Payload
}

func TestAPublishIsReadAsItWasMeantAtEveryLength(t *testing.T) {
	for _, size := range []int{0, 1, 100, 127 - 9, 128 - 9, 200, 16383 - 9, 16384 - 9, 70_000, 256 << 10} {
		body := bytes.Repeat([]byte{'x'}, size)
		wire := appendPublish([]byte("before")[:0], []byte("topic"), 0x8001, body)
		topic, id, got := decodeTwice(t, wire)
		if topic != "topic" || id != 0x8001 || !bytes.Equal(got, body) {
			t.Errorf("%d bytes: topic %q, id %d, %d bytes", size, topic, id, len(got))
		}
	}
}

func TestPacketsThatLeaveTogetherAreReadOneByOne(t *testing.T) {
	var wire []byte
	for i := range uint16(50) {
		wire = appendPublish(wire, []byte("t"), 0x8000+i, bytes.Repeat([]byte{byte(i)}, int(i)*7))
	}
	r := bytes.NewReader(wire)
	for i := range uint16(50) {
		p, err := paho.ReadPacket(r)
		if err != nil {
			t.Fatal(err)
		}
		if publish := p.(*paho.PublishPacket); publish.MessageID != 0x8000+i || len(publish.Payload) != int(i)*7 {
			t.Errorf("packet %d is read as %v", i, publish)
		}
	}
	if r.Len() != 0 {
		t.Errorf("%d bytes are left over", r.Len())
	}
}

func FuzzPublish(f *testing.F) {
	f.Add("devices/d/messages/events/", uint16(0x8000), []byte(`{"a":1}`))
	f.Fuzz(func(t *testing.T, topic string, id uint16, body []byte) {
		escaped := appendEscaped(nil, topic)
		if len(escaped) == 0 || len(escaped) > 65535 || id == 0 {
			return
		}
		gotTopic, gotID, gotBody := decodeTwice(t, appendPublish(nil, escaped, id, body))
		if gotTopic != string(escaped) || gotID != id || !bytes.Equal(gotBody, body) {
			t.Fatalf("%q %d %q became %q %d %q", escaped, id, body, gotTopic, gotID, gotBody)
		}
	})
}
