package buffer

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
)

// load fills the queue's memory from the file: every identity, every mark, and the keys of the log.
// Of the records it reads the oldest and the newest of each lane.
func (q *Queue) load(tx *bbolt.Tx) error {
	q.id = string(tx.Bucket([]byte(bucketMeta)).Get([]byte(keyID)))
	q.committer.lastTx, q.committer.tried = tx.ID(), tx.ID()
	byNumber := map[uint32]*Lane{}
	err := tx.Bucket([]byte(bucketIdentities)).ForEach(func(k, name []byte) error {
		if len(k) != 4 {
			return fmt.Errorf("%w: identity number %x", ErrDamaged, k)
		}
		l := q.lane(gateway.IdentityID(name))
		l.number, l.named = binary.BigEndian.Uint32(k), true
		byNumber[l.number] = l
		q.committer.numbers = max(q.committer.numbers, l.number)
		return nil
	})
	if err != nil {
		return err
	}
	err = tx.Bucket([]byte(bucketMarks)).ForEach(func(k, mark []byte) error {
		if len(k) != 4 || len(mark) != 8 || byNumber[binary.BigEndian.Uint32(k)] == nil {
			return fmt.Errorf("%w: mark %x", ErrDamaged, k)
		}
		byNumber[binary.BigEndian.Uint32(k)].gone = binary.BigEndian.Uint64(mark)
		return nil
	})
	if err != nil {
		return err
	}
	if err := q.loadKeys(tx, byNumber); err != nil {
		return err
	}
	for _, l := range byNumber {
		l.loadEnds(tx)
	}
	return nil
}

// loadKeys reads the keys of the log into the lanes' indexes.
func (q *Queue) loadKeys(tx *bbolt.Tx, byNumber map[uint32]*Lane) error {
	c := tx.Bucket([]byte(bucketLog)).Cursor()
	var lane *Lane // of the key before: neighbours are often of one lane
	for k, v := c.First(); k != nil; k, v = c.Next() {
		global, number, ok := parseKey(k)
		if !ok {
			return fmt.Errorf("%w: key %x in the log", ErrDamaged, k)
		}
		if lane == nil || lane.number != number {
			if lane = byNumber[number]; lane == nil {
				return fmt.Errorf("%w: key %x in the log is of an unknown identity", ErrDamaged, k)
			}
		}
		lane.index.push(global)
		lane.bytes += int64(len(k) + len(v))
		q.committer.global = global
	}
	return nil
}

// loadEnds sets what follows from a lane's oldest and newest record. The newest tells which
// sequence comes next; mark and number of entries do so too, in case that it is damaged.
func (l *Lane) loadEnds(tx *bbolt.Tx) {
	n := l.index.len()
	last := l.gone + uint64(n)
	if n > 0 {
		if r := readRecord(tx, l.key(l.index.last)); r != nil {
			last = max(last, sequenceOf(r))
		}
		if r := readRecord(tx, l.key(l.index.appendTo(nil, 0, 1)[0])); r != nil {
			l.oldest = createdOf(r)
		}
	}
	l.gone = last - uint64(n)
	l.acked, l.handed, l.next = l.gone, l.gone, last+1
}

// readRecord returns the record at k, or nil if there is none or it is damaged. It is the mapped
// file: copy what outlives the transaction.
func readRecord(tx *bbolt.Tx, k key) []byte {
	r := tx.Bucket([]byte(bucketLog)).Get(k[:])
	if r == nil || check(k, r) != nil {
		return nil
	}
	return r
}
