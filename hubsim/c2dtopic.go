package hubsim

import (
	"crypto/rand"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// commandTopic is the topic that carries m (C2D-16 to C2D-21). $.to is always there, because some clients
// look for a system property (C2D-20).
func commandTopic(m *CloudMessage) string {
	var b bagBuilder
	b.system("$.mid", m.MessageID)
	b.system("$.to", "/devices/"+m.Device+"/messages/deviceBound") // the hub's own spelling (C2D-18)
	b.system("$.cid", m.CorrelationID)
	b.system("$.uid", m.UserID)
	if !m.Expires.IsZero() {
		b.system("$.exp", m.Expires.UTC().Format("2006-01-02T15:04:05.0000000Z")) // .NET's form "o"
	}
	b.system("$.ct", m.ContentType)
	b.system("$.ce", m.ContentEncoding)
	b.system("iothub-ack", m.Ack)
	names := make([]string, 0, len(m.Properties))
	for name := range m.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b.add(name, m.Properties[name])
	}
	return "devices/" + m.Device + "/messages/devicebound/" + b.String()
}

// bagBuilder encodes a property bag.
type bagBuilder struct{ strings.Builder }

// system adds a property unless it is empty.
func (b *bagBuilder) system(name, value string) {
	if value != "" {
		b.add(name, &value)
	}
}

// add adds name=value, or for nil the name alone, which is null (C2D-19).
func (b *bagBuilder) add(name string, value *string) {
	if b.Len() > 0 {
		b.WriteByte('&')
	}
	b.WriteString(bagText(name))
	if value != nil {
		b.WriteByte('=')
		b.WriteString(bagText(*value))
	}
}

// bagText percent-encodes everything but RFC 3986's unreserved characters; a space is %20 (C2D-20).
func bagText(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }

// newMessageID is a random UUID.
func newMessageID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
