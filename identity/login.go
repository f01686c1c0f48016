package identity

import (
	"context"
	"crypto/tls"
	"time"

	gateway "iothub-gateway"
)

// apiVersion is the hub API whose topics and statuses upstream speaks (CON-19).
const apiVersion = "2021-04-12"

// Attempt is one try of an identity to connect.
type Attempt struct {
	Now time.Time
	// Refused is how many times in a row the hub has refused the identity's credentials, and Failed how
	// many attempts in a row ended without a connection, for whatever reason; both 0 after a connection.
	Refused, Failed int
	// Away tells that no identity has reached the hub for long, this one having waited for it.
	Away bool
}

// Login is what one MQTT connection proves itself with.
type Login struct {
	// Hub is the name of the hub that knows the identity. The connection goes there, unless an IoT Edge
	// gateway stands before it; user name and token name it in either case (CON-23).
	Hub string
	// ClientID is "device" or "device/module" as the hub knows it, which topics carry too: the identity's
	// own name, unless a provisioning service or IoT Edge assigned another.
	ClientID string
	Username string
	// Password is a token; empty if Certificate is the proof (CON-29).
	Password    Secret
	Certificate *tls.Certificate
	// Expires is when the proof ends (the hub's grace comes on top, CON-48); zero if it does not.
	Expires time.Time
	// Signed tells that each Login signs a proof that holds longer: whoever holds the connection makes it
	// again in time. Of any other proof somebody else has to see to a next one before Expires.
	Signed bool
	// Watch tells that somebody else may replace the proof, or the key that signs it, at any time: it is worth
	// looking now and then whether another Login differs.
	Watch bool
	// Doubt is why the proof may be out of date, worth saying if the hub refuses it; nil if it is not.
	Doubt error

	key uint64 // marks the secret behind Password; 0 where it is not known, or never replaced
}

// Same tells whether a connection that was made with other would gain nothing from being made again.
func (l Login) Same(other Login) bool {
	return l.Hub == other.Hub && l.ClientID == other.ClientID && l.key == other.key &&
		(l.Signed || l.Expires.Equal(other.Expires)) && sameLeaf(l.Certificate, other.Certificate)
}

func sameLeaf(a, b *tls.Certificate) bool {
	if a == nil || b == nil {
		return a == b
	}
	return string(a.Certificate[0]) == string(b.Certificate[0])
}

// fixed is an identity that belongs to one hub for good.
type fixed struct{ host string }

// Hub is the hub's name.
func (f fixed) Hub(context.Context, Attempt) (string, error) { return f.host, nil }

// loginOf is the login of id at the hub called host, without its proof (CON-17 to CON-20).
func loginOf(host string, id gateway.IdentityID) Login {
	return Login{Hub: host, ClientID: string(id), Username: host + "/" + string(id) + "/?api-version=" + apiVersion}
}
