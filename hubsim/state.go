package hubsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// stateVersion is the form of state.db.
const stateVersion = "1"

// state is what the hub remembers for good: values in JSON by kind and key, in the file state.db, or
// nowhere for a hub in memory. Changes take effect in the order in which they were noted. One commit
// serves everybody who waits.
type state struct {
	db *bbolt.DB // nil in memory

	mu      sync.Mutex // guards next
	next    *saved
	writing sync.Mutex // held during a commit; guards done, err and failure
	failure error      // of the first commit that failed: nothing is written after it

	// broken is closed with failure.
	broken chan struct{}
}

// change is a value to put, or with a nil value a key to delete.
type change struct {
	kind, key string
	value     any
}

// saved is a commit that will take some changes with it.
type saved struct {
	state   *state
	changes []encodedChange
	done    bool
	err     error
}

type encodedChange struct {
	kind, key string
	text      []byte // nil deletes
}

// openState opens the file at path, or makes it; "" is in memory.
func openState(path string) (*state, error) {
	s := &state{broken: make(chan struct{})}
	s.next = &saved{state: s}
	if path == "" {
		return s, nil
	}
	var err error
	s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w; move it away to begin with no devices", path, err)
	}
	if err := s.db.Update(checkStateVersion); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), s.db.Close())
	}
	return s, nil
}

func checkStateVersion(tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists([]byte("file"))
	if err != nil {
		return err
	}
	switch version := string(b.Get([]byte("version"))); version {
	case stateVersion:
		return nil
	case "":
		return b.Put([]byte("version"), []byte(stateVersion))
	default:
		return fmt.Errorf("version %s, this program reads version %s", version, stateVersion)
	}
}

// put notes a value; wait for it without holding a lock that others need.
func (s *state) put(kind, key string, value any) *saved {
	return s.write(change{kind, key, value})
}

// delete notes that a key goes.
func (s *state) delete(kind, key string) *saved { return s.write(change{kind, key, nil}) }

// write notes changes that are on disk together or not at all. The values are encoded before it returns.
func (s *state) write(changes ...change) *saved {
	if s.db == nil {
		return &saved{state: s, done: true}
	}
	var all []encodedChange
	for _, c := range changes {
		e := encodedChange{kind: c.kind, key: c.key}
		if c.value != nil {
			var err error
			if e.text, err = json.Marshal(c.value); err != nil {
				return &saved{state: s, done: true, err: fmt.Errorf("%s %s: %w", c.kind, c.key, err)}
			}
		}
		all = append(all, e)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next.changes = append(s.next.changes, all...)
	return s.next
}

// wait returns once the changes are on disk; whoever comes first does the work. A nil saved is no change.
func (w *saved) wait() error {
	if w == nil {
		return nil
	}
	s := w.state
	s.writing.Lock()
	defer s.writing.Unlock()
	if w.done {
		return w.err
	}
	s.mu.Lock()
	s.next = &saved{state: s}
	s.mu.Unlock()
	w.done = true
	if w.err = s.failure; w.err == nil && len(w.changes) > 0 {
		w.err = s.commit(w.changes)
	}
	w.changes = nil
	return w.err
}

// latest is the one of two, noted in this order, that is done last.
func latest(older, newer *saved) *saved {
	if newer == nil {
		return older
	}
	return newer
}

// commit writes changes; the caller holds writing.
func (s *state) commit(changes []encodedChange) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, c := range changes {
			b, err := tx.CreateBucketIfNotExists([]byte(c.kind))
			if err != nil {
				return err
			}
			if c.text == nil {
				err = b.Delete([]byte(c.key))
			} else {
				err = b.Put([]byte(c.key), c.text)
			}
			if err != nil {
				return fmt.Errorf("%s %s: %w", c.kind, c.key, err)
			}
		}
		return nil
	})
	if err != nil {
		s.failure = fmt.Errorf("hubsim: storing in %s: %w", s.db.Path(), err)
		close(s.broken)
	}
	return s.failure
}

// each visits the values of a kind in the order of their keys, those on disk. The text is valid during
// the visit.
func (s *state) each(kind string, visit func(key string, text []byte) error) error {
	if s.db == nil {
		return nil
	}
	return s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(kind))
		if b == nil {
			return nil
		}
		return b.ForEach(func(key, text []byte) error {
			if err := visit(string(key), text); err != nil {
				return fmt.Errorf("%s: %s %s: %w", s.db.Path(), kind, key, err)
			}
			return nil
		})
	})
}

// close writes what is noted and lets go of the file.
func (s *state) close() error {
	if s.db == nil {
		return nil
	}
	s.mu.Lock()
	last := s.next
	s.mu.Unlock()
	err := last.wait()
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.failure == nil {
		s.failure = errStopped
	}
	return errors.Join(err, s.db.Close())
}
