package buffer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// formatVersion is the version of the file's layout. A program refuses a file that is newer than
// itself; one that changes the layout raises the version and reads the older ones.
const formatVersion = 2

// tmpSuffix is of a generation that is being made.
const tmpSuffix = ".tmp"

// lockTimeout is how long another process's lock on the file is waited for.
const lockTimeout = time.Second

// growStep is by how much a file grows once it is larger than that. bbolt's own 16 MiB would leave a
// fifth of a generation unused for ever.
const growStep = 4 << 20

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
	path   string
	sealed bool // opened for reading

	mu     sync.Mutex // guards the fields below
	db     *bbolt.DB  // nil while retired and after close
	closed bool
	ready  chan struct{} // closed when db is set or the file is closed
}

// openFile opens a generation. A sealed one is never written to.
func openFile(path string, sealed bool) (*file, error) {
	f := &file{path: path, sealed: sealed, ready: make(chan struct{})}
	db, err := f.connect()
	if err != nil {
		return nil, err
	}
	f.publish(db)
	return f, nil
}

// buckets are the buckets of a generation.
func buckets() []string {
	return []string{bucketMeta, bucketIdentities, bucketMarks, bucketNext, bucketCuts, bucketClock, bucketLog}
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
	options := boltOptions()
	options.ReadOnly = f.sealed
	info, err := os.Stat(f.path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is not a regular file", ErrFormat)
	}
	db, err := bbolt.Open(f.path, 0o600, options)
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("%w; stop that process or give this one a directory of its own", ErrInUse)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, fmt.Errorf("%w: it is not a queue file, or its first pages are damaged (%w); move it away to start with an empty queue", ErrFormat, err)
	case err != nil:
		return nil, err
	}
	db.AllocSize = growStep
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
	switch version := formatOf(tx); {
	case version == 0:
		return fmt.Errorf("%w: it is another program's file; name a directory of its own for the queue", ErrFormat)
	case version > formatVersion:
		return fmt.Errorf("%w: its format is %d and this program reads %d; use the version of the program that wrote it, or move the file away",
			ErrFormat, version, formatVersion)
	case version == 1:
		return missingBucket(tx, bucketIdentities, bucketMarks, bucketLog)
	}
	return missingBucket(tx, buckets()...)
}

// formatOf is the format of a file, which stands in the same place in every format; 0 if it has none.
func formatOf(tx *bbolt.Tx) uint32 {
	meta := tx.Bucket([]byte(bucketMeta))
	if meta == nil {
		return 0
	}
	v := meta.Get([]byte(keyFormat))
	if len(v) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}

func missingBucket(tx *bbolt.Tx, names ...string) error {
	for _, name := range names {
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
