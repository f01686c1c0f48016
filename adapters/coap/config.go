package coap

import (
	"net/netip"
	"time"

	gateway "iothub-gateway"
)

// Config is one listener with every device that reports to it. It is checked by whoever makes it
// (package mapping); New trusts it.
type Config struct {
	Name   string // as the mapping calls it
	Listen string // host:port; port 0 takes a free one. An IPv4 host listens on IPv4 only
	// Plain is CoAP over UDP without security: who a device is, is told by its address (COAP-51).
	// Otherwise the listener speaks DTLS 1.2 with pre-shared keys.
	Plain bool
	// Allow lists the sources that are listened to. A plain listener without it hears nobody, a
	// DTLS listener without it hears everybody.
	Allow []netip.Prefix
	// Keys finds the key of a PSK identity; false: no such identity. It is asked during every
	// handshake and twice a minute for every session: an identity whose key is gone or changed
	// loses its sessions (COAP-43). Several goroutines ask at once. Who knocks chooses the identity:
	// it may be anything, "../x" as well.
	Keys    func(identity string) (key []byte, ok bool)
	Limits  Limits
	Devices []Device
}

// Limits bounds what peers can take. Each zero field stands for its default.
type Limits struct {
	// Body is the largest body in bytes, counted over all its blocks: default 64 KiB, at most 1 MiB.
	Body int
	// Rate is how many reports a second one device may send on average: default 10. Ten seconds'
	// worth may come at once.
	Rate float64
	// Sessions is how many DTLS sessions are kept: default 1000. One more ends the one that has been
	// silent for longest.
	Sessions int
	// Idle ends a DTLS session that has been silent for so long: default 1 h.
	Idle time.Duration
}

func (l Limits) withDefaults() Limits {
	if l.Body <= 0 {
		l.Body = 64 << 10
	}
	if l.Rate <= 0 {
		l.Rate = 10
	}
	if l.Sessions <= 0 {
		l.Sessions = 1000
	}
	if l.Idle <= 0 {
		l.Idle = time.Hour
	}
	return l
}

// Device is one field device that reports by itself. Several Devices may share an identity or an
// address; their paths tell them apart.
type Device struct {
	Name string
	PSK  string       // on a DTLS listener: the identity of its key
	From netip.Prefix // on a plain listener: where it sends from
	Path string       // where it POSTs to, "/v1/t"; compared segment by segment, exactly (COAP-53)
	// ExpectEvery is the longest normal silence. After it every point yields one Sample with Err,
	// until the device reports again. 0: silence means nothing.
	ExpectEvery time.Duration
	// Assume is the format of a body that comes without Content-Format; Unset: such a body is
	// refused with 4.15 (COAP-10).
	Assume Format
	Points []Point
}

// Format is how a body is written.
type Format uint8

// The formats, with their CoAP Content-Format.
const (
	Unset     Format = iota
	Text             // 0, text/plain
	JSON             // 50, application/json
	SenMLJSON        // 110, application/senml+json (RFC 8428)
	SenMLCBOR        // 112, application/senml+cbor (RFC 8428)
)

// String is the word the mapping uses: text, json, senml+json or senml+cbor.
func (f Format) String() string {
	switch f {
	case Text:
		return "text"
	case JSON:
		return "json"
	case SenMLJSON:
		return "senml+json"
	case SenMLCBOR:
		return "senml+cbor"
	}
	return "unset"
}

// Source says where in a body a point's value stands.
type Source uint8

const (
	// FromSenML takes the records named Key, whether Key is a record's full name (base name and
	// name) or its name without the base name (COAP-31).
	FromSenML Source = iota
	// FromJSON takes the value that the JSON pointer Key points at (RFC 6901).
	FromJSON
	// FromBody takes the whole text; Key is empty.
	FromBody
)

// Point is the southbound half of a mapping entry: where its value stands in a report.
type Point struct {
	ID     gateway.PointID
	Source Source
	Key    string
	// Value = reported * Scale + Offset. A Scale of 0 stands for 1.
	Scale, Offset float64
}
