package hubsim

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"
	mochi "github.com/mochi-mqtt/server/v2/packets"
)

// cut is a stream of bytes cut into packets, as far as it goes, and what ended it.
func cut(source io.Reader) (all []string, end error) {
	for r := newPacketReader(source); ; {
		header, body, err := r.next()
		if err != nil {
			return all, err
		}
		all = append(all, string(header)+string(body))
	}
}

func FuzzPacketReader(f *testing.F) {
	for _, p := range clientPackets(f) {
		f.Add(p.raw)
	}
	f.Add([]byte{0x82, 0x07, 0x00, 0x01, 0x00, 0x02, 0xff, 0xfe, 0x00})
	f.Fuzz(func(t *testing.T, stream []byte) {
		atOnce, end := cut(bytes.NewReader(stream))
		byteByByte, sameEnd := cut(iotest.OneByteReader(bytes.NewReader(stream)))
		if strings.Join(atOnce, "|") != strings.Join(byteByByte, "|") || end.Error() != sameEnd.Error() {
			t.Fatalf("the packets depend on how the bytes come: %q, %v and %q, %v", atOnce, end, byteByByte, sameEnd)
		}
		for _, packet := range atOnce {
			header, body := []byte(packet)[0], []byte(packet)[1:]
			if header>>4 == packets.Publish {
				comparePublish(t, header, body)
			} else if p, err := unpack(header, body); err == nil {
				again, ok := strings.CutPrefix(string(encode(p)), string(append([]byte{header}, lengthOf(len(body))...)))
				if header>>4 != packets.Connect && (!ok || again != string(body)) {
					t.Errorf("%x is read as %v", packet, p)
				}
			}
			_, _ = readConnect(header, body)
		}
	})
}

// lengthOf is the remaining length on the wire (MQTT 3.1.1 section 2.2.3).
func lengthOf(n int) []byte {
	var b []byte
	for {
		digit := byte(n % 128)
		if n /= 128; n == 0 {
			return append(b, digit)
		}
		b = append(b, digit|0x80)
	}
}

// comparePublish wants a PUBLISH to be what another decoder takes it for.
func comparePublish(t *testing.T, header byte, body []byte) {
	t.Helper()
	got, err := parsePublish(header, body)
	if err != nil {
		return
	}
	want := mochi.Packet{ProtocolVersion: 4, FixedHeader: mochi.FixedHeader{Type: mochi.Publish, Qos: got.qos, Remaining: len(body)}}
	if want.PublishDecode(body) != nil {
		return // it is stricter about UTF-8
	}
	if string(got.topic) != want.TopicName || !bytes.Equal(got.payload, want.Payload) || got.packet != want.PacketID {
		t.Errorf("%x: topic %q, id %d, payload %q; mochi has %q, %d, %q", body, got.topic, got.packet, got.payload, want.TopicName, want.PacketID, want.Payload)
	}
}

func FuzzTopics(f *testing.F) {
	for _, topic := range []string{
		"devices/dev1/messages/events/a=b", "devices/dev1/modules/mod1/messages/events", "devices/dev2/messages/events/",
		"$iothub/methods/res/200/?$rid=1f", "$iothub/methods/res/-1/?x=y&$rid=", "$iothub/twin/GET/?$rid=1",
		"$iothub/twin/PATCH/properties/reported/?$rid=2&$version=3", "devices/dev1/messages/devicebound/#", "devices/dev1/+/#", "",
	} {
		f.Add(topic)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		for _, module := range []string{"", "mod1"} {
			mine := topicsOf("dev1", module)
			kind, rest := mine.classify([]byte(topic))
			switch {
			case kind == notATopic:
				if mine.misfit([]byte(topic)) == nil {
					t.Errorf("%q is no topic, and nothing is wrong with it", topic)
				}
			case !strings.HasSuffix(topic, string(rest)):
				t.Errorf("%q ends in %q?", topic, rest)
			case kind == telemetryTopic && !strings.HasPrefix(topic, string(mine.events)):
				t.Errorf("%q is taken for telemetry of %s", topic, mine.id)
			case kind == methodAnswerTopic:
				if status, rid, err := parseMethodAnswer(rest); err == nil {
					if n, _ := strconv.Atoi(strings.SplitN(topic, "/", 5)[3]); n != status || !strings.Contains(topic, "$rid="+rid) {
						t.Errorf("%q is the answer %d of request %q?", topic, status, rid)
					}
				}
			}
			if mine.allows(topic) && strings.Contains(topic, "dev2") {
				t.Errorf("%s may subscribe to %q", mine.id, topic)
			}
		}
	})
}

func FuzzBag(f *testing.F) {
	for _, raw := range []string{
		"%24.mid=msg-1&%24.ct=application%2Fjson&sp%20ace=a%2Fb%3Dc%26d%2B%C3%BC/", "?a&b=&c=d&", "a=b=c", "&&", "A=1&a=2", "%", "%zz=1", "a+b=c", "?a=1/", "a=1&&=2",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var b, again bag
		if b.parse([]byte(raw)) != nil {
			return
		}
		var text []string
		for _, p := range b.pairs {
			text = append(text, escape(string(p.name))+"="+escape(string(p.value)))
		}
		canonical := strings.Join(text, "&")
		if err := again.parse([]byte(canonical)); err != nil {
			t.Fatalf("%q is %q, which is wrong: %v", raw, canonical, err)
		}
		if diff := cmp.Diff(b.properties(), again.properties()); diff != "" || again.repeated || again.size() != b.size() {
			t.Fatalf("%q is %q, which is another bag:\n%s", raw, canonical, diff)
		}
		// net/url reads what it can read in the same way.
		values, err := url.ParseQuery(strings.TrimSuffix(strings.TrimPrefix(raw, "?"), "/"))
		for _, p := range b.pairs {
			if got := values[string(p.name)]; err != nil || len(got) > 0 && got[len(got)-1] != string(p.value) && !b.repeated {
				t.Errorf("%q: %q=%q, net/url has %q, %v", raw, p.name, p.value, got, err)
			}
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add("SharedAccessSignature sr=contoso.azure-devices.net%2Fdevices%2FMyDevice01&sig=tQSLxkMuSnuabLJYPJTe5fSi39Xn%2BlCRPf9StqqV0Qs%3D&se=1700000000", "devices/MyDevice01")
	f.Add("SharedAccessSignature sr=contoso.azure-devices.net&sig=WA5mJabSkWWSZo21WRgph5CHQ9FMXwo27EQaik72FJ0%3D&se=1700000000&skn=device", "")
	f.Add("SharedAccessSignature sr=&sig=&se=-1", "")
	f.Add("SharedAccessSignature sr=HOST%252Fdevices%252Fd&se=-1&sig=", "devices/d/modules/m")
	f.Fuzz(func(t *testing.T, text, path string) {
		got, err := parseToken(text)
		if err != nil {
			_, sig, _ := strings.Cut(text, "sig=")
			sig, _, _ = strings.Cut(sig, "&")
			if len(sig) <= 12 || !strings.Contains(err.Error(), sig) {
				return
			}
			// It may be a word of the error by chance: then the error is the same without it.
			_, other := parseToken(strings.ReplaceAll(text, sig, strings.Repeat("x", len(sig))))
			if other == nil || other.Error() != err.Error() {
				t.Errorf("the error tells the signature: %v", err)
			}
			return
		}
		if !strings.Contains(text, "sr="+got.resource) || got.expiry.Unix() != mustInt(t, got.expiryRaw) {
			t.Errorf("%q is about %q until %v", text, got.resource, got.expiry)
		}
		mac := hmac.New(sha256.New, []byte("a key"))
		mac.Write([]byte(got.resource + "\n" + got.expiryRaw))
		signature := url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		genuine := "SharedAccessSignature sig=" + signature + "&sr=" + got.resource + "&se=" + got.expiryRaw
		if again, err := parseToken(genuine); err != nil || !again.signedWith(base64.StdEncoding.EncodeToString([]byte("a key"))) {
			t.Errorf("%q is not taken for genuine: %v", genuine, err)
		}
		// Only a name of this machine is any hub's.
		if got.covers("contoso.azure-devices.net", path) && got.covers("fabrikam.azure-devices.net", path) && !got.covers("a.example", path) {
			t.Errorf("%q covers two hubs", text)
		}
	})
}

func mustInt(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func FuzzParseUserName(f *testing.F) {
	for _, text := range []string{
		"contoso.azure-devices.net/dev1/?api-version=2021-04-12&DeviceClientType=azure-iot-device%2F1.18.4%20(node%20v20)", "h/d/m/?api-version=2018-06-30",
		"h/d/api-version=2016-11-14&model-id=dtmi:com:example:gw;1", "h/d", "h//", "h/d/m/x/?api-version=", "/?", "h/d/?api-version=2021-04-12&api-version=x",
		"0ne00ABCDEF/registrations/reg-1/api-version=2019-03-31&ClientVersion=azure-iot-provisioning-device%2F1.9.1",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if u, ok := parseRegistrationUser(text); ok && !strings.HasPrefix(text, u.scope+"/registrations/"+u.id) {
			t.Errorf("%q is the scope %q, the registration %q", text, u.scope, u.id)
		}
		got, err := parseUserName(text)
		if err != nil {
			return
		}
		path := got.host + "/" + identityName(got.device, got.module)
		if !strings.HasPrefix(text, path) || strings.Count(path, "/") > 2 || strings.Contains(path, "//") {
			t.Errorf("%q is %q", text, path)
		}
		if v, ok := got.parameters["api-version"]; ok {
			if _, err := time.Parse(time.DateOnly, strings.TrimSuffix(v, "-preview")); err != nil || !strings.Contains(text, "api-version=") {
				t.Errorf("%q has the version %q", text, v)
			}
		}
	})
}
