// Package powerfs is a file system, for tests, that tells what a power cut may leave behind.
//
// It keeps its files in memory and records everything that is done to them: each write, truncation,
// creation, rename, removal, and each flush of a file or a directory. A Player goes through such a
// record and makes, for any moment in it, images of what the disk may hold when the power fails then:
// everything that was flushed, and of what came later any part, whole or torn, in any order. That is
// all that POSIX promises: the flush of a file does not keep its name, only the flush of its directory
// does, and a rename happens whole or not at all.
//
// The file system can also fail, at the n-th write, flush, truncation, rename or creation from now.
//
// A program that maps its files must not serve them as well: a page fault stops its thread where the
// runtime cannot see it, and with it, sooner or later, the goroutines that should answer. So the one
// that is tested runs in a process of its own and reaches the file system's dials through Control.
package powerfs

import (
	"compress/gzip"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
)

// Kind is what was done.
type Kind uint8

// The operations of a record. Node, Child and To are numbers of files and directories.
const (
	Create      Kind = iota + 1 // the directory Node got the new file Child under Name
	Mkdir                       // the directory Node got the new directory Child under Name
	Rename                      // Child, Name in Node, became ToName in To, in the place of what was there
	Remove                      // Child is no longer Name in Node
	Write                       // Data was written at Offset of Node
	Truncate                    // Node became Offset bytes long
	Fsync                       // Node is on disk; of a directory: the names in it are
	FsyncFailed                 // the flush of Node failed: what waited for it may never get to the disk
	Sync                        // everything so far is on disk
	Note                        // the program said Data
)

// String is the kind in one word, as it stands in a record: "write", "fsync-failed".
func (k Kind) String() string {
	names := [...]string{"", "create", "mkdir", "rename", "remove", "write", "truncate", "fsync", "fsync-failed", "sync", "note"}
	if int(k) >= len(names) {
		return fmt.Sprint("kind ", uint8(k))
	}
	return names[k]
}

// Root is the number of the directory that was mounted.
const Root = 1

// Op is one operation that succeeded (or FsyncFailed).
type Op struct {
	Kind   Kind
	Node   uint64
	Name   string
	Child  uint64
	To     uint64
	ToName string
	Offset int64
	Data   []byte
}

// Log is what was done, in the order in which it was done.
type Log struct {
	// Format is what the one who recorded it says about the files, to be compared when it is read.
	Format string
	Ops    []Op
}

// Born is how many operations made what was there before the record begins: all up to the last Sync.
func (l *Log) Born() int {
	n := len(l.Ops)
	for n > 0 && l.Ops[n-1].Kind != Sync {
		n--
	}
	return n
}

// Save writes the record in the form that ReadLog reads.
func (l *Log) Save(w io.Writer) error {
	z, _ := gzip.NewWriterLevel(w, gzip.BestCompression) // the level is valid
	return errors.Join(gob.NewEncoder(z).Encode(l), z.Close())
}

// ReadLog reads what Save wrote.
func ReadLog(r io.Reader) (*Log, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("powerfs: the record: %w", err)
	}
	l := &Log{}
	if err := gob.NewDecoder(z).Decode(l); err != nil {
		return nil, fmt.Errorf("powerfs: the record: %w", err)
	}
	return l, nil
}
