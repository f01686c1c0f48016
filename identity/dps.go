package identity

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/internal/dial"
)

// ProvisioningHost is the Device Provisioning Service of the public cloud (DPS-1).
const ProvisioningHost = "global.azure-devices-provisioning.net"

const (
	// refusedBefore refusals in a row by the hub, or failedBefore attempts in a row without a connection,
	// and the service is asked again where the device belongs (DPS-15).
	refusedBefore = 3
	failedBefore  = 10
)

// ErrRefused is wrapped by the error of a Login when a service did not believe who we are.
var ErrRefused = errors.New("not authorised")

// ProvisioningConfig says how a device proves itself to a provisioning service.
type ProvisioningConfig struct {
	// ID is the identity as the mapping calls it; what the service assigned is kept in State under it.
	ID gateway.IdentityID
	// Host is the service's name and Scope its id scope.
	Host, Scope string
	// Registration is the device's registration id.
	Registration string
	// Key is the enrolment's key in base64, or that of its group if Group is set. nil: Load is the proof.
	Key   func() (Secret, error)
	Group bool
	// Load reads certificate and key of an X.509 enrolment; the certificate's CN is Registration (DPS-4).
	Load func() (tls.Certificate, error)
	// Life is how long a token holds.
	Life  time.Duration
	State gateway.State
	// Dial opens a connection to the service called host.
	Dial func(ctx context.Context, host string, proof *tls.Certificate) (*dial.Conn, error)
}

// Provisioned is a device whose hub, and whose name there, a provisioning service assigns (DPS-1 to
// DPS-15). The answer is kept: the service is asked at the first connection, and again when the hub does
// not take the device any more. While it cannot be asked, its last answer stands.
type Provisioned struct {
	cfg ProvisioningConfig
	key string // of State
}

// NewProvisioned makes the credential.
func NewProvisioned(cfg ProvisioningConfig) *Provisioned {
	if cfg.Key != nil {
		cfg.Registration = strings.ToLower(cfg.Registration) // as keys are derived and tokens signed (DPS-12)
	}
	return &Provisioned{cfg: cfg, key: "provisioned/" + string(cfg.ID)}
}

// assignment is what the service said last, and to what question.
type assignment struct {
	Scope        string `json:"scope"`
	Registration string `json:"registration"`
	Hub          string `json:"hub"`
	Device       string `json:"device"`
}

// Login proves the device to the hub that it is assigned to. If the service does not answer as it should
// and there is an older answer, that one is used, and Doubt says what was wrong. The error of a service
// that does not believe who we are wraps ErrRefused; the Login then names the service as its Hub.
func (p *Provisioned) Login(ctx context.Context, a Attempt) (Login, error) {
	known, some := p.recall()
	var doubt error
	if !some || askAgain(a) {
		fresh, err := p.register(ctx, a.Now)
		switch {
		case err == nil:
			known, doubt = fresh, p.keep(ctx, fresh)
		case !some:
			return Login{Hub: p.cfg.Host}, fmt.Errorf("identity %s: provisioning: %w", p.cfg.ID, err)
		default:
			doubt = fmt.Errorf("provisioning: %w", err)
		}
	}
	login, err := p.login(ctx, known, a)
	login.Doubt = doubt
	return login, err
}

// askAgain tells whether the hub has not taken the device for so long that it may belong elsewhere.
func askAgain(a Attempt) bool {
	return a.Refused > 0 && a.Refused%refusedBefore == 0 || a.Failed > 0 && a.Failed%failedBefore == 0
}

// keep remembers the service's answer.
func (p *Provisioned) keep(ctx context.Context, fresh assignment) error {
	text, err := json.Marshal(fresh)
	if err == nil {
		err = p.cfg.State.Put(ctx, p.key, text)
	}
	if err != nil {
		return fmt.Errorf("provisioning: the answer cannot be kept: %w", err)
	}
	return nil
}

// recall is the answer to the same question, if there was one.
func (p *Provisioned) recall() (assignment, bool) {
	var known assignment
	text, ok := p.cfg.State.Get(p.key)
	ok = ok && json.Unmarshal(text, &known) == nil && known.Scope == p.cfg.Scope && known.Registration == p.cfg.Registration
	return known, ok
}

// login proves the device to its hub: a derived key is the hub's key of the device too (DPS-13).
func (p *Provisioned) login(ctx context.Context, to assignment, a Attempt) (Login, error) {
	name, _, _ := strings.Cut(to.Hub, ":") // a hub that is no Azure hub may have a port of its own
	login, err := p.proveTo(ctx, name, gateway.IdentityID(to.Device), a)
	login.Hub = to.Hub
	return login, err
}

func (p *Provisioned) proveTo(ctx context.Context, hub string, id gateway.IdentityID, a Attempt) (Login, error) {
	if p.cfg.Key == nil {
		return NewX509(hub, id, p.cfg.Load).Login(ctx, a)
	}
	return NewKeySAS(hub, id, Key{Read: p.deviceKey}, p.cfg.Life).Login(ctx, a)
}

// deviceKey is the device's own key.
func (p *Provisioned) deviceKey() (Secret, error) {
	key, err := p.cfg.Key()
	if err != nil || !p.cfg.Group {
		return key, err
	}
	return DeriveKey(key, p.cfg.Registration)
}

// DeriveKey is the key of the device called registration in an enrolment group: both are base64 (DPS-12).
func DeriveKey(group Secret, registration string) (Secret, error) {
	raw, err := decodeKey(group)
	if err != nil {
		return Secret{}, err
	}
	return NewSecret(base64.StdEncoding.EncodeToString(mac(raw, registration))), nil
}
