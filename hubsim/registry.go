package hubsim

import (
	"crypto/rand"
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
	"time"
)

// registry holds the identities and the shared access policies.
type registry struct {
	path     string   // of hub.json, "" in memory
	policies []policy // never changes after open

	mu         sync.RWMutex // guards the fields below
	identities map[string]*identity
	version    uint64 // counts changes

	saving sync.Mutex // held while writing; guards saved
	saved  uint64     // the version that is on disk
}

// hubFile is hub.json.
type hubFile struct {
	Version    int            `json:"version"`
	Policies   []policy       `json:"policies"`
	Identities []registration `json:"identities"`
}

// registration is what is known about an identity for good.
type registration struct {
	DeviceID     string `json:"deviceId"`
	ModuleID     string `json:"moduleId,omitempty"`
	GenerationID uint64 `json:"generationId,string"`
	PrimaryKey   string `json:"primaryKey"`
	SecondaryKey string `json:"secondaryKey"`
}

// openRegistry loads hub.json from dir, or makes one with the default policies; "" is in memory.
func openRegistry(dir string) (*registry, error) {
	r := &registry{identities: map[string]*identity{}}
	if dir == "" {
		r.policies = defaultPolicies()
		return r, nil
	}
	r.path = filepath.Join(dir, "hub.json")
	text, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		r.policies, r.version = defaultPolicies(), 1
		return r, r.save(1)
	}
	if err != nil {
		return nil, err
	}
	var file hubFile
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	if file.Version != 1 {
		return nil, fmt.Errorf("%s: version %d, this program reads version 1", r.path, file.Version)
	}
	r.policies = file.Policies
	for _, reg := range file.Identities {
		r.identities[identityName(reg.DeviceID, reg.ModuleID)] = &identity{registration: reg}
	}
	return r, nil
}

// save returns once hub.json holds at least this version; one write serves everybody who waits.
func (r *registry) save(version uint64) error {
	r.saving.Lock()
	defer r.saving.Unlock()
	if r.path == "" || r.saved >= version {
		return nil
	}
	r.mu.RLock()
	file := hubFile{Version: 1, Policies: r.policies}
	for _, id := range r.sorted() {
		file.Identities = append(file.Identities, id.registration)
	}
	version = r.version
	r.mu.RUnlock()
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(r.path, append(text, '\n'), 0o600); err != nil {
		return err
	}
	r.saved = version
	return nil
}

// sorted lists the identities by name; the caller holds mu.
func (r *registry) sorted() []*identity {
	all := make([]*identity, 0, len(r.identities))
	for _, id := range r.identities {
		all = append(all, id)
	}
	slices.SortFunc(all, func(a, b *identity) int { return strings.Compare(a.name(), b.name()) })
	return all
}

func (r *registry) list() []*identity {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.sorted()
}

// find is the identity called "device" or "device/module", nil if there is none.
func (r *registry) find(name string) *identity {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.identities[name]
}

// keys are the keys that may sign the tokens of id; either is valid (CON-30).
func (r *registry) keys(id *identity) [2]string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return [2]string{id.PrimaryKey, id.SecondaryKey}
}

// register makes the identity, for a module also its device, unless it exists. key "" keeps the primary
// key or makes one. It returns the primary key.
func (r *registry) register(device, module, key string) (string, error) {
	if err := checkID(device); err != nil {
		return "", err
	}
	if module != "" {
		if err := checkID(module); err != nil {
			return "", err
		}
	}
	if err := checkKey(key); err != nil {
		return "", fmt.Errorf("hubsim: %s: %w", identityName(device, module), err)
	}
	primary, version := r.put(device, module, key)
	if err := r.save(version); err != nil {
		return "", fmt.Errorf("hubsim: registering %s: %w", identityName(device, module), err)
	}
	return primary, nil
}

// put does it in memory and returns the version to save.
func (r *registry) put(device, module, key string) (primary string, version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if module != "" {
		r.ensure(device, "")
	}
	id := r.ensure(device, module)
	if key != "" && key != id.PrimaryKey {
		id.PrimaryKey = key
		r.version++
	}
	return id.PrimaryKey, r.version
}

func (r *registry) ensure(device, module string) *identity {
	name := identityName(device, module)
	if id := r.identities[name]; id != nil {
		return id
	}
	id := &identity{registration: registration{
		DeviceID: device, ModuleID: module, GenerationID: uint64(time.Now().UnixNano()),
		PrimaryKey: newKey(), SecondaryKey: newKey(),
	}}
	r.identities[name] = id
	r.version++
	return id
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
