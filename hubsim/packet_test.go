package hubsim

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestPacketsAreCutFromAnyStream(t *testing.T) {
	large := append([]byte{0x30, 0x80, 0x80, 0x02}, make([]byte, 32768)...)
	stream := append([]byte{0xc0, 0x00, 0x40, 0x02, 0x00, 0x07}, large...)
	stream = append(stream, 0xe0, 0x00)
	for name, source := range map[string]io.Reader{
		"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)), "halves": iotest.HalfReader(bytes.NewReader(stream)),
	} {
		r := newPacketReader(source)
		var got []string
		for {
			header, body, err := r.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got = append(got, hex.EncodeToString(append([]byte{header}, body[:min(len(body), 4)]...)))
		}
		if want := "c0 400007 3000000000 e0"; strings.Join(got, " ") != want {
			t.Errorf("%s: packets %v, want %s", name, got, want)
		}
	}
}

// watchedSource tells how many bytes are asked for at a time.
type watchedSource struct {
	io.Reader
	asked []int
}

func (w *watchedSource) Read(p []byte) (int, error) {
	w.asked = append(w.asked, len(p))
	return w.Reader.Read(p)
}

// A connection that waits for its next packet holds one byte, and no buffer; packets that came together
// are read in one go.
func TestAnIdleConnectionHoldsNoReadBuffer(t *testing.T) {
	ping := []byte{0xc0, 0}
	source := &watchedSource{Reader: io.MultiReader(bytes.NewReader(ping), bytes.NewReader(append(ping, ping...)))}
	r := newPacketReader(source)
	r.pool = &sync.Pool{}
	for range 3 {
		if header, _, err := r.next(); err != nil || header != 0xc0 {
			t.Fatalf("%x %v", header, err)
		}
	}
	if _, _, err := r.next(); err != io.EOF || r.src != nil {
		t.Errorf("at the end: %v, buffer %v", err, r.src != nil)
	}
	if got := fmt.Sprint(source.asked); got != fmt.Sprint([]int{1, readBuffer, 1, readBuffer, 1}) {
		t.Errorf("asked for %s bytes", got)
	}
}

func TestAPacketThatIsCutShortIsNotTheEndOfTheStream(t *testing.T) {
	whole := []byte{0x40, 0x02, 0x00, 0x07}
	for n := 1; n < len(whole); n++ {
		if _, _, err := newPacketReader(bytes.NewReader(whole[:n])).next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v, want an unexpected EOF", n, len(whole), err)
		}
	}
}

func TestLengthPrefixesAreBounded(t *testing.T) {
	for text, want := range map[string]error{
		"3083801430":   nil, // 327 683: the largest
		"3084801430":   errTooLong,
		"30ffffff7f":   errTooLong,
		"30ffffffff7f": errBadLength,
		"3080808080":   errBadLength,
	} {
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = newPacketReader(bytes.NewReader(raw)).next()
		if want == nil {
			want = io.ErrUnexpectedEOF
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
}

func TestAPromisedLengthAllocatesNothing(t *testing.T) {
	const clients = 200
	readers := make([]*packetReader, clients)
	for i := range readers {
		readers[i] = newPacketReader(bytes.NewReader([]byte{0x10, 0x83, 0x80, 0x14})) // 327 683 bytes
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, r := range readers {
		if _, _, err := r.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / clients; each > 64<<10 {
		t.Errorf("a promise of 327 683 bytes made the hub allocate %d bytes", each)
	}
}

func TestPublishIsDecodedAsTheLibraryDoes(t *testing.T) {
	for _, p := range []*packets.PublishPacket{
		{TopicName: "devices/d/messages/events/", Payload: []byte("x")},
		{FixedHeader: packets.FixedHeader{Qos: 1, Dup: true}, TopicName: "t", MessageID: 65535},
		{FixedHeader: packets.FixedHeader{Qos: 1, Retain: true}, TopicName: "", MessageID: 1, Payload: bytes.Repeat([]byte("a"), 300)},
	} {
		p.MessageType = packets.Publish
		header, body, err := newPacketReader(bytes.NewReader(encode(p))).next()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parsePublish(header, body)
		if err != nil {
			t.Fatal(err)
		}
		if string(got.topic) != p.TopicName || got.packet != p.MessageID || !bytes.Equal(got.payload, p.Payload) ||
			got.qos != p.Qos || got.dup != p.Dup || got.retain != p.Retain {
			t.Errorf("parsePublish = %+v, want %v", got, p)
		}
	}
}

func TestMalformedPacketsAreNotReadAsSomethingElse(t *testing.T) {
	for text, why := range map[string]string{
		"36 07 0001 61 0001 7878":                "PUBLISH at QoS 3",
		"30 01 00":                               "PUBLISH without a topic",
		"30 03 0005 61":                          "PUBLISH with a topic beyond the packet",
		"32 04 0001 61 00":                       "PUBLISH with half a packet id",
		"32 05 0001 61 0000":                     "PUBLISH with packet id 0",
		"80 06 0001 0001 61 00":                  "SUBSCRIBE without its reserved flags",
		"82 07 0001 0003 6100 00":                "SUBSCRIBE with a filter beyond the packet",
		"82 05 0001 0001 61":                     "SUBSCRIBE without a QoS",
		"a2 05 0001 0002 61":                     "UNSUBSCRIBE with a filter beyond the packet",
		"a2 07 0001 0001 61 6161":                "UNSUBSCRIBE with bytes left over",
		"40 03 0001 00":                          "PUBACK with a byte too many",
		"c1 00":                                  "PINGREQ with flags",
		"f0 00":                                  "a packet type that does not exist",
		"00 00":                                  "packet type 0",
		"10 0d 0004 4d515454 04 02 003c 0004 61": "CONNECT with a ClientId beyond the packet",
		"82 07 0001 0002 fffe 00":                "a filter that is not UTF-8",
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(why, err)
		}
		header, body, err := newPacketReader(bytes.NewReader(raw)).next()
		if err != nil {
			t.Errorf("%s: the test's length is wrong: %v", why, err)
			continue
		}
		if header>>4 == packets.Publish {
			_, err = parsePublish(header, body)
		} else {
			_, err = unpack(header, body)
		}
		if err == nil {
			t.Errorf("%s was taken: %s", why, text)
		}
	}
}

// clientPackets are the captures of testdata/clients.hex.
func clientPackets(t testing.TB) (all []clientPacket) {
	t.Helper()
	f, err := os.Open("testdata/clients.hex")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		raw, err := hex.DecodeString(fields[2])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, clientPacket{client: fields[0], identity: fields[1], raw: raw})
	}
	return all
}

type clientPacket struct {
	client, identity string
	raw              []byte
}

func TestWhatSDKsSendIsUnderstood(t *testing.T) {
	kinds := map[byte]int{}
	for _, p := range clientPackets(t) {
		header, body, err := newPacketReader(bytes.NewReader(p.raw)).next()
		if err != nil {
			t.Fatalf("%s: %v", p.client, err)
		}
		kinds[header>>4]++
		if why := understand(p, header, body); why != "" {
			t.Errorf("%s %x: %s", p.client, p.raw, why)
		}
	}
	for _, kind := range []byte{packets.Connect, packets.Publish, packets.Subscribe, packets.Puback, packets.Disconnect} {
		if kinds[kind] == 0 {
			t.Errorf("the captures hold no %s", packets.PacketNames[kind])
		}
	}
}

// understand decodes a client's packet all the way; it says what was not understood.
func understand(p clientPacket, header byte, body []byte) string {
	device, module := splitIdentity(p.identity)
	topics := topicsOf(device, module)
	if header>>4 == packets.Publish {
		got, err := parsePublish(header, body)
		if err != nil {
			return err.Error()
		}
		kind, rest := topics.classify(got.topic)
		var b bag
		switch kind {
		case telemetryTopic:
			err = b.parse(rest)
		case methodAnswerTopic:
			_, _, err = parseMethodAnswer(rest)
		case notATopic:
			err = topics.misfit(got.topic)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	}
	packet, err := unpack(header, body)
	if err != nil {
		return err.Error()
	}
	switch packet := packet.(type) {
	case *packets.SubscribePacket:
		if !topics.allows(packet.Topics[0]) {
			return "filter " + packet.Topics[0]
		}
	case *packets.ConnectPacket:
		return understandConnect(p, header, body)
	}
	return ""
}

func understandConnect(p clientPacket, header byte, body []byte) string {
	connect, refused := readConnect(header, body)
	if refused != nil {
		return refused.Error()
	}
	user, err := parseUserName(connect.Username)
	if err != nil {
		return err.Error()
	}
	if identityName(user.device, user.module) != p.identity || connect.ClientIdentifier != p.identity {
		return "identity " + user.device + "/" + user.module
	}
	if user.parameters["api-version"] == "" {
		return "no api-version"
	}
	if len(connect.Password) == 0 {
		return ""
	}
	got, err := parseToken(string(connect.Password))
	if err != nil {
		return err.Error()
	}
	path := "devices/" + user.device
	if user.module != "" {
		path += "/modules/" + user.module
	}
	if !got.covers("myhub.azure-devices.net", path) {
		return "sr " + got.resource + " does not cover " + path
	}
	return ""
}
