package hubsim

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Everything here ends the connection, and the log says why in one line.
func TestTheLogSaysWhatTheClientDidWrong(t *testing.T) {
	const events = "devices/dev1/messages/events/"
	for _, c := range []struct {
		name string
		send []byte
		want string
	}{
		{"QoS 2", publishPacket(events, 2, 1, ""), `"clause":"D2C-21, CLOSE-1","message":"dev1: PUBLISH at QoS 2: IoT Hub closes the connection"`},
		{"misspelt topic", publishPacket("devices/dev1/message/events/", 1, 1, ""), "not a topic of IoT Hub"},
		{"another device", publishPacket("devices/dev2/messages/events/", 1, 1, ""), "an identity other than dev1"},
		{"a topic of its own", publishPacket("plant/boiler", 0, 0, ""), "not a topic of IoT Hub"},
		{"a wildcard", publishPacket("devices/dev1/messages/+", 0, 0, ""), "wildcard"},
		{"plus for space", publishPacket(events+"a=b+c", 1, 1, ""), "must be %2B"},
		{"a colon", publishPacket(events+"t=12:30", 1, 1, ""), "must be %3A"},
		{"too large", publishPacket(events, 1, 1, strings.Repeat("x", maxMessage+1)), "a message of 262145 bytes, the limit is 262144"},
		{"too large with properties", publishPacket(events+"ab=cd", 1, 1, strings.Repeat("x", maxMessage-3)), "a message of 262145 bytes"},
		{"far too large", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, "packet of more than 327683 bytes"},
		{"a second CONNECT", []byte{0x10, 0x0c, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 0}, "a second CONNECT"},
		{"a server's packet", []byte{0x20, 2, 0, 0}, "a client must not send CONNACK"},
		{"PUBREL", []byte{0x62, 2, 0, 1}, "a client must not send PUBREL"},
		{"a packet that does not exist", []byte{0xf0, 0}, "malformed packet"},
		{"a bad length", []byte{0x30, 0x80, 0x80, 0x80, 0x80, 0x01}, "malformed remaining length"},
		{"a foreign filter", []byte{0x82, 8, 0, 1, 0, 3, 'a', '/', '#', 0}, "not a filter of IoT Hub"},
		{"no filter", []byte{0x82, 2, 0, 1}, "a SUBSCRIBE without a filter"},
		{"nothing to unsubscribe", []byte{0xa2, 2, 0, 1}, "an UNSUBSCRIBE without a filter"},
		{"filter at QoS 3", append([]byte{0x82, 26, 0, 1, 0, 21}, methodFilter+"\x03"...), "a SUBSCRIBE at QoS 3"},
		{"a method answer without status", publishPacket("$iothub/methods/res/ok/?$rid=1", 0, 0, ""), "is not an integer"},
		{"a method answer without rid", publishPacket("$iothub/methods/res/200/?x=1", 0, 0, ""), "no /?$rid="},
		{"a twin request without rid", publishPacket("$iothub/twin/GET/", 0, 0, ""), "the topic has no ?$rid="},
		{"a twin request with an empty rid", publishPacket("$iothub/twin/GET/?$rid=", 0, 0, ""), "the topic has no ?$rid="},
		{"a wildcard in a request id", publishPacket("$iothub/twin/GET/?$rid=a+b", 0, 0, ""), "a character that a topic"},
		{"a control character in a request id", publishPacket("$iothub/twin/GET/?$rid=a\x01", 0, 0, ""), "a character that a topic"},
		{"a large method answer", publishPacket("$iothub/methods/res/200/?$rid=1", 0, 0, strings.Repeat("x", maxMethodPayload+1)), "a method answer of 131073 bytes"},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{})
			client := h.connect(t, "dev1", 60)
			go func() { _, _ = client.conn.Write(c.send) }() // the hub may hang up before it has all
			if after := client.expectEnd(); after > time.Second {
				t.Errorf("%s: closed after %v", c.name, after)
			}
			if !strings.Contains(h.log.String(), c.want) || strings.Count(h.log.String(), `"level":"warn"`) != 1 {
				t.Errorf("%s: the log says %s, want one line with %q", c.name, h.log, c.want)
			}
			if line := h.warning(t); line.Clause == "" || hasClause.MatchString(line.Message) {
				t.Errorf("%s: clauses belong in a field of their own: %+v", c.name, line)
			}
			if h.Received() != 0 {
				t.Errorf("%s: it was stored", c.name)
			}
		})
	}
}

// hasClause finds the names of clauses, which the readers of a log do not know.
var hasClause = regexp.MustCompile(`\b[A-Z0-9]+-[0-9]+\b`)

type logLine struct{ Level, Identity, Clause, Message string }

// warning is the one line that the log has about what a client did wrong.
func (h *pipeHub) warning(t *testing.T) logLine {
	t.Helper()
	var found []logLine
	for text := range strings.Lines(h.log.String()) {
		var line logLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		if line.Level == "warn" {
			found = append(found, line)
		}
	}
	if len(found) != 1 {
		t.Fatalf("the log has %d warnings, want one: %s", len(found), h.log)
	}
	return found[0]
}

func TestWhatTheHubToleratesIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.connect(t, "dev1", 60)
		for i := range 3 {
			c.send(publishPacket("devices/dev1/messages/events/a=1&a=%C3%BC", 1, uint16(i+1), ""))
			readAck(t, c.conn)
			c.send(publishPacket("$iothub/twin/GET/?$rid=1", 1, uint16(i+1), " "))
			readAck(t, c.conn)
		}
		for _, want := range []string{"a property name appears twice", "not printable ASCII", "before SUBSCRIBE to $iothub/twin/res/#"} {
			if strings.Count(h.log.String(), want) != 1 {
				t.Errorf("the log has %q %d times", want, strings.Count(h.log.String(), want))
			}
		}
	})
}
