package mapping

import (
	"fmt"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/identity"
)

// Plant is a checked mapping. It cannot be wrong and is never checked again: every point has an
// identity that exists, every method a point that exists, every address fits.
type Plant struct {
	Hub        Hub
	Buffer     Buffer
	Identities []Identity       // in the order of first mention
	Devices    []Device         // in the order of the file
	Links      []modbus.Config  // the southbound halves of what is polled, one a link, in the order of first mention
	Listeners  []Listener       // the southbound halves of what reports by itself, in the order of the file
	Points     []gateway.Point  // the northbound halves, in the order of the file
	Methods    []gateway.Method // in the order of the file
	Desired    []gateway.Desired
	Messages   []gateway.MessageRule
	// Gateway is the identity that reports how the gateway is doing; "" if there is none.
	Gateway  gateway.IdentityID
	linkKeys []keyUse // the private keys of Links
	hubKeys  []keyUse // the proxy's password
	trust    Finding  // where Hub.Trust is written, without a message
}

// Hub is the IoT Hub that the plant reports to.
type Hub struct {
	// Host is the hub's full name, which user names and tokens carry; "" if a provisioning service or
	// IoT Edge says it.
	Host string
	// Port is the TCP port; 0 means the transport's own (8883, or 443 over WebSocket).
	Port int
	// Transport is "mqtt" or "websocket".
	Transport string
	// Trust is a file of PEM certificates that sign the hub's; "" means the system's.
	Trust string
	// GatewayHost is the IoT Edge gateway to connect to instead of the hub, and GatewayPort its port (0
	// means the transport's own); "" is none.
	GatewayHost string
	GatewayPort int
	Proxy       *Proxy // nil: none
	// Edge takes host, gateway host and one identity from the environment of an IoT Edge module.
	Edge bool
	// Provisioning assigns devices to hubs; nil if none is provisioned.
	Provisioning *Provisioning
	// Tier is the hub's edition, F1, B1 to B3 or S1 to S3, and Units how many it has; "" and 0 are not known.
	Tier  string
	Units int
}

// Proxy is an HTTP proxy on the way to the hub.
type Proxy struct {
	Address  string       // host:port
	User     string       // "" if it asks for nobody
	Password identity.Ref // of User
}

// Provisioning is a Device Provisioning Service.
type Provisioning struct {
	Host  string // its name; "" is that of the public cloud
	Scope string // id scope
}

// Identity is a hub identity with its credential.
type Identity struct {
	gateway.Identity
	Credential
	// Will is the body, JSON, of the message that the hub sends when the connection is lost; nil: none.
	Will []byte
	// ModelID names the identity's Plug and Play model; "" if it has none.
	ModelID string
	// written is where the file names the credential, without a message.
	written Finding
}

// Listener is one socket that devices report to.
type Listener struct {
	// Config is complete but for Keys, which whoever runs the listener fills in from PSKDir.
	coap.Config
	// PSKDir is a directory with one file a key, named like its PSK identity; "" on a plain listener.
	// A relative one is relative to the mapping.
	PSKDir string
	// keys are the PSK identities of its devices, in the order of the file.
	keys []keyUse
}

// keyUse is a PSK identity, or the reference to a private key, with where the file names it first,
// without a message.
type keyUse struct {
	identity string
	written  Finding
}

// Device is one entry of devices: for status pages and tables.
type Device struct {
	Name     string
	Identity gateway.IdentityID // "" if the device is local
	Link     string             // name of its link in Links, or of its listener in Listeners
	Unit     uint8              // of a Modbus device
}

// placeDesired says of each desired property where its value goes.
func (p *Plant) placeDesired() {
	rules := map[gateway.PointID][]*gateway.Desired{}
	for i := range p.Desired {
		rule := &p.Desired[i]
		rules[rule.Write] = append(rules[rule.Write], rule)
	}
	for _, link := range p.Links {
		for _, dev := range link.Devices {
			for _, point := range dev.Points {
				for _, rule := range rules[point.ID] {
					rule.Place = placeOf(link.Address, dev.Unit, point)
				}
			}
		}
	}
}

// placeOf is where a point is written and what makes the registers of a value.
func placeOf(address string, unit uint8, p modbus.Point) string {
	text := fmt.Sprintf("%s unit %d %v %d.%d %v %d %s", address, unit, p.Table, p.Address, p.Bit, p.Type, p.Length, p.Order)
	text += fmt.Sprintf(" %v %v %v", p.Scale, p.Offset, p.Enum)
	if p.Linear != nil {
		text += fmt.Sprintf(" %v", *p.Linear)
	}
	return text
}
