package buffer

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
)

const (
	bucketNotes = "notes"
	// MaxNote is how long a value of State may be, in bytes; maxNoteKey is that of a key.
	MaxNote    = 64 << 10
	maxNoteKey = 256
)

// State keeps small durable notes in a file of its own; it implements gateway.State. All of them are
// in memory too, so that Get never touches the disk. It is there even while its file cannot be
// opened: Put then returns why, and Err says so.
type State struct {
	store store
	turn  chan struct{} // capacity 1: held by the caller that commits for all who wait

	mu    sync.Mutex // guards the fields below
	notes map[string][]byte
	open  *noteBatch // changes that wait for the next commit
}

var _ gateway.State = (*State)(nil)

// noteBatch is the changes of one transaction, in order; they share its fate.
type noteBatch struct {
	changes []note
	done    chan struct{} // closed when err is set
	err     error
}

type note struct {
	key    string
	value  []byte
	forget bool
}

// OpenState opens the file at path and makes it if there is none; its directory must exist. A damaged
// file, or one of a newer program, is set aside (path.damaged-<time>), with one line to log, and the
// notes begin empty. The only error is ErrInUse: another process has the file. Whatever else is wrong
// stands in Err, and every Put tries again, at most once a second.
func OpenState(path string, log zerolog.Logger) (*State, error) {
	s := &State{turn: make(chan struct{}, 1), notes: map[string][]byte{}, open: newNoteBatch()}
	s.store = store{path: path, buckets: []string{bucketNotes}, log: log, load: s.load}
	if err := s.store.open(); err != nil {
		return nil, err
	}
	return s, nil
}

func newNoteBatch() *noteBatch { return &noteBatch{done: make(chan struct{})} }

// load reads all notes. The file is sound: store has checked it.
func (s *State) load(tx *bbolt.Tx) error {
	notes := map[string][]byte{}
	err := tx.Bucket([]byte(bucketNotes)).ForEach(func(k, stored []byte) error {
		content, ok := openValue(bucketNotes, k, stored)
		if !ok {
			return fmt.Errorf("%w: note %q", ErrDamaged, k)
		}
		notes[string(k)] = bytes.Clone(content)
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.notes = notes
	s.mu.Unlock()
	return nil
}

// Get returns the value of key; false if there is none. The value is the caller's to read only.
func (s *State) Get(key string) (value []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok = s.notes[key]
	return value, ok
}

// Keys lists the keys that begin with prefix, sorted.
func (s *State) Keys(prefix string) (keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.notes {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Put stores value, at most MaxNote bytes, under key, 1 to 256 bytes, and returns nil when it is on
// disk. Put copies value. Of two Puts of one key at a time either may be the last. After an error,
// ctx's as well, the value may be stored all the same.
func (s *State) Put(ctx context.Context, key string, value []byte) error {
	if len(key) == 0 || len(key) > maxNoteKey || len(value) > MaxNote {
		return fmt.Errorf("buffer: %s: note %q of %d bytes: a key has 1 to %d bytes and a value at most %d",
			s.store.path, key, len(value), maxNoteKey, MaxNote)
	}
	return s.change(ctx, note{key: key, value: append([]byte{}, value...)})
}

// Delete forgets key and returns nil when that is on disk, also if there was none.
func (s *State) Delete(ctx context.Context, key string) error {
	if _, ok := s.Get(key); !ok && s.store.state() == nil {
		return ctx.Err()
	}
	return s.change(ctx, note{key: key, forget: true})
}

// change hands in a change and waits until it is on disk. The first of those who wait commits for
// all: a thousand identities that note something at a time share a few flushes.
func (s *State) change(ctx context.Context, n note) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	b := s.open
	b.changes = append(b.changes, n)
	s.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		s.commit(b)
		<-s.turn
	case <-b.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-b.done // the last one with the turn has committed it
	return b.err
}

// commit commits b unless it is done.
func (s *State) commit(b *noteBatch) {
	s.mu.Lock()
	if s.open != b { // whoever had the turn before has taken it
		s.mu.Unlock()
		return
	}
	s.open = newNoteBatch()
	s.mu.Unlock()
	b.err = s.store.update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(bucketNotes))
		for _, n := range b.changes {
			key := []byte(n.key)
			var err error
			if n.forget {
				err = bucket.Delete(key)
			} else {
				err = bucket.Put(key, sealValue(bucketNotes, key, n.value))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if b.err == nil {
		s.remember(b.changes)
	}
	close(b.done)
}

func (s *State) remember(changes []note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range changes {
		if n.forget {
			delete(s.notes, n.key)
		} else {
			s.notes[n.key] = n.value
		}
	}
}

// Err is one sentence on what is wrong with the file, with the remedy: that it cannot be used, or
// that a damaged one was set aside since OpenState. nil if all is well.
func (s *State) Err() error { return s.store.state() }

// Close closes the file; Put and Delete return ErrClosed from then on.
func (s *State) Close() error { return s.store.close() }
