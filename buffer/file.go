package buffer

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// formatVersion is the version of the file's layout. A program refuses a file that is newer than
// itself; one that changes the layout raises the version and reads the older ones.
const formatVersion = 2

// lockTimeout is how long another process's lock on the file is waited for.
const lockTimeout = time.Second

// fillPercent: records are only ever appended, so pages need no room for later ones.
const fillPercent = 0.95

// The names of the buckets and of the keys in "meta".
const (
	bucketMeta       = "meta"
	bucketIdentities = "identities"
	bucketMarks      = "marks"
	bucketNext       = "next"
	bucketCuts       = "cuts"
	bucketClock      = "clock"
	bucketLog        = "log"
	keyFormat        = "format"
	keyID            = "id"
	keyFirst         = "first"
	keyEpoch         = "epoch"
	keySettled       = "settled"
)

// file is the handle on the queue file. A handle that had an I/O error is not trusted again: it is
// retired, and readers wait until there is a new one.
type file struct {
	path string

	mu     sync.Mutex // guards the fields below
	db     *bbolt.DB  // nil while retired and after close
	closed bool
	ready  chan struct{} // closed when db is set or the file is closed
}

// openFile opens the queue file and makes it if there is none.
func openFile(path string) (*file, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().IsRegular() && info.Size() == 0:
		if err := birth(path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrFormat, path)
	}
	f := &file{path: path, ready: make(chan struct{})}
	db, err := f.connect()
	if err != nil {
		return nil, err
	}
	f.publish(db)
	return f, nil
}

// birth makes the queue file so that there is never a half-made one under its name: whatever a
// power cut leaves, path is absent or complete.
func birth(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("the directory of the queue file: %w", err)
	}
	defer func() { _ = dir.Close() }() // it was only read
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := create(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return dir.Sync()
}

// buckets are the buckets of a generation.
func buckets() []string {
	return []string{bucketMeta, bucketIdentities, bucketMarks, bucketNext, bucketCuts, bucketClock, bucketLog}
}

// create writes an empty queue and has it on disk when it returns.
func create(path string) error {
	options := boltOptions()
	options.OpenFile = nil
	db, err := bbolt.Open(path, 0o600, options)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets() {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		id := make([]byte, idLen)
		_, _ = rand.Read(id) // never fails
		return errors.Join(
			putValue(tx, bucketMeta, []byte(keyID), []byte(hex.EncodeToString(id))),
			putValue(tx, bucketMeta, []byte(keyFirst), binary.BigEndian.AppendUint64(nil, 1)),
			putValue(tx, bucketMeta, []byte(keyEpoch), binary.BigEndian.AppendUint32(nil, 0)),
			putValue(tx, bucketMeta, []byte(keyFormat), binary.BigEndian.AppendUint32(nil, formatVersion)),
		)
	})
	return errors.Join(err, db.Sync(), db.Close())
}

func boltOptions() *bbolt.Options {
	return &bbolt.Options{
		Timeout:        lockTimeout,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		NoStatistics:   true,
		// Only birth makes files: an empty one in the place of a lost one would hide the loss.
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			return os.OpenFile(name, flag&^os.O_CREATE, perm)
		},
	}
}

// connect opens the file, for the first time or after retire.
func (f *file) connect() (*bbolt.DB, error) {
	db, err := bbolt.Open(f.path, 0o600, boltOptions())
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("%w; stop that process or give this one a directory of its own", ErrInUse)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, fmt.Errorf("%w: it is not a queue file, or its first pages are damaged (%w); move it away to start with an empty queue", ErrFormat, err)
	case err != nil:
		return nil, err
	}
	if err := db.View(checkFormat); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// publish makes db the handle that everybody uses.
func (f *file) publish(db *bbolt.DB) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.db = db
	close(f.ready)
}

// checkFormat refuses what this program cannot read. It runs before anything is written.
func checkFormat(tx *bbolt.Tx) error {
	meta := tx.Bucket([]byte(bucketMeta))
	if meta == nil || len(meta.Get([]byte(keyFormat))) < 4 {
		return fmt.Errorf("%w: it is another program's file; name a directory of its own for the queue", ErrFormat)
	}
	version := binary.BigEndian.Uint32(meta.Get([]byte(keyFormat))) // stands there in every format
	if version != formatVersion {
		return fmt.Errorf("%w: its format is %d and this program reads %d; use the version of the program that wrote it, or move the file away",
			ErrFormat, version, formatVersion)
	}
	for _, name := range buckets() {
		if tx.Bucket([]byte(name)) == nil {
			return fmt.Errorf("%w: bucket %s is missing", ErrDamaged, name)
		}
	}
	return nil
}

// retire closes a handle that is not to be trusted. It waits for readers, which are short.
func (f *file) retire() {
	f.mu.Lock()
	db := f.db
	if db != nil {
		f.db, f.ready = nil, make(chan struct{})
	}
	f.mu.Unlock()
	if db != nil {
		_ = db.Close() // nothing follows from a second error of the same handle
	}
}

func (f *file) close() error {
	f.mu.Lock()
	db := f.db
	if db == nil && !f.closed {
		close(f.ready) // those that wait for a new handle
	}
	f.db, f.closed = nil, true
	f.mu.Unlock()
	if db == nil {
		return nil
	}
	return db.Close()
}

func (f *file) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// handle is the present handle, nil if there is none.
func (f *file) handle() *bbolt.DB {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.db
}

// view runs read in a read transaction. While the handle is retired it waits for the next one.
func (f *file) view(ctx context.Context, read func(*bbolt.Tx) error) error {
	for {
		f.mu.Lock()
		db, ready, closed := f.db, f.ready, f.closed
		f.mu.Unlock()
		if closed {
			return ErrClosed
		}
		if db != nil {
			// It may have been retired since.
			if err := db.View(read); !errors.Is(err, berrors.ErrDatabaseNotOpen) {
				return err
			}
			continue
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
