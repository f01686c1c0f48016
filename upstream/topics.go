package upstream

import (
	"strconv"
	"strings"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
)

// Topics of the device side (D2C-1, D2C-2, METH-1 to METH-3).
const (
	methodFilter = "$iothub/methods/POST/#"
	methodPrefix = "$iothub/methods/POST/"
	methodReply  = "$iothub/methods/res/"
	ridMark      = "/?$rid="
)

// creationTimeProperty tells consumers when a message's newest reading was taken, however long the
// message then waited for a connection (D2C-17).
const creationTimeProperty = "iothub-creation-time-utc"

// creationTimeFormat is RFC 3339 in UTC with milliseconds.
const creationTimeFormat = "2006-01-02T15:04:05.000Z"

// eventsTopic is the telemetry topic of id up to its property bag.
func eventsTopic(id gateway.IdentityID) string {
	topic := "devices/" + id.Device()
	if module := id.Module(); module != "" {
		topic += "/modules/" + module
	}
	return topic + "/messages/events/"
}

// appendMessageTopic appends the whole topic of one message: system properties first, the message id
// among them, then the creation time and the application properties (D2C-7, D2C-16, D2C-18).
func appendMessageTopic(b []byte, events, mid string, t *gateway.Telemetry) []byte {
	b = append(b, events...)
	b = append(b, "%24.mid="...)
	b = appendEscaped(b, mid)
	b = append(b, "&%24.ct=application%2Fjson&%24.ce=utf-8"...)
	if !t.Created.IsZero() {
		b = append(b, "&"+creationTimeProperty+"="...)
		b = appendEscaped(b, t.Created.UTC().Format(creationTimeFormat))
	}
	return appendBag(b, t.Properties)
}

// appendBag appends application properties behind others.
func appendBag(b []byte, properties []gateway.Property) []byte {
	for _, p := range properties {
		b = append(b, '&')
		b = appendEscaped(b, p.Name)
		b = append(b, '=')
		b = appendEscaped(b, p.Value)
	}
	return b
}

// willTopic is where the hub sends the will, with the system properties of its body (WILL-1, WILL-2).
func (s *session) willTopic() []byte {
	return append([]byte(s.events), "%24.ct=application%2Fjson&%24.ce=utf-8"...)
}

// username is what the CONNECT carries: the login's, with the model of Plug and Play (CON-22).
func (l *link) username(login identity.Login) string {
	if l.member.ModelID == "" {
		return login.Username
	}
	return string(appendEscaped([]byte(login.Username+"&model-id="), l.member.ModelID))
}

// appendEscaped percent-encodes everything but RFC 3986 unreserved: '+' and '#' are wildcards, '/'
// ends a bag and ':' has closed connections (D2C-8 to D2C-10).
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
			b = append(b, c)
		default:
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b
}

// parseMethodTopic takes a direct method's request topic apart (METH-2). The request id is the rest of
// the topic, whatever it contains (METH-5, METH-6).
func parseMethodTopic(topic string) (name, rid string, ok bool) {
	rest, ok := strings.CutPrefix(topic, methodPrefix)
	if !ok {
		return "", "", false
	}
	name, rid, ok = strings.Cut(rest, ridMark)
	return name, rid, ok && name != "" && rid != ""
}

// methodReplyTopic answers the request rid with status.
func methodReplyTopic(status int, rid string) string {
	return methodReply + strconv.Itoa(status) + ridMark + rid
}
