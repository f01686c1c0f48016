package buffer

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// putValue stores content under key in a bucket other than the log.
func putValue(tx *bbolt.Tx, bucket string, key, content []byte) error {
	return tx.Bucket([]byte(bucket)).Put(key, sealValue(bucket, key, content))
}

// getValue is what putValue stored, nil if nothing. It is the mapped file.
func getValue(tx *bbolt.Tx, bucket string, key []byte) ([]byte, error) {
	stored := tx.Bucket([]byte(bucket)).Get(key)
	if stored == nil {
		return nil, nil
	}
	content, ok := openValue(bucket, key, stored)
	if !ok {
		return nil, damagedValue(bucket, key)
	}
	return content, nil
}

// eachBareValue is eachValue for format 1, whose values have no checksum.
func eachBareValue(tx *bbolt.Tx, bucket string, size int, visit func(key, content []byte) error) error {
	return tx.Bucket([]byte(bucket)).ForEach(func(key, content []byte) error {
		if len(key) != size {
			return damagedValue(bucket, key)
		}
		return visit(key, content)
	})
}

// eachValue visits the contents of a bucket; each key is size bytes long, or of any length if that is 0.
func eachValue(tx *bbolt.Tx, bucket string, size int, visit func(key, content []byte) error) error {
	return tx.Bucket([]byte(bucket)).ForEach(func(key, stored []byte) error {
		content, ok := openValue(bucket, key, stored)
		if !ok || size != 0 && len(key) != size {
			return damagedValue(bucket, key)
		}
		return visit(key, content)
	})
}

func damagedValue(bucket string, key []byte) error {
	return fmt.Errorf("%w: the value of %x in bucket %s", ErrDamaged, key, bucket)
}

func numberKey(number uint32) []byte { return binary.BigEndian.AppendUint32(nil, number) }
