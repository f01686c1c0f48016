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
	id, err := getValue(tx, bucketMeta, []byte(keyID))
	if err != nil {
		return err
	}
	q.id = string(id)
	q.committer.lastTx, q.committer.tried = tx.ID(), tx.ID()
	byNumber := map[uint32]*Lane{}
	err = eachValue(tx, bucketIdentities, 4, func(k, name []byte) error {
		l := q.lane(gateway.IdentityID(name))
		l.number, l.named = binary.BigEndian.Uint32(k), true
		byNumber[l.number] = l
		q.committer.numbers = max(q.committer.numbers, l.number)
		return nil
	})
	if err != nil {
		return err
	}
	err = eachValue(tx, bucketMarks, 4, func(k, mark []byte) error {
		l := byNumber[binary.BigEndian.Uint32(k)]
		if len(mark) != 16 || l == nil {
			return damagedValue(bucketMarks, k)
		}
		l.gone = binary.BigEndian.Uint64(mark)
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

// nextEpoch begins a new epoch, durably: within one no global sequence is used twice.
func (q *Queue) nextEpoch() error {
	c := &q.committer
	return q.try(c.lastTx+1, func(tx *bbolt.Tx) error {
		v, err := getValue(tx, bucketMeta, []byte(keyEpoch))
		if err != nil || len(v) != 4 {
			return fmt.Errorf("%w: epoch %x", ErrDamaged, v)
		}
		c.epoch = binary.BigEndian.Uint32(v) + 1
		return putValue(tx, bucketMeta, []byte(keyEpoch), binary.BigEndian.AppendUint32(nil, c.epoch))
	})
}
