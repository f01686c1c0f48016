package upstream

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Limits of the reported section: the hub takes 32 KB of it and 4 KB a value (TWIN-26, TWIN-31); a patch
// stays below the 8 KB that hubs before 2019 took of all of it. JSON text counts more than what the hub
// counts, but for numbers and false.
const (
	mostReported = 24 << 10
	mostPatch    = 7 << 10
	mostValue    = 4 << 10
)

// reported is what an identity's twin should say, by dotted path, and what the hub has taken of it. It is
// safe for use by any goroutine.
type reported struct {
	mu      sync.Mutex // guards the fields below
	wanted  map[string]any
	has     map[string]any
	rest    []byte // of the hub's section, what nobody wanted when it was read, as JSON; nil: nothing
	size    int    // of wanted
	ready   bool   // what the hub has is known, as far as it can be
	version int64  // of the hub's section
}

// entrySize is what path with value takes.
func entrySize(path string, value any) int {
	text, _ := json.Marshal(value) // it came from JSON
	return len(path) + len(text) + len(`"":,`)
}

// set makes value, JSON, what path should say; null, also inside, removes. It refuses what the hub would.
func (r *reported) set(path string, value []byte) error {
	var decoded any
	if err := json.Unmarshal(value, &decoded); err != nil {
		return fmt.Errorf("reported property %s: %w", path, err)
	}
	decoded = withoutNulls(decoded)
	r.mu.Lock()
	defer r.mu.Unlock()
	size := r.size + entrySize(path, decoded)
	if old, ok := r.wanted[path]; ok {
		size -= entrySize(path, old)
	}
	if len(value) > mostValue || size > mostReported {
		return fmt.Errorf("reported property %s of %d bytes: one may take %d, all of an identity %d", path, len(value), mostValue, mostReported)
	}
	if r.wanted == nil {
		r.wanted, r.has = map[string]any{}, map[string]any{}
	}
	r.recall(path)
	r.wanted[path], r.size = decoded, size
	return nil
}

// recall finds out what the hub has of a path that nobody wanted when its section was read, so that members
// which the new value lacks are removed. It needs mu.
func (r *reported) recall(path string) {
	if _, known := r.has[path]; known || r.rest == nil {
		return
	}
	rest := map[string]any{}
	_ = json.Unmarshal(r.rest, &rest) // it was marshalled here
	r.has[path] = remove(rest, path)
	r.keep(rest)
}

// keep makes rest what the hub has and nobody wants. It needs mu.
func (r *reported) keep(rest map[string]any) {
	r.rest = nil
	if len(rest) > 0 {
		r.rest, _ = json.Marshal(rest) // it came from JSON
	}
}

// allPaths is more than an identity reports.
const allPaths = mostReported

// next returns a patch of what the hub does not have yet, of so many paths at most, and what it says; nil if
// there is nothing, or it is not known yet. A large difference takes several.
func (r *reported) next(most int) (patch []byte, said map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ready {
		return nil, nil
	}
	said = map[string]any{}
	root := map[string]any{}
	size := 0
	for _, path := range slices.Sorted(maps.Keys(r.wanted)) {
		want := r.wanted[path]
		has, known := r.has[path]
		if known && reflect.DeepEqual(want, has) {
			continue
		}
		change := difference(want, has)
		if size += entrySize(path, change); len(said) == most || size > mostPatch && len(said) > 0 {
			break
		}
		said[path] = want
		place(root, path, change)
	}
	if len(said) == 0 {
		return nil, nil
	}
	patch, _ = json.Marshal(root) // it came from JSON
	return patch, said
}

// taken notes that the hub has what a patch said.
func (r *reported) taken(said map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for path, value := range said {
		if value == nil && r.wanted[path] == nil {
			delete(r.wanted, path)
			delete(r.has, path)
			r.size -= entrySize(path, nil)
			continue
		}
		r.has[path] = value
	}
}

// learn takes over what the hub says, and removes what it still says below one of the prefixes although
// nobody wants it any more: a device that has left the mapping. The section is used up.
func (r *reported) learn(section map[string]any, prefixes ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = true
	version, _ := section["$version"].(float64)
	r.version = int64(version)
	if r.wanted == nil {
		r.wanted, r.has = map[string]any{}, map[string]any{}
	}
	for _, prefix := range prefixes {
		below, _ := find(section, prefix)
		members, _ := below.(map[string]any)
		for name := range members {
			if path := prefix + "." + name; r.wanted[path] == nil {
				r.wanted[path] = nil
				r.size += entrySize(path, nil)
			}
		}
	}
	for path := range r.wanted {
		r.has[path] = remove(section, path)
	}
	delete(section, "$version")
	delete(section, "$metadata")
	r.keep(section)
}

// beganAnew takes the version of the hub's section after a patch; true if it has begun anew: the device was
// deleted and made again, so that nothing of what was taken is there (TWIN-37).
func (r *reported) beganAnew(version int64) bool {
	if version == 0 { // it is not said
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.version
	r.version = version
	return version <= before
}

// guess goes on without knowing what the hub has.
func (r *reported) guess() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = true
}

// says tells whether path is reported, or soon is.
func (r *reported) says(path string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wanted[path] != nil
}

// withoutNulls drops members that are null: a twin has none.
func withoutNulls(v any) any {
	object, ok := v.(map[string]any)
	if !ok {
		return v
	}
	clean := map[string]any{}
	for name, member := range object {
		if member != nil {
			clean[name] = withoutNulls(member)
		}
	}
	return clean
}

// difference is the patch that makes want of has: members that have gone become null (TWIN-11).
func difference(want, has any) any {
	wanted, ok := want.(map[string]any)
	had, both := has.(map[string]any)
	if !ok || !both {
		return want
	}
	change := map[string]any{}
	for name, member := range wanted {
		if !reflect.DeepEqual(member, had[name]) {
			change[name] = difference(member, had[name])
		}
	}
	for name := range had {
		if _, ok := wanted[name]; !ok {
			change[name] = nil
		}
	}
	return change
}

// place puts value at a dotted path of the tree root.
func place(root map[string]any, path string, value any) {
	for {
		name, rest, more := strings.Cut(path, ".")
		if !more {
			root[name] = value
			return
		}
		next, ok := root[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			root[name] = next
		}
		root, path = next, rest
	}
}

// find is the value at a dotted path of the tree root.
func find(root map[string]any, path string) (any, bool) {
	for {
		name, rest, more := strings.Cut(path, ".")
		value, ok := root[name]
		if !ok || !more {
			return value, ok
		}
		if root, ok = value.(map[string]any); !ok {
			return nil, false
		}
		path = rest
	}
}

// remove takes the value at a dotted path out of the tree root, with objects that it leaves empty, and returns
// it; nil if there is none.
func remove(root map[string]any, path string) any {
	name, rest, more := strings.Cut(path, ".")
	value := root[name]
	if below, ok := value.(map[string]any); more && ok {
		if value = remove(below, rest); len(below) > 0 {
			return value
		}
	} else if more {
		return nil
	}
	delete(root, name)
	return value
}
