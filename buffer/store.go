package buffer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// storeFormat is the version of the layout of a store: "meta" with "format", and the owner's buckets,
// every value as sealValue makes it.
const storeFormat = 1

// store is a small bbolt file beside the queue. It is there even while the file cannot be opened:
// every use tries again, at most once a second. A handle whose commit failed is not used again, a
// damaged file is set aside and replaced, and both are logged once.
type store struct {
	path    string
	buckets []string // beside "meta"
	log     zerolog.Logger
	// load reads what the owner keeps in memory; it replaces what was read before.
	load func(*bbolt.Tx) error
	// rescue puts a whole element of a damaged file into the new one; nil begins with an empty file.
	rescue func(*bbolt.Tx, item) error

	mu      sync.Mutex // guards the fields below
	db      *bbolt.DB  // nil: not open
	failure error      // why it is not open
	retryAt time.Time
	aside   string // the damaged file; "" if there was none
	closed  bool
}

// open opens the file for the first time. Only another process that has it is an error.
func (s *store) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.connect(); errors.Is(err, ErrInUse) {
		return err
	}
	return nil
}

// state is why the file cannot be used, or where a damaged one was set aside; nil if all is well.
func (s *store) state() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil && s.aside != "" {
		return fmt.Errorf("%s was damaged and is now %s; keep it for whoever looks into it, or remove it", s.path, s.aside)
	}
	return s.failure
}

// view runs read in a read transaction, update one that is on disk when it returns nil. An error of
// theirs changes nothing; one of the commit may have changed the file all the same.
func (s *store) view(read func(*bbolt.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.connect(); err != nil {
		return err
	}
	return s.db.View(read)
}

func (s *store) update(write func(*bbolt.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.connect(); err != nil {
		return err
	}
	tx, err := s.db.Begin(true)
	if err != nil {
		return s.fail(err)
	}
	if err := write(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return s.fail(err)
	}
	return nil
}

// fail gives the handle up. It needs mu.
func (s *store) fail(err error) error {
	if s.db != nil {
		_ = s.db.Close() // nothing follows from a second error of the same handle
		s.db = nil
	}
	if s.failure == nil {
		s.log.Error().Err(err).Str("path", s.path).Msg("the file cannot be used: what should be noted there is refused until it can")
	}
	s.failure = fmt.Errorf("buffer: %s: %w; free space or repair the disk, it is tried again every second", s.path, err)
	s.retryAt = time.Now().Add(retryDelay)
	return s.failure
}

// connect opens the file unless it is open. It needs mu.
func (s *store) connect() error {
	switch {
	case s.closed:
		return fmt.Errorf("buffer: %s: %w", s.path, ErrClosed)
	case s.db != nil:
		return nil
	case s.failure != nil && time.Now().Before(s.retryAt):
		return s.failure
	}
	db, err := s.openSound()
	if errors.Is(err, ErrInUse) {
		return fmt.Errorf("buffer: %s: %w", s.path, err)
	}
	if err == nil {
		err = db.View(s.load)
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}
	if err != nil {
		return s.fail(err)
	}
	if s.failure != nil {
		s.log.Info().Str("path", s.path).Msg("the file works again")
	}
	s.db, s.failure = db, nil
	return nil
}

// openSound opens the file once it is known to be sound, or the one that takes its place.
func (s *store) openSound() (*bbolt.DB, error) {
	info, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		err = s.birth(nil)
	} else if err == nil {
		err = s.inspect()
	}
	if err != nil {
		return nil, err
	}
	db, err := bbolt.Open(s.path, 0o600, boltOptions())
	if errors.Is(err, berrors.ErrTimeout) {
		err = ErrInUse
	}
	return db, err
}

// inspect reads the whole file and replaces it if it is damaged or of a newer program.
func (s *store) inspect() error {
	file, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	// Two processes must not replace one file.
	if err := lockFile(file); err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	version, damage := uint32(0), fmt.Errorf("%w: it is not a regular file", ErrDamaged)
	var p *pages
	if info.Mode().IsRegular() {
		if p, err = openPages(file, info.Size()); err != nil {
			return err
		}
		version, damage = s.examine(p)
	}
	switch {
	case damage == nil && version == storeFormat:
		return nil
	case damage == nil:
		return s.replace(nil, fmt.Sprintf("newer-format-%d", version), fmt.Errorf("%w %d of a newer program", ErrFormat, version))
	case errors.Is(damage, ErrDamaged):
		return s.replace(p, "damaged", damage)
	}
	return damage
}

// examine reads every page and checksum.
func (s *store) examine(p *pages) (version uint32, err error) {
	seen := map[string]bool{}
	err = p.walk(context.Background(), func(e item) error {
		content, ok := openValue(e.bucket, e.key, e.value)
		if !ok {
			return fmt.Errorf("%w: %s %x: checksum mismatch", ErrDamaged, e.bucket, e.key)
		}
		seen[e.bucket] = true
		if e.bucket == bucketMeta && string(e.key) == keyFormat && len(content) == 4 {
			version = binary.BigEndian.Uint32(content)
		}
		return nil
	})
	if err == nil && version == 0 {
		err = fmt.Errorf("%w: it is another program's file", ErrDamaged)
	}
	return version, err
}

// replace sets the file aside and makes a new one; damaged is where whole elements are taken from.
func (s *store) replace(damaged *pages, why string, reason error) error {
	aside, err := setAside(s.path, why, time.Now())
	if err != nil {
		return err
	}
	if err := s.birth(damaged); err != nil {
		return errors.Join(err, os.Rename(aside, s.path)) // the next try finds it again
	}
	s.aside = aside
	s.log.Error().Err(reason).Str("path", s.path).Str("aside", aside).Msg("the file was set aside and a new one begun")
	return nil
}

// birth makes the file under another name first: it is complete or not there.
func (s *store) birth(damaged *pages) error {
	tmp := s.path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	options := boltOptions()
	options.OpenFile = nil
	db, err := bbolt.Open(tmp, 0o600, options)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range append([]string{bucketMeta}, s.buckets...) {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		format := binary.BigEndian.AppendUint32(nil, storeFormat)
		if err := tx.Bucket([]byte(bucketMeta)).Put([]byte(keyFormat), sealValue(bucketMeta, []byte(keyFormat), format)); err != nil {
			return err
		}
		if damaged == nil || s.rescue == nil {
			return nil
		}
		return s.salvage(tx, damaged)
	})
	if err := errors.Join(err, db.Sync(), db.Close()); err != nil {
		return err
	}
	return publish(tmp, s.path)
}

// salvage hands every whole element of the damaged file to rescue.
func (s *store) salvage(tx *bbolt.Tx, damaged *pages) error {
	_, err := damaged.scan(context.Background(), func(e item) error {
		for _, bucket := range s.buckets {
			if content, ok := openValue(bucket, e.key, e.value); ok {
				return s.rescue(tx, item{bucket: bucket, key: e.key, value: content})
			}
		}
		return nil
	})
	return err
}

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return db.Close()
}

// publish gives the complete file tmp its name, durably.
func publish(tmp, path string) error {
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
