package buffer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"unicode/utf8"

	"go.etcd.io/bbolt"
)

// Report is what CheckFile found in a file.
type Report struct {
	// Format is the version of the file's layout; 0 if it cannot be told.
	Format uint32 `json:"format"`
	// QueueID is the queue id that stands in the file, 16 hexadecimal digits, or "".
	QueueID string `json:"queueId"`
	// Records and Bytes count the whole records of the log, and their keys and contents.
	Records int64 `json:"records"`
	Bytes   int64 `json:"bytes"`
	// Damage says what is wrong with the file and where; "" if it is sound. The figures above are
	// then of what was read before.
	Damage string `json:"damage,omitempty"`
}

// Newer tells whether the file is of a format that this program does not know yet.
func (r Report) Newer() bool { return r.Format > formatVersion }

// CheckFile reads every page of a queue file that nobody has open and checks that it is what was
// written: the meta pages, the tree, every key and checksum, the order of each lane's sequences; what
// it finds sound it reads once more with bbolt. A newer format is not looked into. The error is about
// reading the file; damage is in the report.
//
// bbolt trusts its files, and reading them through the mapped memory is fatal where the disk has an
// error: run it in a process of its own (ChildCheck).
func CheckFile(ctx context.Context, path string) (Report, error) {
	report, err := checkPages(ctx, path)
	if err != nil || report.Damage != "" || report.Newer() {
		return report, err
	}
	return report, readAll(ctx, path)
}

// checkPages is CheckFile without bbolt, so that it is safe for the process that calls it.
func checkPages(ctx context.Context, path string) (Report, error) {
	var report Report
	file, err := os.Open(path)
	if err != nil {
		return report, err
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil {
		return report, err
	}
	if !info.Mode().IsRegular() {
		report.Damage = "it is not a regular file"
		return report, nil
	}
	p, err := openPages(file, info.Size())
	if err != nil {
		return report, err
	}
	c := checker{report: &report, lanes: map[uint32]uint64{}, named: map[uint32]bool{}, marked: map[uint32]bool{}}
	err = p.walk(ctx, c.format)
	if err == nil && !report.Newer() {
		if err = p.walk(ctx, c.visit); err == nil {
			err = c.finish(p.buckets)
		}
	}
	if errors.Is(err, ErrDamaged) {
		report.Damage, err = err.Error(), nil
	}
	return report, err
}

// checkMetas looks only at what a commit writes last: whether the newest one is there, and whether the
// file ends where it should. It costs two reads.
func checkMetas(path string) (Report, error) {
	file, err := os.Open(path)
	if err != nil {
		return Report{}, err
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil {
		return Report{}, err
	}
	p, err := openPages(file, info.Size())
	if err != nil {
		return Report{}, err
	}
	if err := p.sound(); err != nil {
		return Report{Damage: err.Error()}, nil
	}
	return Report{}, nil
}

// readAll reads every element with bbolt.
func readAll(ctx context.Context, path string) error {
	options := boltOptions()
	options.ReadOnly = true
	db, err := bbolt.Open(path, 0, options)
	if err != nil {
		return err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			c, sum := b.Cursor(), byte(0)
			for k, v := c.First(); k != nil; k, v = c.Next() {
				for _, x := range v {
					sum ^= x // touches every page
				}
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return errors.Join(err, db.Close())
}

// checker checks the content of a file of format 1 or 2.
type checker struct {
	report *Report
	lanes  map[uint32]uint64 // newest sequence of each lane that the log has shown so far
	named  map[uint32]bool
	marked map[uint32]bool
}

// format finds the format and the queue id.
func (c *checker) format(e item) error {
	if e.bucket != bucketMeta {
		return nil
	}
	switch string(e.key) {
	case keyFormat:
		version, err := parseFormat(e.value)
		c.report.Format = version
		return err
	case keyID:
		c.report.QueueID = string(e.value[:min(16, len(e.value))])
	}
	return nil
}

// parseFormat reads the value of "format": 4 bytes in format 1, with a checksum in every later one.
func parseFormat(stored []byte) (uint32, error) {
	content, ok := openValue(bucketMeta, []byte(keyFormat), stored)
	if !ok && len(stored) == 4 {
		content, ok = stored, binary.BigEndian.Uint32(stored) == 1
	}
	if !ok || len(content) != 4 {
		return 0, fmt.Errorf("%w: the format %x", ErrDamaged, stored)
	}
	return binary.BigEndian.Uint32(content), nil
}

// visit checks one element.
func (c *checker) visit(e item) error {
	if e.bucket == bucketLog {
		return c.record(e)
	}
	content := e.value
	if c.report.Format > 1 {
		var ok bool
		if content, ok = openValue(e.bucket, e.key, e.value); !ok {
			return fmt.Errorf("%w: %s %x: checksum mismatch", ErrDamaged, e.bucket, e.key)
		}
	}
	if e.bucket != bucketIdentities && e.bucket != bucketMarks {
		return nil
	}
	if len(e.key) != 4 {
		return fmt.Errorf("%w: %s %x: not a number", ErrDamaged, e.bucket, e.key)
	}
	number := binary.BigEndian.Uint32(e.key)
	if e.bucket == bucketIdentities {
		c.named[number] = utf8.Valid(content) && len(content) > 0
		return nil
	}
	c.marked[number] = true
	if len(content) != markLen(c.report.Format) {
		return fmt.Errorf("%w: mark %x", ErrDamaged, e.key)
	}
	return nil
}

// markLen is the length of a mark: the lane's sequence, and since format 2 the global one.
func markLen(format uint32) int {
	if format == 1 {
		return 8
	}
	return 16
}

// record checks one record of the log.
func (c *checker) record(e item) error {
	_, number, ok := parseKey(e.key)
	if !ok {
		return fmt.Errorf("%w: key %x in the log", ErrDamaged, e.key)
	}
	if err := check(key(e.key), e.value); err != nil {
		return fmt.Errorf("record %x: %w", e.key, err)
	}
	seq := sequenceOf(e.value)
	if last, seen := c.lanes[number]; seen && (seq <= last || c.report.Format == 1 && seq != last+1) {
		return fmt.Errorf("%w: record %x: sequence %d follows %d", ErrDamaged, e.key, seq, last)
	}
	c.lanes[number] = seq
	c.report.Records++
	c.report.Bytes += int64(len(e.key) + len(e.value))
	return nil
}

// finish checks what only shows at the end.
func (c *checker) finish(there []string) error {
	if c.report.Format == 0 {
		return fmt.Errorf("%w: it is not a queue file: its format is missing", ErrDamaged)
	}
	needed := buckets()
	if c.report.Format == 1 {
		needed = []string{bucketMeta, bucketIdentities, bucketMarks, bucketLog}
	}
	for _, name := range needed {
		if !slices.Contains(there, name) {
			return fmt.Errorf("%w: bucket %s is missing", ErrDamaged, name)
		}
	}
	for number := range c.lanes {
		if !c.named[number] {
			return fmt.Errorf("%w: identity %d has records and no name", ErrDamaged, number)
		}
	}
	for number := range c.marked {
		if !c.named[number] {
			return fmt.Errorf("%w: identity %d has a mark and no name", ErrDamaged, number)
		}
	}
	return nil
}
