package hubsim

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// registry holds the identities and the shared access policies.
type registry struct {
	state    *state
	policies []policy // never changes after open
	feed     feed     // of everybody who watches the hub

	mu         sync.RWMutex // guards the fields below and what is registered of each identity
	identities map[string]*identity
	// order is identities by name, nil if that changed since somebody asked; a slice that is out is never
	// written again.
	order []*identity
	// authorities prove devices (CON-30); a pool that is in use never changes.
	authorities *x509.CertPool
}

// Kinds of the state.
const (
	policyKind   = "policy"   // by its name
	identityKind = "identity" // a registration, by identityName
)

// openRegistry loads what st holds. A fresh state gets the default policies, or what a former version of
// this program left in dir; dir may be "".
func openRegistry(st *state, dir string) (*registry, error) {
	r := &registry{state: st, identities: map[string]*identity{}, authorities: x509.NewCertPool()}
	err := st.each(policyKind, func(_ string, text []byte) error {
		r.policies = append(r.policies, policy{})
		return json.Unmarshal(text, &r.policies[len(r.policies)-1])
	})
	if err != nil {
		return nil, err
	}
	err = st.each(authorityKind, func(_ string, text []byte) error {
		var der []byte
		if err := json.Unmarshal(text, &der); err != nil {
			return err
		}
		certificate, err := x509.ParseCertificate(der)
		if err == nil {
			r.authorities.AddCert(certificate)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(r.policies) == 0 {
		err = r.begin(dir)
	} else {
		err = st.each(identityKind, func(name string, text []byte) error {
			id := &identity{}
			r.identities[name] = id
			return json.Unmarshal(text, &id.registration)
		})
	}
	r.countModules()
	return r, err
}

func (r *registry) countModules() {
	for _, id := range r.identities {
		if parent := r.identities[id.DeviceID]; id.ModuleID != "" && parent != nil {
			parent.modules++
		}
	}
}

// addAuthorities makes authorities of devices known.
func (r *registry) addAuthorities(all []*x509.Certificate) *saved {
	r.mu.Lock()
	defer r.mu.Unlock()
	var changes []change
	r.authorities = r.authorities.Clone()
	for _, certificate := range all {
		r.authorities.AddCert(certificate)
		changes = append(changes, change{authorityKind, fmt.Sprintf("%x", sha256.Sum256(certificate.Raw)), certificate.Raw})
	}
	return r.state.write(changes...)
}

func (r *registry) deviceAuthorities() *x509.CertPool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.authorities
}

// hubFile is hub.json, where a former version kept the policies and the identities.
type hubFile struct {
	Version    int            `json:"version"`
	Policies   []policy       `json:"policies"`
	Identities []registration `json:"identities"`
}

// begin fills an empty state, from dir's hub.json if there is one.
func (r *registry) begin(dir string) error {
	path := filepath.Join(dir, "hub.json")
	file := hubFile{Version: 1, Policies: defaultPolicies()}
	found := false
	if dir != "" {
		text, err := os.ReadFile(path)
		found = err == nil
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if found {
			if err := json.Unmarshal(text, &file); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if file.Version != 1 {
				return fmt.Errorf("%s: version %d, this program reads version 1", path, file.Version)
			}
		}
	}
	var all []change
	r.policies = file.Policies
	for _, p := range file.Policies {
		all = append(all, change{policyKind, p.Name, p})
	}
	for _, reg := range file.Identities {
		name := identityName(reg.DeviceID, reg.ModuleID)
		r.identities[name] = &identity{registration: reg}
		all = append(all, change{identityKind, name, reg})
	}
	if err := r.state.write(all...).wait(); err != nil || !found {
		return err
	}
	return os.Remove(path)
}

func byName(a, b *identity) int { return strings.Compare(a.name(), b.name()) }

// list is every identity by name; the slice is not the caller's to write.
func (r *registry) list() []*identity {
	r.mu.RLock()
	all := r.order
	r.mu.RUnlock()
	if all != nil {
		return all
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.order == nil {
		r.order = make([]*identity, 0, len(r.identities))
		for _, id := range r.identities {
			r.order = append(r.order, id)
		}
		slices.SortFunc(r.order, byName)
	}
	return r.order
}

// find is the identity called "device" or "device/module", nil if there is none.
func (r *registry) find(name string) *identity {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.identities[name]
}

// registered is what the registry knows about an identity.
func (r *registry) registered(id *identity) registration {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return id.registration
}

func (r *registry) credential(id *identity) Credential { return r.registered(id).Credential }

// enabled tells whether an identity, and for a module also its device, may connect (CON-36).
func (r *registry) enabled(id *identity) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	device := r.identities[id.DeviceID]
	return !id.Disabled && device != nil && !device.Disabled
}

// family is the identity called name and, for a device, its modules.
func (r *registry) family(name string) []*identity {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.familyOf(name)
}

// familyOf is family; the caller holds mu.
func (r *registry) familyOf(name string) (all []*identity) {
	for key, id := range r.identities {
		if key == name || strings.HasPrefix(key, name+"/") {
			all = append(all, id)
		}
	}
	slices.SortFunc(all, byName)
	return all
}

// remove forgets the family called name and notes its traces as one step. It does nothing and is not done
// if that is another family by now.
func (r *registry) remove(family []*identity, name string, traces []change) (stored *saved, done bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(family, r.familyOf(name)) {
		return nil, false
	}
	r.order = nil
	for _, id := range family {
		delete(r.identities, id.name())
		r.tellDevice("delete", id.registration)
		if parent := r.identities[id.DeviceID]; id.ModuleID != "" && parent != nil {
			parent.modules--
		}
	}
	return r.state.write(traces...), true
}

// checkID accepts what CON-25 lists.
func checkID(id string) error {
	if id == "" || len(id) > 128 {
		return fmt.Errorf("hubsim: id %q: 1 to 128 characters are allowed", id)
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !strings.ContainsRune("-.%_#*?!(),:=@$'+", c) {
			return fmt.Errorf("hubsim: id %q: %q is not allowed", id, c)
		}
	}
	return nil
}

// checkKey accepts "" and base64 of 16 to 64 bytes (SVC-10); its error does not repeat the key.
func checkKey(key string) error {
	if key == "" {
		return nil
	}
	if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) < 16 || len(raw) > 64 {
		return errors.New("a key is base64 of 16 to 64 bytes")
	}
	return nil
}

func newKey() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	return base64.StdEncoding.EncodeToString(raw[:])
}
