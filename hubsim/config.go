package hubsim

import (
	"net"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// Config says what hub to be. The zero Config is a hub called localhost on free ports that keeps
// everything in memory.
type Config struct {
	// HostName is the hub's name, which user names and tokens carry; "" is "localhost". localhost,
	// 127.0.0.1 and ::1 are accepted in its place, with any port.
	HostName string
	// Dir holds ca.pem, ca.key, state.db (policies, devices and what they own) and messages/; it is created. ""
	// keeps all of it in memory.
	Dir string
	// MQTT and HTTPS are listen addresses, such as "127.0.0.1:8883"; "" is "127.0.0.1:0".
	MQTT, HTTPS string
	// WorkloadSocket is where IoT Edge's workload API is served: the path of a unix socket, readable by its
	// user only. "" is nowhere.
	WorkloadSocket string
	// MaxStored bounds the bytes of stored messages; 0 is 256 MiB. The oldest go first, a block of at
	// most a sixteenth of the bound at a time; the newest block stays. The log says when that begins.
	MaxStored int64
	// ReadAhead is how many unacknowledged publishes of a connection the hub reads before it stops
	// reading (D2C-26); 0 is 16.
	ReadAhead int
	// ExpiryGrace is how long a connection outlives its token (CON-48); 0 is 10 minutes, negative none.
	ExpiryGrace time.Duration
	// RetainProperty is the application property that a message with RETAIN gets, value "true"
	// (D2C-22); "" is "mqtt-retain".
	RetainProperty string
	// Limits are the hub's throttles and its daily quota; the zero Limits are none. TierLimits gives
	// those of an edition.
	Limits Limits
	// ConnectionStateEvents puts an event among the telemetry when a device comes and goes, as a route on
	// the real hub does (MON-5, MON-6): the message source is deviceConnectionStateEvents.
	ConnectionStateEvents bool
	// C2D is what becomes of cloud-to-device messages.
	C2D C2D
	// Provisioning is the Device Provisioning Service beside the hub.
	Provisioning Provisioning
	// RefuseFilters answers a SUBSCRIBE to an undocumented filter with 0x80 rather than closing the
	// connection (open question Q4).
	RefuseFilters bool
	// Log gets one line for each thing that a client did wrong. The zero Logger discards.
	Log zerolog.Logger
}

func (c Config) withDefaults() Config {
	if c.HostName == "" {
		c.HostName = "localhost"
	}
	if c.MQTT == "" {
		c.MQTT = "127.0.0.1:0"
	}
	if c.HTTPS == "" {
		c.HTTPS = "127.0.0.1:0"
	}
	if c.MaxStored <= 0 {
		c.MaxStored = 256 << 20
	}
	if c.ReadAhead <= 0 {
		c.ReadAhead = 16
	}
	switch {
	case c.ExpiryGrace == 0:
		c.ExpiryGrace = 10 * time.Minute
	case c.ExpiryGrace < 0:
		c.ExpiryGrace = 0
	}
	if c.RetainProperty == "" {
		c.RetainProperty = "mqtt-retain"
	}
	c.C2D = c.C2D.withDefaults()
	if c.Provisioning.RetryAfter <= 0 {
		c.Provisioning.RetryAfter = 3 * time.Second
	}
	return c
}

// answersTo tells whether host, as a user name or a token spells it, means the hub called name.
func answersTo(name, host string) bool {
	host = hostOnly(host)
	for _, accepted := range []string{hostOnly(name), "localhost", "127.0.0.1", "::1"} {
		if strings.EqualFold(host, accepted) {
			return true
		}
	}
	return false
}

// hostOnly is host without its port and brackets.
func hostOnly(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}
