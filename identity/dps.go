package identity

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
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
	// Pace is how often the service is asked, with the other devices that it provisions; nil: at any time.
	Pace *Pace
	// Dial opens a connection to the service called host.
	Dial func(ctx context.Context, host string, proof *tls.Certificate) (*dial.Conn, error)
}

// Provisioned is a device whose hub, and whose name there, a provisioning service assigns (DPS-1 to
// DPS-15). The answer is kept: the service is asked at the first connection, and again when the hub does
// not take the device any more. While it cannot be asked, its last answer stands.
type Provisioned struct {
	cfg ProvisioningConfig
	key string // of State

	mu     sync.Mutex  // guards the fields below
	doubt  error       // of the last answer
	unkept *assignment // the last answer, if State would not keep it; else nil
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

// Hub is the hub that the device is assigned to; the service is asked if that is not known, or to be doubted.
// If the service does not answer as it should and there is an older answer, that one stands, and Doubt of the
// next Login says what was wrong. The error of a service that does not believe who we are wraps ErrRefused; Hub
// is the service's name then.
func (p *Provisioned) Hub(ctx context.Context, a Attempt) (string, error) {
	known, some := p.recall()
	if some && !askAgain(a) {
		p.note(nil, nil)
		return known.Hub, nil
	}
	fresh, err := p.register(ctx, a.Now)
	switch {
	case err == nil:
		known = fresh
		p.note(p.keep(ctx, fresh), &fresh)
	case !some:
		return p.cfg.Host, fmt.Errorf("identity %s: provisioning: %w", p.cfg.ID, err)
	default:
		p.note(fmt.Errorf("provisioning: %w", err), nil)
	}
	return known.Hub, nil
}

// note takes in what is to be doubted about the answer that stands; fresh is that, if it is new.
func (p *Provisioned) note(doubt error, fresh *assignment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doubt = doubt
	switch {
	case fresh != nil && doubt != nil:
		p.unkept = fresh
	case fresh != nil:
		p.unkept = nil
	}
}

// Login proves the device to the hub that it is assigned to, as Hub has found out.
func (p *Provisioned) Login(ctx context.Context, a Attempt) (Login, error) {
	known, some := p.recall()
	if !some {
		return Login{}, fmt.Errorf("identity %s: provisioning: it is not assigned to a hub yet", p.cfg.ID)
	}
	login, err := p.login(ctx, known, a)
	p.mu.Lock()
	defer p.mu.Unlock()
	login.Doubt = p.doubt
	return login, err
}

// askAgain tells whether the hub has not taken the device for so long that it may belong elsewhere.
func askAgain(a Attempt) bool {
	return a.Away || a.Refused > 0 && a.Refused%refusedBefore == 0 || a.Failed > 0 && a.Failed%failedBefore == 0
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
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unkept != nil {
		return *p.unkept, true
	}
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
